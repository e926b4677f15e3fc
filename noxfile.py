"""Everything that is run on the code: ``nox -s lint types unit integration e2e bench docs``."""

import nox

nox.options.sessions = ["lint", "types", "unit", "integration", "e2e"]
nox.options.default_venv_backend = "venv"
PYTHON = None  # whatever runs nox; 3.11 or later


def _install(session: nox.Session, extra: str) -> None:
    session.install("-e", f".[{extra}]")


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Style, formatting, the order of imports."""
    _install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Strict types."""
    _install(session, "dev")
    session.run("mypy")


@nox.session(python=PYTHON)
def unit(session: nox.Session) -> None:
    """Seconds: no ffmpeg, no network."""
    _install(session, "test")
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session(python=PYTHON)
def integration(session: nox.Session) -> None:
    """Real files and real servers on loopback."""
    _install(session, "test")
    session.run("pytest", "-n", "2", "tests/integration", *session.posargs)


@nox.session(python=PYTHON)
def e2e(session: nox.Session) -> None:
    """Whole jobs through the command line."""
    _install(session, "test")
    session.run("pytest", "-n", "2", "tests/e2e", *session.posargs)


@nox.session(python=PYTHON)
def vm(session: nox.Session) -> None:
    """As root, minutes: make the machine image, and run a job on emulated machines that boot it."""
    _install(session, "test")
    image = f"{session.create_tmp()}/image"
    session.run("images/build", image, external=True)
    session.run("pytest", "tests/vm", *session.posargs, env={"VIDCLOUD_IMAGE": image})


@nox.session(python=PYTHON)
def bench(session: nox.Session) -> None:
    """Speed and memory against the ways a user would do it today; writes the tables of docs/performance.md."""
    _install(session, "bench")
    session.run("python", "bench/main_job.py", *session.posargs)


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """The examples in the documents, run."""
    _install(session, "test")
    session.run("pytest", "tests/e2e/test_readme.py", *session.posargs)

"""Put this very program on a host of the ssh cloud: a virtual environment below the login's ``~/.cache/vidcloud``.

It is made under a private name and gets its own when it is whole, so that any number of launchers, or of hosts with one
home, may do it at once. Its name tells version, program and Python, so that it is made once and never changed.
"""

import functools
import hashlib
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from vidcloud import wheel
from vidcloud.errors import RemoteError
from vidcloud.remote import Remote

_PIP_S = 1800.0
"""So long may a host take to fetch and unpack what the program needs, 300 MB, maybe to a network's file system."""

_FIND = """\
find_it() {
  umask 077
  python=$1
  case $python in '~/'*) python=$HOME/${python#??} ;; esac
  about=$("$python" -P -c 'import platform as p, sys
if sys.version_info >= (3, 11): print(f"{sys.implementation.cache_tag}-{p.machine()}")' 2>/dev/null)
  if [ -z "$about" ]; then
    echo "$1 there is no Python of version 3.11 or later: name one with -o python=..." >&2
    return 1
  fi
  base=$HOME/.cache/vidcloud
  echo "$base/$2-$about"
  [ ! -x "$base/$2-$about/bin/python" ] || return 0
  mkdir -p "$base" || return 1
  # What was left when a machine went down in the middle.
  find "$base" -maxdepth 1 -name 'new-*' -mtime +1 -exec rm -rf {} + 2>/dev/null
  mktemp -d "$base/new-XXXXXX"
}
find_it "$@" </dev/null
"""
"""Usage: PYTHON NAME. Prints the environment's folder and, if it isn't there, a private one to make it in."""

_MAKE = """\
make_it() {
  umask 077
  python=$1
  case $python in '~/'*) python=$HOME/${python#??} ;; esac
  trap 'rm -rf "$2"' EXIT
  if ! "$python" -m venv "$2/venv" >"$2/said" 2>&1; then
    echo "$1 can't make a virtual environment (Debian: apt install python3-venv): $(tail -n 1 "$2/said")" >&2
    return 1
  fi
  new=$2/venv/bin/python
  if ! "$new" -m pip install --quiet --disable-pip-version-check --no-input "$2/"vidcloud-*.whl >"$2/said" 2>&1; then
    echo "pip can't install what vidcloud needs: $(grep -v '^$' "$2/said" | tail -n 1)" >&2
    return 1
  fi
  # Onto a folder that another was faster to make, this fails: then that is it.
  "$new" -c 'import os, sys; os.rename(*sys.argv[1:])' "$2/venv" "$3" 2>"$2/said" || [ -x "$3/bin/python" ] || {
    tail -n 1 "$2/said" >&2
    return 1
  }
}
make_it "$@" </dev/null
"""
"""Usage: PYTHON PRIVATE TARGET. Makes the environment of the wheel in the private folder, which goes."""


def ensure(remote: Remote, name: str, python: str, begun: Callable[[str], object]) -> str:
    """See to it that the program is there.

    Args:
        remote: the host.
        name: of the host, as the user gave it.
        python: the interpreter there to make it with, at least 3.11.
        begun: called with the environment's folder before it is made, for that takes minutes.

    Returns:
        The interpreter there that has it.

    Raises:
        RemoteError: the host can't: it has no such Python, no ``venv``, or pip finds no packages.
    """
    file, program = _program()
    digest = hashlib.sha256(program).hexdigest()[:12]
    target, *private = _run(remote, name, _FIND, python, f"{file.split('-')[1]}-{digest}")
    if private:
        begun(target)
        with tempfile.TemporaryDirectory() as here:
            (Path(here) / file).write_bytes(program)
            remote.put(Path(here) / file, f"{private[0]}/{file}")
        _run(remote, name, _MAKE, python, private[0], target)
    return f"{target}/bin/python"


@functools.cache
def _program() -> tuple[str, bytes]:
    """The wheel: the same for all hosts, also if somebody edits an editable installation meanwhile."""
    with tempfile.TemporaryDirectory() as made:
        path = wheel.build(Path(made))
        return path.name, path.read_bytes()


def _run(remote: Remote, name: str, script: str, *words: str) -> list[str]:
    # By standard input: the login's own shell may be any.
    done = remote.run(f"/bin/sh -s -- {shlex.join(words)}", script.encode(), timeout_s=_PIP_S)
    if done.code:
        said = done.err.decode(errors="replace").strip().splitlines()
        raise RemoteError(f"can't install vidcloud on {name}: {said[-1] if said else f'exit code {done.code}'}")
    return [line for line in done.out.decode(errors="replace").splitlines() if line.startswith("/")]

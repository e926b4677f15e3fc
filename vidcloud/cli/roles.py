"""``vidcloud collector`` and ``vidcloud processor``: the roles themselves, as role scripts start them."""

import logging
import os
import sys
from pathlib import Path

import click

from vidcloud import log
from vidcloud.errors import VidcloudError


def _job(path: str) -> "JobDirectory":  # type: ignore[name-defined] # noqa: F821 - imported where it is used
    from vidcloud.job import JobDirectory

    job = JobDirectory(Path(path))
    job.spec()
    return job


def _log(job: "JobDirectory", node: str, *, verbose: bool, copy: bool) -> None:  # type: ignore[name-defined] # noqa: F821
    """The local cloud keeps what nodes print; machines that go away leave it on the share."""
    if copy:
        job.make()
    log.setup(
        verbose=verbose or bool(os.environ.get("VIDCLOUD_VERBOSE")), copy=job.logs / f"{node}.log" if copy else None
    )


def _fail(error: VidcloudError) -> None:
    # The log may be all that anybody sees of a machine that is gone.
    logging.getLogger("vidcloud.role").error("ended by: %s", error)
    click.echo(f"vidcloud: {error}", err=True)
    _leave(error.exit_code)


def _leave(code: int) -> None:
    """End without waiting for threads that are inside a codec."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
@click.option("--node", default="collector-0", show_default=True, help="This instance's id.")
@click.option("-v", "--verbose", is_flag=True, help="Log every chunk.")
@click.option("--home", default="", metavar="URL", help="The job's home, for launchers that don't see the share.")
def collector(job: str, node: str, verbose: bool, home: str) -> None:
    """Prepare units, accept results in order, assemble and store the output."""
    directory = _job(job)
    _log(directory, node, verbose=verbose, copy=bool(home))
    from vidcloud.collector import run_collector

    try:
        if home:
            from vidcloud.home import Home, Mirror

            mirror = Mirror(directory, Home(home))
            with mirror.running():
                result = run_collector(directory, node, mirror.finish)
        else:
            result = run_collector(directory, node)
    except VidcloudError as e:
        _fail(e)
    _leave(0 if result["state"] == "done" else 1)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
@click.option("--node", required=True, help="This instance's id; new in the job.")
@click.option("-v", "--verbose", is_flag=True, help="Log every chunk.")
@click.option("--log/--no-log", "copy", default=False, help="Also log to the job's logs/ on the share.")
def processor(job: str, node: str, verbose: bool, copy: bool) -> None:
    """Claim units, filter them, publish the results, until there is no more."""
    directory = _job(job)
    _log(directory, node, verbose=verbose, copy=copy)
    from vidcloud.processor import run_processor

    try:
        run_processor(directory, node)
    except VidcloudError as e:
        _fail(e)
    _leave(0)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
def supervise(job: str) -> None:
    """Replace nodes that die until the job ends: what a launcher does, without a terminal."""
    from vidcloud.launcher import Launcher
    from vidcloud.sites import open_site

    Launcher(open_site(_job(job))).supervise()

"""``vidcloud collector`` and ``vidcloud processor``: the roles themselves, as role scripts start them."""

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


def _leave(code: int) -> None:
    """End without waiting for threads that are inside a codec."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
@click.option("--node", default="collector-0", show_default=True, help="This instance's id.")
@click.option("-v", "--verbose", is_flag=True, help="Log every chunk.")
def collector(job: str, node: str, verbose: bool) -> None:
    """Prepare units, accept results in order, assemble and store the output."""
    log.setup(verbose=verbose or bool(os.environ.get("VIDCLOUD_VERBOSE")))
    from vidcloud.collector import run_collector

    try:
        result = run_collector(_job(job), node)
    except VidcloudError as e:
        click.echo(f"vidcloud: {e}", err=True)
        _leave(e.exit_code)
    _leave(0 if result["state"] == "done" else 1)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
@click.option("--node", required=True, help="This instance's id; new in the job.")
@click.option("-v", "--verbose", is_flag=True, help="Log every chunk.")
def processor(job: str, node: str, verbose: bool) -> None:
    """Claim units, filter them, publish the results, until there is no more."""
    log.setup(verbose=verbose or bool(os.environ.get("VIDCLOUD_VERBOSE")))
    from vidcloud.processor import run_processor

    try:
        run_processor(_job(job), node)
    except VidcloudError as e:
        click.echo(f"vidcloud: {e}", err=True)
        _leave(e.exit_code)
    _leave(0)


@click.command()
@click.option("--job", required=True, metavar="DIR", help="The job's directory on the share.")
def supervise(job: str) -> None:
    """Replace nodes that die until the job ends: what a launcher does, without a terminal."""
    from vidcloud.launcher import Launcher

    Launcher(_job(job)).supervise()

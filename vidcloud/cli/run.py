"""``vidcloud run``."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from vidcloud.cli.options import (
    confirm_overwriting,
    encoder_options,
    eucarc_only,
    json_option,
    key_values,
    share_option,
    yes_option,
)
from vidcloud.errors import EXIT_INTERRUPTED, UsageError, VidcloudError

_OPTION = re.compile(r"[a-z][a-z0-9_]*=")
"""How options of clouds look; a file of such a name is given as ./NAME."""


@click.command()
@click.argument("input", metavar="INPUT")
@click.option("-o", "--output", "outputs", multiple=True, metavar="OUTPUT|KEY=VALUE",
              help="Path or URL [default: beside the input, cat.neon.mp4]; or an option of the --cloud.")  # fmt: skip
@click.option("--filter", "filters", multiple=True, required=True, metavar="NAME[:k=v,…]",
              help="Filter by name, or FILE.py:NAME; several make a chain.")  # fmt: skip
@click.option("--nodes", default=1, show_default=True, metavar="N", type=int, help="Processors.")
@click.option("--chunk", default=20, show_default=True, metavar="FRAMES", type=int, help="Frames a chunk.")
@click.option("--pack", type=click.Choice(["auto", "raw", "blosc2", "coded"]), default="auto", show_default=True,
              help="Pixels on the share: what is faster there, as they are, packed; or inputs stay coded.")  # fmt: skip
@click.option("--segment-chunks", default=12, show_default=True, metavar="CHUNKS", type=int,
              help="Chunks a processor takes at once on the segments plane.")  # fmt: skip
@click.option("--plane", type=click.Choice(["auto", "frames", "segments"]), default="auto", show_default=True,
              help="How pictures travel: as pixels on the share, or as coded segments; auto measures.")  # fmt: skip
@click.option("--source", type=click.Choice(["share", "ranges"]), default="share", show_default=True,
              help="Where processors read an input by URL: its copy on the share, or ranges of it.")  # fmt: skip
@encoder_options
@click.option("--cloud", default="local", show_default=True, help="Where instances come from: local, ssh, ec2, metal.")
@eucarc_only
@share_option
@click.option("--job-id", metavar="ID", help="Name the job.")
@click.option("--window", default=0, metavar="CHUNKS", type=int,
              help="Chunks on the share ahead of the encoder.  [default: a few a node]")  # fmt: skip
@click.option("--lease", "lease_s", default=10.0, show_default=True, metavar="SECONDS",
              help="Silence after which a node is taken for dead.")  # fmt: skip
@click.option("--frame-timeout", "stall_s", default=600.0, show_default=True, metavar="SECONDS",
              help="Time for one frame after which a chunk is taken from its node.")  # fmt: skip
@click.option("--dead-man", "dead_man_s", default=120.0, show_default=True, metavar="SECONDS",
              help="Silence of the collector after which processors end.")  # fmt: skip
@click.option("--on-error", type=click.Choice(["fail", "keep"]), default="fail", show_default=True,
              help="When a filter raises on several nodes: fail the job, or keep the unfiltered frame.")  # fmt: skip
@click.option("--on-damage", type=click.Choice(["fail", "conceal"]), default="fail", show_default=True,
              help="When the input is damaged or cut short.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--proof/--no-proof", default=True, show_default=True, help="Leave OUTPUT.proof.json beside the output.")
@click.option("--dry-run", is_flag=True, help="Check all and say what would be started; start nothing.")
@click.option("--detach", is_flag=True, help="Print the job's id and return; the job goes on.")
@yes_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Say what the nodes log, too.")
def run(
    input: str,
    filters: tuple[str, ...],
    outputs: tuple[str, ...],
    encoder: tuple[str, ...],
    share: Path | None,
    dry_run: bool,
    detach: bool,
    yes: bool,
    as_json: bool,
    verbose: bool,
    nodes: int,
    cloud: str,
    eucarc: str | None,
    **options: Any,
) -> None:
    """Filter a video on many nodes.

    INPUT is a path or an http(s):// or s3:// URL.
    """
    from vidcloud.cli.display import upload_bar
    from vidcloud.launcher import Launcher
    from vidcloud.request import Request, check, create
    from vidcloud.sites import open_site

    signal.signal(signal.SIGTERM, _terminate)
    output, cloud_options = _outputs(outputs, cloud)
    if eucarc:
        if cloud == "local":
            raise UsageError(f"--eucarc {eucarc}: add --cloud ec2")
        cloud_options["eucarc"] = eucarc
    request = Request(
        input=input, filters=filters, nodes=nodes, share=share, options=key_values(encoder, "-e"), output=output,
        cloud=cloud, cloud_options=cloud_options, **options,
    )  # fmt: skip
    if dry_run:
        _preview(check(request), nodes)
        return
    job = create(request)
    try:
        launcher = Launcher(open_site(job))
        confirm_overwriting(launcher.site.cloud, nodes + 1, yes=yes)
        launcher.site.claim()
    except BaseException:
        shutil.rmtree(job.root, ignore_errors=True)  # what may run under this id is another's
        raise
    try:
        with upload_bar(quiet=as_json) as tell:
            launcher.start(nodes, tell)
        for note in launcher.notes:
            click.echo(f"  note: {note}", err=True)
        if detach:
            _supervise_in_background(job.root)
            click.echo(json.dumps({"job": job.id}) if as_json else job.id)
            return
    except (KeyboardInterrupt, SystemExit):
        _cancel(launcher)
    except VidcloudError:
        shutil.rmtree(job.root, ignore_errors=True)  # nothing was begun: there is nothing to list or to resume
        raise
    guarded_follow(launcher, as_json=as_json, verbose=verbose)


def _outputs(given: tuple[str, ...], cloud: str) -> tuple[str | None, dict[str, str]]:
    """What of ``-o`` is the output, and what options of a cloud."""
    options = [o for o in given if cloud != "local" and _OPTION.match(o)]
    outputs = [o for o in given if o not in options]
    if len(outputs) > 1:
        raise UsageError(f"-o {outputs[1]}: there is one output only, and {outputs[0]} is it")
    return (outputs[0] if outputs else None), key_values(tuple(options), "-o")


def _preview(checked: Any, nodes: int) -> None:
    from vidcloud.clouds.base import open_remote

    spec = checked.spec
    click.echo(f"{checked.site.get('input', spec.input)} -> {checked.site.get('output', spec.output)}")
    if checked.site.get("home"):
        cloud = open_remote(checked.site["cloud"], spec.id, checked.site["options"], checked.site["home"])
        lines = cloud.preview(nodes)
    else:
        lines = [f"1 collector and {nodes} processors on this machine"]
    for line in lines:
        click.echo(line)


def guarded_follow(launcher: Any, *, as_json: bool, verbose: bool, supervise: bool = True) -> None:
    """As `follow`, but what interrupts this command ends the job, if this command looks after it.

    Raises:
        JobFailedError: the job failed.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        follow(launcher, as_json=as_json, verbose=verbose, supervise=supervise)
    except (KeyboardInterrupt, SystemExit):
        if not supervise:
            raise
        _cancel(launcher)


def _cancel(launcher: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    launcher.cancel()
    click.echo(f"vidcloud: job {launcher.job.id} was cancelled, nothing is left running", err=True)
    sys.exit(EXIT_INTERRUPTED)


def follow(launcher: Any, *, as_json: bool, verbose: bool, supervise: bool = True) -> None:
    """Show a job until it ends, then its result.

    Raises:
        JobFailedError: it failed.
    """
    from vidcloud import storage
    from vidcloud.cli.display import open_display

    with open_display(launcher, quiet=as_json, verbose=verbose) as show:
        result = launcher.supervise(show) if supervise else launcher.attach(show)
    if result.get("state") != "done":
        return
    told = summary(launcher.job.id, result)
    if as_json:
        click.echo(json.dumps(told))
        return
    path = storage.local_path(told["output"])
    click.echo(
        f"{path or told['output']}: {told['frames']} frames in {told['seconds']:.1f} s, {told['fps']:.1f} fps", err=True
    )
    for line in told["report"]:
        click.echo(f"  note: {line}", err=True)


def summary(job_id: str, result: dict[str, Any]) -> dict[str, Any]:
    """The object that ``--json`` ends with."""
    from vidcloud import storage

    path = storage.local_path(result["output"])
    seconds = result["seconds"]
    return {
        "job": job_id,
        "output": str(path) if path else result["output"],
        "frames": result["frames"],
        "seconds": seconds,
        "fps": round(result["frames"] / seconds, 2) if seconds else 0.0,
        "plane": result["plane"],
        "takeovers": result["takeovers"],
        "report": result["report"],
    }


def _supervise_in_background(root: Path) -> None:
    with (root / "logs" / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-P", "-m", "vidcloud", "supervise", "--job", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_INTERRUPTED)

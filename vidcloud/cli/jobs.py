"""``vidcloud scale``, ``status``, ``watch``, ``logs``, ``cancel``, ``resume`` and ``jobs``."""

import json
import time
from pathlib import Path

import click

from vidcloud import job as job_module
from vidcloud.cli.options import json_option, share_option
from vidcloud.errors import UsageError
from vidcloud.job import JobDirectory


def _find(name: str | None, share: Path | None) -> JobDirectory:
    share = share or job_module.default_share()
    if name is not None:
        return job_module.find(name, share)
    found = job_module.all_jobs(share)
    if not found:
        raise UsageError(f"no jobs in {share}: start one with `vidcloud run`")
    return found[-1]


@click.command()
@click.argument("job")
@click.option("--nodes", type=int, metavar="N", help="How many processors there should be.")
@click.option("--add", type=int, metavar="K", help="How many more.")
@click.option("--remove", type=int, metavar="K", help="How many fewer; the youngest give back their chunk and leave.")
@share_option
def scale(job: str, nodes: int | None, add: int | None, remove: int | None, share: Path | None) -> None:
    """Add or remove processors while JOB runs."""
    from vidcloud.launcher import Launcher

    found = _find(job, share)
    if sum(x is not None for x in (nodes, add, remove)) != 1:
        raise UsageError("give one of --nodes N, --add K, --remove K")
    if (add is not None and add < 1) or (remove is not None and remove < 1):
        raise UsageError("--add and --remove take 1 or more")
    wanted = nodes if nodes is not None else found.nodes() + (add or 0) - (remove or 0)
    changed = Launcher(found).scale(wanted)
    click.echo(f"{found.id}: {wanted} nodes ({changed:+d})")


@click.command()
@click.argument("job", required=False)
@share_option
@json_option
def status(job: str | None, share: Path | None, as_json: bool) -> None:
    """Show how JOB stands; without JOB, the newest one."""
    from vidcloud.cli.display import line
    from vidcloud.launcher import Launcher

    now = Launcher(_find(job, share)).status()
    if as_json:
        click.echo(json.dumps(now.to_json()))
        return
    click.echo(line(now))
    for node in now.nodes:
        click.echo(
            f"  {node.id:<16}{node.role:<11}{node.state:<14}{node.address}  pid {node.pid}  {node.chunks} chunks"
        )
    if now.error:
        click.echo(f"  error: {now.error}")


@click.command()
@click.argument("job", required=False)
@share_option
def watch(job: str | None, share: Path | None) -> None:
    """Follow JOB until it ends; ^C leaves it running."""
    from vidcloud.cli.run import follow
    from vidcloud.errors import JobFailedError
    from vidcloud.launcher import Launcher

    found = _find(job, share)
    follow(Launcher(found), as_json=False, verbose=False, supervise=False)
    result = found.result() or {}
    if result.get("state") != "done":
        raise JobFailedError(f"job {found.id} {result.get('state')}: {result.get('error', '')}")


@click.command()
@click.argument("job")
@click.argument("node", required=False)
@share_option
def logs(job: str, node: str | None, share: Path | None) -> None:
    """Show what the nodes of JOB printed; NODE picks one."""
    from vidcloud.launcher import Launcher

    for name, text in Launcher(_find(job, share)).logs(node):
        for printed in text.splitlines():
            click.echo(printed if node else f"{name}: {printed}")


@click.command()
@click.argument("job")
@share_option
def cancel(job: str, share: Path | None) -> None:
    """End JOB and all it started; its pixels and half-made output go, its record stays."""
    from vidcloud.launcher import Launcher

    found = _find(job, share)
    Launcher(found).cancel()
    click.echo(f"{found.id}: cancelled")


@click.command()
@click.argument("job")
@share_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Say what the nodes log, too.")
def resume(job: str, share: Path | None, as_json: bool, verbose: bool) -> None:
    """Let JOB go on that broke off or failed; what is done is not done again."""
    from vidcloud.cli.run import guarded_follow
    from vidcloud.launcher import Launcher

    found = _find(job, share)
    launcher = Launcher(found)
    began = launcher.resume()
    if not began:
        click.echo(f"vidcloud: job {found.id} is running; watching it", err=True)
    guarded_follow(launcher, as_json=as_json, verbose=verbose, supervise=began)


@click.command()
@share_option
@json_option
@click.option("--clear", is_flag=True, help="Remove the records of jobs that ended.")
def jobs(share: Path | None, as_json: bool, clear: bool) -> None:
    """List jobs, the newest last."""
    import shutil

    found = job_module.all_jobs(share or job_module.default_share())
    if clear:
        ended = [j for j in found if j.state() in ("done", "cancelled", "failed")]
        for j in ended:
            shutil.rmtree(j.root)
        click.echo(f"removed {len(ended)} records")
        return
    rows = []
    for j in found:
        spec = j.spec()
        rows.append(
            {
                "job": j.id,
                "state": j.state(),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(spec.created)),
                "input": spec.input,
                "output": spec.output,
            }
        )
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['job']:<16}{row['state']:<11}{row['created']}  {row['output'].removeprefix('file://')}")

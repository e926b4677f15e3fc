"""``vidcloud scale``, ``status``, ``watch``, ``logs``, ``audit``, ``cancel``, ``resume`` and ``jobs``."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vidcloud import job as job_module
from vidcloud.cli.options import cloud_options, confirm_overwriting, json_option, key_values, share_option, yes_option
from vidcloud.errors import UsageError
from vidcloud.launcher import Launcher
from vidcloud.sites import all_homes, find_site, open_site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidcloud.job import JobRecords
    from vidcloud.sites import HomeSite

_ENDED = ("done", "cancelled", "failed")


def _launcher(name: str | None, share: Path | None, cloud: str | None, pairs: tuple[str, ...]) -> Launcher:
    """The launcher of a job of this machine's, or with ``--cloud`` of one that was begun elsewhere."""
    if cloud:
        if name is None:
            raise UsageError("with --cloud, say which JOB; `vidcloud instances` lists them")
        return Launcher(find_site(name, cloud, key_values(pairs, "-o")))
    if pairs:
        raise UsageError(f"-o {pairs[0]}: add --cloud")
    share = share or job_module.default_share()
    if name is not None:
        return Launcher(open_site(job_module.find(name, share)))
    found = job_module.all_jobs(share)
    if not found:
        raise UsageError(f"no jobs in {share}: start one with `vidcloud run`")
    return Launcher(open_site(found[-1]))


@click.command()
@click.argument("job")
@click.option("--nodes", type=int, metavar="N", help="How many processors there should be.")
@click.option("--add", type=int, metavar="K", help="How many more.")
@click.option("--remove", type=int, metavar="K", help="How many fewer; the youngest give back their chunk and leave.")
@share_option
@cloud_options
@yes_option
def scale(
    job: str,
    nodes: int | None,
    add: int | None,
    remove: int | None,
    yes: bool,
    share: Path | None,
    cloud: str | None,
    pairs: tuple[str, ...],
) -> None:
    """Add or remove processors while JOB runs."""
    launcher = _launcher(job, share, cloud, pairs)
    if sum(x is not None for x in (nodes, add, remove)) != 1:
        raise UsageError("give one of --nodes N, --add K, --remove K")
    if (add is not None and add < 1) or (remove is not None and remove < 1):
        raise UsageError("--add and --remove take 1 or more")
    wanted = nodes if nodes is not None else launcher.job.nodes() + (add or 0) - (remove or 0)
    confirm_overwriting(launcher.site.cloud, wanted - launcher.job.nodes(), yes=yes)
    changed = launcher.scale(wanted)
    click.echo(f"{launcher.job.id}: {wanted} nodes ({changed:+d})")


@click.command()
@click.argument("job", required=False)
@share_option
@cloud_options
@json_option
def status(job: str | None, share: Path | None, cloud: str | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """Show how JOB stands; without JOB, the newest one."""
    from vidcloud.cli.display import line

    now = _launcher(job, share, cloud, pairs).status()
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
@cloud_options
def watch(job: str | None, share: Path | None, cloud: str | None, pairs: tuple[str, ...]) -> None:
    """Follow JOB until it ends; ^C leaves it running."""
    from vidcloud.cli.run import follow
    from vidcloud.errors import JobFailedError

    launcher = _launcher(job, share, cloud, pairs)
    follow(launcher, as_json=False, verbose=False, supervise=False)
    result = launcher.job.result() or {}
    if result.get("state") != "done":
        raise JobFailedError(f"job {launcher.job.id} {result.get('state')}: {result.get('error', '')}")


@click.command()
@click.argument("job")
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what they print, until they have ended; ^C stops.")
@share_option
@cloud_options
def logs(
    job: str, node: str | None, follow: bool, share: Path | None, cloud: str | None, pairs: tuple[str, ...]
) -> None:
    """Show what the nodes of JOB printed; NODE picks one."""
    launcher = _launcher(job, share, cloud, pairs)
    if follow:
        lines = launcher.follow(node)
    else:
        lines = ((name, line) for name, text in launcher.logs(node) for line in text.splitlines())
    for name, line in lines:
        click.echo(line if node else f"{name}: {line}")


class _CommandLast(click.Command):
    """Options may stand behind JOB and NODE, as everywhere; what follows the command's first word is the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {o for p in self.get_params(ctx) if isinstance(p, click.Option) and p.is_flag for o in p.opts}
        known = {o for p in self.get_params(ctx) if isinstance(p, click.Option) for o in p.opts}
        options: list[str] = []
        names: list[str] = []
        rest = list(args)
        while rest and rest[0] != "--":
            name, equals, _ = rest[0].partition("=")
            if rest[0] in known or (name in known and equals):
                taken = 1 if equals or name in flags else 2
                options, rest = [*options, *rest[:taken]], rest[taken:]
            elif len(names) < 2 and not rest[0].startswith("-"):
                names.append(rest.pop(0))
            else:
                break
        return super().parse_args(ctx, [*options, *names, *(rest[1:] if rest[:1] == ["--"] else rest)])


@click.command(cls=_CommandLast, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@share_option
@cloud_options
@click.argument("job")
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(
    job: str, node: str, command: tuple[str, ...], share: Path | None, cloud: str | None, pairs: tuple[str, ...]
) -> int:
    """Log in to the host of a NODE of JOB, or run COMMAND there, which gets no input.

    The host's key is checked before, and pinned: what you log in to is the host that runs the node.
    """
    from vidcloud.remote import connect, interactive

    target = _launcher(job, share, cloud, pairs).login(node)
    if not command:
        return interactive(target)

    def show(to: int, data: bytes) -> None:
        stream = sys.stdout.buffer if to == 1 else sys.stderr.buffer
        stream.write(data)
        stream.flush()

    with connect(target) as remote:
        code = remote.run(" ".join(command), timeout_s=None, show=show).code
    return code if code >= 0 else 255  # as ssh says it, when a signal ended the command


@click.command()
@click.argument("job")
@share_option
@cloud_options
@json_option
def audit(job: str, share: Path | None, cloud: str | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """Show who started JOB far away, which data went where, and when it was removed."""
    notes = _launcher(job, share, cloud, pairs).site.notes()
    if as_json:
        click.echo(json.dumps(notes))
        return
    for n in notes:
        rest = " ".join(f"{k}={v}" for k, v in n.items() if k not in ("version", "when", "who", "action"))
        click.echo(f"{n['when'][:19]}Z  {n['who']}  {n['action']}  {rest}")


@click.command()
@click.argument("job")
@share_option
@cloud_options
def cancel(job: str, share: Path | None, cloud: str | None, pairs: tuple[str, ...]) -> None:
    """End JOB and all it started; its pixels and half-made output go, its record stays."""
    launcher = _launcher(job, share, cloud, pairs)
    launcher.cancel()
    click.echo(f"{launcher.job.id}: cancelled")


@click.command()
@click.argument("job")
@share_option
@cloud_options
@yes_option
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Say what the nodes log, too.")
def resume(
    job: str, share: Path | None, cloud: str | None, pairs: tuple[str, ...], yes: bool, as_json: bool, verbose: bool
) -> None:
    """Let JOB go on that broke off or failed; what is done is not done again."""
    from vidcloud.cli.run import guarded_follow

    launcher = _launcher(job, share, cloud, pairs)
    if not yes and launcher.broken_off():
        confirm_overwriting(launcher.site.cloud, launcher.job.nodes() + 1, yes=yes)
    began = launcher.resume()
    if not began:
        click.echo(f"vidcloud: job {launcher.job.id} is running; watching it", err=True)
    guarded_follow(launcher, as_json=as_json, verbose=verbose, supervise=began)


@click.command()
@share_option
@cloud_options
@json_option
@click.option("--clear", is_flag=True, help="Remove the records of jobs that ended; of --cloud all at their homes.")
def jobs(share: Path | None, cloud: str | None, pairs: tuple[str, ...], as_json: bool, clear: bool) -> None:
    """List jobs, the newest last; with --cloud those that have homes in its bucket."""
    if cloud:
        homes = all_homes(cloud, key_values(pairs, "-o"))
        if clear:
            _clear_homes(homes)
            return
        _list([site.records for site in homes], as_json=as_json)
        return
    if pairs:
        raise UsageError(f"-o {pairs[0]}: add --cloud")
    found = job_module.all_jobs(share or job_module.default_share())
    if clear:
        import shutil

        ended = [j for j in found if j.state() in _ENDED]
        for j in ended:
            shutil.rmtree(j.root)
        click.echo(f"removed {len(ended)} records")
        return
    _list(found, as_json=as_json)


def _clear_homes(homes: "Sequence[HomeSite]") -> None:
    cleared = 0
    for site in homes:
        state = site.records.state()
        if state not in _ENDED:
            continue
        if state == "done" and site.undelivered:
            output = site.records.spec().output
            click.echo(f"{site.records.id}: kept, for nobody fetched {output}: `vidcloud watch` where it was begun")
            continue
        site.clear()
        cleared += 1
    click.echo(f"cleared {cleared} homes")


def _list(found: "Sequence[JobRecords]", *, as_json: bool) -> None:
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

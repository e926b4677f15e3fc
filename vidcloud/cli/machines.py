"""``vidcloud instances`` and ``reap``: all machines of a cloud account, whatever job they belong to."""

import json
import time
from typing import Any

import click

from vidcloud.cli.options import eucarc_option, json_option, key_values, seconds
from vidcloud.errors import UsageError


def _cloud(command: Any) -> Any:
    command = eucarc_option(command)
    for option in (
        click.option("-o", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of the cloud."),
        click.option(
            "--cloud", default="ec2", show_default=True, type=click.Choice(["ec2", "metal"]), help="Which cloud."
        ),
    ):
        command = option(command)
    return command


@click.command()
@_cloud
@json_option
def instances(cloud: str, pairs: tuple[str, ...], as_json: bool) -> None:
    """List the machines of all jobs, oldest first."""
    found, _ = _account(cloud, pairs)
    if as_json:
        click.echo(json.dumps([_record(m) for m in found]))
        return
    for m in found:
        click.echo(_line(m))
    if not found:
        click.echo("no instances")


@click.command()
@click.option("--older-than", metavar="AGE", help="Also machines of this age, whatever they do: 30d, 12h, 45m.")
@click.option("--grace", default="15m", show_default=True, metavar="AGE",
              help="How long a job may be without a collector.")  # fmt: skip
@click.option("--all-users", is_flag=True, help="On EC2, also machines of other owners.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_cloud
@json_option
def reap(
    older_than: str | None,
    grace: str,
    all_users: bool,
    yes: bool,
    cloud: str,
    pairs: tuple[str, ...],
    as_json: bool,
) -> None:
    """End machines of yours that nobody needs: past their time, without a collector, or too old."""
    from vidcloud.clouds.base import orphans

    age = None if older_than is None else seconds("--older-than", older_than)
    grace_s = seconds("--grace", grace)
    if all_users and cloud == "metal":
        raise UsageError("--all-users: on bare metal only their user ends machines")
    machines, opened = _account(cloud, pairs, mine=cloud == "metal")
    found = orphans(machines, time.time(), age, grace_s)
    if cloud != "metal" and not all_users:
        others = [m for m, _ in found if m.owner != opened.owner]
        found = [(m, why) for m, why in found if m.owner == opened.owner]
        if others:
            whose = ", ".join(sorted({m.owner or "nobody" for m in others}))
            click.echo(
                f"vidcloud: {len(others)} of {whose} stay, you are {opened.owner}: --all-users ends them, too", err=True
            )
    if not as_json:
        for m, why in found:
            click.echo(f"{_line(m)}  {why}")
    if found and not yes:
        click.confirm(f"end these {len(found)}?", abort=True, err=True)
    if found:
        opened.terminate_instances([m.instance.id for m, _ in found])
    if as_json:
        click.echo(json.dumps([{**_record(m), "why": why} for m, why in found]))
    else:
        click.echo(f"ended {len(found)}")


def _account(cloud: str, pairs: tuple[str, ...], *, mine: bool = False) -> tuple[list[Any], Any]:
    """All machines, or with ``mine`` those that the user may end; and a cloud to end them."""
    from vidcloud.clouds.settings import read_metal, read_settings

    options = key_values(pairs, "-o")
    if cloud == "metal":
        from vidcloud.clouds.metal import MetalCloud

        metal = MetalCloud("", read_metal(options))
        return metal.all_machines(mine=mine), metal
    from vidcloud.clouds.ec2 import EC2Cloud, all_machines

    settings = read_settings(cloud, options)
    return all_machines(settings), EC2Cloud("", settings)


def _record(m: Any) -> dict[str, Any]:
    return {
        "id": m.instance.id,
        "job": m.job,
        "role": m.instance.role,
        "state": m.instance.state,
        "address": m.instance.address,
        "owner": m.owner,
        "launched": m.instance.launched,
        "expires": m.expires,
        "type": m.kind,
    }


def _line(m: Any) -> str:
    age = (time.time() - m.instance.launched) / 3600
    told = f"{m.instance.id:<22}{m.job:<16}{m.instance.role:<11}{m.instance.state:<14}{m.instance.address:<16}"
    return f"{told}{m.kind:<13}{age:6.1f} h  {m.owner}"

"""``vidcloud metal``: machines from a Cobbler, with commands as Metaleuca had them; and ``metaleuca-…`` for them."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vidcloud.errors import UsageError
from vidcloud.metal.connect import Connection as _Connection
from vidcloud.metal.connect import who as _who

if TYPE_CHECKING:
    from vidcloud.metal.cobbler import System
    from vidcloud.metal.instances import Instance, Instances

F = TypeVar("F", bound=Callable[..., Any])
_WATCH_S = 5.0


def _several(*flags: str, **more: Any) -> Callable[[F], F]:
    """An option that takes several values after one flag, as Metaleuca's did: see `_spread`."""
    return click.option(*flags, multiple=True, **more)


class _Spread(click.Command):
    """``-g A B`` means ``-g A -g B``, for options that may come several times."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {
            flag
            for option in self.params
            if isinstance(option, click.Option) and option.multiple
            for flag in option.opts
        }
        spread: list[str] = []
        current, bare = "", ""  # the flag whose values come now; one that has none yet
        for word in args:
            if word.startswith("-"):
                if bare:
                    break
                current = bare = word if word in flags else ""
                if not current:
                    spread.append(word)
            else:
                spread += [current, word] if current else [word]
                bare = ""
        if bare:
            ctx.fail(f"Option {bare!r} requires an argument.")
        return super().parse_args(ctx, spread)


def _output(command: F) -> F:
    for option in (
        click.option("--plain", is_flag=True, help="Print one line a thing, of words in an order that stays."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ):
        command = option(command)
    return command


def _user(command: F) -> F:
    return click.option("-u", "--user", help="In whose name.  [default: the configuration's user, or your own name]")(
        command
    )


def _machines(command: F) -> F:
    command = _several("-i", "--ip", "ips", metavar="IP…", help="Machines by address.")(command)
    return click.argument("names", nargs=-1, metavar="[NAME]…")(command)


def _yes(command: F) -> F:
    return click.option("-y", "--yes", is_flag=True, help="Don't ask.")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Instead of ~/.config/vidcloud/metal.toml."
)
@click.pass_context
def metal(ctx: click.Context, config: Path | None) -> None:
    """Reserve, install and give back bare-metal machines of a Cobbler."""
    ctx.obj = _Connection(config)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """As ^C: what is half done is put back. Another one does not break that off."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


command = metal.command


@command("describe-distros")
@_output
@click.pass_obj
def describe_distros(with_: _Connection, as_json: bool, plain: bool) -> None:
    """List the distros."""
    _show("DISTRO", ("name", "breed", "os_version", "arch"), with_.cobbler.distros(), as_json, plain)


@command("describe-profiles")
@_output
@click.pass_obj
def describe_profiles(with_: _Connection, as_json: bool, plain: bool) -> None:
    """List the profiles that can be installed."""
    _show("PROFILE", ("name", "distro"), with_.cobbler.profiles(), as_json, plain)


@command("describe-systems", cls=_Spread)
@_machines
@_output
@click.pass_obj
def describe_systems(with_: _Connection, names: Sequence[str], ips: Sequence[str], as_json: bool, plain: bool) -> None:
    """List all machines, or those named."""
    from vidcloud.metal.cobbler import choose

    found = with_.cobbler.systems()
    _show_systems(choose(found, names, ips) if names or ips else found, as_json, plain)


@command("describe-system-groups", cls=_Spread)
@_several("-g", "--group", "groups", metavar="G…", help="These groups only.")
@click.option("-f", "--free", is_flag=True, help="Free machines only.")
@_output
@click.pass_obj
def describe_system_groups(with_: _Connection, groups: Sequence[str], free: bool, as_json: bool, plain: bool) -> None:
    """List machines by group."""
    found = with_.cobbler.systems()
    for group in groups:
        if group not in {s.get("group") for s in found}:
            raise UsageError(f"no group {group!r}")
    rows = [
        {"group": s.get("group") or "-", "name": s.name, "ip": s.ip, "user": s.get("user")}
        for s in sorted(found, key=lambda s: (s.get("group"), s.name))
        if (not groups or s.get("group") in groups) and not (free and s.get("user"))
    ]
    _show("GROUP", ("group", "name", "ip", "user"), rows, as_json, plain)


@command("describe-system-users")
@click.option("-u", "--user", help="This user only.")
@_output
@click.pass_obj
def describe_system_users(with_: _Connection, user: str | None, as_json: bool, plain: bool) -> None:
    """List reserved machines by user."""
    rows = [
        {"user": s.get("user"), "name": s.name, "ip": s.ip, "since": _time(s.get("since"))}
        for s in sorted(with_.cobbler.systems(), key=lambda s: (s.get("user"), s.name))
        if s.get("user") and user in {None, s.get("user")}
    ]
    _show("USER", ("user", "name", "ip", "since"), rows, as_json, plain)


@command("set-profile", cls=_Spread)
@_machines
@click.option("-p", "--profile", required=True, help="The profile.")
@_user
@_output
@click.pass_obj
def set_profile(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    profile: str,
    user: str | None,
    as_json: bool,
    plain: bool,
) -> None:
    """Say what a machine's next install installs."""
    chosen = _chosen(with_, names, ips)
    _show_systems(with_.instances(user).set_profile(chosen, profile), as_json, plain)


@command("enable-netboot", cls=_Spread)
@_machines
@_user
@_output
@click.pass_obj
def enable_netboot(
    with_: _Connection, names: Sequence[str], ips: Sequence[str], user: str | None, as_json: bool, plain: bool
) -> None:
    """Let machines be installed when they start next."""
    _show_systems(with_.instances(user).set_netboot(_chosen(with_, names, ips), on=True), as_json, plain)


@command("disable-netboot", cls=_Spread)
@_machines
@_user
@_output
@click.pass_obj
def disable_netboot(
    with_: _Connection, names: Sequence[str], ips: Sequence[str], user: str | None, as_json: bool, plain: bool
) -> None:
    """Let machines boot from their disks."""
    _show_systems(with_.instances(user).set_netboot(_chosen(with_, names, ips), on=False), as_json, plain)


@command("set-group", cls=_Spread)
@_machines
@click.option("-g", "--group", required=True, help="The group.")
@_user
@_output
@click.pass_obj
def set_group(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    group: str,
    user: str | None,
    as_json: bool,
    plain: bool,
) -> None:
    """Put machines into a group."""
    from vidcloud.metal.config import check_user

    _show_systems(with_.instances(user).set_group(_chosen(with_, names, ips), check_user(group)), as_json, plain)


@command("reboot-system", cls=_Spread)
@_machines
@_user
@_yes
@_output
@click.pass_obj
def reboot_system(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    user: str | None,
    yes: bool,
    as_json: bool,
    plain: bool,
) -> None:
    """Power cycle machines; those with netboot on are installed anew."""
    chosen = _systems(with_, names, ips)
    again = [s for s in chosen if s.netboot]
    _confirm(again, "is installed anew, its disk overwritten", yes)
    of = {s.name: s.get("reservation") for s in chosen}
    _show_systems(with_.instances(user).reboot(list(of), of, [s.name for s in again]), as_json, plain)


@command("reserve-systems", cls=_Spread)
@_machines
@click.option("-n", "--count", type=int, default=0, help="How many, of free ones that are in a group.")
@_several("-g", "--group", "groups", metavar="G…", help="Of these groups.")
@_user
@_output
@click.pass_obj
def reserve_systems(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    count: int,
    groups: Sequence[str],
    user: str | None,
    as_json: bool,
    plain: bool,
) -> None:
    """Reserve machines: all that are asked for, or none."""
    request = _request(with_, names, ips, count, groups, user)
    _show_systems(with_.reservations.reserve(request), as_json, plain)


@command("release-systems", cls=_Spread)
@_machines
@_user
@_output
@click.pass_obj
def release_systems(
    with_: _Connection, names: Sequence[str], ips: Sequence[str], user: str | None, as_json: bool, plain: bool
) -> None:
    """Give machines back as they are: they are not switched off (terminate-instances does that).

    By name also one that was deleted from Cobbler, or renamed, while it was reserved.
    """
    chosen = [*names, *(_chosen(with_, (), ips) if ips or not names else ())]
    given = with_.reservations.release(chosen, user or with_.config.user)
    _show_systems(given, as_json, plain)


@command("run-instances", cls=_Spread)
@_machines
@click.option("-n", "--count", type=int, default=0, help="How many, of free ones that are in a group.")
@_several("-g", "--group", "groups", metavar="G…", help="Of these groups.")
@click.option("-p", "--profile", required=True, help="What to install.")
@_user
@click.option("-w", "--watch", is_flag=True, help="Wait until they run; exit code 1 if one fails.")
@click.option("--release-failed", is_flag=True, help="With --watch: switch those that fail off and give them back.")
@_yes
@_output
@click.pass_obj
def run_instances(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    count: int,
    groups: Sequence[str],
    profile: str,
    user: str | None,
    watch: bool,
    release_failed: bool,
    yes: bool,
    as_json: bool,
    plain: bool,
) -> None:
    """Reserve machines and install PROFILE on them."""
    if release_failed and not watch:
        raise UsageError("--release-failed needs --watch: when a machine has failed is known only then")
    request = _request(with_, names, ips, count, groups, user)
    instances = with_.instances(user)
    with_.cobbler.check_profile(profile)
    if not yes:
        # The machines are reserved before the question: what is confirmed is what is installed.
        systems = with_.reservations.reserve(request)
        try:
            _confirm(systems, f"is installed with {profile}, its disk overwritten", yes)
        except BaseException:
            with_.reservations.release([s.name for s in systems], request.user, {s.name: request.id for s in systems})
            raise
    started = instances.run(request, profile)
    of = {i.name: i.reservation for i in started}
    if watch:
        started = _follow(instances, of, request.user)
    _show_instances(started, as_json, plain)
    if release_failed:
        instances.terminate(list(of), of=of, only_failed=True)
    _fail_if_failed(started, of)


@command("describe-instances")
@click.option("-u", "--user", help="This user's only.")
@click.option("-w", "--watch", is_flag=True, help="Wait until none is pending or installing.")
@click.option("--release-failed", is_flag=True, help="Switch your failed ones off and give them back.")
@_output
@click.pass_obj
def describe_instances(
    with_: _Connection, user: str | None, watch: bool, release_failed: bool, as_json: bool, plain: bool
) -> None:
    """List instances and how they are: pending, installing, running, stopped, terminating, failed, or only reserved."""
    instances = with_.instances(user)
    found = _follow(instances, None, user) if watch else instances.describe(user)
    _show_instances(found, as_json, plain)
    if release_failed:
        instances.terminate(only_failed=True)


@command("terminate-instances", cls=_Spread)
@_machines
@_user
@click.option("--wipe", is_flag=True, help="Boot the configuration's wipe_profile first, and wait until it has ended.")
@_yes
@_output
@click.pass_obj
def terminate_instances(
    with_: _Connection,
    names: Sequence[str],
    ips: Sequence[str],
    user: str | None,
    wipe: bool,
    yes: bool,
    as_json: bool,
    plain: bool,
) -> None:
    """Switch machines off and give them back: those named, or all of the user's."""
    if wipe and not with_.config.wipe_profile:
        raise UsageError("--wipe needs wipe_profile in metal.toml")
    if not names and not ips and user is None:
        raise UsageError("which? Name machines, or say -u USER for all of that user's")
    instances = with_.instances(user)
    if not wipe:
        given = instances.terminate(names, ips)
    else:
        chosen = _systems(with_, names, ips) if names or ips else _reserved(with_, user)
        _confirm(chosen, "is wiped", yes)
        of = {s.name: s.get("reservation") for s in chosen}  # what was confirmed, and nothing that came meanwhile
        given = instances.terminate(list(of), wipe_profile=with_.config.wipe_profile, of=of) if of else []
    _show_instances(given, as_json, plain)


@command("recycle", cls=_Spread)
@click.option("--older-than", required=True, metavar="AGE", help="Age of the last install: 30d, 12h, 45m.")
@_several("-g", "--group", "groups", metavar="G…", help="Of these groups only.")
@click.option("-p", "--profile", default="", help="What to install.  [default: the profile that each has]")
@click.option("--at-once", type=click.IntRange(1, 64), default=2, show_default=True, help="How many at a time.")
@_yes
@_output
@click.pass_obj
def recycle(
    with_: _Connection,
    older_than: str,
    groups: Sequence[str],
    profile: str,
    at_once: int,
    yes: bool,
    as_json: bool,
    plain: bool,
) -> None:
    """Install free machines anew whose install is old, and machines whose reservation has expired.

    Each is reserved meanwhile and given back when it has run. One that fails stays reserved as failed.
    """
    from vidcloud.cli.options import seconds
    from vidcloud.errors import CloudError
    from vidcloud.metal.recycle import find_old
    from vidcloud.metal.recycle import recycle as install_anew

    cobbler = with_.cobbler
    age_s = seconds("--older-than", older_than)
    if profile:
        cobbler.check_profile(profile)
    old = find_old(cobbler.systems(), cobbler.installs(), age_s, groups, time.time())
    quiet = as_json or plain
    for item in old:
        click.echo(f"{item.system.name} {item.why}", err=quiet)
    _confirm([item.system for item in old], "is installed anew, its disk overwritten", yes)
    ended: dict[str, str] = {}

    def tell(name: str, what: str) -> None:
        ended[name] = what
        click.echo(f"{name} {what}", err=quiet)

    left = install_anew(with_, old, profile, at_once, tell)
    if quiet:
        rows = [
            {"name": o.system.name, "why": o.why, "recycled": o.system.name not in left, "told": ended[o.system.name]}
            for o in old
        ]
        _show("RECYCLED", ("name", "recycled", "why", "told"), rows, as_json, plain)
    if left:
        raise CloudError(f"not recycled: {', '.join(left)}", tuple(left))
    if not quiet:
        click.echo(f"recycled {len(old)}")


@command("history")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@_output
@click.pass_obj
def history(with_: _Connection, names: Sequence[str], as_json: bool, plain: bool) -> None:
    """Show who changed what when, oldest first; of the machines named only."""
    rows = [
        {
            "time": _time(line["time"]),
            "machine": line["machine"],
            "what": line["what"],
            "who": line["who"],
            **{key: line["after"].get(key, "") for key in ("user", "state", "profile", "netboot")},
        }
        for line in with_.reservations.history()
        if not names or line["machine"] in names
    ]
    _show("CHANGE", ("time", "machine", "what", "who", "user", "state", "profile", "netboot"), rows, as_json, plain)


@command("check")
@_output
@click.pass_context
def check(ctx: click.Context, as_json: bool, plain: bool) -> None:
    """Show what somebody changed in Cobbler past vidcloud, since its last change. Exit code 1 if there is any."""
    from vidcloud.metal.reservations import foreign_edits

    with_: _Connection = ctx.obj
    rows = [asdict(e) for e in foreign_edits(with_.cobbler.systems(), with_.reservations.history())]
    _show("EDIT", ("name", "what", "was", "now"), rows, as_json, plain)
    if rows:
        ctx.exit(1)


@command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8764, show_default=True, help="Port to listen at.")
@click.option("--tokens", type=click.Path(path_type=Path), help="File of lines USER TOKEN; chmod 600.")
@click.option(
    "--ec2", metavar="HOST:PORT", help="Also answer EC2's Query API there, for boto3, the AWS CLI and others."
)
@click.option(
    "--access-keys", type=click.Path(path_type=Path), help="For --ec2: file of lines ACCESS_KEY SECRET USER; chmod 600."
)
@click.option("--cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate (PEM), for https.")
@click.option("--key", type=click.Path(dir_okay=False, path_type=Path), help="Its private key.")
@click.pass_obj
def serve(
    with_: _Connection,
    host: str,
    port: int,
    tokens: Path | None,
    ec2: str | None,
    access_keys: Path | None,
    cert: Path | None,
    key: Path | None,
) -> None:
    """Own the reservations, for commands on many hosts. Runs on the Cobbler host until it is ended.

    With --ec2, other tools see the machines as instances; without --tokens, only they are served.
    """
    import threading

    from vidcloud import log

    if tokens is None and ec2 is None:
        raise UsageError("what is to be served? Give --tokens FILE, or --ec2 HOST:PORT with --access-keys FILE")
    if (ec2 is None) != (access_keys is None):
        raise UsageError("--ec2 and --access-keys belong together")
    log.setup()
    with contextlib.ExitStack() as stack:
        servers = []
        if tokens is not None:
            servers.append(
                stack.enter_context(_reservations_server(with_, (host, port), tokens, _tls(host, cert, key)))
            )
        if ec2 is not None and access_keys is not None:
            address = _address(ec2)
            servers.append(stack.enter_context(_door(with_, address, access_keys, _tls(address[0], cert, key))))
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())  # before anybody hears that it serves
        for server in servers:
            click.echo(f"serving {server.what} at {server.url}")
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        ended.wait()


def _tls(host: str, cert: Path | None, key: Path | None) -> Any:
    import ssl

    if cert is None:
        if host in {"127.0.0.1", "::1", "localhost"}:
            return None
        raise UsageError(
            "tokens don't go over plain http, nor does user-data: give --cert and --key, or listen at 127.0.0.1 behind "
            "a proxy"
        )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as e:
        raise UsageError(f"{cert}: {e}") from None
    return tls


def _address(told: str) -> tuple[str, int]:
    host, _, port = told.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--ec2 can't be {told!r}: HOST:PORT")
    return host.strip("[]"), int(port)


def _owned(with_: _Connection) -> Any:
    from vidcloud.metal.reservations import LockedReservations

    with_.cobbler.systems()  # better a line now than at the first question
    return LockedReservations(with_.cobbler, with_.config.state_dir, _who())


def _reservations_server(with_: _Connection, address: tuple[str, int], tokens: Path, tls: Any) -> Any:
    from vidcloud.metal.serve import Server, read_tokens

    return Server(address, _owned(with_), read_tokens(tokens), tls)


def _door(with_: _Connection, address: tuple[str, int], access_keys: Path, tls: Any) -> Any:
    from vidcloud.metal.ec2.door import Door
    from vidcloud.metal.ec2.signature import read_access_keys
    from vidcloud.metal.ec2.zone import Zone

    keys = read_access_keys(access_keys)
    owned = _owned(with_)
    return Door(address, Zone(with_.cobbler, owned, lambda user: with_.instances(user, owned)), keys, tls)


def metaleuca() -> None:
    """The entry of ``metaleuca-…``: the command is what follows in the script's own name."""
    from vidcloud.cli.main import main

    main(["metal", Path(sys.argv[0]).name.removeprefix("metaleuca-"), *sys.argv[1:]])


def _systems(with_: _Connection, names: Sequence[str], ips: Sequence[str]) -> list["System"]:
    from vidcloud.metal.cobbler import choose

    if not names and not ips:
        raise UsageError("which machines? Give names, or -i IP…")
    return choose(with_.cobbler.systems(), names, ips)


def _chosen(with_: _Connection, names: Sequence[str], ips: Sequence[str]) -> list[str]:
    return [s.name for s in _systems(with_, names, ips)]


def _reserved(with_: _Connection, user: str | None) -> list["System"]:
    return [s for s in with_.cobbler.systems() if s.get("user") == user]


def _request(
    with_: _Connection, names: Sequence[str], ips: Sequence[str], count: int, groups: Sequence[str], user: str | None
) -> Any:
    from vidcloud.metal.reservations import Request

    if (names or ips) and (count or groups):
        raise UsageError("give either machines (names, -i IP…) or how many of which group (-n, -g)")
    return Request(user or with_.config.user, tuple(names), tuple(ips), count, tuple(groups))


def _confirm(systems: Iterable["System"], what: str, yes: bool) -> None:
    systems = list(systems)
    if yes or not systems:
        return
    for s in systems:
        click.echo(f"  {s.name} {s.ip} ({s.profile}) {what}", err=True)
    if not sys.stdin.isatty():
        raise UsageError("that must be confirmed: --yes")
    click.confirm(f"{len(systems)} machines. Go on?", abort=True, err=True)


def _follow(instances: "Instances", of: Mapping[str, str] | None, user: str | None) -> list["Instance"]:
    """Show how machines fare until none is pending or installing; with ``of`` those of a reservation, by name."""
    from vidcloud.metal.instances import INSTALLING, PENDING

    shown: dict[str, str] = {}
    while True:
        found = [i for i in instances.describe(user) if of is None or of.get(i.name) == i.reservation]
        now = dict.fromkeys(shown, "given back by another") | {i.name: f"{i.state} {i.reason}" for i in found}
        for name, told in now.items():
            if shown.get(name) != told:
                click.echo(f"{time.strftime('%H:%M:%S')} {name} {told}".rstrip(), err=True)
        shown = now
        if not any(i.state in {PENDING, INSTALLING} for i in found):
            return found
        time.sleep(_WATCH_S)


def _fail_if_failed(found: Iterable["Instance"], wanted: Iterable[str]) -> None:
    from vidcloud.errors import CloudError
    from vidcloud.metal.instances import FAILED

    found = list(found)
    failed = {i.name: f"failed {i.reason}" for i in found if i.state == FAILED}
    failed |= dict.fromkeys({*wanted} - {i.name for i in found}, "was given back by another")
    if failed:
        raise CloudError("; ".join(f"{name} {why}" for name, why in sorted(failed.items())), tuple(sorted(failed)))


def _show_systems(systems: Iterable["System"], as_json: bool, plain: bool) -> None:
    rows = [
        {
            "name": s.name,
            "profile": s.profile,
            "ip": s.ip,
            "netboot": "on" if s.netboot else "off",
            "group": s.get("group"),
            "user": s.get("user"),
        }
        for s in systems
    ]
    _show("SYSTEM", ("name", "profile", "ip", "netboot", "group", "user"), rows, as_json, plain)


def _show_instances(found: Iterable["Instance"], as_json: bool, plain: bool) -> None:
    rows = [{**asdict(i), "since": _time(i.since_s)} for i in found]
    if plain:
        _show("INSTANCE", ("name", "profile", "ip", "state"), rows, as_json, plain)
    else:
        _show("INSTANCE", ("name", "profile", "ip", "state", "user", "since", "reason"), rows, as_json, plain)


def _show(kind: str, keys: Sequence[str], rows: Sequence[dict[str, Any]], as_json: bool, plain: bool) -> None:
    """Rows as JSON, as plain lines with ``-`` for what is empty, or as a table."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=1))
    elif plain:
        for row in rows:
            click.echo(" ".join([kind, *("_".join(str(row[key]).split()) or "-" for key in keys)]))
    else:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*keys, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(str(row[key])) for key in keys))  # Text: a name may hold what rich takes for markup
        console = Console()
        if not console.is_terminal:
            console.width = 200  # a pipe has no edge
        console.print(table)


def _time(seconds: Any) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(seconds)))
    except (TypeError, ValueError):
        return ""

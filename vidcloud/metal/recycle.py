"""Machines installed anew before anybody asks for them: those whose install is old, and those nobody gave back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vidcloud.errors import CloudError, UsageError, VidcloudError
from vidcloud.metal.cobbler import Install, System
from vidcloud.metal.connect import Connection
from vidcloud.metal.instances import FAILED, RUNNING, Instances
from vidcloud.metal.reservations import Request, in_groups

_MARGIN_S = 600.0


@dataclass(frozen=True)
class Old:
    """A machine to install anew, and why."""

    system: System
    why: str


def find_old(
    systems: Sequence[System], installs: dict[str, Install], older_than_s: float, groups: Sequence[str], now: float
) -> list[Old]:
    """Free machines whose newest install began so long ago, and those whose reservation has expired.

    Args:
        systems: all there are.
        installs: by machine; one that Cobbler knows no install of counts as old.
        older_than_s: age of an install.
        groups: of these only; none: all, but no machine without a group.
        now: seconds since 1970. Cobbler's clock told the starts of installs, and whoever reserved its end: an age is
            wrong by as much as their clocks and this one differ.

    Raises:
        UsageError: no such group.
    """
    known = {s.get("group") for s in systems} - {""}
    for group in groups:
        if group not in known:
            raise UsageError(f"no group {group!r}; there are {', '.join(sorted(known)) or 'none'}")
    found = []
    for system in systems:
        if not in_groups(system, groups):  # nobody gave it to the pool
            continue
        started = installs.get(system.name, Install()).started
        if holder := system.get("user"):
            expires = system.get("expires")
            if expires.replace(".", "", 1).isdecimal() and now > float(expires):
                found.append(Old(system, f"{holder}'s reservation has expired"))
        elif not started:
            found.append(Old(system, "no install is known"))
        elif now - started > older_than_s:
            found.append(Old(system, f"installed {(now - started) / 86400:.1f} days ago"))
    return found


def recycle(
    with_: Connection,
    old: Sequence[Old],
    profile: str,
    at_once: int,
    tell: Callable[[str, str], None],
    *,
    poll_s: float = 5.0,
    instances: Callable[[str | None], Instances] | None = None,
) -> list[str]:
    """Install machines anew, a few at a time, and give them back.

    Each is reserved meanwhile, so nobody else gets it; with an expiry, so that what a killed command leaves is found
    by the next one. One that fails stays reserved as failed, with the reason.

    Args:
        with_: the connection.
        old: of `find_old`.
        profile: what to install; "": what each has.
        at_once: how many at a time.
        tell: hears a machine's name and what became of it, from several threads.
        poll_s: how often to look at a machine.
        instances: gives those in a user's name; by default ``with_.instances``.

    Returns:
        Names of machines that were not recycled.

    Raises:
        UsageError: no such profile.
    """
    if profile:
        with_.cobbler.check_profile(profile)
    opened = instances or with_.instances
    stop = threading.Event()

    def one(item: Old) -> str:
        if stop.is_set():
            return item.system.name
        try:
            _one(with_, opened, item, profile, poll_s, stop)
        except (VidcloudError, OSError) as e:
            tell(item.system.name, str(e))
            return item.system.name
        tell(item.system.name, "installed anew and free")
        return ""

    with ThreadPoolExecutor(at_once, thread_name_prefix="recycle") as pool:
        try:
            return [name for name in pool.map(one, old) if name]
        except BaseException:
            stop.set()  # those in the middle are given back, the others not begun
            raise


def _one(
    with_: Connection,
    opened: Callable[[str | None], Instances],
    item: Old,
    profile: str,
    poll_s: float,
    stop: threading.Event,
) -> None:
    name, user = item.system.name, with_.config.user
    if holder := item.system.get("user"):
        opened(holder).terminate([name], of={name: item.system.get("reservation")})
    expires = time.time() + with_.config.install_timeout_s + _MARGIN_S
    request = Request(user, (name,), meta={"expires": f"{expires:.0f}"})
    mine = opened(None)
    mine.run(request, profile or item.system.profile)
    for state, reason in _states(mine, name, user, request.id):
        if state == FAILED:
            raise CloudError(f"failed {reason}")
        if state == RUNNING or stop.wait(poll_s):
            break
    else:
        raise CloudError("somebody else gave it back")
    mine.terminate([name], of={name: request.id})
    if stop.is_set():
        raise CloudError("interrupted: given back before it ran")


def _states(instances: Instances, name: str, user: str, reservation: str) -> Iterator[tuple[str, str]]:
    """A machine's state and its reason, as often as asked for, while the reservation lasts."""
    while found := [i for i in instances.describe(user) if i.name == name and i.reservation == reservation]:
        yield found[0].state, found[0].reason

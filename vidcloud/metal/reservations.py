"""Who has which machine. Reservations exclude: whoever writes to Cobbler through here holds one lock.

The state itself lives in Cobbler (`vidcloud.metal.cobbler`). Beside the lock lies a record of each change, for
``vidcloud metal history``, and to find out what somebody changed in Cobbler without this lock (its own web pages and
commands know nothing of it): such a change can't be prevented, but `foreign_edits` shows it, and a machine that was
taken out of somebody's hands that way is not given to another.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vidcloud.errors import CapacityError, CloudError, EndedError, UsageError, VidcloudError
from vidcloud.metal.cobbler import PREFIX, Cobbler, System, choose
from vidcloud.metal.config import check_user

_LASTING = {"group"}  # keys that outlive a reservation
# What `Reservations.change` may write; whose a machine is, only reserving and releasing can.
_CHANGEABLE = {"group", "state", "reason", "line", "drain", "tags"}
_CHANGEABLE |= {"boot_before", "install_before", "cycled", "rebooted"}
# What a request may bring along: whose machines they are for, until when. Cobbler's templates see it.
_TAGS = {"job", "role", "owner", "expires", "home", "ordinals", "launch", "tags"}
_TAG = re.compile(r"[A-Za-z0-9._@+:/=~-]*")
_MAX_VALUE, _MAX_LINE = 500, 32_768
_LONG = {"line", "tags"}  # in base64
_LOCK_S = 300.0
_RECORD_BYTES = 1 << 20
"""At this size the record is put aside, and what was put aside before goes: two such files are all that is read."""


@dataclass(frozen=True)
class Request:
    """What to reserve: these machines, or ``count`` free ones of any of ``groups`` (of all, if there are none).

    By count, only machines are taken that are in a group and have an address: one that Cobbler merely knows is nobody's
    to install unless it is named.
    With ``at_least``, fewer than ``count`` will do if no more are free.
    ``id`` names the reservation: asked for twice (a reply was lost), the same machines are given. ``meta`` are keys
    ``vidcloud_*`` without the prefix, that are written with the reservation.
    """

    user: str
    names: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    count: int = 0
    groups: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"r-{uuid.uuid4().hex[:12]}")
    meta: Mapping[str, str] = field(default_factory=dict)
    at_least: int = 0


@dataclass(frozen=True)
class Change:
    """What to do to one machine, and under which condition.

    Attributes:
        name: the machine.
        user: who wants it: the machine must be free or that user's.
        what: for the record.
        reservation: if given, the machine must still belong to it.
        meta: ``vidcloud_*`` keys without the prefix; ``None`` takes one away.
        profile: the new profile.
        netboot: whether it boots from the network.
        expects: ``vidcloud_*`` keys without the prefix, and what they must be until now.
    """

    name: str
    user: str
    what: str
    reservation: str = ""
    meta: Mapping[str, str | None] = field(default_factory=dict)
    profile: str | None = None
    netboot: bool | None = None
    expects: Mapping[str, str] = field(default_factory=dict)


class Reservations(Protocol):
    """The one who may write; here by file lock, or a server (`vidcloud.metal.serve`)."""

    def reserve(self, request: Request) -> list[System]:
        """Reserve machines: all that were asked for, or none.

        Raises:
            CapacityError: too few are free.
            UsageError: there is no such machine or group, or it is taken; or tags that can't be.
            CloudError: Cobbler failed; ``left_running`` has machines that could not be given back.
        """

    def change(self, change: Change) -> System:
        """Change one machine.

        Raises:
            EndedError: the reservation has ended.
            UsageError: there is no such machine, it is somebody else's, or it is not as expected.
            CloudError: Cobbler failed.
        """

    def release(self, names: Sequence[str], user: str, of: Mapping[str, str] | None = None) -> list[System]:
        """Give machines back, each with the profile and netboot flag that it had before its reservation.

        A machine that is gone from Cobbler is given back by the record alone.

        Args:
            names: machines.
            user: whose they are.
            of: reservation by machine: those that do not belong to it any more are left alone.

        Returns:
            Those given back that Cobbler knows.

        Raises:
            UsageError: there is no such machine, or one is not that user's; then none is given back.
            CloudError: Cobbler failed.
        """

    def history(self) -> list[dict[str, Any]]:
        """The record of changes, oldest first: ``time`` (s since 1970), ``who``, ``what``, ``machine``, ``after``."""


class LockedReservations:
    """Reservations under a file lock: among all processes of one host that use the same ``folder``.

    Args:
        cobbler: where the state is.
        folder: for the lock and the record; not on a network share. If its group may write there, that shares both.
        who: for the record.
    """

    def __init__(self, cobbler: Cobbler, folder: Path, who: str) -> None:
        self._cobbler, self._folder, self._who = cobbler, folder, who
        self._record, self._aside = folder / "history.jsonl", folder / "history.1.jsonl"

    def as_seen_by(self, who: str) -> "LockedReservations":
        """The same, with another name in the record."""
        return LockedReservations(self._cobbler, self._folder, who)

    def reserve(self, request: Request) -> list[System]:
        """See `Reservations.reserve`."""
        check_user(request.user)
        for key, value in request.meta.items():
            most = _MAX_LINE if key in _LONG else _MAX_VALUE
            if key not in _TAGS or not isinstance(value, str) or len(value) > most or not _TAG.fullmatch(value):
                raise UsageError(f"vidcloud_{key} can't be {value!r}: letters, digits and . _ @ + : / = ~ - only")
        with self._locked():
            systems = self._cobbler.systems()
            # Of that user: ids can be guessed, and another's machines are no answer to this request.
            again = [s for s in systems if s.get("reservation") == request.id and s.get("user") == request.user]
            if again:
                return again
            chosen = self._free(systems, request)
            done: list[System] = []
            try:
                for system in chosen:
                    meta = {
                        **request.meta,
                        "user": request.user,
                        "reservation": request.id,
                        "since": _seconds(),
                        "state": "reserved",
                    }
                    meta |= {"profile_before": system.profile, "netboot_before": str(int(system.netboot))}
                    done.append(system)  # an update that fails may have been made
                    done[-1] = self._update(Change(system.name, request.user, "reserve", meta=meta))
            except BaseException as e:  # ^C as well
                left = tuple(s.name for s in done if not self._undo(s.name, request.id))
                more = f"; still reserved: {', '.join(left)}" if left else ""
                if not left and not isinstance(e, Exception):
                    raise
                raise CloudError(f"nothing was reserved: {str(e) or type(e).__name__}{more}", left) from e
            return done

    def free(self, request: Request) -> list[System]:
        """What a request would get now. Changes nothing.

        Raises:
            UsageError: as `reserve`.
        """
        return self._free(self._cobbler.systems(), request)

    def _free(self, systems: Sequence[System], request: Request) -> list[System]:
        stolen = {edit.name for edit in foreign_edits(systems, self.history()) if edit.what == "user"}
        return _choose_free(systems, request, stolen)

    def change(self, change: Change) -> System:
        """See `Reservations.change`."""
        for key, value in change.meta.items():
            if key not in _CHANGEABLE:
                raise UsageError(f"vidcloud_{key} can't be changed like that")
            most = _MAX_LINE if key in _LONG else _MAX_VALUE
            if value is not None and (not isinstance(value, str) or len(value) > most or not value.isprintable()):
                raise UsageError(f"vidcloud_{key} must be printable text of at most {most} characters")
        with self._locked():
            system = self._cobbler.system(change.name)
            if change.reservation and system.get("reservation") != change.reservation:
                raise EndedError(f"{change.name}: its reservation {change.reservation} has ended")
            _check_owner(system.name, change.user, system.get("user"))
            for key, value in change.expects.items():
                if system.get(key) != value:
                    raise UsageError(f"{change.name}: {key} is {system.get(key)!r} by now, not {value!r}")
            return self._update(change)

    def release(self, names: Sequence[str], user: str, of: Mapping[str, str] | None = None) -> list[System]:
        """See `Reservations.release`."""
        with self._locked():
            systems = self._cobbler.systems()
            latest = _latest(self.history())
            had = {name: str(line["after"].get("user") or "") for name, line in latest.items()}
            there = {s.name for s in systems}
            lost = [name for name in names if name not in there and (of is not None or had.get(name))]
            chosen = choose(systems, [name for name in names if name not in lost], ())
            if of is not None:
                lost, chosen = [], [s for s in chosen if of.get(s.name) == s.get("reservation")]
            holders = {s.name: s.get("user") or had.get(s.name, "") for s in chosen}
            for name, holder in (holders | {name: had[name] for name in lost}).items():
                if not holder:
                    raise UsageError(f"{name} is not reserved")
                _check_owner(name, user, holder)
            for name in lost:
                self._note("release", name, {})
            return [self._release(system) for system in chosen]

    def history(self) -> list[dict[str, Any]]:
        """See `Reservations.history`."""
        newer = _lines(self._record)  # first: what is put aside meanwhile is then seen twice, not never
        return [*_lines(self._aside), *newer]

    def _release(self, system: System) -> System:
        gone: dict[str, str | None] = {
            key.removeprefix(PREFIX): None
            for key in system.meta
            if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in _LASTING
        }
        netboot, profile = system.get("netboot_before"), system.get("profile_before")
        if profile != system.profile and profile not in {p["name"] for p in self._cobbler.profiles()}:
            profile = ""  # it was removed from Cobbler meanwhile: the machine keeps what it has
        return self._update(
            Change(
                system.name,
                "",
                "release",
                meta=gone,
                profile=profile or None,
                netboot=None if not netboot else netboot == "1",
            )
        )

    def _undo(self, name: str, reservation: str) -> bool:
        try:
            system = self._cobbler.system(name)
            if system.get("reservation") == reservation:
                self._release(system)
        except (VidcloudError, OSError):
            return False
        return True

    def _update(self, change: Change) -> System:
        then = self._cobbler.update(change.name, meta=change.meta, profile=change.profile, netboot=change.netboot)
        self._note(change.what, change.name, _seen(then))
        return then

    def _note(self, what: str, machine: str, after: Mapping[str, Any]) -> None:
        line = {"time": time.time(), "who": self._who, "what": what, "machine": machine, "after": after}
        with self._opened(self._record) as f:
            size = f.seek(0, os.SEEK_END)
            if size > _RECORD_BYTES:
                self._put_aside()
                f.truncate(0)
                size = 0
            if size:
                f.seek(size - 1)
                if f.read(1) != b"\n":  # a crash cut the last line short: it must not swallow this one
                    f.write(b"\n")
            f.write((json.dumps(line) + "\n").encode())
            f.flush()
            os.fsync(f.fileno())

    def _put_aside(self) -> None:
        """Let the record take the place of what was put aside earlier, of which each machine's newest line stays."""
        older, newer = _lines(self._aside), _lines(self._record)
        latest = _latest([*older, *newer])
        kept = [line for line in older if latest[line["machine"]] is line] + newer
        new = self._folder / "history.new"
        new.unlink(missing_ok=True)
        with self._opened(new) as f:
            f.write("".join(json.dumps(line) + "\n" for line in kept).encode())
            f.flush()
            os.fsync(f.fileno())
        new.replace(self._aside)

    def _opened(self, path: Path) -> BinaryIO:
        """A file to append to and to read, for all who may write into its folder, whoever comes first."""
        f = path.open("ab+")
        folder, mine = self._folder.stat(), os.fstat(f.fileno())
        if folder.st_mode & stat.S_IWGRP and mine.st_uid == os.geteuid():
            os.fchown(f.fileno(), -1, folder.st_gid)
            os.fchmod(f.fileno(), 0o660)
        return f

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._opened(self._folder / "lock") as lock:
            until = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise CloudError(f"{lock.name}: held by another for {_LOCK_S:.0f} s") from None
                    time.sleep(0.02)
            yield  # closing the file unlocks


@dataclass(frozen=True)
class Edit:
    """Something in Cobbler that is not as it was left: by whom, Cobbler doesn't tell."""

    name: str
    what: str
    was: str
    now: str


def foreign_edits(systems: Iterable[System], history: Iterable[Mapping[str, Any]]) -> list[Edit]:
    """What differs from the last change that the record has. A netboot flag that went off is an install that ended."""
    latest = _latest(history)
    found = []
    systems = list(systems)
    names = {system.name for system in systems}
    for name, line in latest.items():
        if name not in names and (holder := line["after"].get("user")):
            found.append(Edit(name, "machine", f"reserved by {holder}", "deleted or renamed"))
    for system in systems:
        was: Mapping[str, Any] = latest[system.name]["after"] if system.name in latest else {}
        now = _seen(system)
        for key, value in now.items():
            before = was.get(key, "" if key in {"user", "reservation"} else value)
            if value != before and not (key == "netboot" and not value):
                found.append(Edit(system.name, key, str(before), str(value)))
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # a line that a crash cut short
            found.append(json.loads(line))
    return found


def _latest(history: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {line["machine"]: line for line in history}


def _seen(system: System) -> dict[str, Any]:
    keys = ("user", "reservation", "state", "group")
    told = {"profile": system.profile, "netboot": system.netboot, "ip": ",".join(system.ips), "power": system.power}
    return {key: system.get(key) for key in keys} | told


def _choose_free(systems: Sequence[System], request: Request, stolen: set[str]) -> list[System]:
    def free(system: System) -> bool:
        return not system.get("user") and system.name not in stolen

    if request.names or request.ips:
        chosen = choose(systems, request.names, request.ips)
        for system in chosen:
            if system.name in stolen:
                raise UsageError(
                    f"{system.name}: somebody changed its reservation in Cobbler; see `vidcloud metal check`"
                )
            if not free(system):
                raise UsageError(f"{system.name} is reserved by {system.get('user')}")
        return chosen
    if request.count < 1:
        raise UsageError("how many machines? 1 or more")
    known = {s.get("group") for s in systems} - {""}
    for group in request.groups:
        if group not in known:
            raise UsageError(f"no group {group!r}; there are {', '.join(sorted(known)) or 'none'}")
    able = [s for s in systems if free(s) and in_groups(s, request.groups) and s.ip]
    if len(able) < (least := request.at_least or request.count):
        where = f" in {', '.join(request.groups)}" if request.groups else ""
        alone = sum(free(s) and not s.get("group") for s in systems)
        hint = f"; {alone} in no group must be named, or put into one by set-group" if alone and not where else ""
        raise CapacityError(f"{least} machines wanted, {len(able)} free{where}{hint}")
    return able[: request.count]


def in_groups(system: System, groups: Sequence[str]) -> bool:
    """Whether a machine may be taken without being named: it is in one of ``groups``, or in any if none is given."""
    group = system.get("group")
    return bool(group) and (not groups or group in groups)


def _check_owner(name: str, user: str, holder: str) -> None:
    if holder and holder != user:
        raise UsageError(f"{name} is reserved by {holder}, not by {user}")


def _seconds() -> str:
    return f"{time.time():.3f}"


def as_json(asked: Request | Change | System) -> dict[str, Any]:
    """A record for the wire; `Request`, `Change` and `System` take it as keywords (lists for tuples)."""
    return {**asdict(asked)}

"""The life of an instance on bare metal: pending → installing → running → terminating → free; or failed.

An instance runs when its netboot flag is off (the installer called back) *and* SSH answers from a boot that came after
our power cycle. The flag alone, as a machine has it that never booted, says nothing.
"""

import contextlib
import ipaddress
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vidcloud.errors import CloudError, EndedError, UsageError, VidcloudError
from vidcloud.metal.cobbler import Cobbler, Install, System, choose
from vidcloud.metal.reservations import Change, Request, Reservations

PENDING, INSTALLING, RUNNING = "pending", "installing", "running"
TERMINATING, FREE, FAILED = "terminating", "free", "failed"
STOPPED = "stopped"
"""It ran, and has no power now. Never noted: that is how it is seen."""
_PROBES = 64
_REBOOT_S = 300.0
"""A machine without power counts as one that is being power cycled for so long after that was asked for."""


@dataclass(frozen=True)
class Boot:
    """A boot of a machine: the kernel's random id of it, and seconds since then."""

    id: str
    uptime_s: float


Probe = Callable[[str], Boot | None]  # of an IP address; None if nothing answers


@dataclass(frozen=True)
class Instance:
    """A reserved machine. ``since_s`` is when it was reserved, in seconds since 1970; ``reason`` says why it failed."""

    name: str
    ip: str
    profile: str
    user: str
    group: str
    state: str
    since_s: float
    reason: str
    reservation: str


def ssh_probe(user: str, key: Path | None = None, timeout_s: float = 5.0) -> Probe:
    """A probe through the system's ``ssh``, that reads the boot id and the uptime and nothing else.

    The host's key is not checked: a machine has a new one after each install, and nothing secret is sent. Who can
    answer at the machine's address can therefore make it look as if it ran.
    """
    identity = ["-i", str(key), "-o", "IdentitiesOnly=yes"] if key else []
    options = ["BatchMode=yes", f"ConnectTimeout={max(1, round(timeout_s))}", "StrictHostKeyChecking=no"]
    options += ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ForwardAgent=no", "ControlPath=none"]
    flags = [word for option in options for word in ("-o", option)]

    def probe(ip: str) -> Boot | None:
        address = str(ipaddress.ip_address(ip))  # nothing that ssh could take for an option
        asked = [
            "ssh",
            *flags,
            *identity,
            "-l",
            user,
            "--",
            address,
            "cat /proc/sys/kernel/random/boot_id /proc/uptime",
        ]
        try:
            done = subprocess.run(
                asked, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * timeout_s + 1, text=True
            )
            boot_id, uptime, *_ = done.stdout.split()
            return Boot(boot_id, float(uptime))
        except (OSError, subprocess.SubprocessError, ValueError):
            return None

    return probe


class Instances:
    """Machines as instances, in the name of ``user``.

    Args:
        cobbler: to read from and to switch power.
        reservations: through which all else is written.
        user: who asks.
        probe: what asks a machine for its boot.
        install_timeout_s: from the power cycle until an instance counts as failed.
        power_tries: how often a machine's power call is tried.
        poll_s: how often a wipe is looked after.
    """

    def __init__(
        self,
        cobbler: Cobbler,
        reservations: Reservations,
        user: str,
        probe: Probe,
        *,
        install_timeout_s: float = 3600.0,
        power_tries: int = 3,
        poll_s: float = 5.0,
    ) -> None:
        self._cobbler, self._reservations, self._user, self._probe = cobbler, reservations, user, probe
        self._install_timeout_s, self._power_tries, self._poll_s = install_timeout_s, power_tries, poll_s

    def run(self, request: Request, profile: str, line: Callable[[System], str] | None = None) -> list[Instance]:
        """Reserve machines and start to install ``profile`` on them: all of them, or none.

        Args:
            request: what to reserve. If another launch (``meta["launch"]``) has reserved it, that one installs them.
            profile: what to install.
            line: gives what becomes ``vidcloud_line``, before a machine's power is switched.

        Raises:
            UsageError: no such profile, machine or group; too few are free; a machine has no address.
            CloudError: Cobbler or a machine's power failed. All is put back; machines whose power could not be switched
                off again stay reserved as failed (``left_running``).
        """
        self._cobbler.check_profile(profile)
        systems = self._reservations.reserve(request)
        if any(s.get("launch") != request.meta.get("launch", "") for s in systems):
            return self.look(systems)
        switched: list[str] = []
        try:
            _check_addresses(systems)
            systems = self._install(systems, "run", profile, line)
            switched = [s.name for s in systems]
            self._switch(systems, "reboot")
        except BaseException as e:  # ^C and SIGTERM as well
            left = self._put_back(systems, switched, str(e) or "interrupted")
            if left:
                raise CloudError(f"{e}; still reserved: {', '.join(left)}", tuple(left)) from e
            raise
        return [_instance(s, PENDING, "") for s in systems]

    def describe(self, user: str | None = None) -> list[Instance]:
        """All reserved machines, or one user's. What is found out about one's own is noted in Cobbler."""
        return self.look([s for s in self._cobbler.systems() if s.get("user") and user in {None, s.get("user")}])

    def look(self, systems: Sequence[System], *, again: bool = True) -> list[Instance]:
        """How reserved machines are, in their order. What is found out about one's own is noted in Cobbler.

        Args:
            systems: the machines.
            again: ask those that ran whether they still do: one SSH each, all at once, and where that does not answer
                one power status.
        """
        young = [s for s in systems if s.get("state") == PENDING]
        ran = [s for s in systems if again and s.get("state") == RUNNING]
        installs = self._cobbler.installs() if young else {}
        asked_s = time.time()
        boots = self._boots([*(s for s in young if not s.netboot), *ran])
        silent = {s.name for s in ran if boots.get(s.name) is None}
        stopped = self._without_power([s for s in ran if s.name in silent])
        found = []
        for system in systems:
            state, reason = system.get("state"), system.get("reason")
            if state == PENDING:
                state, reason = self._state(
                    system, installs.get(system.name, Install()), boots.get(system.name), asked_s
                )
                if state in {RUNNING, FAILED} and system.get("user") == self._user:
                    with contextlib.suppress(UsageError):  # it was given back meanwhile
                        self._note(system, state, reason)
            elif system.name in stopped:
                state, reason = STOPPED, "it has no power"
            elif system.name in silent:
                reason = "SSH does not answer"
            found.append(_instance(system, state, reason))
        return found

    def off(self, systems: Sequence[System]) -> set[str]:
        """Names of machines without power: SSH does not answer, and Cobbler's power status says so.

        A machine whose power can't be asked for counts as on: a slow answer ends nobody's work. So does one that
        somebody power cycles.
        """
        boots = self._boots(systems)
        return self._without_power([s for s in systems if boots.get(s.name) is None])

    def _without_power(self, silent: Sequence[System]) -> set[str]:
        names = [s.name for s in silent]
        if not names:
            return set()
        with ThreadPoolExecutor(min(_PROBES, len(names)), thread_name_prefix="power") as pool:
            off = {name for name, on in zip(names, pool.map(self._has_power, names), strict=True) if not on}
        if off:
            # Read after that: who power cycles a machine notes it before.
            since = time.time() - _REBOOT_S
            off -= {s.name for s in self._cobbler.systems() if _number(s.get("rebooted")) > since}
        return off

    def give_back(self, system: System, wipe_profile: str = "") -> None:
        """Free a machine that went off by itself, unless another process is at it or it is in use anew.

        Raises:
            CloudError: it could not be wiped; it stays reserved as failed.
        """
        state, reservation = system.get("state"), system.get("reservation")
        change = Change(
            system.name,
            self._user,
            "ended",
            reservation,
            {"state": TERMINATING, "reason": None},
            expects={"state": state},
        )
        try:
            self._reservations.change(change)
        except UsageError:
            return
        self.terminate([system.name], wipe_profile=wipe_profile, of={system.name: reservation})

    def mark(self, system: System, key: str, value: str) -> None:
        """Write a key of a machine of one's own.

        Raises:
            UsageError: it is somebody else's, its reservation has ended, or nobody may write that key.
        """
        self._reservations.change(Change(system.name, self._user, key, system.get("reservation"), {key: value}))

    def _has_power(self, name: str) -> bool:
        try:
            return self._cobbler.is_on(name)
        except (VidcloudError, OSError):
            return True

    def terminate(
        self,
        names: Sequence[str] = (),
        ips: Sequence[str] = (),
        *,
        wipe_profile: str = "",
        only_failed: bool = False,
        of: Mapping[str, str] | None = None,
    ) -> list[Instance]:
        """Switch one's machines off and give them back with the profile they had: those named, or all of one's own.

        Args:
            names: machines.
            ips: machines by address.
            wipe_profile: boot this first and wait until it calls back.
            only_failed: leave out those that have not failed.
            of: reservation by machine: those that do not belong to it any more are left out.

        Returns:
            Those given back; not those that somebody else gave back meanwhile.

        Raises:
            UsageError: no such machine or profile, or one is not the user's; then nothing is touched.
            CloudError: some could not be switched off or wiped; they stay reserved as failed (``left_running``).
        """
        systems = self._cobbler.systems()
        if names or ips:
            chosen = choose(systems, names, ips)
            if of is not None:
                chosen = [s for s in chosen if of.get(s.name) == s.get("reservation")]
            for system in chosen:
                if system.get("user") != self._user:
                    holder = system.get("user")
                    told = f"reserved by {holder}, not by {self._user}" if holder else "not reserved"
                    raise UsageError(f"{system.name} is {told}")
        else:
            chosen = [s for s in systems if s.get("user") == self._user]
        if only_failed:
            chosen = [s for s in chosen if s.get("state") == FAILED]
        if wipe_profile:
            self._cobbler.check_profile(wipe_profile)
        chosen = [s for s in chosen if self._still(s, TERMINATING, "")]
        try:
            errors = self._power(chosen, "off")
            if wipe_profile:
                errors |= self._wipe([s for s in chosen if s.name not in errors], wipe_profile)
        except BaseException:  # ^C and SIGTERM: nothing shall go on wiping that nobody waits for
            mine = []
            for system in chosen:
                with contextlib.suppress(VidcloudError, OSError):
                    if self._still(system, FAILED, "interrupted while it was switched off or wiped"):
                        mine.append(system)
            self._power(mine, "off")
            raise
        for system in chosen:
            if system.name in errors:
                self._still(system, FAILED, errors[system.name])
        held = {s.name: s.get("reservation") for s in chosen if s.name not in errors}
        given = {s.name for s in self._reservations.release(list(held), self._user, held)}
        if errors:
            told = "; ".join(f"{name}: {error}" for name, error in errors.items())
            raise CloudError(f"still reserved: {told}", tuple(errors))
        return [_instance(s, FREE, "") for s in chosen if s.name in given]

    def set_profile(self, names: Sequence[str], profile: str) -> list[System]:
        """Give machines a profile; nothing is installed yet. They must be free or one's own.

        Raises:
            UsageError: no such machine or profile, or one is somebody else's.
        """
        self._cobbler.check_profile(profile)
        return self._all(names, lambda s: Change(s.name, self._user, "set-profile", profile=profile))

    def set_netboot(self, names: Sequence[str], *, on: bool) -> list[System]:
        """Let machines boot from the network at their next start, or not. They must be free or one's own.

        Raises:
            UsageError: no such machine, or one is somebody else's.
        """
        what = "enable-netboot" if on else "disable-netboot"
        return self._all(names, lambda s: Change(s.name, self._user, what, netboot=on))

    def set_group(self, names: Sequence[str], group: str) -> list[System]:
        """Put machines into a group. They must be free or one's own.

        Raises:
            UsageError: no such machine, or one is somebody else's.
        """
        return self._all(names, lambda s: Change(s.name, self._user, "set-group", meta={"group": group}))

    def reboot(
        self, names: Sequence[str], of: Mapping[str, str] | None = None, installs: Iterable[str] | None = None
    ) -> list[System]:
        """Power cycle machines. What boots from the network is installed anew: one's own are pending again then.

        Args:
            names: machines.
            of: reservation by machine, to which it must still belong.
            installs: names of those that may be installed anew; by default all.

        Raises:
            EndedError: a reservation has ended.
            UsageError: no such machine, one is somebody else's, or one would be installed that may not be.
            CloudError: the power of one could not be switched.
        """

        def change(system: System) -> Change:
            # `off` must know that it will have no power for a while.
            meta = {"rebooted": f"{time.time():.3f}"} if system.get("user") else {}
            return Change(system.name, self._user, "reboot", (of or {}).get(system.name, ""), meta)

        systems = self._all(names, change)
        anew = [s for s in systems if s.netboot]
        if installs is not None and (more := [s.name for s in anew if s.name not in installs]):
            raise UsageError(f"{', '.join(more)}: netboot is on by now, it would be installed anew: say so again")
        self._install([s for s in anew if s.get("user")], "reboot", None)
        self._switch(systems, "reboot")
        return systems

    def _all(self, names: Sequence[str], change: Callable[[System], Change]) -> list[System]:
        """See that all may be changed before the first one is."""
        chosen = choose(self._cobbler.systems(), names, ())
        for system in chosen:
            if system.get("user") not in {"", self._user}:
                raise UsageError(f"{system.name} is reserved by {system.get('user')}, not by {self._user}")
        return [self._reservations.change(change(system)) for system in chosen]

    def _install(
        self,
        systems: Sequence[System],
        what: str,
        profile: str | None,
        line: Callable[[System], str] | None = None,
    ) -> list[System]:
        """Note what tells this power cycle's boot from earlier ones, and let the machines boot from the network."""
        boots, installs = self._boots(systems), self._cobbler.installs()
        done = []
        for system in systems:
            boot = boots.get(system.name)
            meta = {
                "state": PENDING,
                "reason": None,
                "boot_before": boot.id if boot else "",
                "install_before": repr(installs.get(system.name, Install()).started),
                "cycled": f"{time.time():.3f}",
                **({"line": line(system)} if line else {}),
            }
            reservation = system.get("reservation")
            change = Change(system.name, self._user, what, reservation, meta, profile=profile, netboot=True)
            done.append(self._reservations.change(change))
        return done

    def _state(self, system: System, install: Install, boot: Boot | None, asked_s: float) -> tuple[str, str]:
        cycled, before = _number(system.get("cycled")), system.get("boot_before")
        since = asked_s - cycled  # taken before the probe, so that no boot looks younger than it is
        # A boot id from before tells by itself; without one, the boot's age does.
        newer = boot is not None and (boot.id != before if before else boot.uptime_s < since)
        if newer and not system.netboot:
            return RUNNING, ""
        if since > self._install_timeout_s:
            if system.netboot:
                why = "the installer never called back"
            elif boot is None:
                why = "installed, but SSH does not answer"
            else:
                why = "SSH answers from a boot before the power cycle"
            return FAILED, f"after {self._install_timeout_s:.0f} s: {why}"
        if not system.netboot or install.started > _number(system.get("install_before")):
            return INSTALLING, ""
        return PENDING, ""

    def _boots(self, systems: Sequence[System]) -> dict[str, Boot | None]:
        asked = [s for s in systems if s.ip]
        if not asked:
            return {}
        with ThreadPoolExecutor(min(_PROBES, len(asked)), thread_name_prefix="probe") as pool:
            return dict(zip((s.name for s in asked), pool.map(lambda s: self._probe(s.ip), asked), strict=True))

    def _power(self, systems: Iterable[System], operation: str) -> dict[str, str]:
        """Switch machines, and have it in the record. Returns what went wrong, by machine."""
        systems = list(systems)
        errors = self._cobbler.power((s.name for s in systems), operation, self._power_tries)
        for s in systems:
            what = f"power-{operation}{'-failed' if s.name in errors else ''}"
            with contextlib.suppress(VidcloudError, OSError):  # it is switched, whatever becomes of the record
                self._reservations.change(Change(s.name, self._user, what, s.get("reservation")))
        return errors

    def _switch(self, systems: Iterable[System], operation: str) -> None:
        errors = self._power(systems, operation)
        if errors:
            raise CloudError("; ".join(f"{name}: {error}" for name, error in errors.items()))

    def _wipe(self, systems: Sequence[System], profile: str) -> dict[str, str]:
        """Boot the wipe profile, wait for its call-back, switch off. Returns what went wrong, by machine.

        What somebody else gave back meanwhile is left alone, and holds up no other.
        """
        errors: dict[str, str] = {}
        mine: dict[str, System] = {}
        for system in systems:
            reservation = system.get("reservation")
            try:
                mine[system.name] = self._reservations.change(
                    Change(system.name, self._user, "wipe", reservation, profile=profile, netboot=True)
                )
            except EndedError:
                continue
            except (VidcloudError, OSError) as e:
                errors[system.name] = str(e)
        errors |= self._power(mine.values(), "on")
        waiting = {name for name in mine if name not in errors}
        until = time.monotonic() + self._install_timeout_s
        while waiting:
            with contextlib.suppress(CloudError):  # Cobbler may be away for a while: the wipes go on
                now = {s.name: s for s in self._cobbler.systems()}
                ended = [n for n, s in mine.items() if n not in now or _other(now[n], s)]
                mine = {n: s for n, s in mine.items() if n not in ended}
                waiting = {n for n in waiting if n in mine and now[n].netboot}
            if waiting and time.monotonic() > until:
                errors |= dict.fromkeys(waiting, f"the wipe did not end in {self._install_timeout_s:.0f} s")
                break
            if waiting:
                time.sleep(self._poll_s)
        return self._power(mine.values(), "off") | errors

    def _put_back(self, systems: Iterable[System], switched: Sequence[str], why: str) -> list[str]:
        """Undo a half-done request; the names of those that could not be undone."""
        systems = list(systems)
        left = list(self._power([s for s in systems if s.name in switched], "off"))
        for system in systems:
            try:
                if system.name in left:
                    if not self._still(system, FAILED, f"could not be switched off after: {why}"):
                        left.remove(system.name)
                else:  # what somebody gave back meanwhile is not ours to give
                    self._reservations.release([system.name], self._user, {system.name: system.get("reservation")})
            except (VidcloudError, OSError):
                left.append(system.name)
        return sorted(set(left))

    def _still(self, system: System, state: str, reason: str) -> bool:
        """Note a state; false if somebody else gave the machine back meanwhile."""
        try:
            self._note(system, state, reason)
        except EndedError:
            return False
        return True

    def _note(self, system: System, state: str, reason: str) -> None:
        meta = {"state": state, "reason": " ".join(reason.split())[:300] or None}
        self._reservations.change(Change(system.name, self._user, state, system.get("reservation"), meta))


def _other(system: System, before: System) -> bool:
    """Whether a machine is in another reservation than before."""
    return system.get("reservation") != before.get("reservation")


def _check_addresses(systems: Iterable[System]) -> None:
    for system in systems:
        if not system.ip:
            raise UsageError(f"{system.name} has no address in Cobbler: nobody could tell when it runs")


def _instance(system: System, state: str, reason: str) -> Instance:
    return Instance(
        name=system.name,
        ip=system.ip,
        profile=system.profile,
        user=system.get("user"),
        group=system.get("group"),
        state=state or "reserved",
        since_s=_number(system.get("since")),
        reason=reason,
        reservation=system.get("reservation"),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

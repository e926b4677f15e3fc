"""Bare metal through a Cobbler: machines are reserved and installed, boot with a line, and are given back.

All that is known of a job's machines stands in Cobbler, as ``vidcloud_*`` keys. A launch is safe at each step: the tags
come with the very change that reserves a machine, the line before its power is switched, and a reservation is named
after the next nodes of a job's role, so that two launchers start them once.
"""

import base64
import contextlib
import ipaddress
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidcloud.clouds.base import Instance, InstanceState, Machine, Role, ordinals, whole_starts
from vidcloud.clouds.settings import MetalSettings
from vidcloud.errors import CloudError, EndedError, UsageError
from vidcloud.metal.cobbler import System, choose
from vidcloud.metal.connect import Connection
from vidcloud.metal.instances import FAILED, INSTALLING, PENDING, RUNNING, STOPPED, TERMINATING
from vidcloud.metal.reservations import Request, in_groups

if TYPE_CHECKING:
    from vidcloud.remote import Target

_LOOK_S = 10.0
"""So often machines that ran are asked whether they still have power."""
_BROKEN_OFF_S = 600.0
"""A machine that was reserved so long ago and not yet installed: its launcher was killed."""
_TAKE_TRIES = 3


class MetalCloud:
    """Machines of one job.

    Args:
        job_id: the job.
        settings: of the cloud.
        home: URL of the job's home; "": as its machines are tagged.
        connection: to Cobbler and the reservations; by default as ``metal.toml`` says.
    """

    def __init__(
        self, job_id: str, settings: MetalSettings, home: str = "", connection: Connection | None = None
    ) -> None:
        self._job, self._settings, self._home = job_id, settings, home
        self._with = connection or Connection(Path(settings.config).expanduser() if settings.config else None)
        self._instances = self._with.instances(None)
        self._cobbler = self._with.cobbler
        self._gone: dict[str, Instance] = {}
        self._looked = -_LOOK_S
        self._off: set[str] = set()
        self._seen: list[System] | None = None
        self._parts: set[tuple[str, str]] = set()

    # -- what launchers ask --------------------------------------------------------------------------------------------

    @property
    def home(self) -> str:
        """URL of the job's home; "" if no machine of the job is known."""
        if not self._home:
            # One's own machines tell first: anybody may tag his with a job's name.
            told = sorted(self._systems(), key=lambda s: s.get("user") != self._with.config.user)
            self._home = next((s.get("home") for s in told if s.get("home")), "")
        return self._home

    @property
    def lifetime_s(self) -> int:
        """Seconds after which a node ends itself."""
        return self._settings.max_lifetime_s

    @property
    def boot_timeout_s(self) -> float:
        """Seconds after its start in which a node must have been heard of, its installation included."""
        return self._with.config.install_timeout_s + self._settings.boot_timeout_s

    @property
    def encrypts(self) -> bool:
        """Whether nodes talk to each other through TLS."""
        return self._settings.encrypt

    @property
    def environment(self) -> Mapping[str, str]:
        """What nodes must know to reach the home; no secrets."""
        return self._settings.environment()

    def run_instances(self, role: Role, user_data: str, count: int) -> list[Instance]:
        """Reserve machines and start to install them: all or none.

        Raises:
            UsageError: no profile, or one or a group that Cobbler does not know; the job is another user's.
            CloudError: too few are free, or Cobbler or a machine's power failed; ``left_running`` has machines that
                could not be given back.
        """
        profile = self._profile(role)
        self._check((profile,))
        # As whoever asks saw it: another launcher that sees the same names the same nodes, and they are started once.
        before = self._systems() if self._seen is None else self._seen
        if other := next((s.get("user") for s in before if s.get("user") != self._with.config.user), ""):
            raise UsageError(f"the job {self._job} is {other}'s, not {self._with.config.user}'s")
        first = max((ordinals(s.get("ordinals")).stop for s in before if s.get("role") == role), default=0) or 1
        tags = {
            "job": self._job,
            "role": role,
            "owner": self._settings.owner,
            "expires": f"{time.time() + self._settings.max_lifetime_s + self._with.config.install_timeout_s:.0f}",
            "home": self._home,
            "ordinals": f"{first}+{count}",
            "launch": uuid.uuid4().hex,
        }
        name = f"{self._with.config.user}:{self._job}-{role}-{first}"

        def line(system: System) -> str:
            told = user_data.replace("{instance}", _id(system))  # a machine may serve a job twice: names are not new
            return base64.b64encode(told.encode()).decode()

        for attempt in range(_TAKE_TRIES):
            taken = self._choice(count)
            request = Request(
                self._with.config.user, taken, (), 0 if taken else count, self._settings.groups, name, meta=tags
            )
            try:
                self._instances.run(request, profile, line)
                break
            except UsageError as e:
                # Machines that were named may be somebody's by now; others of the list may still be free.
                if not taken or attempt == _TAKE_TRIES - 1:
                    raise CloudError(f"no room for {count} {role}s: {e}", ()) from e
        self._seen = self._systems()
        mine = [s for s in self._seen if s.get("reservation") == name and s.get("user") == self._with.config.user]
        return [self._machine(s, PENDING).instance for s in mine]

    def describe_instances(self) -> list[Instance]:
        """The job's machines, as Cobbler has them. One's own that went off by themselves are given back."""
        # Machines are reserved one by one, and only then installed.
        systems = self._seen = whole_starts(
            self._systems, lambda s: (s.get("role"), s.get("ordinals"), s.get("state") == "reserved"), self._parts
        )
        states = {i.name: i.state for i in self._instances.look(systems, again=False)}
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            ran = [s for s in systems if states[s.name] == RUNNING or (states[s.name] == INSTALLING and not s.netboot)]
            off = self._instances.off(ran)
            self._off = {_id(s) for s in ran if s.name in off}
            self._looked = time.monotonic()
        for system in [s for s in systems if _id(s) in self._off]:
            if system.get("user") == self._with.config.user:
                try:
                    self._instances.give_back(system, self._wiper)
                except CloudError:  # it is noted as failed: whoever ends the job tries again, and tells
                    self._off.discard(_id(system))
        found = [self._machine(s, states[s.name]).instance for s in systems]
        self._gone |= {i.id: i for i in found if i.state == "terminated"}
        known = {i.id for i in found}
        return sorted([*found, *(i for i in self._gone.values() if i.id not in known)], key=_age)

    def terminate_instances(self, ids: Sequence[str], *, drain: bool = False) -> None:
        """Switch machines off and give them back; with ``drain`` they are only marked.

        Raises:
            UsageError: one is another user's; then nothing is touched.
            CloudError: some could not be switched off or wiped; they stay reserved as failed (``left_running``).
        """
        chosen = [s for s in self._systems() if _id(s) in ids]
        if drain:
            for system in chosen:
                with contextlib.suppress(EndedError):  # it has gone meanwhile, which is what was wanted
                    self._instances.mark(system, "drain", f"{time.time():.0f}")
        elif chosen:
            ended = {_id(s): self._machine(s, TERMINATING, ended=True).instance for s in chosen}
            of = {s.name: s.get("reservation") for s in chosen}
            self._instances.terminate(list(of), wipe_profile=self._wiper, of=of)
            self._gone |= ended

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """Power cycle machines: they boot from their disks, with the line that they had.

        Raises:
            CloudError: the power of one could not be switched.
        """
        of = {s.name: s.get("reservation") for s in self._systems() if _id(s) in ids}
        self._instances.reboot(list(of), of)

    def machines(self, nodes: int) -> int:
        """Each has its own."""
        return nodes + 1

    def console_output(self, instance_id: str) -> str:
        """Why an instance failed, if that is known: Cobbler sees no console."""
        return next((s.get("reason") for s in self._systems() if _id(s) == instance_id), "")

    def login(self, instance_id: str) -> "Target":
        """Where to log in for a machine. Its host key must be a known one: an install makes a new one.

        Raises:
            UsageError: the job has no such machine.
        """
        from vidcloud.remote import Target  # noqa: PLC0415 - only who logs in needs it

        system = next((s for s in self._systems() if _id(s) == instance_id), None)
        if system is None:
            raise UsageError(f"job {self._job} has no node {instance_id}: see `vidcloud status`")
        config = self._with.config
        return Target(system.ip, user=config.ssh_user, key=config.ssh_key)

    def preview(self, nodes: int) -> list[str]:
        """What a job would start. Changes nothing.

        Raises:
            UsageError: no profile, or one or a group that Cobbler does not know.
            CloudError: Cobbler can't be reached.
        """
        collector, processor = self._profile("collector"), self._profile("processor")
        self._check((collector, processor))
        free = self._free()
        where = f" of {', '.join(self._settings.groups)}" if self._settings.groups else ""
        return [
            f"on {self._with.config.url}, for at most {self._settings.max_lifetime_s / 3600:g} hours",
            f"1 collector, installed with {collector}",
            f"{nodes} processors, installed with {processor}",
            f"{nodes + 1} machines{where}: {len(free)} are free",
            *([f"may be installed anew, their disks overwritten: {', '.join(s.name for s in free)}"] if free else []),
            *self._settings.encryption("objects at rest"),
            f"home {self._home}",
        ]

    def overwrites(self) -> list[str]:
        """The machines that may be installed anew, as lines.

        Raises:
            UsageError: no profile, or one or a group that Cobbler does not know.
            CloudError: Cobbler can't be reached.
        """
        self._check((self._profile("collector"), self._profile("processor")))
        return [f"{s.name} {s.ip} ({', '.join(filter(None, (s.profile, s.get('group'))))})" for s in self._free()]

    def all_machines(self, *, mine: bool = False) -> list[Machine]:
        """Machines of all jobs, oldest first; with ``mine`` one's own only."""
        systems = [s for s in self._systems() if not mine or s.get("user") == self._with.config.user]
        states = {i.name: i.state for i in self._instances.look(systems)}
        return sorted((self._machine(s, states[s.name]) for s in systems), key=lambda m: _age(m.instance))

    # -- how -----------------------------------------------------------------------------------------------------------

    @property
    def _wiper(self) -> str:
        if self._settings.wipe and not self._with.config.wipe_profile:
            raise UsageError("-o wipe=yes needs wipe_profile in metal.toml")
        return self._with.config.wipe_profile if self._settings.wipe else ""

    def _profile(self, role: Role) -> str:
        s = self._settings
        if not s.profile:
            raise UsageError("--cloud metal needs -o profile=…: what Cobbler installs (docs/metal.md)")
        return (s.collector_profile or s.profile) if role == "collector" else s.profile

    def _check(self, profiles: Sequence[str]) -> None:
        for profile in {*profiles, *filter(None, [self._wiper])}:
            self._cobbler.check_profile(profile)
        self._candidates()

    def _candidates(self) -> list[System]:
        """The machines that may be taken, free or not.

        Raises:
            UsageError: no such machine or group.
        """
        systems = self._cobbler.systems()
        known = {s.get("group") for s in systems} - {""}
        for group in self._settings.groups:
            if group not in known:
                raise UsageError(f"no group {group!r}; there are {', '.join(sorted(known)) or 'none'}")
        if named := self._settings.machines:
            ips = [n for n in named if _is_address(n)]
            chosen = choose(systems, [n for n in named if n not in ips], ips)
            return [s for s in chosen if not self._settings.groups or s.get("group") in self._settings.groups]
        return [s for s in systems if in_groups(s, self._settings.groups) and s.ip]

    def _free(self) -> list[System]:
        return [s for s in self._candidates() if not s.get("user")]

    def _choice(self, count: int) -> tuple[str, ...]:
        """Free ones of the machines that were named; () if any will do."""
        if not self._settings.machines:
            return ()
        free = [s.name for s in self._free()]
        if len(free) < count:
            raise CloudError(f"{count} machines wanted, {len(free)} free of those named by -o machines", ())
        return tuple(free[:count])

    def _systems(self) -> list[System]:
        """The job's machines; without a job, those of all jobs."""
        systems = [s for s in self._cobbler.systems() if s.get("user") and s.get("job")]
        return [s for s in systems if self._job in ("", s.get("job"))]

    def _machine(self, system: System, state: str, *, ended: bool = False) -> Machine:
        shown: InstanceState = "shutting-down"
        launched = _number(system.get("since"))
        if ended or _id(system) in self._off:
            shown = "terminated"
        elif system.get("drain") or state in (TERMINATING, FAILED, STOPPED):
            pass
        elif state == RUNNING:
            shown = "running"
        elif state in (PENDING, INSTALLING) or time.time() - launched < _BROKEN_OFF_S:
            shown = "pending"
        return Machine(
            Instance(
                _id(system),
                "collector" if system.get("role") == "collector" else "processor",
                shown,
                system.ip,
                launched,
            ),
            system.get("job"),
            system.get("owner"),
            _number(system.get("expires")),
            system.get("home"),
            system.profile,
            system.get("ordinals"),
        )


def _id(system: System) -> str:
    """New with each reservation: the machine's name, and when it was reserved."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', system.name)}-{round(_number(system.get('since')) * 1000):x}"


def _age(instance: Instance) -> tuple[float, str, str]:
    return instance.launched, instance.role, instance.id


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

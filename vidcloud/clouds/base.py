"""The seam of the clouds: where instances come from. Each verb as in EC2."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

from vidcloud.errors import UsageError

if TYPE_CHECKING:
    from vidcloud.clouds.settings import HomeSettings
    from vidcloud.remote import Target

Role = Literal["collector", "processor"]
InstanceState = Literal["pending", "running", "shutting-down", "terminated"]
_T = TypeVar("_T")
_SHOWN_S = 5.0
"""How long to look for the rest of a start of which a cloud shows a part, since it has last shown one more."""
_SHOWN_POLL_S = 0.1


@dataclass(frozen=True)
class Instance:
    """A machine, or a process that stands for one.

    Attributes:
        id: unique within the job; also the node's name on the share.
        role: what its user-data made it.
        state: as in EC2.
        address: where it can be reached.
        launched: seconds since 1970, UTC.
        pid: process id, where an instance is a process; else 0.
    """

    id: str
    role: Role
    state: InstanceState
    address: str
    launched: float
    pid: int = 0

    @property
    def alive(self) -> bool:
        """Whether it is there, or will be."""
        return self.state in ("pending", "running")


@dataclass(frozen=True)
class Machine:
    """An instance of anybody's job, for `vidcloud instances` and `reap`.

    Attributes:
        instance: as the cloud tells.
        job: its job's id.
        owner: who started it.
        expires: seconds since 1970, UTC, after which it should be gone; 0: unknown.
        home: URL of the job's home.
        kind: instance type.
        ordinals: which of the role's nodes were started together with it: ``4+2`` for the fourth and the fifth.
    """

    instance: Instance
    job: str
    owner: str
    expires: float
    home: str
    kind: str
    ordinals: str = ""


class Cloud(Protocol):
    """Starts and ends the instances of one job."""

    def run_instances(self, role: Role, user_data: str, count: int) -> list[Instance]:
        """Start instances that boot with a user-data line.

        ``{instance}`` in the line becomes the instance's id on clouds that choose it before the start.

        Raises:
            CloudError: not all could be started; tells which run nevertheless.
        """
        ...

    def describe_instances(self) -> list[Instance]:
        """All instances of the job, also those that ended, in the order of their launch."""
        ...

    def terminate_instances(self, ids: Sequence[str], *, drain: bool = False) -> None:
        """End instances and wait until they are gone.

        Args:
            ids: which.
            drain: ask them to give back what they hold and leave, and do not wait.
        """
        ...

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """Start instances anew with the same user-data."""
        ...

    def console_output(self, instance_id: str) -> str:
        """What an instance printed."""
        ...

    def machines(self, nodes: int) -> int:
        """On how many machines a job of so many processors runs, its collector's included."""
        ...


@runtime_checkable
class Previewing(Protocol):
    """A cloud that can tell before anything goes up what it would start, or that it would not."""

    def preview(self, nodes: int) -> list[str]:
        """What a job of so many processors would start and about cost, in lines; changes nothing.

        Raises:
            UsageError: it would be refused.
        """
        ...


class RemoteCloud(Cloud, Previewing, Protocol):
    """A cloud whose nodes' share the launcher does not see: the job has a home (`vidcloud.home`)."""

    @property
    def home(self) -> str:
        """URL of the job's home, as told or as its instances are tagged; "" if there are none."""
        ...

    @property
    def lifetime_s(self) -> int:
        """Seconds after which a node ends itself, whatever happens."""
        ...

    @property
    def boot_timeout_s(self) -> float:
        """Seconds after its start in which a node must have been heard of, or is replaced."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What nodes must know to reach the home; no secrets."""
        ...

    @property
    def encrypts(self) -> bool:
        """Whether nodes talk to each other through TLS."""
        ...


@runtime_checkable
class Noting(Protocol):
    """A cloud that finds out what it can't do when it is asked to."""

    notes: list[str]
    """What this cloud can't do, in sentences."""


@runtime_checkable
class Reachable(Protocol):
    """A cloud whose instances can be logged in to."""

    def login(self, instance_id: str) -> "Target":
        """Where to log in for an instance, and how to know the host.

        Raises:
            UsageError: no such instance, or it runs on this machine.
        """
        ...


@runtime_checkable
class Destructive(Protocol):
    """A cloud whose instances are machines that had something on their disks: whoever starts them must be asked."""

    def overwrites(self) -> list[str]:
        """The machines that may be overwritten when instances are started, as lines for people."""
        ...


def ordinals(text: str) -> range:
    """Which of their role's nodes were started together: ``4+2`` are the fourth and the fifth; else empty."""
    first, _, count = text.partition("+")
    return range(int(first), int(first) + int(count)) if first.isdecimal() and count.isdecimal() else range(0)


def whole_starts(
    look: Callable[[], list[_T]], start: Callable[[_T], tuple[str, str, bool]], given_up: set[tuple[str, str]]
) -> list[_T]:
    """What a cloud shows, looked at again while it shows a start in part: its machines may appear one after another.

    Who counts a part of a start believes that the rest is missing, and starts it once more.

    Args:
        look: lists the job's machines.
        start: role and ordinals of a machine, and whether it is so new that others of its start may be yet to come.
        given_up: starts, by role and ordinals, whose rest did not come; such are added.
    """
    before, until = 0, 0.0
    while True:
        found = look()
        starts: dict[tuple[str, str], list[bool]] = {}
        for role, told, new in map(start, found):
            starts.setdefault((role, told), []).append(new)
        parts = {k: len(new) for k, new in starts.items() if all(new) and len(new) < len(ordinals(k[1]))}
        if not parts.keys() - given_up:
            return found
        if (shown := sum(parts.values())) != before:
            before, until = shown, time.monotonic() + _SHOWN_S
        elif time.monotonic() > until:
            given_up.update(parts)
            return found
        time.sleep(_SHOWN_POLL_S)


def orphans(
    machines: Sequence[Machine], now: float, older_than_s: float | None, grace_s: float
) -> list[tuple[Machine, str]]:
    """Which machines nobody needs, and why.

    Args:
        machines: all there are.
        now: seconds since 1970, UTC.
        older_than_s: age from which any machine counts; None: no age.
        grace_s: how long a job may be without a living collector: one that begins, or is being replaced.
    """
    led = {m.job for m in machines if m.instance.role == "collector" and m.instance.alive}
    found = []
    for m in machines:
        age = now - m.instance.launched
        if m.instance.state == "shutting-down" and age < grace_s:
            continue
        if m.expires and now > m.expires:
            found.append((m, "its time is over"))
        elif older_than_s is not None and age > older_than_s:
            found.append((m, f"{age / 86400:.1f} days old"))
        elif m.job not in led and age > grace_s:
            found.append((m, "its job has no collector"))
    return found


NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
LOCAL, REMOTE = ("local", "ssh"), ("ec2", "metal")
"""Clouds whose share the launcher sees, and those whose jobs have a home."""


def cloud_names() -> tuple[str, ...]:
    """The clouds there are."""
    return (*LOCAL, *REMOTE)


def check_options(name: str, options: Mapping[str, str]) -> dict[str, str]:
    """Check a cloud's name and options, and have this process reach the cloud's storage.

    Args:
        name: of the cloud.
        options: of ``-o``.

    Returns:
        All options that count, also those from files and the environment, so that later commands need not find them.

    Raises:
        UsageError: there is none of that name, it knows no such option, or it does not say where homes are.
    """
    if name not in cloud_names():
        raise UsageError(f"no cloud {name!r}: there are {', '.join(cloud_names())}")
    if name in LOCAL:
        open_cloud(name, Path(), options)
        return dict(options)
    settings = _settings(name, options)
    settings.adopt()
    if not settings.bucket:
        raise UsageError(f"--cloud {name} needs -o bucket=s3://BUCKET/FOLDER: input, records and output go through it")
    files = {k: str(Path(options[k]).expanduser().absolute()) for k in ("eucarc", "config") if options.get(k)}
    return {**settings.pairs(), **files}


def _settings(name: str, options: Mapping[str, str]) -> "HomeSettings":
    from vidcloud.clouds.settings import read_metal, read_settings  # noqa: PLC0415 - for those who use it

    return read_metal(options) if name == "metal" else read_settings(name, options)


def open_cloud(name: str, root: Path, options: Mapping[str, str] = NO_OPTIONS) -> Cloud:
    """The cloud of that name, for a job whose directory the launcher sees.

    Args:
        name: of the cloud.
        root: the job's directory.
        options: the cloud's own, as the user set them; none is a secret.

    Raises:
        UsageError: there is none of that name, or it doesn't know an option.
    """
    if name == "ssh":
        from vidcloud.clouds.ssh import SshCloud  # noqa: PLC0415

        return SshCloud(root, options)
    if name != "local":
        raise UsageError(f"no cloud {name!r}: there are {', '.join(cloud_names())}")
    from vidcloud.clouds.local import LocalCloud  # noqa: PLC0415

    if options:
        raise UsageError(f"-o {next(iter(options))}: the local cloud has no options")
    return LocalCloud(root)


def open_remote(name: str, job_id: str, options: Mapping[str, str], home: str = "") -> RemoteCloud:
    """The cloud of that name, for a job with a home.

    Args:
        name: of the cloud.
        job_id: the job.
        options: the cloud's own.
        home: URL of the job's home; by default what its instances are tagged with.

    Raises:
        UsageError: there is none of that name, or its options are wrong.
        CloudError: it can't be reached.
    """
    if name not in REMOTE:
        raise UsageError(f"no cloud {name!r} far away: there are {', '.join(REMOTE)}")
    from vidcloud.clouds.settings import EC2Settings, MetalSettings  # noqa: PLC0415

    settings = _settings(name, options)
    settings.adopt()
    if isinstance(settings, MetalSettings):
        from vidcloud.clouds.metal import MetalCloud  # noqa: PLC0415

        return MetalCloud(job_id, settings, home)
    from vidcloud.clouds.ec2 import EC2Cloud  # noqa: PLC0415 - each cloud brings its own libraries

    assert isinstance(settings, EC2Settings)  # noqa: S101 - for the type checker
    return EC2Cloud(job_id, settings, home)

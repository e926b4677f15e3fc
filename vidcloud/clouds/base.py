"""The seam of the clouds: where instances come from. Each verb as in EC2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vidcloud.errors import UsageError

Role = Literal["collector", "processor"]
InstanceState = Literal["pending", "running", "shutting-down", "terminated"]


@dataclass(frozen=True)
class Instance:
    """A machine, or a process that stands for one.

    Attributes:
        id: unique within the job; also the node's name on the share.
        role: what its user-data made it.
        state: as in EC2.
        address: where it can be reached.
        launched: seconds since 1970, UTC.
        pid: process id, on the local cloud; else 0.
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


def cloud_names() -> tuple[str, ...]:
    """The clouds there are."""
    return ("local",)


def open_cloud(name: str, job_root: str) -> Cloud:
    """The cloud of that name, for one job.

    Raises:
        UsageError: there is none of that name.
    """
    if name == "local":
        from pathlib import Path  # noqa: PLC0415

        from vidcloud.clouds.local import LocalCloud  # noqa: PLC0415 - each cloud brings its own libraries

        return LocalCloud(Path(job_root))
    raise UsageError(f"no cloud {name!r}: there are {', '.join(cloud_names())}")

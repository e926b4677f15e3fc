"""What works with a Cobbler as ``metal.toml`` says, made when it is asked for."""

import getpass
import socket
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidcloud.metal.cobbler import Cobbler
    from vidcloud.metal.config import MetalConfig
    from vidcloud.metal.instances import Instances
    from vidcloud.metal.reservations import Reservations


class Connection:
    """Cobbler, the reservations, and instances in somebody's name.

    Args:
        path: of ``metal.toml``; None: as `vidcloud.metal.config.load` finds it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @cached_property
    def config(self) -> "MetalConfig":
        """The settings.

        Raises:
            UsageError: they are not to be had, or wrong.
        """
        from vidcloud.metal.config import load  # noqa: PLC0415 - `--help` needs none of it

        return load(self._path)

    @property
    def cobbler(self) -> "Cobbler":
        """A new connection to Cobbler."""
        from vidcloud.metal.cobbler import Cobbler  # noqa: PLC0415

        c = self.config
        return Cobbler(
            c.url, c.login, c.password, ca_file=c.ca_file, timeout_s=c.timeout_s, power_timeout_s=c.power_timeout_s
        )

    @property
    def reservations(self) -> "Reservations":
        """The server's, or under a file lock."""
        from vidcloud.metal.reservations import LockedReservations  # noqa: PLC0415
        from vidcloud.metal.serve import RemoteReservations  # noqa: PLC0415

        c = self.config
        if c.server:
            return RemoteReservations(c.server, c.token(), ca_file=c.ca_file, timeout_s=c.timeout_s)
        return LockedReservations(self.cobbler, c.state_dir, who())

    def instances(self, user: str | None, reservations: "Reservations | None" = None) -> "Instances":
        """Machines as instances in the name of ``user``, by default the configuration's.

        Args:
            user: who acts.
            reservations: through which; by default `reservations`.

        Raises:
            UsageError: nobody can have that name.
        """
        from vidcloud.metal.config import check_user  # noqa: PLC0415
        from vidcloud.metal.instances import Instances, ssh_probe  # noqa: PLC0415

        c = self.config
        return Instances(
            self.cobbler,
            reservations or self.reservations,
            check_user(user or c.user),
            ssh_probe(c.ssh_user, c.ssh_key),
            install_timeout_s=c.install_timeout_s,
            power_tries=c.power_tries,
        )


def who() -> str:
    """Who works here, for records."""
    return f"{getpass.getuser()}@{socket.gethostname()}"

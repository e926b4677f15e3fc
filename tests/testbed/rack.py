"""Machines of a Cobbler as hosts of the bed: its fence agent's calls boot and kill them."""

import base64
import re
import shlex
import threading
import time
import uuid
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

from testbed.hosts import Host

TEMPLATE = "# Rendered by Cobbler.\nline=$getVar('vidcloud_line', '')\ninstance=$name\n"
"""What the profile `job` has for an autoinstall file; ``images/`` has the real ones."""


class Rack:
    """Follows the fence agent's log until the bed ends.

    A machine that boots from the network fetches its autoinstall file from Cobbler, has a new disk with what that says,
    calls back, and boots from it. Whatever boots answers SSH: ``boots/<ip>`` has its boot id and its uptime.

    Args:
        root: Cobbler's folder.
        url: of its API.
        machines: address by name.
        environment: what the site's image has in ``/etc/vidcloud/environment``.
        folder: for the hosts.
        hosts: by name, the newest boot of each; kept up to date here.
    """

    def __init__(
        self, root: Path, url: str, machines: dict[str, str], environment: str, folder: Path, hosts: dict[str, Host]
    ) -> None:
        self._root, self._url, self._machines, self._environment = root, url, machines, environment
        self._folder, self._hosts = folder, hosts
        self._lock = threading.RLock()
        self._boots = dict.fromkeys(machines, 0)
        self._disks = dict.fromkeys(machines, 0)
        self._links = 0
        self.broken: set[str] = set()
        """Machines whose installer never comes to its end."""
        (root / "boots").mkdir()
        (root / "machines/log").touch()
        threading.Thread(target=self._tail, daemon=True).start()

    def _tail(self) -> None:
        with (self._root / "machines/log").open() as log:
            rest = ""
            while True:
                rest += log.readline()
                if not rest.endswith("\n"):
                    time.sleep(0.02)  # a file that grows
                    continue
                (name, action), rest = rest.split(), ""
                if action == "off":
                    with self._lock:
                        self._boots[name] += 1
                        self._ended(name)
                        if name in self._hosts:
                            self._hosts[name].kill()
                elif action == "on":
                    with self._lock:
                        boot = self._boots[name]
                    threading.Thread(target=self._boot, args=(name, boot), daemon=True).start()

    def _boot(self, name: str, boot: int) -> None:
        api = xmlrpc.client.ServerProxy(self._url, allow_none=True)
        ip = self._machines[name]
        if api.get_system(name)["netboot_enabled"]:
            api.run_install_triggers("pre", "system", name, ip)
            told = dict(re.findall(r"(?m)^(line|instance)=(.*)$", api.generate_autoinstall(None, name)))
            if name in self.broken:
                return
            with self._lock:
                if self._boots[name] != boot:
                    return
                self._disks[name] += 1
            self._install(self._disk(name), told)
            api.disable_netboot(name)
            api.run_install_triggers("post", "system", name, ip)
        with self._lock:
            if self._boots[name] != boot:
                return
            self._links += 1
            host = Host(name, ip, self._disk(name), self._gone(name, boot), link=f"m{self._links}")
            self._hosts[name] = host
            host.boot()
            (self._root / "boots" / ip).write_text(f"{uuid.uuid4()}\n0.001 1.0\n")

    def _disk(self, name: str) -> Path:
        return self._folder / f"{name}.{self._disks[name]}"

    def _install(self, disk: Path, told: dict[str, str]) -> None:
        etc = disk / "etc/vidcloud"
        etc.mkdir(parents=True)
        line = base64.b64decode(told.get("line", "")).decode()
        own = {"VIDCLOUD_INSTANCE": told.get("instance", "")} | ({"VIDCLOUD_USER_DATA": line} if line else {})
        (etc / "environment").write_text(
            self._environment + "".join(f"{key}={shlex.quote(value)}\n" for key, value in own.items())
        )

    def _gone(self, name: str, boot: int) -> Callable[[], None]:
        def gone() -> None:
            with self._lock:
                if self._boots[name] == boot:
                    self._ended(name)
                    (self._root / "machines" / name / "power").write_text("OFF\n")

        return gone

    def _ended(self, name: str) -> None:
        (self._root / "boots" / self._machines[name]).unlink(missing_ok=True)

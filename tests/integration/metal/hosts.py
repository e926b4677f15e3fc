"""Hosts that boot: what machines do when Cobbler's fence agent switches them, played by threads."""

import itertools
import threading
import time
from pathlib import Path
from typing import Any

from vidcloud.metal.instances import Boot

# "hang" installs for ever, "mute" installs but has no SSH, "old" calls back without having been restarted.
KINDS = ("good", "hang", "mute", "old")


class Hosts:
    """Tails the fence agent's log.

    A host that boots from the network fetches its profile, waits for ``gate`` (open unless a test shuts it), calls back,
    and answers SSH: ``boots/<ip>`` then has its boot id and uptime, as ``cat`` would print them.
    """

    def __init__(self, cobblerd: Any, machines: dict[str, str]) -> None:
        self.kinds: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.boots = cobblerd.root / "boots"
        self.boots.mkdir()
        self.fetched: list[tuple[str, str]] = []  # machine, profile
        self._cobblerd, self._machines = cobblerd, machines
        self._log = cobblerd.root / "machines" / "log"
        self._log.touch()
        self._numbers = itertools.count(1)
        self._changed, self._settled = threading.Condition(), dict.fromkeys(machines, 0)
        self._threads: list[threading.Thread] = []
        self._seen = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._tail)
        self._thread.start()

    def end(self) -> None:
        self.forget()
        self._ending.set()
        self._thread.join()

    def calls(self, *names: str) -> list[str]:
        """What the fence agent was asked for, as "name action"."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if not names or line.split()[0] in names]

    def forget(self) -> None:
        """Everything as after the machines were bought."""
        self.gate.set()
        with self._changed:
            assert self._changed.wait_for(lambda: self._seen == self._log.stat().st_size, 20)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._settled = dict.fromkeys(self._settled, 0)
        self.kinds = {}
        self.fetched.clear()
        for boot in self.boots.iterdir():
            boot.unlink()

    def settle(self, *names: str, times: int = 1) -> None:
        """Wait until these machines have booted (or hung) so many times since their last `settle`."""
        with self._changed:
            done = self._changed.wait_for(lambda: all(self._settled[name] >= times for name in names), 20)
            assert done, f"not booted: {[name for name in names if self._settled[name] < times]}"
            for name in names:
                self._settled[name] = 0

    def answer(self, name: str, boot_id: str, uptime_s: float = 0.001) -> None:
        """Let a machine's SSH answer."""
        (self.boots / self._machines[name]).write_text(f"{boot_id}\n{uptime_s} 1.0\n")

    def probe(self, ip: str) -> Boot | None:
        """What `vidcloud.metal.instances.ssh_probe` would find."""
        try:
            boot_id, uptime, _ = (self.boots / ip).read_text().split()
        except FileNotFoundError:
            return None
        return Boot(boot_id, float(uptime))

    def _tail(self) -> None:
        with self._log.open() as log:
            while not self._ending.is_set():
                line = log.readline()
                if not line:
                    self._ending.wait(0.01)
                    continue
                name, action = line.split()
                if action == "off" and self.kinds.get(name) != "old":
                    Path(self.boots / self._machines[name]).unlink(missing_ok=True)
                if action == "on":
                    self._threads.append(threading.Thread(target=self._boot, args=(name,)))
                    self._threads[-1].start()
                with self._changed:
                    self._seen += len(line)
                    self._changed.notify_all()

    def _boot(self, name: str) -> None:
        api, ip, kind = self._cobblerd.api, self._machines[name], self.kinds.get(name, "good")
        system = api.get_system(name)
        if system["netboot_enabled"]:
            # As the installer does through /cblr/svc: these are the calls behind its addresses.
            api.run_install_triggers("pre", "system", name, ip)
            api.generate_autoinstall(None, name)
            self.fetched.append((name, system["profile"]))
            self._tell(name)
            if kind == "hang":
                return
            self.gate.wait()
            api.disable_netboot(name)
            api.run_install_triggers("post", "system", name, ip)
        if kind == "good":
            self.answer(name, f"boot-{next(self._numbers)}-{time.time_ns()}")
        self._tell(name)

    def _tell(self, name: str) -> None:
        with self._changed:
            self._settled[name] += 1
            self._changed.notify_all()

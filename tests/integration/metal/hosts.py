"""Hosts that boot: what machines do when Cobbler's fence agent switches them, played by threads."""

import getpass
import itertools
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import sshd
import urllib3

from vidcloud.metal.instances import ssh_probe

# "hang" installs for ever; "fails" breaks its install off, starts again, breaks off again and goes off; "mute" installs but
# has no SSH; "old" calls back without having been restarted.
KINDS = ("good", "hang", "fails", "mute", "old")


class Hosts:
    """Tails the fence agent's log.

    A host that has power waits for ``self_test`` and, if it boots from the network, tells so and fetches its profile, waits
    for ``gate`` (both are open unless a test shuts them), calls back at Cobbler's ``/cblr/svc``, and starts an SSH server,
    which tells its boot id and uptime (``boots/<ip>``) instead of this machine's. `bin` has an ``ssh`` that finds it by the
    host's address: put it first on the path.
    """

    def __init__(self, cobblerd: Any, machines: dict[str, str]) -> None:
        self.kinds: dict[str, str] = {}
        self.gate, self.self_test = threading.Event(), threading.Event()
        self.open()
        self.boots = cobblerd.root / "boots"
        self.boots.mkdir()
        self.fetched: list[tuple[str, str]] = []  # machine, profile
        self._cobblerd, self._machines = cobblerd, machines
        self._servers, self._lock = self._wire(cobblerd.root / "ssh"), threading.Lock()
        self._log = cobblerd.root / "machines" / "log"
        self._log.touch()
        self._numbers = itertools.count(1)
        self._changed, self._settled = threading.Condition(), dict.fromkeys(machines, 0)
        self._threads: list[threading.Thread] = []
        self._seen = self._forgotten = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._tail)
        self._thread.start()

    def _wire(self, folder: Path) -> dict[str, sshd.Host]:
        """A server by machine, none running, and what finds them."""
        sshd.need()
        self.bin, self.user, self.key = folder / "bin", getpass.getuser(), folder / "user_key"
        self.bin.mkdir(parents=True)
        sshd.keygen(self.key)
        servers, found = {}, ""
        for name, ip in self._machines.items():
            told = f'case "$SSH_ORIGINAL_COMMAND" in cat*/boot_id*/uptime*) exec cat {self.boots}/{ip};; esac; exit 1'
            servers[name] = sshd.Host(folder / name, self.key, f"ForceCommand {told}\n")
            found += f"Host {ip}\nHostName 127.0.0.1\nPort {servers[name].port}\n"
        (folder / "config").write_text(found)
        (self.bin / "ssh").write_text(
            f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config -o ConnectTimeout=60 "$@"\n'
        )
        (self.bin / "ssh").chmod(0o755)
        self.probe = ssh_probe(self.user, self.key, timeout_s=60)
        return servers

    def end(self) -> None:
        self.forget()
        self._ending.set()
        self._thread.join()

    def calls(self, *names: str) -> list[str]:
        """What the fence agent was asked for in this test, as "name action"."""
        lines = self._log.read_text()[self._forgotten :].splitlines()
        return [line for line in lines if not names or line.split()[0] in names]

    def forget(self) -> None:
        """Everything as after the machines were bought."""
        self.open()
        with self._changed:
            assert self._changed.wait_for(lambda: self._seen == self._log.stat().st_size, 60)
            self._forgotten = self._seen
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._settled = dict.fromkeys(self._settled, 0)
        self.kinds = {}
        self.fetched.clear()
        for name in self._machines:
            self._silence(name)

    def open(self) -> None:
        """Let all go on."""
        self.self_test.set()
        self.gate.set()

    def settle(self, *names: str, times: int = 1) -> None:
        """Wait until these machines have booted (or hung) so many times since their last `settle`."""
        with self._changed:
            done = self._changed.wait_for(lambda: all(self._settled[name] >= times for name in names), 60)
            assert done, f"not booted: {[name for name in names if self._settled[name] < times]}"
            for name in names:
                self._settled[name] = 0

    def answer(self, name: str, boot_id: str, uptime_s: float = 0.001) -> None:
        """Let a machine's SSH answer."""
        with self._lock:
            (self.boots / self._machines[name]).write_text(f"{boot_id}\n{uptime_s} 1.0\n")
            if self._servers[name].process is None:
                self._servers[name].start()

    def _silence(self, name: str) -> None:
        with self._lock:
            self._servers[name].stop()
            (self.boots / self._machines[name]).unlink(missing_ok=True)

    def _tail(self) -> None:
        with self._log.open() as log:
            while not self._ending.is_set():
                line = log.readline()
                if not line:
                    self._ending.wait(0.01)
                    continue
                name, action = line.split()
                if action == "off" and self.kinds.get(name) != "old":
                    self._silence(name)
                if action == "on":
                    self._threads.append(threading.Thread(target=self._boot, args=(name,)))
                    self._threads[-1].start()
                with self._changed:
                    self._seen += len(line)
                    self._changed.notify_all()

    def _boot(self, name: str) -> None:
        ip, kind = self._machines[name], self.kinds.get(name, "good")
        self.self_test.wait()
        while (system := self._cobblerd.api.get_system(name))["netboot_enabled"]:
            self._call(ip, f"trig/mode/pre/system/{name}")
            self._call(ip, f"autoinstall/system/{name}")
            self.fetched.append((name, system["profile"]))
            self._tell(name)
            if kind == "hang":
                return
            if kind == "fails":
                if self.fetched.count((name, system["profile"])) == 2:
                    (self._cobblerd.root / "machines" / name / "power").write_text("OFF\n")
                    return
                continue
            self.gate.wait()
            self._call(ip, f"nopxe/system/{name}")
            self._call(ip, f"trig/mode/post/system/{name}")
            break
        if kind == "good":
            self.answer(name, f"boot-{next(self._numbers)}-{time.time_ns()}")
        self._tell(name)

    def _call(self, ip: str, what: str) -> None:
        """As an installer does: five times, for Cobbler's threads get in each other's way when a machine is changed."""
        url, headers = f"{self._cobblerd.service}/op/{what}", {"X-Forwarded-For": ip}
        tries = urllib3.Retry(4, status_forcelist=[500], backoff_factor=0.1, raise_on_status=False)
        answer = urllib3.request("GET", url, headers=headers, timeout=60, retries=tries)
        assert answer.status == 200, (what, answer.data)

    def _tell(self, name: str) -> None:
        with self._changed:
            self._settled[name] += 1
            self._changed.notify_all()

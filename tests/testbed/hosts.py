"""Hosts: network, mount, process and name namespaces, this machine's own tree with some of it replaced."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
BRIDGE, GATEWAY, METADATA, WIDTH = "lan", "10.255.255.1", "169.254.169.254", 8


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def make_lan() -> None:
    """The bridge that all hosts are on, with the addresses of the cloud's own services."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{GATEWAY}/{WIDTH}", "dev", BRIDGE)
    run("ip", "addr", "add", f"{METADATA}/32", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


class Host:
    """A machine that boots with the boot hook, until it goes off or is ended.

    Args:
        name: its instance id.
        address: its own, on the lan.
        folder: what it keeps: console, disk.
        gone: called when it went off.
        link: the name of its cable; by default made of ``name``.
    """

    def __init__(self, name: str, address: str, folder: Path, gone: Callable[[], None], link: str = "") -> None:
        self.name, self.address, self.folder = name, address, folder
        self.state = "off"
        self._gone = gone
        self._link = link or f"v{name[-10:]}"
        self._process: subprocess.Popen[bytes] | None = None
        for part in ("disk", "bin"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "disk").chmod(0o755)

    @property
    def console(self) -> Path:
        return self.folder / "console"

    def boot(self) -> None:
        """Start it; returns when it has its network."""
        env = {
            "PATH": f"{HERE / 'shims'}:{os.environ['PATH']}",
            "HOST": str(self.folder),
            "HOST_NAME": self.name,
            "HOST_ADDRESS": f"{self.address}/{WIDTH}",
            "HOST_METADATA": METADATA,
            "BED_PYTHON": os.environ["BED_PYTHON"],
            "BED_OPEN": os.environ["BED_OPEN"],
            "BED_CACHE": os.environ.get("BED_CACHE", "0"),
            "BED_HOOK": os.environ.get("BED_HOOK", str(PROJECT / "userdata/rc.local")),
            "VIDCLOUD_CONSOLE": str(self.console),
            "VIDCLOUD_BOOT_LOG": str(self.folder / "boot.log"),
            "VIDCLOUD_NFS_CONF": "/run/nfs.conf",
            "VIDCLOUD_PYTHON": os.environ["BED_PYTHON"],
        }
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "sh", str(HERE / "boot.sh")],
                env=env, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + 30
        while Path(f"/proc/{self._process.pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._process.pid))
        self.state = "running"  # before its network: the metadata service knows those that run
        run("ip", "link", "set", self._link, "master", BRIDGE, "up")
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if self._process is process:
            self.state = "off"
            self._gone()

    def kill(self) -> None:
        """Power lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self.state = "off"

    def processes(self) -> list[int]:
        """All processes of the host, by their numbers here."""
        if self._process is None:
            return []
        found, todo = [], [self._process.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    todo += map(int, (task / "children").read_text().split())
            found.append(pid)
        return found[1:]

    def pause(self) -> None:
        """Stop everything on it, as a hypervisor does that moves a machine."""
        stopped: set[int] = set()
        while left := set(self.processes()) - stopped:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= left
        self.state = "paused"

    def wake(self) -> None:
        """Let it go on."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.state = "running"

    def cut(self) -> None:
        """Pull the network cable."""
        run("ip", "link", "set", self._link, "down")

    def join(self) -> None:
        """Plug it in again."""
        run("ip", "link", "set", self._link, "up")

    def sh(self, command: str, timeout: float) -> dict[str, object]:
        """Run a shell command on it, as root."""
        inside = self.processes()
        done = subprocess.run(
            ["nsenter", "--target", str(inside[0]), "--net", "--mount", "--pid", "--uts", "sh", "-c", command],
            env={"PATH": f"{HERE / 'shims'}:{os.environ['PATH']}", "HOST": str(self.folder), "BED_PYTHON": os.environ["BED_PYTHON"],
                 "BED_CACHE": os.environ.get("BED_CACHE", "0")},
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

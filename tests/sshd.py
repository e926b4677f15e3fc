"""Real ssh servers on loopback, each a "host" with its own key; and a user who knows them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

PLAIN_PYTHON = os.path.realpath(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
"""The interpreter that the tests' own environment was made of: it has no vidcloud."""


class Host:
    """An ssh server that can be stopped and started again at the same port."""

    def __init__(self, folder: Path, user_key: Path, more: str) -> None:
        self.folder = folder
        folder.mkdir()
        keygen(folder / "host_key")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PasswordAuthentication no\nAuthorizedKeysFile {user_key}.pub\nSubsystem sftp internal-sftp\n"
            f"UseDNS no\nPermitRootLogin yes\nMaxStartups 100\n{more}"
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """Type and key, as in known_hosts."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def fingerprint(self) -> str:
        told = subprocess.run(
            ["ssh-keygen", "-lf", self.folder / "host_key.pub"], capture_output=True, text=True, check=True
        )
        return told.stdout.split()[1]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self.folder / "config"],
            stderr=(self.folder / "log").open("ab"),
            start_new_session=True,
        )
        for _ in range(400):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as s:
                if s.recv(4) == b"SSH-":
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """As if the network cable were pulled: the server and its connections go, what was started goes on."""
        if self.process is None:
            return
        for pid in [*_below(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # a connection that ended meanwhile
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_below(int(child))]
    return found


def keygen(path: Path, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)


class Lab:
    """Some hosts, and the key and known_hosts of a user who may log in to all."""

    def __init__(self, folder: Path, count: int, env: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = folder / "user_key"
        keygen(self.key)
        self.known_hosts = folder / "known_hosts"
        self.hosts = [Host(folder / f"host{n}", self.key, env) for n in range(count)]
        self.learn()

    def learn(self) -> None:
        self.known_hosts.write_text("".join(f"[127.0.0.1]:{h.port} {h.key}\n" for h in self.hosts))


def need() -> None:
    """Without sshd a test is skipped, but not in CI."""
    if SSHD is None:
        if os.environ.get("CI"):
            raise AssertionError("sshd is missing: install openssh-server")
        pytest.skip("needs sshd: install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a server of root's locks up its children


@contextlib.contextmanager
def lab(folder: Path, count: int = 2, env: str = "") -> Iterator[Lab]:
    """Hosts that run until the block ends, ``NAME=VALUE`` in their environment; without sshd skipped, but not in CI."""
    need()
    made = Lab(folder, count, f"SetEnv {env}\n" if env else "")
    try:
        for host in made.hosts:
            host.start()
        yield made
    finally:
        for host in made.hosts:
            host.stop()


def packages(folder: Path) -> str:
    """A PYTHONPATH: all that is installed here but vidcloud, as a host might have it: pip finds what it needs without an index."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("vidcloud", "__editable__", "pip", "__pycache__")):
            (folder / path.name).symlink_to(path)
    return f"{folder}/none:{folder}"  # OpenCV looks for a part of its own from the second place on

"""The bed as tests hold it: start, ask, run a user's command on its lan, end."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from users import Outcome

HERE = Path(__file__).parent
PROGRAMS = ("ganesha.nfsd", "rpcbind", "fusermount3", "unshare", "nsenter", "setpriv", "ip", "curl", "rclone")
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
GATED = """
import time
from pathlib import Path
from vidcloud.filter import YUV, frame_filter, param

@frame_filter(formats=YUV)
def gated(frame, *, at, hold: int = param(1 << 30)):
    while at.frame >= hold and not Path('/srv/vidcloud/open').exists():
        time.sleep(0.05)
    return type(frame)(*(255 - plane for plane in frame))
"""
"""A filter whose frames from number ``hold`` on wait for a file on the share, which the collector's host has."""
API, S3 = "http://10.255.255.1:5000", "http://10.255.255.1:9000"


def missing() -> str:
    """What this machine lacks for a bed; "" if nothing."""
    if os.geteuid() != 0:
        return "only root may make namespaces"
    lacking = [p for p in PROGRAMS if shutil.which(p, path=PATH) is None]
    if lacking:
        return f"no {', '.join(lacking)}: tests/testbed/install brings them"
    return "" if Path("/dev/fuse").exists() else "no /dev/fuse"


def require() -> None:
    """Skip where a bed can't be had, loudly; where ``VIDCLOUD_TESTBED=require``, fail."""
    if why := missing():
        if os.environ.get("VIDCLOUD_TESTBED") == "require":
            pytest.fail(f"the test bed must run here: {why}")
        pytest.skip(f"NO TEST BED: {why}")


class Bed:
    """Hosts, an EC2 and an S3 of a test's own.

    Args:
        folder: for all it keeps.
        hook: a boot hook other than the project's.
        disk: a machine image: hosts are virtual machines that boot a copy of it, with its own hook. They can't be paused,
            nor be asked by `sh`.
        cache: seconds for which NFS clients believe what they have seen.
    """

    def __init__(self, folder: Path, hook: Path | None = None, disk: Path | None = None, cache: float = 0) -> None:
        self.folder = folder
        # Paths of sockets are short: the control socket lies elsewhere.
        self._short = Path(tempfile.mkdtemp(prefix="bed"))
        env = {
            **os.environ,
            "PATH": PATH,
            "PYTHONPATH": str(HERE.parent),
            "BED_PYTHON": sys.executable,
            "BED_OPEN": " ".join(closed_folders()),
            "BED_CACHE": str(cache),
        }
        if hook:
            env["BED_HOOK"] = str(hook)
        if disk:
            env["BED_DISK"] = str(disk)
        self._log = (folder / "bed.log").open("ab")
        self._process = subprocess.Popen(
            # However this process ends, the bed ends with it, and with the bed's process all its namespaces.
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
             sys.executable, "-m", "testbed.server", str(self._short)],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bed did not start: {(folder / 'bed.log').read_text()[-2000:]}")
        told = json.loads(line)
        self.image, self.bucket = told["image"], f"s3://{told['bucket']}/homes"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._inside = int(children.read_text().split()[0])
        self.keys = {"AWS_ACCESS_KEY_ID": told["key"], "AWS_SECRET_ACCESS_KEY": told["secret"]}
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
            **self.keys,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "VIDCLOUD_SHARE": str(folder / "share"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.options = ("--cloud", "ec2", *self.where)

    @property
    def where(self) -> tuple[str, ...]:
        """What tells a command of this cloud."""
        pairs = {
            "endpoint_url": API, "s3_endpoint_url": S3, "image": self.image, "bucket": self.bucket,
            "instance_profile": "collector", "boot_timeout_s": "300",
        }  # fmt: skip
        return tuple(word for k, v in pairs.items() for word in ("-o", f"{k}={v}"))

    # -- a user's commands ---------------------------------------------------------------------------------------------

    @property
    def lan(self) -> list[str]:
        """What a command begins with to be on the lan."""
        # The lan alone, so that nothing is forked on the way: who is killed here is the command.
        return ["nsenter", "--target", str(self._inside), "--net", f"--wd={self.folder}"]

    def _on_lan(self, argv: tuple[Any, ...]) -> list[str]:
        return [*self.lan, sys.executable, "-P", "-m", "vidcloud", *map(str, argv)]

    def user(self, *argv: Any, timeout: float = 240, env: dict[str, str] | None = None) -> Outcome:
        """A command to its end, on a machine of the lan."""
        try:
            done = subprocess.run(
                self._on_lan(argv),
                env={**self.env, **(env or {})},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"{e}\n{(e.stderr or b'').decode()[-3000:]}\n{self.story()}") from None
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *argv: Any, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            self._on_lan(argv),
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def wire(self):
        """Listen to the lan while the block runs. Fills a dict at its end.

        ``packets``: how many between hosts, by the lower of their ports as text. ``calls``: of NFS, that could be read.
        """
        inside = ["nsenter", "--target", str(self._inside), "--net", sys.executable, str(HERE / "wire.py")]
        heard: dict[str, Any] = {}
        with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ears:
            try:
                assert ears.stdout.readline() == "listening\n"
                yield heard
                heard |= json.loads(ears.communicate(timeout=120)[0])
            finally:
                ears.kill()

    def launch(self, count: int, user_data: str = "", *, said: str = "booted") -> list[str]:
        """Start instances by the API, for tests of the bed itself; their ids, once their consoles say something."""
        code = (
            "import boto3, sys; c = boto3.client('ec2', endpoint_url=sys.argv[1]); "
            "r = c.run_instances(ImageId=sys.argv[2], MinCount=int(sys.argv[3]), MaxCount=int(sys.argv[3]), UserData=sys.argv[4]); "
            "print(*[i['InstanceId'] for i in r['Instances']])"
        )
        inside = ["nsenter", "--target", str(self._inside), "--net", sys.executable, "-c", code]
        done = subprocess.run(
            [*inside, API, self.image, str(count), user_data],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        made = done.stdout.split()
        self.when(lambda: all(self.hosts().get(i, {}).get("state") == "running" for i in made))
        self.when(lambda: all(said in self.console(i) for i in made))
        return made

    def stored(self, url: str) -> Path:
        """Where an object lies."""
        return self._short / "s3" / url.removeprefix("s3://")

    # -- its hosts -----------------------------------------------------------------------------------------------------

    def ask(self, what: str, **fields: Any) -> Any:
        """A request to the bed's process."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(fields.get("timeout", 30) + 30)
            s.connect(str(self._short / "control"))
            s.sendall(json.dumps({"what": what, **fields}).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def hosts(self) -> dict[str, dict[str, Any]]:
        """All hosts there were: address, state, console."""
        return self.ask("hosts")

    def running(self) -> list[str]:
        """Ids of hosts that are on, or paused."""
        return [n for n, h in self.hosts().items() if h["state"] != "off"]

    def sh(self, host: str, command: str, timeout: float = 60) -> Outcome:
        """A shell command on a host, as root."""
        told = self.ask("sh", host=host, command=command, timeout=timeout)
        return Outcome(told["code"], told["out"], told["err"])

    def console(self, host: str) -> str:
        """What a host's console showed."""
        path = Path(self.hosts()[host]["console"])
        return path.read_text(errors="replace") if path.exists() else ""  # it has not been switched on yet

    def story(self) -> str:
        """What to look at when something went wrong: what each host said and does, and the bed's own log."""
        told = []
        for name, host in self.hosts().items():
            told.append(f"--- {name} {host['state']} {host['address']}\n{self.console(name)[-3000:]}")
            if host["state"] == "running" and not os.environ.get("BED_DISK"):
                with contextlib.suppress(Exception):  # it may be about to go
                    told.append(self.sh(name, "ps -eo pid,etimes,stat,args | cut -c1-150; ip -br addr; ip neigh").out)
        log = [line for line in (self.folder / "bed.log").read_text().splitlines() if '"POST / HTTP' not in line]
        return "\n".join([*told, *log[-60:]])

    def when(self, condition: Callable[[], Any], timeout: float = 240) -> Any:
        """What a condition gives once that is true. Asking, which may be a whole command, takes half of the time at most."""
        deadline = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            if told := condition():
                return told
            if (now := time.monotonic()) > deadline:
                raise AssertionError(f"never came\n{self.story()}")
            time.sleep(max(0.1, now - began))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        shutil.rmtree(self._short, ignore_errors=True)


@contextlib.contextmanager
def made(folder: Path, hook: Path | None = None, disk: Path | None = None, cache: float = 0):
    """A bed until the block ends."""
    require()
    bed = Bed(folder, hook, disk, cache)
    try:
        yield bed
    finally:
        bed.close()


def closed_folders() -> list[str]:
    """Folders on the way to the program that only root may enter, the outermost first."""
    import vidcloud

    found: list[Path] = []
    for path in (Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve(), Path(vidcloud.__file__)):
        for above in reversed(path.absolute().parents):
            if not above.stat().st_mode & 0o001 and above not in found:
                found.append(above)
    return [str(p) for p in found]

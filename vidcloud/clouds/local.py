"""The laptop's cloud: an instance is a process, started as the role script that its user-data line names.

State lives in the job's ``instances/`` folder, one record an instance, so that any later command finds them.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vidcloud import boot
from vidcloud.clouds.base import Instance, Role
from vidcloud.errors import CloudError
from vidcloud.queue.records import process_start

_GRACE_S = 5.0
_KILLED_S = 5.0


def start_process(log: Path, line: str) -> "subprocess.Popen[bytes]":
    """Start what stands for an instance on this machine, in a session and process group of its own.

    Args:
        log: file to which goes what it prints.
        line: its user-data.

    Raises:
        UsageError: the line is malformed.
    """
    env = {**os.environ, "VIDCLOUD_USER_DATA": line, "VIDCLOUD_PYTHON": sys.executable}
    with log.open("ab") as printed:
        return subprocess.Popen(
            boot.command(line),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,  # a ^C in the launcher's terminal is the launcher's to handle
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold ^C and SIGTERM back while a process is started and not yet written down: nobody would find it to end it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    held: list[int] = []
    before = {n: signal.signal(n, lambda number, _frame: held.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for n in held:
            signal.raise_signal(n)


class LocalCloud:
    """Instances as processes of this machine.

    Args:
        job_root: the job's directory; records go to ``instances/``, what instances print to ``logs/``.
    """

    def __init__(self, job_root: Path) -> None:
        self._instances = job_root / "instances"
        self._logs = job_root / "logs"
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def run_instances(self, role: Role, user_data: str, count: int) -> list[Instance]:
        """Start processes."""
        started: list[Instance] = []
        with self._locked():
            taken = [p.stem for p in self._instances.glob(f"{role}-*.json")]
            number = max((int(t.rpartition("-")[2]) for t in taken), default=0)
            for n in range(number + 1, number + 1 + count):
                name = f"{role}-{n}"
                try:
                    with _uninterrupted():
                        started.append(self._start(name, role, user_data.replace("{instance}", name)))
                except OSError as e:
                    left = tuple(i.id for i in started)
                    raise CloudError(f"can't start {name}: {e.strerror}", left) from e
        return started

    def _start(self, name: str, role: Role, line: str) -> Instance:
        child = start_process(self._logs / f"{name}.log", line)
        self._children[child.pid] = child
        launched = time.time()
        record = {
            "version": 1,
            "id": name,
            "role": role,
            "pid": child.pid,
            "started": process_start(child.pid),
            "launched": launched,
            "user_data": line,
        }
        partial = self._instances / f".{name}.json"
        partial.write_text(json.dumps(record))
        partial.replace(self._instances / f"{name}.json")
        return Instance(name, role, "running", "127.0.0.1", launched, child.pid)

    def describe_instances(self) -> list[Instance]:
        """All instances, from their records and the process table."""
        for child in self._children.values():
            child.poll()  # a zombie would count as running
        found = []
        for path in self._instances.glob("*.json"):
            r = json.loads(path.read_text())
            start = process_start(r["pid"])
            running = start is not None and start == r["started"]
            draining = running and path.with_suffix(".draining").exists()
            state = "shutting-down" if draining else "running" if running else "terminated"
            found.append(
                Instance(r["id"], r["role"], state, "127.0.0.1", r["launched"], r["pid"])  # type: ignore[arg-type]
            )
        return sorted(found, key=lambda i: i.launched)

    def terminate_instances(self, ids: Sequence[str], *, drain: bool = False) -> None:
        """Ask with SIGTERM; unless draining, insist with SIGKILL."""
        wanted = [i for i in self.describe_instances() if i.id in set(ids) and i.state != "terminated"]
        for instance in wanted:
            (self._instances / f"{instance.id}.draining").touch()
            self._signal(instance, signal.SIGTERM)
            # A stopped process hears nothing until it goes on.
            self._signal(instance, signal.SIGCONT)
        if drain:
            return
        if not self._gone(wanted, _GRACE_S):
            for instance in wanted:
                self._signal(instance, signal.SIGKILL)
            if not self._gone(wanted, _KILLED_S):
                left = tuple(i.id for i in self.describe_instances() if i.id in set(ids) and i.state != "terminated")
                raise CloudError(f"can't end {', '.join(left)}: kill them by hand", left)

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """End processes and start others with the same lines; they get new ids, for claims are bound to the old."""
        records = [json.loads((self._instances / f"{i}.json").read_text()) for i in ids]
        self.terminate_instances(ids)
        for r in records:
            self.run_instances(r["role"], r["user_data"].replace(r["id"], "{instance}"), 1)

    def machines(self, nodes: int) -> int:
        """One: this one."""
        del nodes
        return 1

    def console_output(self, instance_id: str) -> str:
        """What a process printed."""
        path = self._logs / f"{instance_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _signal(self, instance: Instance, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(instance.pid, number)

    def _gone(self, wanted: Sequence[Instance], within_s: float) -> bool:
        ids = {i.id for i in wanted}
        deadline = time.monotonic() + within_s
        while any(i.id in ids and i.state != "terminated" for i in self.describe_instances()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Two commands on this machine (a supervisor and `scale`) must not choose the same name.
        with (self._instances / "lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

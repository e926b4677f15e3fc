"""A job's home: its folder at a URL, by which launchers anywhere and a collector far away hear of each other.

Launchers write what they want (``nodes.json``, ``nodes/``, ``cancel``), the collector what there is
(``stream.json``, ``progress.json``, ``result.json``, ``logs/``). Everything that nodes fetch or store lies there, too:
``input/``, ``bundle.tar``, ``output/``. ``audit/`` says who did what with the user's data.
"""

import contextlib
import getpass
import json
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidcloud import log, storage
from vidcloud.job import SIGNED_INPUT, JobDirectory, JobRecords

_STEP_S = 1.0
_LOG_MOST = 1 << 20
_CUT = re.compile(rb"\((\d+) bytes before this are not kept\)\n")
_WANTED = ("nodes.json", "cancel")
_MARKS = {"host": "hosts", "drain": "drain"}
"""Kinds of marks on nodes, and the files on the share that list them."""
_TOLD = ("stream.json", "progress.json")
_LAST_TRIES = 60
_SIGNED_S, _SIGN_AGAIN_S = 3600, 300.0
"""How long processors may read the input by a URL, and how often they get another. One that is signed with credentials
of the instance's role ends with those; the AWS libraries renew them ten minutes before at the latest."""

event = log.events("home")


class Home:
    """Records at a URL: the store of a job whose share is out of reach.

    Args:
        url: of the job's folder, ``s3`` (or ``file``).
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def url(self, name: str) -> str:
        """A record's URL."""
        return f"{self._url}/{name}"

    def read(self, name: str) -> bytes:
        """A record. Raises FileNotFoundError, StorageError."""
        return storage.read(self.url(name))

    def replace(self, name: str, data: bytes) -> None:
        """Write a record. Raises StorageError."""
        storage.write(self.url(name), data)

    def create(self, name: str, data: bytes) -> None:
        """Write a record that is not there. Raises FileExistsError, StorageError."""
        storage.create(self.url(name), data)

    def remove(self, name: str) -> None:
        """Remove a record that may be there. Raises StorageError."""
        storage.remove(self.url(name))

    def note(self, action: str, **fields: Any) -> None:
        """Write down for good what was done with the user's data; never changed, one record each.

        Args:
            action: ``started``, ``stored``, ``removed``, …
            fields: what, and where it went. No secrets, no presigned URLs.

        Raises:
            StorageError: it can't be written: then it must not be done either.
        """
        now = time.time_ns()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
        record = {"version": 1, "when": when, "who": f"{getpass.getuser()}@{socket.gethostname()}", "action": action}
        self.replace(f"audit/{when}.json", json.dumps({**record, **fields}).encode())

    def admit(self, node: str, address: str) -> None:
        """A node may mount the share. A record each: launchers that write at once undo nothing of each other's.

        Raises:
            StorageError: it can't be written.
        """
        self.replace(f"nodes/{node}.host", address.encode())

    def dismiss(self, node: str) -> None:
        """A node that is gone may mount the share no more. Raises StorageError."""
        self.remove(f"nodes/{node}.host")

    def ask_to_leave(self, node: str) -> None:
        """A node is to give back what it holds and go. Raises StorageError."""
        self.replace(f"nodes/{node}.drain", node.encode())

    def marks(self) -> dict[str, list[str]]:
        """Nodes that have marks, by kind: ``host`` and ``drain``.

        Raises:
            StorageError: they can't be listed.
        """
        found: dict[str, list[str]] = {kind: [] for kind in _MARKS}
        for name in storage.names(self.url("nodes")):
            node, _, kind = name.rpartition(".")
            if kind in found:
                found[kind].append(node)
        return found

    def log(self, node: str) -> tuple[int, bytes]:
        """The end of what a node logged, and how many bytes came before it.

        Raises:
            FileNotFoundError: nothing came so far.
            StorageError: it can't be read.
        """
        data = self.read(f"logs/{node}.log")
        cut = _CUT.match(data)
        return (int(cut[1]), data[cut.end() :]) if cut else (0, data)

    def notes(self) -> list[dict[str, Any]]:
        """What was written down, in order.

        Raises:
            StorageError: it can't be read.
        """
        return [json.loads(self.read(f"audit/{name}")) for name in storage.names(self.url("audit"))]


def records(url: str) -> JobRecords:
    """The records of the job whose home is at a URL; its last part is the job's id."""
    return JobRecords(url.rstrip("/").rpartition("/")[2], Home(url))


class Mirror:
    """The collector's end: keeps the records on the share and those at the job's home alike.

    Args:
        job: the job's directory on the share.
        home: the job's home.
    """

    def __init__(self, job: JobDirectory, home: Home) -> None:
        self._job, self._home = job, home
        self._known: dict[str, bytes] = {}
        self._marks: dict[str, bytes] = {}
        self._trouble = ""
        self._signed_at = -math.inf
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep them alike while the block runs, or until `finish`."""
        self._try_step()
        self._thread.start()
        try:
            yield
        finally:
            self._halt()

    def _work(self) -> None:
        while not self._stop.wait(_STEP_S):
            self._try_step()

    def _halt(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Bring over what changed, each way.

        Raises:
            StorageError: the home can't be reached.
        """
        for name in _WANTED:
            with contextlib.suppress(FileNotFoundError):
                data = self._home.read(name)
                if self._known.get(name) != data:
                    self._job.directory.replace(name, data)
                    self._known[name] = data
        self._bring_marks()
        self._sign()
        for name in _TOLD:
            with contextlib.suppress(FileNotFoundError):
                self._tell(name, self._job.directory.read(name))
        for path in self._job.logs.glob("*.log"):
            self._tell(f"logs/{path.name}", _tail(path))

    def _sign(self) -> None:
        """Let processors, which have no credentials, read the input by ranges."""
        spec, now = self._job.spec(), time.monotonic()
        if spec.source == "ranges" and spec.input.startswith("s3:") and now >= self._signed_at + _SIGN_AGAIN_S:
            self._job.directory.replace(SIGNED_INPUT, storage.presign(spec.input, _SIGNED_S).encode())
            self._signed_at = now

    def _bring_marks(self) -> None:
        for kind, nodes in self._home.marks().items():
            lines: list[bytes] = []
            for name in (f"nodes/{node}.{kind}" for node in nodes):
                with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                    if name not in self._marks:
                        self._marks[name] = self._home.read(name)
                    lines.append(self._marks[name] + b"\n")
            data = b"".join(sorted(lines))
            if self._known.get(kind, b"") != data:
                self._job.directory.replace(_MARKS[kind], data)
                self._known[kind] = data

    def finish(self) -> None:
        """Tell how the job ended, last of all: who reads it may remove the nodes.

        Raises:
            StorageError: the home could not be reached for a long time.
        """
        self._halt()
        for left in range(_LAST_TRIES, -1, -1):
            try:
                self.step()
                result = self._job.result()
                if result is not None and "result.json" not in self._known:
                    self._home.note("ended", state=result["state"], output=result["output"])
                    self._tell("result.json", self._job.directory.read("result.json"))
            except Exception:
                if not left:
                    raise
                threading.Event().wait(_STEP_S)
            else:
                return

    def _tell(self, name: str, data: bytes) -> None:
        if self._known.get(name) != data:
            self._home.replace(name, data)
            self._known[name] = data

    def _try_step(self) -> None:
        try:
            self.step()
        except Exception as e:  # noqa: BLE001 - whatever it is, the job goes on; what is wanted of it is heard later
            if str(e) != self._trouble:
                event("unreachable", why=str(e), level=logging.WARNING)
            self._trouble = str(e)
        else:
            self._trouble = ""


def _tail(path: Path) -> bytes:
    """The last lines of a log; if others came before, it begins with a line that says how long they were."""
    with path.open("rb") as f:
        if (skipped := f.seek(0, os.SEEK_END) - _LOG_MOST) <= 0:
            f.seek(0)
            return f.read()
        f.seek(skipped - 1)
        skipped += len(f.readline()) - 1  # up to the end of a line
        return b"(%d bytes before this are not kept)\n" % skipped + f.read()

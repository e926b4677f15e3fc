"""What a job is: its spec, immutable once written, and its directory on the share.

State is never stored: it follows from which files exist.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vidcloud.errors import ShareError, UsageError
from vidcloud.queue.directory import ShareDirectory

VERSION = 1
SIGNED_INPUT = "input.signed"
"""On the share of a job far away: a URL that lets its bearer read the input for a while; replaced before it ends."""
State = Literal["starting", "running", "done", "failed", "cancelled"]

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class JobSpec:
    """One input video, one filter chain, one output. Written once, read by all nodes.

    Attributes:
        id: names the job and its directory.
        created: seconds since 1970, UTC.
        input: URL of the video; ``file`` paths are absolute.
        output: URL of the result.
        filters: `vidcloud.plugins.FilterRef` records in the order of the chain.
        encode: an `vidcloud.media.encode.EncodeSettings` record.
        source: where processors of the segments plane read an input that is no local file: its copy on the ``share``,
            or by ``ranges`` from its own server.
        plane: how pictures travel; ``auto``: the collector chooses.
        chunk: frames a chunk.
        pack: how pixels are stored on the share: ``raw``; ``blosc2`` (packed without loss); ``coded``: inputs stay as
            they are, processors decode them, and results alone are pixels; or ``auto``: what is measured to be faster.
        segment_chunks: chunks a unit has on the segments plane.
        window: chunks that may be ahead of the encoder; 0: a few a living node.
        lease_s: seconds of silence after which a node is taken for dead.
        stall_s: seconds without a finished frame after which a chunk is taken from a node that still beats.
        dead_man_s: seconds without a sign of the collector after which a processor ends itself.
        on_error: ``fail`` the job when a filter raises on several nodes, or ``keep`` the unfiltered frame.
        on_damage: ``fail`` on a damaged or truncated input, or ``conceal`` what is missing.
        force: replace an output that exists.
        proof: leave a proof beside the output.
    """

    id: str
    created: float
    input: str
    output: str
    filters: tuple[dict[str, Any], ...]
    encode: dict[str, Any]
    source: str = "share"
    plane: str = "frames"
    chunk: int = 20
    pack: str = "auto"
    segment_chunks: int = 12
    window: int = 0
    lease_s: float = 10.0
    stall_s: float = 600.0
    dead_man_s: float = 120.0
    on_error: str = "fail"
    on_damage: str = "fail"
    force: bool = False
    proof: bool = True
    version: int = field(default=VERSION)

    def to_json(self) -> dict[str, Any]:
        """As written to the share and into the proof."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "JobSpec":
        """As read; unknown keys are ignored.

        Raises:
            ShareError: a newer version than this program knows.
        """
        if record.get("version", 0) > VERSION:
            raise ShareError(f"the job was written by a newer vidcloud (version {record['version']}): update this one")
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if k == "filters" else v for k, v in record.items() if k in known}
        return cls(**values)


class Store(Protocol):
    """Where a job's records are: small files under names, each whole or not there."""

    def read(self, name: str) -> bytes:
        """A record. Raises FileNotFoundError."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a record."""
        ...

    def remove(self, name: str) -> None:
        """Remove a record that may be there."""
        ...


class JobRecords:
    """What is written down of a job, wherever that is.

    Args:
        job_id: the job.
        store: where its records are.
    """

    def __init__(self, job_id: str, store: Store) -> None:
        self.id = job_id
        self._store = store

    def spec(self) -> JobSpec:
        """The job's spec; written once, never changed.

        Raises:
            UsageError: there is no such job.
        """
        record = self._read("spec.json")
        if record is None:
            raise UsageError(f"no job {self.id}: see `vidcloud jobs`")
        return JobSpec.from_json(record)

    def write_spec(self, spec: JobSpec) -> None:
        """Write the spec, once."""
        self._write("spec.json", spec.to_json())

    def stream(self) -> dict[str, Any] | None:
        """What the collector found out of the input and decided for all; None before that."""
        return self._read("stream.json")

    def write_stream(self, record: dict[str, Any]) -> None:
        """Tell the processors what the frames are."""
        self._write("stream.json", record)

    def result(self) -> dict[str, Any] | None:
        """How the job ended; None while it runs."""
        return self._read("result.json")

    def write_result(self, record: dict[str, Any]) -> None:
        """Say how the job ended."""
        self._write("result.json", record)

    def progress(self) -> dict[str, Any]:
        """What the collector last said of frames and nodes; empty before it said anything."""
        return self._read("progress.json") or {}

    def write_progress(self, record: dict[str, Any]) -> None:
        """Say how far the job is."""
        self._write("progress.json", record)

    def nodes(self) -> int:
        """How many processors the user wants."""
        return int((self._read("nodes.json") or {"nodes": 0})["nodes"])

    def write_nodes(self, nodes: int, machines: int = 1) -> None:
        """Set how many processors there should be, and on how many machines the job runs."""
        self._write("nodes.json", {"nodes": nodes, "machines": machines})

    def machines(self) -> int:
        """On how many machines the job runs, its collector's included."""
        return max(1, int((self._read("nodes.json") or {}).get("machines", 1)))

    def lines(self, name: str) -> list[str]:
        """A record of one thing a line: ``hosts`` that may mount the share, instances that are asked to ``drain``."""
        try:
            return self._store.read(name).decode().split()
        except FileNotFoundError:
            return []

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel the job."""
        try:
            self._store.read("cancel")
        except FileNotFoundError:
            return False
        return True

    def cancel(self) -> None:
        """Ask the job's nodes to stop."""
        self._store.replace("cancel", b"")

    def reopen(self) -> None:
        """Forget how the job ended, so that it can go on."""
        self._store.remove("result.json")

    def state(self) -> State:
        """The state, from which records exist."""
        result = self.result()
        if result is not None:
            return result["state"]  # type: ignore[no-any-return]
        return "running" if self._read("progress.json") is not None else "starting"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._store.read(name)))
        except FileNotFoundError:
            return None

    def _write(self, name: str, record: dict[str, Any]) -> None:
        self._store.replace(name, json.dumps(record, indent=1).encode())


class JobDirectory(JobRecords):
    """A job's directory on the share.

    Args:
        root: ``<share>/jobs/<id>``.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root.name, ShareDirectory(root))
        self.root = root
        self.plugins = root / "plugins"
        self.parts = root / "parts"
        self.instances = root / "instances"
        self.logs = root / "logs"
        self.scratch = root / "scratch"

    def make(self) -> None:
        """Make the folders that are missing."""
        for folder in (self.plugins, self.parts, self.instances, self.logs, self.scratch):
            folder.mkdir(exist_ok=True)

    @property
    def directory(self) -> ShareDirectory:
        """The directory as the queue sees it."""
        return ShareDirectory(self.root)

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Keep other commands on this machine from doing the same thing at the same time. Not for other hosts."""
        with (self.root / f"{what}.lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def sweep(self) -> None:
        """Remove all pixels and queue files of an ended job; spec, result, logs stay for a look."""
        for name in ("chunks", "claims", "notes", "workers", "collectors", "parts", "scratch"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def signed_input(self, url: str) -> str:
        """A URL by which processors without credentials read an input, or the input's own, where nobody signed it."""
        try:
            return self.directory.read(SIGNED_INPUT).decode()
        except FileNotFoundError:
            return url

    def site(self) -> dict[str, Any]:
        """Where the job's nodes and records are, as `vidcloud.sites` wrote it; empty for a job of this machine's."""
        return self._read("site.json") or {}

    def write_site(self, record: dict[str, Any]) -> None:
        """Write down where the job's nodes and records are."""
        self._write("site.json", record)


def default_share() -> Path:
    """The laptop's share: ``$VIDCLOUD_SHARE``, or a folder in the user's state directory."""
    if told := os.environ.get("VIDCLOUD_SHARE"):
        return Path(told)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "vidcloud"


def new_id() -> str:
    """A new job id: the day and a random part."""
    return f"{time.strftime('%y%m%d', time.gmtime())}-{secrets.token_hex(3)}"


def create(share: Path, spec: JobSpec) -> JobDirectory:
    """Make a job's directory with its spec in it.

    Raises:
        UsageError: a bad id, or one that exists.
        ShareError: the share is not writable.
    """
    if not _ID.fullmatch(spec.id):
        raise UsageError(f"job id {spec.id!r}: use small letters, digits and dashes, 63 at most")
    job = JobDirectory(share.absolute() / "jobs" / spec.id)
    try:
        job.root.parent.mkdir(parents=True, exist_ok=True)
        job.root.mkdir()
        job.make()
    except FileExistsError:
        raise UsageError(f"job {spec.id} exists in {share}: choose another --job-id") from None
    except OSError as e:
        raise ShareError(f"can't write to the share {share}: {e.strerror}; use another --share") from e
    job.write_spec(spec)
    return job


def find(name: str, share: Path) -> JobDirectory:
    """A job by its id, or by the path of its directory.

    Raises:
        UsageError: there is none.
    """
    by_path = Path(name)
    job = JobDirectory(by_path.absolute() if "/" in name else share.absolute() / "jobs" / name)
    if not (job.root / "spec.json").exists():
        raise UsageError(f"no job {name} in {share}: see `vidcloud jobs`, or give --share")
    return job


def all_jobs(share: Path) -> list[JobDirectory]:
    """All jobs on a share, the newest last."""
    found = [JobDirectory(p.parent) for p in (share.absolute() / "jobs").glob("*/spec.json")]
    return sorted(found, key=lambda j: (j.root / "spec.json").stat().st_mtime)

"""The queue's names and records on the share. Records are versioned JSON; unknown keys are ignored."""

import functools
import json
import os
from dataclasses import dataclass, field
from typing import Any

from vidcloud.errors import ShareError, TornError

VERSION = 1

FRONTIER = "frontier"
COLLECTORS = "collectors"
WORKERS = "workers"
CLAIMS = "claims"
NOTES = "notes"
READY = "chunks/ready"
DONE = "chunks/done"
PRIVATE = "chunks/private"
FOLDERS = (COLLECTORS, WORKERS, CLAIMS, NOTES, READY, DONE, PRIVATE)

_SHARD = 1024


def shard(unit: int) -> str:
    """The folder of a unit's claims: claims stay while the job runs, so a folder holds those of 1,024 units."""
    return f"{CLAIMS}/{unit // _SHARD:06d}"


def shards(first: int, stop: int) -> list[str]:
    """The folders that hold the claims of units ``first … stop - 1``."""
    return [f"{CLAIMS}/{n:06d}" for n in range(first // _SHARD, -(-stop // _SHARD))] if stop > first else []


def unit_name(unit: int) -> str:
    """A unit's number as names carry it."""
    return f"{unit:08d}"


def epoch_name(unit: int, epoch: int) -> str:
    """``<unit>.<epoch>``."""
    return f"{unit:08d}.{epoch}"


def parse_epoch_name(name: str) -> tuple[int, int] | None:
    """``(unit, epoch)`` of a name ``<unit>.<epoch>[.suffix]``; None for any other name (a file being written)."""
    parts = name.split(".")
    if len(parts) < 2 or not parts[0].isdecimal() or not parts[1].isdecimal():
        return None
    return int(parts[0]), int(parts[1])


def ready_name(unit: int) -> str:
    """Where a unit's input lies."""
    return f"{READY}/{unit_name(unit)}"


def claim_name(unit: int, epoch: int) -> str:
    """The lock file of a claim."""
    return f"{shard(unit)}/{epoch_name(unit, epoch)}.lock"


def done_name(unit: int, epoch: int) -> str:
    """Where a result is published."""
    return f"{DONE}/{epoch_name(unit, epoch)}"


def encode(record: dict[str, Any]) -> bytes:
    """A record as bytes."""
    return json.dumps({"version": VERSION, **record}, separators=(",", ":")).encode()


def decode(data: bytes, what: str) -> dict[str, Any]:
    """A record of bytes.

    Raises:
        TornError: not a record.
        ShareError: of a newer version than this program knows.
    """
    try:
        record = json.loads(data)
        version = record["version"]
    except (ValueError, KeyError, TypeError) as e:
        raise TornError(f"{what} is damaged: {data[:60]!r}") from e
    if version > VERSION:
        raise ShareError(f"{what} was written by a newer vidcloud (record version {version}): update this node")
    return dict(record)


@dataclass(frozen=True)
class Retake:
    """A unit that must be done again, and how.

    Attributes:
        epoch: the claim to make.
        avoid: nodes that failed on it and should leave it to others.
        keep: pass frames through a filter that raises on them.
    """

    epoch: int
    avoid: tuple[str, ...] = ()
    keep: bool = False


@dataclass(frozen=True)
class Frontier:
    """What the collector tells the processors, in one small file.

    Attributes:
        collector: the epoch of the collector that wrote it; a lower one than seen before is a zombie's.
        beat: grows with each writing; processors time its lack of change.
        first: all units below are accepted.
        offered: units below are ready.
        total: number of units, once known.
        hint: all units below are claimed.
        idle: how many workers hold no unit, as far as the collector knows.
        claimed: of the units from ``hint`` on, bit n tells that ``hint + n`` is claimed, too.
        retake: units to do again, by number.
        ended: how the job ended, or "".
        nodes: living workers, those that just joined included; many of them look less often.
    """

    collector: int = 0
    beat: int = 0
    first: int = 0
    offered: int = 0
    total: int | None = None
    hint: int = 0
    retake: dict[int, Retake] = field(default_factory=dict)
    ended: str = ""
    nodes: int = 0
    claimed: int = 0
    idle: int = 0

    def to_bytes(self) -> bytes:
        """As written to the share."""
        return encode(
            {
                "collector": self.collector,
                "beat": self.beat,
                "first": self.first,
                "offered": self.offered,
                "total": self.total,
                "hint": self.hint,
                "retake": {str(u): [r.epoch, list(r.avoid), r.keep] for u, r in self.retake.items()},
                "ended": self.ended,
                "nodes": self.nodes,
                "claimed": f"{self.claimed:x}",
                "idle": self.idle,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Frontier":
        """As read from the share.

        Raises:
            ShareError: damaged, or of a newer version.
        """
        r = decode(data, "the frontier")
        retake = {int(u): Retake(int(e), tuple(avoid), bool(keep)) for u, (e, avoid, keep) in r["retake"].items()}
        told = (r["collector"], r["beat"], r["first"], r["offered"], r["total"], r["hint"], retake, r["ended"])
        return cls(*told, r.get("nodes", 0), int(r.get("claimed", "0"), 16), r.get("idle", 0))


@dataclass(frozen=True)
class Beat:
    """A worker's heartbeat: a counter, and what it is at.

    Attributes:
        count: grows with each writing.
        unit: the unit it holds, or -1.
        epoch: of that claim.
        steps: frames done within the unit; below zero while it is on its way to the first one.
        chunks: units published so far.
    """

    count: int = 0
    unit: int = -1
    epoch: int = 0
    steps: int = 0
    chunks: int = 0

    def to_bytes(self) -> bytes:
        """Fixed length, so that writing in place leaves nothing of an older one."""
        data = encode({"beat": [self.count, self.unit, self.epoch, self.steps, self.chunks]})
        return data.ljust(160) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "Beat":
        """As read from the share.

        Raises:
            ShareError: half-written; read again later.
        """
        return cls(*decode(data, "a heartbeat")["beat"])


@dataclass(frozen=True)
class Ticket:
    """Who a worker is. Its claims are hard links of its ticket, so each claim tells its owner.

    Attributes:
        node: the instance's id.
        pid: process id on its host.
        host: names the kernel and the process-id namespace: only there does ``pid`` mean anything.
        started: the process's start time in clock ticks since the host's boot, against reused ids.
        address: for people.
    """

    node: str
    pid: int = 0
    host: str = ""
    started: int = 0
    address: str = ""

    def to_bytes(self) -> bytes:
        """As written to the share."""
        return encode(
            {
                "node": self.node,
                "pid": self.pid,
                "host": self.host,
                "started": self.started,
                "address": self.address,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Ticket":
        """As read from the share.

        Raises:
            ShareError: damaged.
        """
        r = decode(data, "a ticket")
        return cls(r["node"], r["pid"], r["host"], r["started"], r["address"])


def this_process(node: str, address: str = "") -> Ticket:
    """The ticket of the calling process."""
    return Ticket(node, os.getpid(), _host(), process_start(os.getpid()) or 0, address)


def process_gone(ticket: Ticket) -> bool:
    """True only if the process ran on this very host and is certainly no more. False where one can't know."""
    if not ticket.pid or ticket.host != _host():
        return False
    started = process_start(ticket.pid)
    return started is None or started != ticket.started


def process_start(pid: int) -> int | None:
    """A living process's start time in clock ticks since boot; None if there is none, or only its zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:  # noqa: PTH123 - hot path
            fields = f.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def _host() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:  # noqa: PTH123
            return f"{f.read().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:
        return ""

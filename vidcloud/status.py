"""A read-only snapshot of a job, from its share and its cloud: for bars, JSON and people."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidcloud.clouds.base import Instance
from vidcloud.job import JobRecords, State


@dataclass(frozen=True)
class NodeStatus:
    """A node of a job.

    Attributes:
        id: the instance's id.
        role: collector or processor.
        state: pending, running, silent (its process is there, but shows no sign of life), shutting-down or terminated.
        address: where it can be reached.
        pid: process id on its host, 0 if unknown.
        chunks: units it published.
    """

    id: str
    role: str
    state: str
    address: str
    pid: int
    chunks: int

    @property
    def alive(self) -> bool:
        """Whether it works, or will."""
        return self.state in ("pending", "running")


@dataclass(frozen=True)
class Status:
    """A job at a moment.

    Attributes:
        job: its id.
        state: starting, running, done, failed or cancelled.
        plane: how pictures travel; ``auto`` until the collector has chosen.
        why: why on that plane, or "" before that.
        total: frames of the video, an estimate until the decoder has seen the end; all counts are of all passes while
            the job runs.
        exact: whether ``total`` is exact.
        decoded: frames decoded.
        filtered: frames whose results are accepted.
        working: frames done in units that are not finished.
        encoded: frames encoded.
        takeovers: units taken from dead or stuck nodes.
        nodes: all nodes, also those that ended.
        output: where the output is, or will be.
        seconds: since the collector began.
        error: why it failed, or "".
        passes: how often each frame is counted.
    """

    job: str
    state: State
    plane: str
    why: str
    total: int
    exact: bool
    decoded: int
    filtered: int
    working: int
    encoded: int
    takeovers: int
    nodes: tuple[NodeStatus, ...]
    output: str
    seconds: float
    error: str = ""
    passes: int = 1

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")

    def to_json(self) -> dict[str, Any]:
        """The object that ``vidcloud status --json`` prints."""
        return {
            "job": self.job,
            "state": self.state,
            "plane": self.plane,
            "why": self.why,
            "frames": {
                "total": self.total,
                "decoded": self.decoded,
                "filtered": self.filtered,
                "working": self.working,
                "encoded": self.encoded,
            },
            "passes": self.passes,
            "takeovers": self.takeovers,
            "nodes": [n.__dict__ for n in self.nodes],
            "output": self.output,
            "seconds": self.seconds,
            "error": self.error,
        }


def snapshot(job: JobRecords, instances: Sequence[Instance] = ()) -> Status:
    """How a job stands.

    Args:
        job: its records.
        instances: what its cloud says.
    """
    spec, progress, result = job.spec(), job.progress(), job.result()
    frames = progress.get("frames", {})
    state = job.state()
    running_s = time.time() - progress["began"] if progress else 0.0
    seconds = running_s if result is None else float(result["seconds"])
    told = {n["id"]: n for n in progress.get("nodes", ())}
    total = int(frames.get("total", 0))
    done = result is not None and result["state"] == "done"
    if result is not None and done:
        total = int(result["frames"])
    counts = {k: total if done else int(frames.get(k, 0)) for k in ("decoded", "filtered", "encoded")}
    return Status(
        job=job.id,
        state=state,
        plane=str(progress.get("plane", spec.plane)),
        why=str(progress.get("why", "")),
        total=total,
        exact=done or bool(frames.get("exact")),
        decoded=counts["decoded"],
        filtered=counts["filtered"],
        working=0 if result else int(frames.get("working", 0)),
        encoded=counts["encoded"],
        takeovers=int((result or progress).get("takeovers", 0)),
        nodes=tuple(_node(i, told, ended=result is not None) for i in instances),
        output=spec.output,
        seconds=round(seconds, 3),
        error=str((result or {}).get("error", "")),
        passes=1 if done else int(progress.get("passes", 1)),
    )


def _node(instance: Instance, told: dict[str, dict[str, Any]], *, ended: bool) -> NodeStatus:
    seen = told.get(instance.id)
    state: str = instance.state
    if state == "running" and seen and not seen["alive"] and not ended:
        state = "silent"
    return NodeStatus(
        instance.id, instance.role, state, instance.address, instance.pid, int(seen["chunks"]) if seen else 0
    )

"""How fast a job will be on each plane with so many nodes, from what a frame was measured to cost.

Work is spread over cores without loss, as long as every stage has a thread of its own: a stage's time on one thread
bounds a node, all nodes' work bounds a machine that they share. Start-up is measured in constants.
"""

import heapq
from dataclasses import dataclass

from vidcloud.planes.costs import Costs
from vidcloud.planes.cuts import Cutter

_START_S = 0.8
"""From the command to the first claim, with nodes that run already or start at the same time."""
_START_CPU_S = 0.4
"""CPU seconds that a node needs to start; nodes on one machine wait for each other."""
_END_S = 0.4
_COLLECT_S = 0.0007
"""CPU seconds of the collector for a frame that it only joins."""


@dataclass(frozen=True)
class Machine:
    """Where nodes run.

    Attributes:
        cores: of one machine.
        shared: whether all nodes run on the one machine, or each on its own.
        share: bytes a second of the share, written or read; None: as measured.
    """

    cores: int
    shared: bool = True
    share: float | None = None


@dataclass(frozen=True)
class Prediction:
    """A job that was not run.

    Attributes:
        plane: how pictures travel.
        nodes: processors.
        seconds: wall time, start-up included.
        fps: frames a second of that time.
        bottleneck: what more or faster nodes would not change, or ``nodes``.
        traffic: bytes written to the share and read from it.
    """

    plane: str
    nodes: int
    seconds: float
    fps: float
    bottleneck: str
    traffic: float


def predict(
    plane: str, costs: Costs, cutter: Cutter, frames: int, nodes: int, machine: Machine, passes: int = 1
) -> Prediction:
    """Predict one job.

    Args:
        plane: ``frames`` or ``segments``.
        costs: of a frame.
        cutter: cuts the video on the segments plane.
        frames: of the video.
        nodes: processors.
        machine: where they run.
        passes: how often the frames plane decodes, filters and encodes each frame.
    """
    if plane == "segments":
        limits, traffic = _segments(costs, cutter, frames, nodes, machine)
    else:
        limits, traffic = _frames(costs, passes * frames, nodes, machine)
    bandwidth = machine.share or 2 * costs.pixels / max(costs.move, 1e-9)
    limits["the share"] = traffic / bandwidth
    bottleneck = max(limits, key=lambda name: limits[name])
    starting = _START_S + _END_S + (_START_CPU_S * (nodes + 1) / machine.cores if machine.shared else 0.0)
    seconds = starting + limits[bottleneck]
    return Prediction(plane, nodes, seconds, frames / seconds, bottleneck, traffic)


def _segments(
    costs: Costs, cutter: Cutter, frames: int, nodes: int, machine: Machine
) -> tuple[dict[str, float], float]:
    free, work = [0.0] * nodes, 0.0
    for start, stop in cutter.all(nodes):
        cost = cutter.cost(start, stop)
        heapq.heappushpop(free, free[0] + cost)
        work += cost
    threads = max(1, machine.cores // nodes) if machine.shared else machine.cores
    thread_s = max(costs.decode / threads, costs.filter, costs.encode / threads)
    limits = {"the collector": frames * _COLLECT_S}
    if machine.shared:
        limits["nodes"] = max(free) * thread_s
        limits[f"this machine's {machine.cores} cores"] = work * costs.whole / machine.cores
    else:
        limits["nodes"] = max(free) * max(thread_s, costs.whole / machine.cores)
    return limits, frames * (costs.read + 2 * costs.coded)


def _frames(costs: Costs, frames: int, nodes: int, machine: Machine) -> tuple[dict[str, float], float]:
    collector = costs.decode + costs.encode + costs.move / 2
    limits = {"nodes": frames * (costs.filter + costs.move / 2) / nodes}
    if machine.shared:
        limits[f"this machine's {machine.cores} cores"] = frames * (costs.whole + costs.move) / machine.cores
    else:
        limits["the collector"] = frames * collector / machine.cores
    return limits, frames * 2.0 * costs.pixels

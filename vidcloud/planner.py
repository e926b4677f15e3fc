"""What a job would take with so many nodes, from a measurement of a few of its frames on this machine."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidcloud import job as jobs
from vidcloud import plugins, storage
from vidcloud.errors import MediaError, ShareError, UsageError
from vidcloud.media.encode import check_settings
from vidcloud.media.index import build_index
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.planes.choice import better, check_asked, must_be_frames
from vidcloud.planes.costs import Costs, measure
from vidcloud.planes.cuts import Cutter
from vidcloud.planes.prediction import Machine, Prediction, predict
from vidcloud.request import Request, encoder_settings

_LIMIT_S = 6.0
"""How long a measurement may take that somebody asked for."""


@dataclass(frozen=True)
class Plan:
    """Predictions of one job.

    Attributes:
        info: of the input.
        frames: of the input; exact where its packets tell.
        keyframes: how many of them.
        costs: of a frame on one core.
        machine: where nodes would run.
        rows: one a number of nodes, on the plane that ``--plane auto`` would take.
        others: the same on the other plane; empty where there is no choice.
        why: what rules the segments plane out, or "".
    """

    info: VideoInfo
    frames: int
    keyframes: int
    costs: Costs
    machine: Machine
    rows: tuple[Prediction, ...]
    others: tuple[Prediction, ...]
    why: str

    def speed_up(self, row: Prediction) -> float:
        """Against the first row's time and number of nodes, as if that many nodes were used without loss."""
        return self.rows[0].seconds * self.rows[0].nodes / row.seconds

    def to_json(self) -> dict[str, Any]:
        """The object that ``vidcloud plan --json`` prints."""
        return {
            "frames": self.frames,
            "keyframes": self.keyframes,
            "costs": asdict(self.costs),
            "machine": asdict(self.machine),
            "why": self.why,
            "rows": [asdict(r) | {"speed_up": round(self.speed_up(r), 2)} for r in self.rows],
            "others": [asdict(r) for r in self.others],
        }


def plan(request: Request, nodes: Sequence[int], machine: Machine) -> Plan:
    """Measure a few frames and predict the job.

    Args:
        request: as for a run; its number of nodes is not used.
        nodes: numbers of processors, each at least 1.
        machine: where they would run.

    Raises:
        UsageError: something is asked for that can't be done, or the input is not on this machine.
        InputError: the input is not a video.
    """
    path = storage.local_path(storage.normalise(request.input))
    if path is None:
        raise UsageError(f"{request.input}: a plan measures the input here: fetch it first")
    stages = [plugins.resolve(text).stage for text in request.filters]
    settings, info = encoder_settings(request), probe(path)
    check_asked(request.plane, request.pack, settings, request.on_damage)
    check_settings(settings, info)
    why, frames, keys = must_be_frames(settings, request.on_damage, info.frames), info.frames, []
    if not why or not frames:
        try:
            index = build_index(path, info)
            frames, keys = len(index.pts), index.key_frames.tolist()
        except MediaError:
            why = why or "the input's packets don't tell when each frame is shown"
    frames = frames or max(1, round(info.duration_s * float(info.average_rate or 25)))
    share = request.share or jobs.default_share()
    try:
        share.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="plan-", dir=share) as scratch:
            costs = measure(path, info, settings, stages, Path(scratch), _LIMIT_S)
    except OSError as e:
        raise ShareError(f"can't write to the share {share}: {e.strerror}; use another --share") from e
    preroll = costs.decode / costs.whole
    cutter = Cutter(frames, keys, chunk=request.chunk, chunks=request.segment_chunks, preroll=preroll)
    rows, others = [], []
    for n in nodes:
        both = [predict(p, costs, cutter, frames, n, machine) for p in ("frames", "segments")]
        best = both[0] if why else better(*both)
        rows.append(best)
        others += [] if why else [p for p in both if p is not best]
    return Plan(info, frames, len(keys), costs, machine, tuple(rows), tuple(others), why)

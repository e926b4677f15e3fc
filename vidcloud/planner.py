"""What a job would take with so many nodes, from a measurement of a few of its frames on this machine."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidcloud import job as jobs
from vidcloud import plugins, storage
from vidcloud.clouds.prices import dollars_an_hour, vcpus
from vidcloud.clouds.settings import read_metal, read_settings
from vidcloud.clouds.ssh import Options
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
class Machines:
    """What a cloud has nodes run on; by its settings alone, nobody is asked.

    Attributes:
        machine: one that takes processors.
        told: in words.
        prices: US dollars an hour of the collector's machine and of a processor's; None: unknown.
        room: how many processors there can be; 0: any number.
    """

    machine: Machine
    told: str
    prices: tuple[float, float] | None = None
    room: int = 0

    def cost(self, row: Prediction) -> float | None:
        """US dollars of a job."""
        if self.prices is None:
            return None
        collector, processor = self.prices
        return (collector + processor * (0 if self.machine.shared else row.nodes)) * row.seconds / 3600


def machines_of(
    cloud: str,
    options: Mapping[str, str],
    cores: int | None = None,
    share: float | None = None,
    price: float | None = None,
) -> Machines:
    """The machines of a cloud.

    Args:
        cloud: of ``--cloud``; ``machines`` are any.
        options: of ``-o``, over those of ``vidcloud.toml``.
        cores: of a machine; None: as its type has them where that is known, else as this one.
        share: bytes a second of the share; None: as measured here.
        price: US dollars an hour of a machine; None: as is known.

    Raises:
        UsageError: an option that the cloud does not know, or one of a wrong kind.
    """
    prices = None if price is None else (price, price)
    here = os.cpu_count() or 1
    if cloud == "ec2":
        settings = read_settings("ec2", options)
        kind = settings.processor_types[0]
        known = dollars_an_hour(settings.collector_type), dollars_an_hour(kind)
        if prices is None and known[0] is not None and known[1] is not None:
            prices = known[0], known[1]
        cores = cores or vcpus(kind)
        told = f"{kind}, {cores} cores each" if cores else f"{kind}, taken to be like this machine, {here} cores each"
        told += f", collector {settings.collector_type}" + (", spot taken at the price on demand" * settings.spot)
        return Machines(Machine(cores or here, shared=False, share=share), told, prices)
    if cloud == "ssh":
        ssh = Options.parse(options)
        cores = max(1, (cores or here) // ssh.slots)
        told = f"{len(ssh.hosts)} hosts, {ssh.slots} nodes each, {cores} cores a node"
        return Machines(Machine(cores, shared=False, share=share), told, prices, ssh.slots * len(ssh.hosts))
    if cloud == "metal":
        read_metal(options)
    elif options:
        raise UsageError(f"-o {next(iter(options))}: --cloud {cloud} has no options")
    shared = cloud == "local"
    told = "on this machine" if shared else f"of {cores or here} cores each"
    return Machines(Machine(cores or here, shared, share), told, prices)


@dataclass(frozen=True)
class Plan:
    """Predictions of one job.

    Attributes:
        info: of the input.
        frames: of the input; exact where its packets tell.
        keyframes: how many of them.
        costs: of a frame on one core.
        machines: where nodes would run.
        rows: one a number of nodes, on the plane that ``--plane auto`` would take.
        others: the same on the other plane; empty where there is no choice.
        why: what rules the segments plane out, or "".
    """

    info: VideoInfo
    frames: int
    keyframes: int
    costs: Costs
    machines: Machines
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
            "machine": asdict(self.machines.machine),
            "why": self.why,
            "rows": [
                asdict(r) | {"speed_up": round(self.speed_up(r), 2), "cost": self.machines.cost(r)} for r in self.rows
            ],
            "others": [asdict(r) for r in self.others],
        }


def plan(request: Request, nodes: Sequence[int], machines: Machines) -> Plan:
    """Measure a few frames and predict the job.

    Args:
        request: as for a run; its number of nodes is not used.
        nodes: numbers of processors, each at least 1.
        machines: where they would run.

    Raises:
        UsageError: something is asked for that can't be done, or the input is not on this machine.
        InputError: the input is not a video.
    """
    if machines.room and max(nodes) > machines.room:
        raise UsageError(f"--nodes {max(nodes)}: {machines.told}: name more hosts, or give more -o slots=…")
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
        both = [predict(p, costs, cutter, frames, n, machines.machine, settings.passes) for p in ("frames", "segments")]
        best = both[0] if why else better(*both)
        rows.append(best)
        others += [] if why else [p for p in both if p is not best]
    return Plan(info, frames, len(keys), costs, machines, tuple(rows), tuple(others), why)

"""The frames plane: pixels travel on the share, 20 frames a unit; the collector decodes and encodes.

It reads as a chunk lives: `FramesCollector.prepare` decodes it, `FramesProcessor.process` filters it,
`FramesCollector.assemble` encodes it, `FramesCollector.finish` joins all.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud.chain import Chain
from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk
from vidcloud.errors import ShareError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.decode import DecodedFrame, Decoder, OnDamage
from vidcloud.media.encode import Encoder
from vidcloud.media.parts import PartCutter
from vidcloud.media.probe import VideoInfo
from vidcloud.packing import Packing
from vidcloud.pixels import Array, pixel_format
from vidcloud.planes.base import Assembly, Gate, Prepared
from vidcloud.planes.choice import Choice
from vidcloud.planes.output import Output, load_stages
from vidcloud.planes.runs import runs


class FramesCollector:
    """What a collector does on the frames plane.

    Args:
        spec: the job.
        job: its directory.
        source: the input as a local file.
        info: what `probe` says of it.
        choice: why on this plane.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder refuses them.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo, choice: Choice) -> None:
        self._spec, self._job, self._source, self._info, self.choice = spec, job, source, info, choice
        self._output = Output(spec, job, source, info, choice)
        self.lossless = self._output.lossless
        self._resume_at = self.encoded = self._output.safe_frames
        self.unit_frames = spec.chunk
        self.decoded, self.estimate = 0, info.frames
        self._on_damage: OnDamage = "conceal" if spec.on_damage == "conceal" else "fail"
        self._packing = Packing(spec.pack)
        self._encoder: Encoder | None = None
        self._cutter: PartCutter | None = None
        self.describe, self.begin, self.abandon = self._output.describe, self._output.begin, self._output.abandon
        self.proof_frames = self._output.proof_frames

    @property
    def durable_units(self) -> int:
        """Units whose frames are all in whole parts."""
        return self._output.safe_frames // self._spec.chunk

    # -- decode --------------------------------------------------------------------------------------------------------

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Decode, and write each chunk with the halo it needs."""
        fmt = pixel_format(self._info.storage)
        samples = fmt.samples(self._info.width, self._info.height)
        decoder = Decoder(self._source, self._info, on_damage=self._on_damage)
        for unit, run in enumerate(runs(self._counted(decoder), self._spec.chunk, self._output.halo, fmt, samples)):
            if not gate(unit):
                return
            if not have(unit):
                size = (self._info.width, self._info.height)
                header = ChunkHeader(fmt.name, *size, run.first, run.start, run.stop, run.pts, run.durations)
                self._put(unit, header, run.frames)
            yield Prepared(unit, run.stop - run.start)
        self._output.note(decoder.report.notes)

    def _counted(self, decoder: Decoder) -> Iterator[DecodedFrame]:
        for frame in decoder:
            self.decoded += 1
            yield frame

    def _put(self, unit: int, header: ChunkHeader, frames: Array) -> None:
        private = self._job.root / "chunks" / "private" / f"{unit:08d}.input"
        self._packing.write(private, header, frames)
        private.replace(self._job.root / "chunks" / "ready" / f"{unit:08d}")

    # -- encode --------------------------------------------------------------------------------------------------------

    def assemble(self, unit: int, result: Path) -> None:
        """Check a result's hashes and encode it."""
        header, frames = read_chunk(result)
        self._check(unit, header, frames)
        self._output.note(header.notes)
        for i, (flat, pts, duration) in enumerate(zip(frames, header.pts, header.durations, strict=True)):
            if header.start + i < self._resume_at:
                continue
            if self._encoder is None or self._cutter is None:
                self._encoder = Encoder(self._output.settings, self._info)
                self._cutter = PartCutter(self._job.parts, self._encoder, self._info.time_base, self._resume_at)
            self._output.frame(pts, duration, header.hashes[i])
            self._output.safe(self._cutter.feed(self._encoder.encode(flat, pts, duration)))
            self.encoded += 1

    def _check(self, unit: int, header: ChunkHeader, frames: Array) -> None:
        expected_start = unit * self._spec.chunk
        whole = header.start == header.first == expected_start and len(frames) == header.stop - header.start
        if not whole or len(header.hashes) != len(frames) or header.format != self._output.resolved.storage:
            raise ShareError(f"the result of unit {unit} is not what was asked for: {header.start}…{header.stop}")
        _check_hashes(header, frames)

    def digest(self, result: Path) -> str:
        """The hash of a result's frame hashes, which are checked against its pixels."""
        header, frames = read_chunk(result)
        _check_hashes(header, frames)
        return xxhash.xxh3_128_hexdigest("".join(header.hashes).encode())

    # -- join ----------------------------------------------------------------------------------------------------------

    def finish(self) -> Assembly:
        """End the encoding, join the parts and all other streams of the input."""
        if self._encoder is not None and self._cutter is not None:
            self._output.safe([*self._cutter.feed(self._encoder.flush()), *self._cutter.finish()])
        return self._output.finish()


def _check_hashes(header: ChunkHeader, frames: Array) -> None:
    for i, (flat, told) in enumerate(zip(frames, header.hashes, strict=True)):
        if frame_hash(flat) != told:
            raise ShareError(f"frame {header.start + i} changed on the share after it was published")


class FramesProcessor:
    """What a processor does on the frames plane.

    Args:
        spec: the job.
        job: its directory.
        stream: the collector's record of the frames.

    Raises:
        PluginError: a filter can't be loaded here.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, stream: dict[str, Any]) -> None:
        info = VideoInfo.from_json(stream["info"])
        self._target = pixel_format(stream["target"])
        self._time_base = info.time_base
        self._packing = Packing(spec.pack)
        self._chain = Chain(load_stages(spec, job.plugins), info.spec, self._target, converter)
        samples = self._target.samples(info.width, info.height)
        self._out: Array = np.empty((spec.chunk, samples), self._target.dtype)

    def process(self, source: Path, target: Path, step: Callable[[int], None], *, keep: bool) -> None:
        """Filter a chunk."""
        header, frames = read_chunk(source)
        out = self._out[: header.stop - header.start]
        times = [float(p * self._time_base) for p in header.pts]
        self._chain.run(frames, header.first, out, header.start, times, keep=keep, step=step)
        own = slice(header.start - header.first, header.stop - header.first)
        notes = tuple(f"frame {i}: the filter failed, kept as it came ({why})" for i, why in self._chain.kept)
        result = ChunkHeader(
            self._target.name, header.width, header.height, header.start, header.start, header.stop,
            header.pts[own], header.durations[own], tuple(frame_hash(f) for f in out), notes,
        )  # fmt: skip
        self._packing.write(target, result, out)

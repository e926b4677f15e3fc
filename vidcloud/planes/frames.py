"""The frames plane: pixels travel on the share, 20 frames a unit; the collector decodes and encodes.

It reads as a chunk lives: `FramesCollector.prepare` decodes it, `FramesProcessor.process` filters it,
`FramesCollector.assemble` encodes it, `FramesCollector.finish` joins all.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud import plugins, proof
from vidcloud.chain import Chain, Stage
from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk, write_chunk
from vidcloud.errors import ShareError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.decode import Decoder, OnDamage
from vidcloud.media.encode import Encoder
from vidcloud.media.lossless import is_lossless
from vidcloud.media.mux import mux
from vidcloud.media.parts import Part, PartCutter, whole_parts
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings, resolve
from vidcloud.pixels import Array, pixel_format
from vidcloud.planes.base import Assembly, Gate, Prepared


def load_stages(spec: JobSpec, plugin_dir: Path) -> list[Stage]:
    """The job's filters.

    Raises:
        PluginError: one can't be loaded here, or differs from what the job pinned.
    """
    return [plugins.load(plugins.FilterRef.from_json(r), plugin_dir) for r in spec.filters]


class FramesCollector:
    """What a collector does on the frames plane.

    Args:
        spec: the job.
        job: its directory.
        source: the input as a local file.
        info: what `probe` says of it.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder refuses them.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo) -> None:
        self._spec, self._job, self._source, self._info = spec, job, source, info
        self._settings = EncodeSettings.from_json(spec.encode)
        self._resolved = resolve(self._settings, info)
        stages = load_stages(spec, job.plugins)
        target = pixel_format(self._resolved.storage)
        chain = Chain(stages, info.spec, target, converter)
        self._halo = chain.halo
        self._report = [*info.losses, *self._resolved.notes]
        if any(pixel_format(f).bits < pixel_format(info.storage).bits for f in chain.formats):
            depth = pixel_format(info.storage).bits
            self._report.append(f"depth: a filter of the chain takes 8 bits only, the input has {depth}")
        self._frames = proof.FrameLog(job.parts)
        self._parts = self._frames.covered(whole_parts(job.parts))
        self.encoded = _stop(self._parts[-1]) if self._parts else 0
        self.durable_units = self.encoded // spec.chunk
        self.decoded = 0
        self.lossless = is_lossless(self._settings, self._resolved)
        self.estimate = info.frames
        self._resume_at = self.encoded
        self._on_damage: OnDamage = "conceal" if spec.on_damage == "conceal" else "fail"
        self._encoder: Encoder | None = None
        self._cutter: PartCutter | None = None

    def describe(self) -> dict[str, Any]:
        """The record that processors read."""
        return {
            "version": 1,
            "info": self._info.to_json(),
            "target": self._resolved.storage,
            "pix_fmt": self._resolved.pix_fmt,
        }

    # -- decode --------------------------------------------------------------------------------------------------------

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Decode, and write each chunk with the halo it needs."""
        size, (before, after) = self._spec.chunk, self._halo
        fmt = pixel_format(self._info.storage)
        # One buffer for all: the frames of a chunk and its halo, shifted down when a chunk is written.
        buffer: Array = np.empty((before + size + after, fmt.samples(self._info.width, self._info.height)), fmt.dtype)
        pts: list[int] = []
        durations: list[int] = []
        first, unit = 0, 0  # index of buffer[0]; number of the chunk being filled
        decoder = Decoder(self._source, self._info, on_damage=self._on_damage)
        flow = iter(decoder)
        ended = False
        while not ended:
            start, stop = unit * size, (unit + 1) * size
            for frame in itertools.islice(flow, stop + after - (first + len(pts))):
                buffer[len(pts)] = frame.flat
                pts.append(frame.pts)
                durations.append(frame.duration)
                self.decoded += 1
            have_until = first + len(pts)
            ended = have_until < stop + after
            # The last frames may make more than one chunk: the halo after one is the beginning of the next.
            while start < have_until and (have_until >= stop + after or ended):
                stop = min(stop, have_until)
                if not gate(unit):
                    return
                if not have(unit):
                    lo, hi = max(0, start - before) - first, min(have_until, stop + after) - first
                    header = ChunkHeader(
                        fmt.name, self._info.width, self._info.height, lo + first, start, stop,
                        tuple(pts[lo:hi]), tuple(durations[lo:hi]),
                    )  # fmt: skip
                    self._put(unit, header, buffer[lo:hi])
                yield Prepared(unit, stop - start)
                unit += 1
                start, stop = unit * size, (unit + 1) * size
            drop = max(0, start - before) - first
            if drop > 0 and not ended:
                kept = len(pts) - drop
                buffer[:kept] = buffer[drop : drop + kept]
                del pts[:drop], durations[:drop]
                first += drop
        self._report.extend(decoder.report.notes)

    def _put(self, unit: int, header: ChunkHeader, frames: Array) -> None:
        private = self._job.root / "chunks" / "private" / f"{unit:08d}.input"
        write_chunk(private, header, frames)
        private.replace(self._job.root / "chunks" / "ready" / f"{unit:08d}")

    # -- encode --------------------------------------------------------------------------------------------------------

    def assemble(self, unit: int, result: Path) -> None:
        """Check a result's hashes and encode it."""
        header, frames = read_chunk(result)
        self._check(unit, header, frames)
        self._report.extend(n for n in header.notes if n not in self._report)
        for i, (flat, pts, duration) in enumerate(zip(frames, header.pts, header.durations, strict=True)):
            if header.start + i < self._resume_at:
                continue
            if self._encoder is None or self._cutter is None:
                self._encoder = Encoder(self._settings, self._info)
                self._cutter = PartCutter(self._job.parts, self._encoder, self._info.time_base, self._resume_at)
            self._frames.append(pts, duration, header.hashes[i])
            self._safe(self._cutter.feed(self._encoder.encode(flat, pts, duration)))
            self.encoded += 1

    def _check(self, unit: int, header: ChunkHeader, frames: Array) -> None:
        expected_start = unit * self._spec.chunk
        whole = header.start == header.first == expected_start and len(frames) == header.stop - header.start
        if not whole or len(header.hashes) != len(frames) or header.format != self._resolved.storage:
            raise ShareError(f"the result of unit {unit} is not what was asked for: {header.start}…{header.stop}")
        _check_hashes(header, frames)

    def _safe(self, parts: list[Part]) -> None:
        for part in parts:
            self._frames.cut(part.first, _stop(part))
            self._parts.append(part)
            self.durable_units = _stop(part) // self._spec.chunk

    def digest(self, result: Path) -> str:
        """The hash of a result's frame hashes, which are checked against its pixels."""
        header, frames = read_chunk(result)
        _check_hashes(header, frames)
        return xxhash.xxh3_128_hexdigest("".join(header.hashes).encode())

    # -- join ----------------------------------------------------------------------------------------------------------

    def finish(self, target: Path) -> Assembly:
        """End the encoding, join the parts and all other streams of the input."""
        if self._encoder is not None and self._cutter is not None:
            self._safe(self._cutter.feed(self._encoder.flush()))
            self._safe(self._cutter.finish())
        made = mux(self._parts, self._source, self._info, target)
        return Assembly(self.encoded, [*self._report, *(f"not carried: {line}" for line in made.lost), *made.notes])

    def proof_frames(self) -> Iterator[proof.Entry]:
        """Timestamp, duration and hash of each frame, for the proof."""
        return self._frames.entries(self._parts)


def _stop(part: Part) -> int:
    return part.first + part.frames


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
        write_chunk(target, result, out)

"""The frames plane: pixels travel on the share, 20 frames a unit; the collector decodes and encodes.

It reads as a chunk lives: `FramesCollector.prepare` decodes it, `FramesProcessor.process` filters it,
`FramesCollector.assemble` encodes it, `FramesCollector.finish` joins all. Where pixels are slow to travel, inputs stay
coded (`vidcloud.planes.coded`): then the processor decodes, too, and only results are pixels.
"""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud import log
from vidcloud.chain import Chain
from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk
from vidcloud.errors import MediaError, ShareError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.decode import DecodedFrame, Decoder, OnDamage
from vidcloud.media.encode import Encoder
from vidcloud.media.index import FrameIndex, RunReader, tried_index
from vidcloud.media.parts import PartCutter
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings
from vidcloud.packing import Packing
from vidcloud.pixels import Array, pixel_format
from vidcloud.planes.base import Assembly, Gate, Prepared
from vidcloud.planes.choice import Choice
from vidcloud.planes.coded import CodedRun, coded_pays, open_source, own_threads, peek_coded
from vidcloud.planes.output import Output, load_stages
from vidcloud.planes.passes import FirstPass
from vidcloud.planes.runs import Run, runs

event = log.events("collector")

_AFTER = 4
"""Chunks that travel as pixels before it is asked whether they had better stay coded; then it is asked each so many."""
_WORTH = 10
"""Chunks that must be left for it: the input's packets have to be read."""


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
        MediaError: inputs shall stay coded, and the input's packets don't tell its frames.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo, choice: Choice) -> None:
        self._spec, self._job, self._source, self._info, self.choice = spec, job, source, info, choice
        settings = EncodeSettings.from_json(spec.encode)
        self._first = FirstPass(job.parts, settings, info) if settings.passes > 1 else None
        if self._first:
            _remove_parts(job.parts)  # a second encoder can't go on in the middle of the statistics
        self._output = Output(spec, job, source, info, choice)
        self.passes = 2 if self._first and not self._first.ended else 1
        self._starts, self._assembled = [0], 0
        self._hashes = xxhash.xxh3_128()
        self._index = choice.index
        self.lossless = self._output.lossless
        self._resume_at = self.encoded = self._output.safe_frames
        self.unit_frames = spec.chunk
        self.decoded, self.estimate = 0, self.passes * info.frames
        self._before = 0  # frames decoded in earlier passes
        self._on_damage: OnDamage = "conceal" if spec.on_damage == "conceal" else "fail"
        self._packing = Packing(spec.pack)
        self._decode_s, self._shown = 0.0, 0
        # An earlier collector may have found that inputs had better stay coded.
        self._coded = spec.pack == "coded" or _any_coded(job)
        if self._coded:
            self._index = self._index or tried_index(source, info)
            self.estimate = self.passes * len(self._index.pts)
        self._may_code = spec.pack == "auto" and self._on_damage == "fail" and _same_disk(source, job.root)
        self._encoder: Encoder | None = None
        self._cutter: PartCutter | None = None
        self.describe, self.begin, self.abandon = self._output.describe, self._output.begin, self._output.abandon
        self.proof_frames = self._output.proof_frames

    @property
    def durable_units(self) -> int:
        """Units whose frames are all in whole parts; of two passes, those that an encoder was shown."""
        return self._assembled if self._first else self._output.safe_frames // self._spec.chunk

    def first_unit(self, anew: Callable[[], int]) -> int:
        """Go on after the whole parts; begin a pass anew, with units that nobody had, where there are two."""
        if self._first:
            self._assembled = anew()
            self._starts = [self._assembled]
        return self.durable_units

    # -- decode --------------------------------------------------------------------------------------------------------

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Decode, and write each chunk with the halo it needs; or tell where its frames are, from any chunk on.

        For two passes all of it twice, with units that go on counting: no pixels are kept between them.
        """
        unit = self._starts[0]
        for number in range(self.passes):
            if number:
                self._starts.append(unit)
            for prepared in self._prepare_pass(gate, have):
                yield prepared
                unit = prepared.unit + 1

    def _prepare_pass(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        unit, self._before = self._starts[-1], self.decoded
        if not self._coded:
            for prepared in self._decode(gate, have):
                yield prepared
                unit = prepared.unit + 1
        if self._coded and self._index is not None:
            yield from self._tell(unit, self._index, gate, have)

    def _decode(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        fmt = pixel_format(self._info.storage)
        size = (self._info.width, self._info.height)
        decoder = Decoder(self._source, self._info, on_damage=self._on_damage)
        with closing(self._counted(decoder)) as flow:
            chunks = runs(flow, self._spec.chunk, self._output.halo, fmt, fmt.samples(*size))
            for unit, run in enumerate(chunks, self._starts[-1]):
                if not gate(unit):
                    return
                if not have(unit):
                    header = ChunkHeader(fmt.name, *size, run.first, run.start, run.stop, run.pts, run.durations)
                    self._put(unit, header, run.frames)
                yield Prepared(unit, run.stop - run.start)
                if (
                    (unit - self._starts[-1]) % _AFTER == _AFTER - 1
                    and not decoder.report.repaired
                    and self._is_better_coded()
                ):
                    self._coded = True
                    break
        self._output.note(decoder.report.notes)

    def _counted(self, decoder: Decoder) -> Generator[DecodedFrame]:
        began = time.monotonic()
        for frame in decoder:
            self._decode_s += time.monotonic() - began
            self.decoded += 1
            self._shown = frame.pts
            yield frame
            began = time.monotonic()

    def _put(self, unit: int, header: ChunkHeader, frames: Array) -> None:
        private = self._job.root / "chunks" / "private" / f"{unit:08d}.input"
        self._packing.write(private, header, frames)
        private.replace(self._job.root / "chunks" / "ready" / f"{unit:08d}")

    # -- inputs that stay coded ----------------------------------------------------------------------------------------

    def _is_better_coded(self) -> bool:
        """Whether the rest had better stay coded, as far as this collector's share and those of processors tell."""
        chunk, decode_s = self._spec.chunk, self._decode_s / self.decoded
        frame_bytes = pixel_format(self._info.storage).frame_bytes(self._info.width, self._info.height)
        pixels_s = self._packing.cost(chunk * frame_bytes)
        left = self.estimate - self.decoded if self.estimate else _WORTH * chunk
        if not self._may_code or decode_s * chunk > pixels_s or left < _WORTH * chunk:
            return False
        try:
            index = self._index = self._index or tried_index(self._source, self._info)
        except MediaError:
            self._may_code = False
            return False
        seen = self.decoded - self._before
        if len(index.pts) < seen or index.pts[seen - 1] != self._shown:
            self._may_code = False  # packets tell of other frames than the decoder gave
            return False
        read_s = self._packing.read_s(self._source.stat().st_size / len(index.pts))
        nodes = max(1, self._job.nodes())
        if not coded_pays(index, chunk, nodes, decode_s=decode_s, pixels_s=pixels_s, read_s=read_s):
            return False
        self.estimate = self.passes * len(index.pts)
        costs = {"pixels_ms": round(1e3 * pixels_s / chunk, 1), "decode_ms": round(1e3 * decode_s, 1)}
        event("inputs_stay_coded", after=self.decoded, **costs)
        return True

    def _tell(self, unit: int, index: FrameIndex, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        for start in range((unit - self._starts[-1]) * self._spec.chunk, len(index.pts), self._spec.chunk):
            if not gate(unit):
                return
            stop = min(start + self._spec.chunk, len(index.pts))
            if not have(unit):
                run = CodedRun.of(index, start, stop, self._output.halo)
                self._job.directory.replace(f"chunks/ready/{unit:08d}", run.to_bytes())
            yield Prepared(unit, stop - start)
            self.decoded = self._before + stop
            unit += 1

    # -- encode --------------------------------------------------------------------------------------------------------

    def assemble(self, unit: int, result: Path) -> None:
        """Check a result's hashes and encode it; in the first of two passes for the statistics alone."""
        header, frames = read_chunk(result)
        self._packing.hear(header.pace)
        start = max(s for s in self._starts if s <= unit)
        self._check(unit, start, header, frames)
        self._output.note(header.notes)
        if self._first and self.passes > 1 and start == self._starts[0]:
            for told in zip(frames, header.pts, header.durations, header.hashes, strict=True):
                self._first.encode(*told)
                self.encoded += 1
        else:
            self._encode(header, frames)
        self._assembled = unit + 1

    def _encode(self, header: ChunkHeader, frames: Array) -> None:
        for i, (flat, pts, duration) in enumerate(zip(frames, header.pts, header.durations, strict=True)):
            if header.start + i < self._resume_at:
                continue
            if self._encoder is None or self._cutter is None:
                self._encoder = self._open_encoder()
                self._cutter = PartCutter(self._job.parts, self._encoder, self._info.time_base, self._resume_at)
            self._output.frame(pts, duration, header.hashes[i])
            self._hashes.update(header.hashes[i].encode())
            self._output.safe(self._cutter.feed(self._encoder.encode(flat, pts, duration)))
            self.encoded += 1

    def _open_encoder(self) -> Encoder:
        if self._first is None:
            return Encoder(self._output.settings, self._info)
        if not self._first.ended:
            self._first.finish()
            event("first_pass", frames=self.encoded)
        return Encoder(self._output.settings, self._info, statistics=self._first.statistics)

    def _check(self, unit: int, start: int, header: ChunkHeader, frames: Array) -> None:
        expected_start = (unit - start) * self._spec.chunk
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
        if self._first and not self._first.same(self._output.safe_frames, self._hashes.hexdigest()):
            self._output.note(["the filter made other pixels in the second pass: it is not deterministic"])
        return self._output.finish()


def _remove_parts(folder: Path) -> None:
    for pattern in ("part-*", "*.frames.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _any_coded(job: JobDirectory) -> bool:
    for name in job.directory.names("chunks/ready"):
        with suppress(FileNotFoundError, ShareError):
            return peek_coded(job.directory.path(f"chunks/ready/{name}")) is not None
    return False


def _same_disk(source: Path, share: Path) -> bool:
    """Whether the input lies where the share does: all nodes have that; other paths, maybe only the collector."""
    return source.stat().st_dev == share.stat().st_dev


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
        self._info = info = VideoInfo.from_json(stream["info"])
        self._target = pixel_format(stream["target"])
        self._packing = Packing(spec.pack)
        self._chain = Chain(load_stages(spec, job.plugins), info.spec, self._target, converter)
        samples = self._target.samples(info.width, info.height)
        self._out: Array = np.empty((spec.chunk, samples), self._target.dtype)
        self._spec, self._job, self._stream = spec, job, stream
        self._reader: RunReader | None = None
        self._in: Array = np.empty((0, 0), np.uint8)

    def process(self, source: Path, target: Path, step: Callable[[int], None], *, keep: bool) -> None:
        """Filter a chunk."""
        run = self._read(source, step)
        out = self._out[: run.stop - run.start]
        times = [float(p * self._info.time_base) for p in run.pts]
        self._chain.run(run.frames, run.first, out, run.start, times, keep=keep, step=step)
        own = slice(run.start - run.first, run.stop - run.first)
        notes = tuple(f"frame {i}: the filter failed, kept as it came ({why})" for i, why in self._chain.kept)
        result = ChunkHeader(
            self._target.name, self._info.width, self._info.height, run.start, run.start, run.stop,
            run.pts[own], run.durations[own], tuple(frame_hash(f) for f in out), notes,
        )  # fmt: skip
        self._packing.write(target, result, out)

    def _read(self, source: Path, step: Callable[[int], None]) -> Run:
        coded = peek_coded(source)
        if coded is None:
            header, frames = read_chunk(source)
            self._packing.hear(header.pace)
            return Run(header.first, header.start, header.stop, frames, header.pts, header.durations)
        if self._reader is None:
            file = open_source(self._spec, self._job, self._stream)
            fmt, overlap = pixel_format(self._info.storage), sum(self._chain.halo)
            self._reader = RunReader(file, self._info, own_threads(self._job), keep=overlap)
            most = len(self._out) + overlap
            self._in = np.empty((most, fmt.samples(self._info.width, self._info.height)), fmt.dtype)
        durations, way = [], itertools.count(1)  # a long way to the first frame shows progress, too
        with closing(self._reader.run(coded.first, coded.pts, coded.entries, lambda: step(-next(way)))) as flow:
            for i, frame in enumerate(flow):
                self._in[i] = frame.flat
                durations.append(frame.duration)
        frames = self._in[: len(durations)]
        return Run(coded.first, coded.start, coded.stop, frames, tuple(coded.pts), tuple(durations))

    def close(self) -> None:
        """Let go of the input."""
        if self._reader is not None:
            self._reader.close()

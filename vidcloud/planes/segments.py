"""The segments plane: compressed pictures travel; a processor decodes, filters and encodes its own run of chunks.

The collector reads the input's packets, never a pixel: `SegmentsCollector.prepare` tells each unit's frames by
timestamp, `SegmentsProcessor.process` makes a closed part of them,
`SegmentsCollector.assemble` takes the part as it is.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud.chain import Chain
from vidcloud.chunkfile import frame_hash
from vidcloud.errors import MediaError, ShareError, StorageError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.encode import EncodedPacket, Encoder
from vidcloud.media.index import RunReader, build_index
from vidcloud.media.parts import Part, PartWriter, part_path, read_part
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings
from vidcloud.pixels import Array, pixel_format
from vidcloud.planes.base import Assembly, Gate, Prepared
from vidcloud.planes.choice import Choice
from vidcloud.planes.coded import CodedRun, open_source, own_threads, read_coded, source_version
from vidcloud.planes.cuts import Cutter, known_cut
from vidcloud.planes.output import Output, load_stages
from vidcloud.planes.runs import Run, runs

_BUFFERS = 2
"""Of decoded and of filtered batches: while one is filtered, the next is decoded and the one before encoded."""
_BYTES = 512e6
"""… and what they may take together: batches of large pictures are smaller."""
_SHOW_S = 0.25
"""How often a long way to a segment's first frame shows progress."""


class SegmentsCollector:
    """What a collector does on the segments plane.

    Args:
        spec: the job.
        job: its directory.
        source: the input as a local file.
        info: what `probe` says of it.
        choice: why on this plane, and what is known of the input from choosing it.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder refuses them.
        MediaError: the input's packets don't tell its frames.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo, choice: Choice) -> None:
        self._spec, self._job, self.choice = spec, job, choice
        self._output = Output(spec, job, source, info, choice)
        self.lossless = self._output.lossless
        self._index = choice.index or build_index(source, info)
        self._cutter = Cutter(
            len(self._index.pts), self._index.key_frames,
            chunk=spec.chunk, chunks=spec.segment_chunks, preroll=choice.preroll,
        )  # fmt: skip
        self.unit_frames = spec.chunk * spec.segment_chunks
        self.encoded = self.decoded = self._output.safe_frames
        self.estimate, self.passes = len(self._index.pts), 1
        self._version = source_version(spec, job)
        if self._version and self._version.size != source.stat().st_size:
            raise StorageError(f"{spec.input} has changed since it was fetched: start the job anew")
        self.begin, self.abandon = self._output.begin, self._output.abandon
        self.proof_frames = self._output.proof_frames

    def describe(self) -> dict[str, object]:
        """What processors must know (``stream.json``), the version of a source that they read by ranges included."""
        told = self._output.describe()
        return told | {"source": self._version.to_json()} if self._version else told

    @property
    def durable_units(self) -> int:
        """Units whose parts are taken."""
        return len(self._output.parts)

    def first_unit(self, anew: Callable[[], int]) -> int:  # noqa: ARG002 - of the seam
        """Go on after the parts that are taken."""
        return self.durable_units

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Tell each unit's frames by timestamp."""
        total, known = len(self._index.pts), self._known()
        unit, stop = 0, 0
        for part in list(self._output.parts):
            if not gate(unit):
                return
            stop = part.first + part.frames
            yield Prepared(unit, part.frames)
            unit += 1
        while stop < total:
            if not gate(unit):
                return
            start = stop
            stop = known[unit][1] if unit in known else self._cut(unit, start, known)
            if not have(unit):
                self._put(unit, start, stop)
            yield Prepared(unit, stop - start)
            unit += 1

    def _known(self) -> dict[int, tuple[int, int]]:
        """Units that an earlier collector cut: what it asked for or what was made of it tells where."""
        found = {}
        for name in self._job.directory.names("chunks/ready"):
            with contextlib.suppress(FileNotFoundError, ValueError, ShareError):
                run = read_coded(self._job.directory.path(f"chunks/ready/{name}"))
                found[int(name)] = (run.start, run.stop)
        for name in self._job.directory.names("chunks/done"):
            with contextlib.suppress(FileNotFoundError, ValueError, ShareError):
                told = _result(self._job.directory.path(f"chunks/done/{name}")).told
                found[int(name.split(".")[0])] = (told["start"], told["stop"])
        return found

    def _cut(self, unit: int, start: int, known: dict[int, tuple[int, int]]) -> int:
        given = known_cut(unit, start, {u: first for u, (first, _) in known.items()})
        if given is not None:
            return given
        return self._cutter.stop(start, self._job.nodes())

    def _put(self, unit: int, start: int, stop: int) -> None:
        run = CodedRun.of(self._index, start, stop, self._output.halo)
        self._job.directory.replace(f"chunks/ready/{unit:08d}", run.to_bytes())

    def assemble(self, unit: int, result: Path) -> None:
        """Take a part as it is, and note its frames for the proof."""
        part, start = _result(result), self.encoded  # results come in order
        _check(part)
        told = self._index.pts[start : part.told["stop"]]
        if part.told["start"] != start or [e[0] for e in part.told["frames"]] != list(told) or part.frames != len(told):
            raise ShareError(f"the result of unit {unit} does not hold the frames that were asked for")
        final = part_path(self._job.parts, start)
        final.unlink(missing_ok=True)  # of a collector that died before it noted the frames
        final.hardlink_to(result)
        for pts, duration, digest in part.told["frames"]:
            self._output.frame(pts, duration, digest)
        self._output.note(part.told["notes"])
        self._output.safe([replace(part, path=final)])
        self.encoded += part.frames
        self.decoded = self.encoded

    def digest(self, result: Path) -> str:
        """The hash of a whole result's frame hashes: two encodings may differ, the filtered pixels may not."""
        part = _result(result)
        _check(part)
        return xxhash.xxh3_128_hexdigest("".join(e[2] for e in part.told["frames"]).encode())

    def finish(self) -> Assembly:
        """Join the parts with all other streams of the input."""
        return self._output.finish()


class SegmentsProcessor:
    """What a processor does on the segments plane.

    Args:
        spec: the job.
        job: its directory.
        stream: the collector's record of the frames.

    Raises:
        PluginError: a filter can't be loaded here.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, stream: dict[str, Any]) -> None:
        self._info = VideoInfo.from_json(stream["info"])
        self._settings = EncodeSettings.from_json(spec.encode)
        self._target = pixel_format(stream["target"])
        self._chain = Chain(load_stages(spec, job.plugins), self._info.spec, self._target, converter)
        self._job = job
        # Processors of one machine share its cores: more threads each would only cost.
        source = open_source(spec, job, stream)
        self._reader = RunReader(source, self._info, own_threads(job), keep=sum(self._chain.halo))
        self._fmt = pixel_format(self._info.storage)
        size = self._info.width, self._info.height
        self._samples = self._fmt.samples(*size)
        both = self._fmt.frame_bytes(*size) + self._target.frame_bytes(*size)
        self._batch = max(1, min(spec.chunk, int(_BYTES / (_BUFFERS * both))))
        self._out: Array = np.empty((_BUFFERS, self._batch, self._target.samples(*size)), self._target.dtype)

    def process(self, source: Path, target: Path, step: Callable[[int], None], *, keep: bool) -> None:
        """Decode, filter and encode a segment, each on a thread of its own."""
        unit = read_coded(source)
        start, stop = unit.start, unit.stop
        self._reader.threads = threads = own_threads(self._job)  # nodes come and go
        way = _Way()
        frames = self._reader.run(unit.first, unit.pts, unit.entries, way)
        made = _Segment(target, self._settings, self._info, start, threads)
        notes: list[str] = []
        decoding, encoding = ThreadPoolExecutor(1, "decode"), ThreadPoolExecutor(1, "encode")
        waiting: deque[Future[None]] = deque()

        def shown() -> None:
            # What the encoder was given; frames are filtered little before that.
            step(len(made.frames) or -way.frames)

        try:
            flow = runs(
                frames, self._batch, self._chain.halo, self._fmt, self._samples,
                begin=start, end=stop, buffers=_BUFFERS,
            )  # fmt: skip
            for run, buffer in zip(_ahead(flow, decoding, shown), cycle(self._out)):
                _await(waiting, shown, self._batch)  # the batch before the last one lies in the same memory
                out, own = buffer[: run.stop - run.start], run.start - run.first

                def filtered(frames: int, out: Array = out, run: Run = run, own: int = own) -> None:
                    shown()
                    i = frames - 1
                    waiting.append(encoding.submit(made.add, out[i], run.pts[own + i], run.durations[own + i]))

                times = [float(p * self._info.time_base) for p in run.pts]
                self._chain.run(run.frames, run.first, out, run.start, times, keep=keep, step=filtered)
                notes += [f"frame {i}: the filter failed, kept as it came ({why})" for i, why in self._chain.kept]
            _await(waiting, shown, 0)
            made.finish(stop, notes)
        finally:
            way.given_up = True
            decoding.shutdown(cancel_futures=True)
            encoding.shutdown(cancel_futures=True)
            frames.close()
            made.abandon()

    def close(self) -> None:
        """Let go of the input."""
        self._reader.close()


class _Segment:
    """A closed part while it grows; used by one thread at a time.

    Args:
        path: a private name for the part.
        settings: of the encoder.
        info: of the source.
        start: index in the video of the first frame.
        threads: of the encoder.
    """

    def __init__(self, path: Path, settings: EncodeSettings, info: VideoInfo, start: int, threads: int) -> None:
        self._path, self._start, self._time_base = path, start, info.time_base
        self._encoder = Encoder(settings, info, threads=threads)
        self._writer: PartWriter | None = None
        self.frames: list[tuple[int, int, str]] = []

    def add(self, flat: Array, pts: int, duration: int) -> None:
        """Encode the next frame and note its hash."""
        self.frames.append((pts, duration, frame_hash(flat)))
        self._take(self._encoder.encode(flat, pts, duration))

    def _take(self, packets: list[EncodedPacket]) -> None:
        for packet in packets:
            if self._writer is None:
                if not packet.key or packet.frame != 0:
                    raise MediaError(
                        f"{self._encoder.resolved.encoder} does not begin with a closed keyframe: use --plane frames"
                    )
                self._writer = PartWriter(self._path, self._encoder, self._time_base, self._start)
            self._writer.add(packet)

    def finish(self, stop: int, notes: list[str]) -> None:
        """Make the part whole, its frames' hashes and the notes in it.

        Raises:
            MediaError: the encoder gave other than one packet for each frame.
        """
        self._take(self._encoder.flush())
        if self._writer is None or self._writer.frames != stop - self._start:
            raise MediaError(f"the encoder gave other than one packet for each of the frames {self._start}…{stop - 1}")
        self._writer.finish(start=self._start, stop=stop, frames=self.frames, notes=notes)

    def abandon(self) -> None:
        """Leave nothing behind of a part that is not whole."""
        if self._writer is not None:
            self._writer.abandon()


class _Way:
    """How far the decoder is on its way to a segment, and whether nobody waits for it any more."""

    def __init__(self) -> None:
        self.frames, self.given_up = 0, False

    def __call__(self) -> None:
        """One frame more."""
        self.frames += 1
        if self.given_up:
            raise _GivenUpError


class _GivenUpError(Exception):
    """The segment is another's by now, or this node leaves."""


def _ahead(flow: Iterator[Run], pool: ThreadPoolExecutor, shown: Callable[[], None]) -> Iterator[Run]:
    """Let the decoder be one batch ahead of who takes them; show progress meanwhile."""
    coming = pool.submit(next, flow, None)
    while True:
        while not wait([coming], _SHOW_S).done:
            shown()
        if (run := coming.result()) is None:
            return
        coming = pool.submit(next, flow, None)
        yield run


def _await(waiting: deque[Future[None]], shown: Callable[[], None], left: int) -> None:
    """Wait until no more than so many frames that were given to the encoder are not coded; show progress meanwhile."""
    while len(waiting) > left:
        waiting.popleft().result()
        shown()


def _result(path: Path) -> Part:
    """A published part.

    Raises:
        FileNotFoundError: there is none (any more).
        ShareError: it is cut short, damaged or something else.
    """
    try:
        part = read_part(path)
    except MediaError as e:
        if isinstance(e.__cause__, FileNotFoundError):
            raise e.__cause__ from None
        raise ShareError(str(e)) from e
    if not part.told:
        raise ShareError(f"{path} is not a segment")
    return part


def _check(part: Part) -> None:
    try:
        part.check()
    except MediaError as e:
        raise ShareError(str(e)) from e

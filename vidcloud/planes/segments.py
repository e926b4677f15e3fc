"""The segments plane: compressed pictures travel; a processor decodes, filters and encodes its own run of chunks.

The collector reads the input's packets, never a pixel: `SegmentsCollector.prepare` tells each unit's frames by
timestamp, `SegmentsProcessor.process` makes a closed part of them,
`SegmentsCollector.assemble` takes the part as it is.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud import storage
from vidcloud.chain import Chain
from vidcloud.chunkfile import frame_hash
from vidcloud.errors import MediaError, ShareError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.encode import Encoder
from vidcloud.media.index import RunDecoder, build_index
from vidcloud.media.parts import PartWriter, part_path, read_part
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings
from vidcloud.pixels import Array, pixel_format
from vidcloud.planes.base import Assembly, Gate, Prepared
from vidcloud.planes.output import Output, load_stages
from vidcloud.planes.runs import runs

_MAGIC = b"vidcloud segment 1 "


def source_path(spec: JobSpec, job: JobDirectory) -> Path:
    """Where every node finds the input: its own path, or what the collector fetched onto the share."""
    return storage.local_path(spec.input) or job.scratch / storage.name_of(spec.input)


class SegmentsCollector:
    """What a collector does on the segments plane.

    Args:
        spec: the job.
        job: its directory.
        source: the input as a local file.
        info: what `probe` says of it.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder refuses them.
        MediaError: the input's packets don't tell its frames.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo) -> None:
        self._spec, self._job = spec, job
        self._output = Output(spec, job, source, info)
        self.lossless = self._output.lossless
        self._index = build_index(source, info)
        self.unit_frames = spec.chunk * spec.segment_chunks
        self.encoded = self.decoded = self._output.safe_frames
        self.estimate = len(self._index.pts)
        self.describe = self._output.describe
        self.proof_frames = self._output.proof_frames

    @property
    def durable_units(self) -> int:
        """Units whose parts are taken."""
        return len(self._output.parts)

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Tell each unit's frames by timestamp."""
        before, after = self._output.halo
        total = len(self._index.pts)
        for unit, start in enumerate(range(0, total, self.unit_frames)):
            if not gate(unit):
                return
            stop = min(start + self.unit_frames, total)
            first, end = max(0, start - before), min(total, stop + after)
            if not have(unit):
                pts = self._index.pts[first:end]
                record = {
                    "first": first,
                    "start": start,
                    "stop": stop,
                    "pts": pts,
                    "entries": self._index.entries(pts[0]),
                }
                name = f"chunks/ready/{unit:08d}"
                self._job.directory.replace(name, json.dumps({"version": 1, **record}).encode())
            yield Prepared(unit, stop - start)

    def assemble(self, unit: int, result: Path) -> None:
        """Take a part as it is, and note its frames for the proof."""
        header, part = _read(result)
        start = unit * self.unit_frames
        told = self._index.pts[start : start + self.unit_frames]
        if header["start"] != start or [e[0] for e in header["frames"]] != list(told):
            raise ShareError(f"the result of unit {unit} does not hold the frames that were asked for")
        final = part_path(self._job.parts, start)
        beside = final.with_name(final.name + ".partial")
        with beside.open("wb") as f:
            f.write(part)
            f.flush()
            os.fsync(f.fileno())
        beside.replace(final)
        made = read_part(final)
        if made.frames != len(told):
            raise ShareError(f"the part of unit {unit} has {made.frames} frames, not {len(told)}")
        for pts, duration, digest in header["frames"]:
            self._output.frame(pts, duration, digest)
        self._output.note(header["notes"])
        self._output.safe([made])
        self.encoded += made.frames
        self.decoded = self.encoded

    def digest(self, result: Path) -> str:
        """The hash of a result's frame hashes: two encodings may differ, the filtered pixels may not."""
        header, _ = _read(result)
        return xxhash.xxh3_128_hexdigest("".join(e[2] for e in header["frames"]).encode())

    def finish(self, target: Path) -> Assembly:
        """Join the parts with all other streams of the input."""
        return self._output.finish(target)


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
        self._source = source_path(spec, job)
        self._out: Array = np.empty(
            (spec.chunk, self._target.samples(self._info.width, self._info.height)), self._target.dtype
        )
        # Processors of one machine share its cores: more threads each would only cost.
        self._threads = max(1, (os.cpu_count() or 1) // max(1, job.nodes()))

    def process(self, source: Path, target: Path, step: Callable[[int], None], *, keep: bool) -> None:
        """Decode, filter and encode a segment."""
        unit = json.loads(source.read_bytes())
        start, stop = unit["start"], unit["stop"]
        flow = iter(RunDecoder(self._source, self._info, unit["first"], unit["pts"], unit["entries"], self._threads))
        fmt = pixel_format(self._info.storage)
        samples = fmt.samples(self._info.width, self._info.height)
        encoder = Encoder(self._settings, self._info, threads=self._threads)
        made = target.with_name(target.name + ".part")
        writer: PartWriter | None = None
        frames: list[tuple[int, int, str]] = []
        notes: list[str] = []

        def add(packets: list[Any]) -> None:
            nonlocal writer
            for packet in packets:
                if writer is None:
                    if not packet.key or packet.frame != 0:
                        raise MediaError(
                            f"{self._settings.codec} does not begin with a closed keyframe: use --plane frames"
                        )
                    writer = PartWriter(made, encoder, self._info.time_base, start)
                writer.add(packet)

        try:
            for run in runs(flow, len(self._out), self._chain.halo, fmt, samples, begin=start, end=stop):
                out = self._out[: run.stop - run.start]
                times = [float(p * self._info.time_base) for p in run.pts]
                done = run.start - start
                self._chain.run(
                    run.frames, run.first, out, run.start, times, keep=keep, step=partial(_further, step, done)
                )
                notes += [f"frame {i}: the filter failed, kept as it came ({why})" for i, why in self._chain.kept]
                own = run.start - run.first
                for i, flat in enumerate(out):
                    pts, duration = run.pts[own + i], run.durations[own + i]
                    frames.append((pts, duration, frame_hash(flat)))
                    add(encoder.encode(flat, pts, duration))
                    step(done + i + 1)
            add(encoder.flush())
            if writer is None or writer.frames != stop - start:
                raise MediaError(f"the encoder gave other than one packet for each of the frames {start}…{stop - 1}")
            writer.finish()
            _write(target, {"start": start, "stop": stop, "frames": frames, "notes": notes}, made.read_bytes())
        finally:
            made.unlink(missing_ok=True)
            if writer is not None:
                writer.abandon()


def _further(step: Callable[[int], None], done: int, frames: int) -> None:
    step(done + frames)


def _write(target: Path, header: dict[str, Any], part: bytes) -> None:
    body = json.dumps({"version": 1, **header}, separators=(",", ":")).encode()
    target.write_bytes(_MAGIC + f"{len(body)} {len(part)} {xxhash.xxh3_128_hexdigest(part)}\n".encode() + body + part)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    line, _, rest = path.read_bytes().partition(b"\n")
    try:
        header, size, digest = line.removeprefix(_MAGIC).split()
        record: dict[str, Any] = json.loads(rest[: int(header)])
    except ValueError as e:
        raise ShareError(f"{path} is not a segment") from e
    part = rest[int(header) :]
    if len(part) != int(size) or xxhash.xxh3_128_hexdigest(part).encode() != digest:
        raise ShareError(f"{path} is cut short or damaged")
    return record, part

"""Inputs that stay coded: a unit names its frames by timestamp, and the processor that claims it decodes them."""

import functools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from vidcloud import storage
from vidcloud.errors import ShareError
from vidcloud.filter import Halo
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.index import FrameIndex
from vidcloud.ranges import RangeFile, Version

_MARGIN = 0.95
"""Of the pixels' time before inputs stay coded: near a tie, go on as before."""
_LONGEST_S = 60.0
"""Seconds that a processor may decode before the first frame of its own: who takes a unit over holds up all by that."""


@dataclass(frozen=True)
class CodedRun:
    """Where a unit's frames are in the input.

    Attributes:
        first: index in the video of the first frame, that of the halo included.
        start: index of the unit's own first frame.
        stop: one past its own last frame.
        pts: timestamps of all its frames and of the halo, in the video's time base.
        entries: timestamps of keyframes from which they can be decoded, the nearest first.
    """

    first: int
    start: int
    stop: int
    pts: list[int]
    entries: list[int]

    @classmethod
    def of(cls, index: FrameIndex, start: int, stop: int, halo: Halo) -> "CodedRun":
        """The frames from ``start`` up to ``stop``, with their halo as far as the video has it."""
        first = max(0, start - halo[0])
        pts = index.pts[first : stop + halo[1]].tolist()
        return cls(first, start, stop, pts, index.entries(pts[0]))

    def to_bytes(self) -> bytes:
        """As written to the share."""
        return json.dumps({"version": 1, **asdict(self)}).encode()


def peek_coded(path: Path) -> CodedRun | None:
    """What a unit's input file says, or None: it holds pixels.

    Raises:
        FileNotFoundError: there is no such file (any more).
        ShareError: it is damaged.
    """
    with path.open("rb") as f:
        if (head := f.read(1)) != b"{":
            return None
        try:
            record = json.loads(head + f.read())
            del record["version"]
            return CodedRun(**record)
        except (ValueError, KeyError, TypeError) as e:
            raise ShareError(f"{path} is cut short") from e


def read_coded(path: Path) -> CodedRun:
    """What a unit's input file says.

    Raises:
        FileNotFoundError: there is no such file (any more).
        ShareError: it is damaged, or holds pixels.
    """
    if (run := peek_coded(path)) is None:
        raise ShareError(f"{path} does not tell frames")
    return run


def open_source(spec: JobSpec, job: JobDirectory, stream: dict[str, Any]) -> Path | BinaryIO:
    """Where a processor reads the input: its own path, what the collector fetched onto the share, or its server.

    Raises:
        StorageError: the server does not have the version that the collector saw.
    """
    if spec.source == "ranges":
        # A RawIOBase has all of a BinaryIO that readers of videos ask for.
        signed = functools.partial(job.signed_input, spec.input)
        return cast("BinaryIO", RangeFile(spec.input, Version(**stream["source"]), signed))
    return storage.local_path(spec.input) or job.scratch / storage.name_of(spec.input)


def source_version(spec: JobSpec, job: JobDirectory) -> Version | None:
    """Which version of the input all processors read by ranges: after a resume, that of the parts which are there."""
    if spec.source != "ranges":
        return None
    stream = job.stream()
    return RangeFile(spec.input, Version(**stream["source"]) if stream else None).version


def own_threads(job: JobDirectory) -> int:
    """Threads a codec has in a processor: those of one machine share its cores, and more each would only cost."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, -(-job.nodes() // job.machines())))


def stretch(index: FrameIndex, chunk: int, nodes: int) -> tuple[float, int]:
    """What processors decode where each takes every n-th chunk, for the way to a frame leads over those before it.

    A processor goes on from the chunk it had, or begins at the keyframe before the next one if that is nearer.

    Returns:
        Frames decoded for each that is wanted; and the longest way from a keyframe to a chunk, in frames.
    """
    starts = np.arange(0, len(index.pts), chunk)
    keys = np.asarray(index.key_frames, np.int64)
    nearest = np.searchsorted(keys, starts, "right") - 1
    way = starts - np.where(nearest >= 0, keys[nearest], 0) if len(keys) else starts
    return 1 + float(np.minimum(way, (nodes - 1) * chunk).mean()) / chunk, int(way.max())


def coded_pays(
    index: FrameIndex, chunk: int, nodes: int, *, decode_s: float, pixels_s: float, read_s: float = 0.0
) -> bool:
    """Whether processors had better decode for themselves.

    Args:
        index: of the input.
        chunk: frames a unit.
        nodes: processors.
        decode_s: seconds that a frame takes to decode.
        pixels_s: seconds that a unit's pixels cost on their way over the share.
        read_s: seconds that a coded frame takes to be read from the share.
    """
    times, longest = stretch(index, chunk, nodes)
    # The collector would decode, too, but beside the processors' work: what they do is to pay by itself.
    return (decode_s + read_s) * chunk * times < _MARGIN * pixels_s and longest * decode_s <= _LONGEST_S

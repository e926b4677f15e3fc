"""A video's frames without decoding (timestamps, and where decoding can start), and the decoding of any run of them."""

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av.error
import numpy as np
from numpy.typing import NDArray

from vidcloud.errors import MediaError
from vidcloud.media.decode import DecodedFrame
from vidcloud.media.files import open_input, reason
from vidcloud.media.lengths import missing_bytes, missing_samples
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import Array, pixel_format

_UNKNOWN = -(1 << 63)
_EARLIER = 3
"""How many keyframes further back are tried before decoding from the start."""


@dataclass(frozen=True)
class FrameIndex:
    """A video's frames in order of presentation. Eight bytes a frame, for videos of many hours.

    Attributes:
        pts: timestamps of all frames, strictly increasing, in the video's time base.
        keys: timestamps of the frames at which decoding can start.
        key_frames: indices of these frames.
    """

    pts: "array[int]"
    keys: "array[int]"
    key_frames: "array[int]"

    def entries(self, pts: int) -> list[int]:
        """Where to start for a frame: the nearest keyframes at or before it, the nearest first."""
        stop = bisect_right(self.keys, pts)
        return self.keys[max(0, stop - _EARLIER) : stop].tolist()[::-1]


def build_index(path: Path | str, info: VideoInfo) -> FrameIndex:
    """Read a video's packets, decoding nothing.

    Raises:
        MediaError: the file is truncated, or its packets don't tell its frames' timestamps.
    """
    pts, dts, key = array("q"), array("q"), bytearray()
    with open_input(path) as container:
        stream = container.streams[info.stream]
        if truncated := missing_bytes(path) or missing_samples(container):
            raise MediaError(f"{path}: the file is truncated: {truncated}; --on-damage conceal shows what there is")
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    pts.append(_UNKNOWN if packet.pts is None else packet.pts)
                    dts.append(_UNKNOWN if packet.dts is None else packet.dts)
                    key.append(packet.is_keyframe)
        except av.error.FFmpegError as e:
            raise MediaError(f"{path}: packet {len(pts)} can't be read: {reason(e)}") from e
    times = np.frombuffer(pts, np.int64)
    if (times == _UNKNOWN).all():  # AVI gives decoding times alone, which are those of presentation without reordering
        times = np.frombuffer(dts, np.int64)
    order = np.argsort(times, kind="stable")
    shown = times[order]
    if not len(shown) or shown[0] == _UNKNOWN or (np.diff(shown) <= 0).any():
        raise MediaError(f"{path}: its packets don't tell when each frame is shown: use --plane frames")
    frames = np.flatnonzero(np.frombuffer(key, np.uint8)[order])
    return FrameIndex(_array(shown), _array(shown[frames]), _array(frames))


def _array(values: NDArray[np.int64] | NDArray[np.intp]) -> "array[int]":
    return array("q", values.astype(np.int64).tobytes())


class RunDecoder:
    """Iterates over a run of a video's frames, found by their timestamps.

    Args:
        path: the file, or an open one.
        info: what `probe` told of it.
        first: index in the video of the run's first frame.
        pts: the timestamps of the run's frames, from the index.
        entries: timestamps of keyframes to start from, tried in turn; then the start of the file is.
        threads: of the decoder; 0 is one a core.

    Raises:
        MediaError: from the iterator: the frames can't be found or decoded as the index told.
    """

    def __init__(
        self,
        path: Path | str | BinaryIO,
        info: VideoInfo,
        first: int,
        pts: Sequence[int],
        entries: Sequence[int],
        threads: int = 0,
    ) -> None:
        self._path, self._info, self._first = path, info, first
        self._pts, self._entries, self._threads = list(pts), list(entries), threads

    def __iter__(self) -> Generator[DecodedFrame]:
        """Give the frames; ``flat`` is new memory for every frame, so that a thread may decode ahead."""
        done = 0
        for entry in [*self._entries, None]:
            try:
                for frame in self._from(entry):
                    yield frame
                    done += 1
            except _NotFoundError:
                if done:
                    break
                continue
            return
        name = getattr(self._path, "name", self._path) if not isinstance(self._path, Path) else self._path
        raise MediaError(
            f"{name}: frame {self._first + done} did not come out of the decoder as its packets told: "
            "use --plane frames"
        )

    def _from(self, entry: int | None) -> Iterator[DecodedFrame]:
        info = self._info
        fmt = pixel_format(info.storage)
        samples = fmt.samples(info.width, info.height)
        read = reader(info.pix_fmt, info.storage)
        at = 0
        with open_input(self._path) as container:
            stream = container.streams[info.stream]
            context = stream.codec_context
            context.thread_count, context.thread_type = self._threads, "AUTO"
            try:
                if entry is not None:
                    container.seek(entry, stream=stream, backward=True)
                for packet in container.demux(stream):
                    for frame in stream.decode(packet):
                        shown = frame.pts if frame.pts is not None else frame.dts
                        if shown is None or shown < self._pts[at]:
                            continue
                        changed = (frame.width, frame.height) != (info.width, info.height)
                        if shown != self._pts[at] or frame.is_corrupt or changed or frame.format.name != info.pix_fmt:
                            raise _NotFoundError
                        flat: Array = np.empty(samples, fmt.dtype)
                        read(frame, flat)
                        yield DecodedFrame(self._first + at, shown, int(frame.duration or 0), flat)
                        at += 1
                        if at == len(self._pts):
                            return
            except av.error.FFmpegError as e:
                raise _NotFoundError from e
            finally:
                context.flush_buffers()
        raise _NotFoundError


class _NotFoundError(Exception):
    """The wanted frames did not come from this entry."""

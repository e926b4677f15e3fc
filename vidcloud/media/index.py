"""A video's frames without decoding (timestamps, and where decoding can start), and the decoding of any run of them."""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av.error
import numpy as np
from numpy.typing import NDArray

from vidcloud.errors import MediaError
from vidcloud.media.decode import DecodedFrame, decode_packet, ignore_others, set_up
from vidcloud.media.files import open_input, reason
from vidcloud.media.lengths import missing_bytes, missing_samples
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import Array, pixel_format

_UNKNOWN = -(1 << 63)
_EARLIER = 3
"""How many keyframes further back are tried before decoding from the start."""
_TRIED = 8
"""Frames that are decoded to see whether the packets told the truth."""
_ADVICE = "use --plane frames --pack blosc2, which decodes from the start to the end"


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
            ignore_others(container, stream)
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
        raise MediaError(f"{path}: its packets don't tell when each frame is shown: {_ADVICE}")
    frames = np.flatnonzero(np.frombuffer(key, np.uint8)[order])
    return FrameIndex(_array(shown), _array(shown[frames]), _array(frames))


def tried_index(path: Path | str, info: VideoInfo) -> FrameIndex:
    """Read a video's packets, and decode a few frames far inside to see whether they told the truth.

    Raises:
        MediaError: see `build_index`; or the frames are not those that the packets told.
    """
    index = build_index(path, info)
    first = index.key_frames[len(index.key_frames) // 3] if index.key_frames else 0
    pts = index.pts[first : first + _TRIED]
    frames = RunReader(path, info)
    try:
        for _ in frames.run(first, pts, index.entries(pts[0])):
            pass
    finally:
        frames.close()
    return index


def _array(values: NDArray[np.int64] | NDArray[np.intp]) -> "array[int]":
    return array("q", values.astype(np.int64).tobytes())


class RunReader:
    """Decodes runs of a video's frames, found by their timestamps.

    A run behind the one before is reached by going on from there, unless a keyframe is nearer.

    Args:
        path: the file, or an open one.
        info: what `probe` told of it.
        threads: of the decoder; 0 is one a core.
        keep: how many of the last frames are kept for a run that begins with them: as many as runs overlap.

    Attributes:
        threads: of the decoder from the next time on that it is started.
    """

    def __init__(self, path: Path | str | BinaryIO, info: VideoInfo, threads: int = 0, keep: int = 0) -> None:
        self._path, self._info, self.threads = path, info, threads
        self._fmt = pixel_format(info.storage)
        self._flow: Generator[Any] | None = None
        self._last: int | None = None
        self._kept: deque[DecodedFrame] = deque(maxlen=keep)

    def run(
        self, first: int, pts: Sequence[int], entries: Sequence[int], passed: Callable[[], None] = lambda: None
    ) -> Generator[DecodedFrame]:
        """Give a run's frames; ``flat`` is new memory for every frame.

        Args:
            first: index in the video of the run's first frame.
            pts: the timestamps of the run's frames, from the index.
            entries: timestamps of keyframes to start from, tried in turn; then the start of the file is.
            passed: called for each frame on the way to them; may raise to end it.

        Raises:
            MediaError: the frames can't be found or decoded as the index told.
        """
        kept = [f for f in self._kept if f.pts >= pts[0]]
        if [f.pts for f in kept] != list(pts[: len(kept)]):
            kept = []
        yield from kept
        done = len(kept)
        if done == len(pts):
            return
        ways: list[int | Literal["on"] | None] = [*entries, None]
        if self._is_near(pts[done], entries):
            ways.insert(0, "on")
        for way in ways:
            if way != "on":
                self.close()
                self._flow = self._open(way)
            try:
                for frame in self._match(first, pts, done, passed):
                    self._kept.append(frame)
                    yield frame
                    done += 1
            except _NotFoundError:
                self.close()
                if done > len(kept):
                    break
                continue
            return
        name = getattr(self._path, "name", self._path) if not isinstance(self._path, Path) else self._path
        raise MediaError(f"{name}: frame {first + done} did not come out of the decoder as its packets told: {_ADVICE}")

    def close(self) -> None:
        """Close the file; the next run opens it again."""
        if self._flow is not None:
            self._flow.close()
        self._flow = self._last = None

    def _is_near(self, pts: int, entries: Sequence[int]) -> bool:
        last = self._last
        return self._flow is not None and last is not None and last < pts and not any(e > last for e in entries)

    def _match(self, first: int, pts: Sequence[int], at: int, passed: Callable[[], None]) -> Iterator[DecodedFrame]:
        info, flow = self._info, self._flow
        samples = self._fmt.samples(info.width, info.height)
        read = reader(info.pix_fmt, info.storage)
        while at < len(pts):
            try:
                frame = next(flow, None) if flow else None
            except av.error.FFmpegError as e:
                raise _NotFoundError from e
            if frame is None:
                raise _NotFoundError
            shown = frame.pts if frame.pts is not None else frame.dts
            if shown is None:
                continue
            self._last = shown
            if shown < pts[at]:
                passed()
                continue
            changed = (frame.width, frame.height) != (info.width, info.height)
            if shown != pts[at] or frame.is_corrupt or changed or frame.format.name != info.pix_fmt:
                raise _NotFoundError
            flat: Array = np.empty(samples, self._fmt.dtype)
            read(frame, flat)
            yield DecodedFrame(first + at, shown, int(frame.duration or 0), flat)
            at += 1

    def _open(self, entry: int | None) -> Generator[Any]:
        with open_input(self._path) as container:
            stream = container.streams[self._info.stream]
            context = stream.codec_context
            set_up(context, self._info, self.threads, strict=True)
            ignore_others(container, stream)
            try:
                if entry is not None:
                    container.seek(entry, stream=stream, backward=True)
                for packet in container.demux(stream):
                    frames, sums_differ = decode_packet(packet, stream, self._info)
                    if sums_differ:
                        raise _NotFoundError
                    yield from frames
            finally:
                # Threads still at work would be joined with the interpreter's lock held.
                context.flush_buffers()


class _NotFoundError(Exception):
    """The wanted frames did not come from there."""

"""A video's frames without decoding (timestamps, and where decoding can start), and the decoding of any run of them."""

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import av.error
import numpy as np

from vidcloud.errors import MediaError
from vidcloud.media.decode import DecodedFrame
from vidcloud.media.files import open_input, reason
from vidcloud.media.lengths import missing_bytes, missing_samples
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import Array, pixel_format

_EARLIER = 3
"""How many keyframes further back are tried before decoding from the start."""


@dataclass(frozen=True)
class FrameIndex:
    """A video's frames in order of presentation, eight bytes each: the collector holds it for the whole job.

    Attributes:
        pts: timestamps of all frames, strictly increasing, in the video's time base.
        keys: timestamps of the frames at which decoding can start.
    """

    pts: "array[int]"
    keys: "array[int]"

    def entries(self, pts: int) -> tuple[int, ...]:
        """Where to start for a frame: the nearest keyframes at or before it, the nearest first."""
        stop = bisect_right(self.keys, pts)
        return tuple(reversed(self.keys[max(0, stop - _EARLIER) : stop]))


def build_index(path: Path | str, info: VideoInfo) -> FrameIndex:
    """Read a video's packets, decoding nothing.

    Raises:
        MediaError: the file is truncated, or its packets don't tell its frames' timestamps.
    """
    shown, decoded, key = array("q"), array("q"), bytearray()
    no_pts = no_dts = 0
    with open_input(path) as container:
        stream = container.streams[info.stream]
        if truncated := missing_bytes(path) or missing_samples(container):
            raise MediaError(f"{path}: the file is truncated: {truncated}; --on-damage conceal shows what there is")
        try:
            for p in container.demux(stream):
                if p.size and not p.is_discard:
                    no_pts, no_dts = no_pts + (p.pts is None), no_dts + (p.dts is None)
                    shown.append(p.pts or 0)
                    decoded.append(p.dts or 0)
                    key.append(p.is_keyframe)
        except av.error.FFmpegError as e:
            raise MediaError(f"{path}: packet {len(shown)} can't be read: {reason(e)}") from e
    # AVI gives decoding times alone, which are presentation times where nothing is reordered.
    times, untold = (decoded, no_dts) if no_pts == len(shown) else (shown, no_pts)
    ordered = np.sort(np.array(times, np.int64))
    if not times or untold or not np.diff(ordered).all():
        raise MediaError(f"{path}: its packets don't tell when each frame is shown: use --plane frames")
    return FrameIndex(array("q", ordered.tobytes()), array("q", sorted(compress(times, key))))


class RunDecoder:
    """Iterates over a run of a video's frames, found by their timestamps.

    Args:
        path: the file.
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
        path: Path | str,
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
        raise MediaError(
            f"{self._path}: frame {self._first + done} did not come out of the decoder as its packets told: "
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

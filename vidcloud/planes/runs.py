"""Decoded frames in runs of a chunk's size, each with the halo it needs: what both planes filter."""

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import numpy as np

from vidcloud.filter import Halo
from vidcloud.media.decode import DecodedFrame
from vidcloud.pixels import Array, PixelFormat


class Run(NamedTuple):
    """Consecutive frames with their halo.

    Attributes:
        first: index in the video of ``frames[0]``.
        start: index of the first frame of its own.
        stop: one past the last frame of its own.
        frames: ``(n, samples)``, of its own and of the halo all that the video has; memory of one of `runs`' buffers.
        pts: of all ``frames``.
        durations: of all ``frames``.
    """

    first: int
    start: int
    stop: int
    frames: Array
    pts: tuple[int, ...]
    durations: tuple[int, ...]


def runs(
    flow: Iterator[DecodedFrame],
    size: int,
    halo: Halo,
    fmt: PixelFormat,
    samples: int,
    *,
    begin: int = 0,
    end: int | None = None,
    buffers: int = 1,
) -> Iterator[Run]:
    """Group frames into runs.

    Args:
        flow: frames in order; the first one is ``begin`` or belongs to the halo before it.
        size: frames of a run's own.
        halo: neighbours that a run needs.
        fmt: how frames are stored.
        samples: in one frame.
        begin: index of the first frame of the first run's own.
        end: one past the last frame of the last run's own; None where ``flow`` tells.
        buffers: taken in turn: so many runs later a run's memory is used again.
    """
    before, after = halo
    turns = cycle(np.empty((buffers, before + size + after, samples), fmt.dtype))
    buffer: Array = next(turns)
    pts: list[int] = []
    durations: list[int] = []
    first, start, more = max(0, begin - before), begin, True
    while end is None or start < end:
        stop = start + size if end is None else min(start + size, end)
        while more and first + len(pts) < stop + after:
            frame = next(flow, None)
            if frame is None:
                more = False
                break
            buffer[len(pts)] = frame.flat
            pts.append(frame.pts)
            durations.append(frame.duration)
        have = first + len(pts)
        stop = min(stop, have)
        if stop <= start:
            return
        low, high = max(first, start - before) - first, min(have, stop + after) - first
        yield Run(low + first, start, stop, buffer[low:high], tuple(pts[low:high]), tuple(durations[low:high]))
        start = stop
        drop = max(first, start - before) - first
        following = next(turns)
        if drop or following is not buffer:
            kept = len(pts) - drop
            following[:kept] = buffer[drop : drop + kept]
            buffer = following
            del pts[:drop], durations[:drop]
            first += drop

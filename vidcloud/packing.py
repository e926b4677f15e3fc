"""Whether a chunk's pixels are packed before they go to the share: a writer finds out from its own writes.

On a fast share packing costs more than it saves; on a slow one the bytes it saves are worth it, in the write and in the
read that follows.
"""

import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from vidcloud.chunkfile import ChunkHeader, Stored, Written, write_chunk
from vidcloud.pixels import Array

_FAST = 500e6
"""Bytes a second from which packing isn't tried: memory or a local disk, where even half the bytes would not pay."""
_SMALL = 1 << 20
"""Bytes of a chunk below which a write's time tells of latency, not of bandwidth."""
_TRY_EACH = 32
_UNPACK = 0.9
"""Seconds of unpacking for one of packing, with sums and fresh memory for the pixels: 0.7 to 1 by `bench/pack.py`."""
_MARGIN = 0.95
"""What is another way's share of the time before it is taken: near the break-even point, stay."""


class Packing:
    """How one writer stores its chunks.

    With ``auto`` it takes what gives the lower time a byte for writer and reader together. A read is assumed to take as
    long as the write of the same bytes. The bandwidth is known from every write, raw or packed; ratio and speed of
    packing from the chunks that were packed, which is tried on the second chunk and on each 32nd while raw is better.

    Args:
        how: ``raw``, ``blosc2`` or ``auto``.
    """

    def __init__(self, how: str = "auto") -> None:
        self._asked: Stored | None = "raw" if how == "raw" else "blosc2" if how == "blosc2" else None
        self._best: Stored = "raw"
        self._chunks = 0
        # Medians of five: one write that waited for something else decides nothing.
        self._write: deque[float] = deque(maxlen=5)
        self._pack: deque[float] = deque(maxlen=5)
        self._ratio: deque[float] = deque(maxlen=5)

    def write(self, path: Path, header: ChunkHeader, frames: Array | Sequence[Array]) -> None:
        """Write a chunk file as `write_chunk` does, and learn from it.

        Raises:
            OSError: the share is full or unreachable.
        """
        self.learn(write_chunk(path, header, frames, self.choose(header.frame_bytes * len(frames))))

    def choose(self, raw_bytes: int) -> Stored:
        """How to store the next chunk, of so many bytes of pixels."""
        if self._asked is not None:
            return self._asked
        if raw_bytes < _SMALL or not self._write:
            return "raw"
        a_byte = statistics.median(self._write)
        if a_byte < 1 / _FAST:
            self._best = "raw"
            return "raw"
        if not self._pack or self._chunks % _TRY_EACH == 0:
            return "blosc2"
        raw = 2 * a_byte
        packed = 2 * a_byte * statistics.median(self._ratio) + (1 + _UNPACK) * statistics.median(self._pack)
        now, other = (raw, packed) if self._best == "raw" else (packed, raw)
        if other < _MARGIN * now:
            self._best = "blosc2" if self._best == "raw" else "raw"
        return self._best

    def learn(self, cost: Written) -> None:
        """Take in what a chunk cost."""
        if cost.raw_bytes < _SMALL:
            return
        self._chunks += 1
        self._write.append(cost.write_s / cost.stored_bytes)
        if cost.pack_s:
            self._pack.append(cost.pack_s / cost.raw_bytes)
            self._ratio.append(cost.stored_bytes / cost.raw_bytes)

"""Whether a chunk's pixels are packed before they go to the share: a writer finds out from its own writes.

On a fast share packing costs more than it saves; on a slow one the bytes it saves are worth it, in the write and in the
read that follows.
"""

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
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

    With ``auto`` it takes what gives the lower time a byte for writer and reader together. The bandwidth is known from
    every write, raw or packed; ratio and speed of packing from the chunks that were packed, which is tried on the
    second chunk and on each 32nd while raw is better. Whoever reads a chunk has its own bandwidth, and tells it in what
    it writes (`hear`): the collector often has the share in its own machine. Until it was heard, it is taken to be the
    writer's.

    Args:
        how: ``raw``, ``blosc2`` or ``auto``.
    """

    def __init__(self, how: str = "auto") -> None:
        self._asked: Stored | None = "raw" if how == "raw" else "blosc2" if how == "blosc2" else None
        self._best: Stored = "raw"
        self._chunks = 0
        self._there = 0.0
        # Medians of five: one write that waited for something else decides nothing.
        self._write: deque[float] = deque(maxlen=5)
        self._pack: deque[float] = deque(maxlen=5)
        self._ratio: deque[float] = deque(maxlen=5)

    def write(self, path: Path, header: ChunkHeader, frames: Array | Sequence[Array]) -> None:
        """Write a chunk file as `write_chunk` does, with the pace in its header, and learn from it.

        Raises:
            OSError: the share is full or unreachable.
        """
        header = replace(header, pace=self._pace())
        self.learn(write_chunk(path, header, frames, self.choose(header.frame_bytes * len(frames))))

    def hear(self, pace: float) -> None:
        """Take in what the other side told of its share in a header; from any thread."""
        self._there = pace

    def choose(self, raw_bytes: int) -> Stored:
        """How to store the next chunk, of so many bytes of pixels."""
        if self._asked is not None:
            return self._asked
        if raw_bytes < _SMALL or not self._write:
            return "raw"
        if self._is_fast():
            self._best = "raw"
            return "raw"
        if not self._pack or self._chunks % _TRY_EACH == 0:
            return "blosc2"
        raw, packed = self._costs()
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

    def cost(self, raw_bytes: int) -> float:
        """Seconds that a chunk of so many bytes of pixels costs its writer and its reader.

        0 where that is next to nothing, or where nobody knows yet.
        """
        if raw_bytes < _SMALL or not self._pack or self._is_fast():
            return 0.0
        return min(self._costs()) * raw_bytes

    def read_s(self, stored_bytes: float) -> float:
        """Seconds that so many bytes take to whoever reads there; 0 where nobody knows yet."""
        return stored_bytes * (self._there or self._pace())

    def _pace(self) -> float:
        return statistics.median(self._write) if self._write else 0.0

    def _there_and_back(self) -> float:
        own = self._pace()
        return own + (self._there or own)

    def _is_fast(self) -> bool:
        return self._there_and_back() < 2 / _FAST

    def _costs(self) -> tuple[float, float]:
        """Seconds a byte of pixels, raw and packed."""
        way = self._there_and_back()
        return way, way * statistics.median(self._ratio) + (1 + _UNPACK) * statistics.median(self._pack)

"""Where a video is cut into segments: at keyframes where possible, and near the end so that nodes end together.

A segment that does not begin at a keyframe costs the decoding of all frames from the one before it, its *preroll*. So
near the end, smaller segments are not always better: what is left is cut in several ways, each is tried out on idle
nodes of equal speed, and the best is taken.
"""

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

_NEAR = 0.25
"""How far from the wanted place, in sizes, a keyframe may be to be cut at."""
_SMALLEST = 4
"""A segment is no smaller than this part of the usual size unless there is little to share: each costs a keyframe."""
_TAIL = 3
"""The end begins when less than this many usual segments are left for a node."""
_RISK = 0.15
"""What a frame of the last segment weighs against one of the whole time: nodes are not of equal speed."""
_EACH = 8
"""What each segment costs besides its frames, in frames: opening file and encoder, and a keyframe's bytes."""

Step = Callable[[int], int]
"""Where the segment ends that begins there."""


class Cutter:
    """Cuts one video, from the front.

    Args:
        total: frames of the video.
        keys: indices of frames at which decoding can start, sorted.
        chunk: frames a chunk.
        chunks: chunks of a usual segment.
        preroll: cost of decoding a frame, in parts of decoding, filtering and encoding it.
    """

    def __init__(self, total: int, keys: Sequence[int], *, chunk: int, chunks: int, preroll: float) -> None:
        self._total, self._keys, self._chunk = total, keys, chunk
        self._usual, self._preroll = chunk * chunks, preroll
        self._least = max(1, chunks // _SMALLEST) * chunk
        self._planned: dict[int, int] = {}
        self._nodes = 0

    def stop(self, start: int, nodes: int) -> int:
        """One past the last frame of the segment that begins at ``start``, with so many processors at work."""
        nodes = max(1, nodes)
        if self._total - start > _TAIL * nodes * self._usual:
            return self._at_key(start, start + self._usual)
        if nodes != self._nodes or start not in self._planned:
            self._planned, self._nodes = self._plan(start, nodes), nodes
        return self._planned[start]

    def all(self, nodes: int) -> Iterator[tuple[int, int]]:
        """Every segment's first frame and one past its last, with so many processors from begin to end."""
        start = 0
        while start < self._total:
            stop = self.stop(start, nodes)
            yield start, stop
            start = stop

    def cost(self, start: int, stop: int) -> float:
        """What a segment costs, preroll included, in frames."""
        return _EACH + stop - start + self._preroll * (start - self._key_before(start))

    def _plan(self, start: int, nodes: int) -> dict[int, int]:
        left = self._total - start
        ways = [self._steps(start, self._by_size(self._usual, left))]
        if nodes > 1:
            for size, share in itertools.product((self._usual // 2, self._least), (0.5, 1, _TAIL)):
                ways.append(self._steps(start, self._by_size(size, share * nodes * self._usual)))
            fewest = max(1, -(-left // self._usual))
            ways.append(self._steps(start, self._guided(nodes)))
            ways += [self._even(start, n) for n in {max(nodes, fewest), 2 * max(nodes, fewest)} if left >= n]
        return min(ways, key=lambda way: self._rate(way, nodes))

    def _rate(self, way: dict[int, int], nodes: int) -> float:
        """How long so many nodes need, in frames; with a share of the last segment for what can't be foreseen."""
        free = [0.0] * nodes
        for start, stop in way.items():
            heapq.heappushpop(free, free[0] + self.cost(start, stop))
        last_start, last_stop = next(reversed(way.items()))
        return max(free) + _RISK * (last_stop - last_start)

    def _key_before(self, at: int) -> int:
        n = bisect_right(self._keys, at)
        return self._keys[n - 1] if n else 0

    def _at_key(self, start: int, wanted: int) -> int:
        """The keyframe nearest to the wanted place, if there is one near; the end, if that is near."""
        reach = int((wanted - start) * _NEAR)
        if self._total <= wanted + reach:
            return self._total
        near = self._keys[
            bisect_left(self._keys, max(start + 1, wanted - reach)) : bisect_right(self._keys, wanted + reach)
        ]
        return min(near, key=lambda k: abs(k - wanted), default=wanted)

    def _steps(self, start: int, step: Step) -> dict[int, int]:
        way = {}
        while start < self._total:
            way[start] = start = step(start)
        return way

    def _by_size(self, size: int, within: float) -> Step:
        """Segments of a size when so few frames are left, and of the usual one before."""

        def step(start: int) -> int:
            return self._at_key(start, start + (max(1, size) if self._total - start <= within else self._usual))

        return step

    def _guided(self, nodes: int) -> Step:
        """Half of a node's share of what is left: guided self-scheduling (Polychronopoulos and Kuck, 1987)."""

        def step(start: int) -> int:
            wanted = -(-(self._total - start) // (2 * nodes * self._chunk)) * self._chunk
            return self._at_key(start, start + min(self._usual, max(self._least, wanted)))

        return step

    def _even(self, start: int, count: int) -> dict[int, int]:
        """So many segments of equal cost, preroll included: found by halving the interval in which that cost lies."""
        left = self._total - start
        low, high = left / count, left / count + self._preroll * left + 1.0
        for _ in range(24):
            cost = (low + high) / 2
            if sum(1 for _ in self._of_cost(start, cost, count)) > count:
                low = cost
            else:
                high = cost
        return dict(self._of_cost(start, high, count))

    def _of_cost(self, start: int, cost: float, most: int) -> Iterator[tuple[int, int]]:
        for _ in range(most + 1):
            if start >= self._total:
                return
            own = round(cost - self._preroll * (start - self._key_before(start)))
            stop = min(self._total, start + min(max(1, own), self._usual))
            yield start, stop
            start = stop
        if start < self._total:
            yield start, self._total


def known_cut(unit: int, start: int, known: Mapping[int, int]) -> int | None:
    """Where a unit must end because later ones are cut already: after a resume they may be, and it may be not.

    Args:
        unit: the unit.
        start: its first frame.
        known: first frames of units that are cut.
    """
    later = min((u for u in known if u > unit), default=None)
    return None if later is None else start + -(-(known[later] - start) // (later - unit))

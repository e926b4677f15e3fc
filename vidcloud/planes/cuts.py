"""Where a video is cut into segments: at the source's keyframes where possible, and into smaller ones near the end."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

_LEFT_FOR_A_NODE = 2
"""A segment takes at most this part of what is left for one node, so that no node waits long at the end."""
_SMALLEST = 4
"""… but is no smaller than this part of the usual size: each one costs a keyframe."""
_NEAR = 0.25
"""How far from the wanted place, in sizes, a keyframe may be to be cut at."""


def next_cut(start: int, total: int, keys: Sequence[int], *, chunk: int, chunks: int, nodes: int) -> int:
    """One past the last frame of the segment that begins at ``start``.

    Away from the end a segment has ``chunks`` chunks. Near it, segments shrink with what is left, as in guided
    self-scheduling (Polychronopoulos and Kuck, 1987). Decoding can begin at a keyframe without a preroll, so the
    nearest one within a quarter of the size is taken instead.

    Args:
        start: the first frame.
        total: frames of the video.
        keys: indices of frames at which decoding can start, sorted.
        chunk: frames a chunk.
        chunks: chunks of a usual segment.
        nodes: processors at work.
    """
    nodes = max(1, nodes)
    left = total - start
    smallest = min(max(1, chunks // _SMALLEST) * chunk, max(chunk, -(-total // nodes)))
    guided = -(-left // (_LEFT_FOR_A_NODE * nodes * chunk)) * chunk
    size = min(chunks * chunk, max(smallest, guided))
    if left <= size * (1 + _NEAR):
        return total
    if nodes > 1 and left < 2 * size:
        size = -(-left // 2)
    wanted, reach = start + size, int(size * _NEAR)
    near = keys[bisect_left(keys, max(start + 1, wanted - reach)) : bisect_right(keys, wanted + reach)]
    return min(near, key=lambda k: abs(k - wanted), default=wanted)


def known_cut(unit: int, start: int, known: Mapping[int, int]) -> int | None:
    """Where a unit must end because later ones are cut already: after a resume they may be, and it may be not.

    Args:
        unit: the unit.
        start: its first frame.
        known: first frames of units that are cut.
    """
    later = min((u for u in known if u > unit), default=None)
    return None if later is None else start + -(-(known[later] - start) // (later - unit))

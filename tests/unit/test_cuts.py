"""Where segments begin and end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vidcloud.planes.cuts import known_cut, next_cut


def cuts(total, keys=(), *, chunk=20, chunks=12, nodes=1):
    found = [0]
    while found[-1] < total:
        found.append(next_cut(found[-1], total, sorted(keys), chunk=chunk, chunks=chunks, nodes=nodes))
    return [b - a for a, b in pairwise(found)]


def test_far_from_the_end_segments_have_the_usual_size():
    assert cuts(24_000, nodes=5)[:80] == [240] * 80


def test_near_the_end_they_shrink_to_a_quarter():
    sizes = cuts(24_000, nodes=20)
    tail = sizes[-20:]
    assert tail == sorted(tail, reverse=True)
    assert set(tail) <= set(range(60, 100))


def test_a_keyframe_near_by_is_cut_at():
    assert cuts(10_000, keys=range(0, 10_000, 250))[:30] == [250] * 30


def test_a_keyframe_far_away_is_not():
    assert cuts(10_000, keys=[0, 120, 400])[:2] == [240, 240]


def test_two_nodes_share_a_short_video_evenly():
    assert cuts(96, nodes=2) == [48, 48]


@given(
    total=st.integers(1, 3000), chunk=st.integers(1, 30), chunks=st.integers(1, 15), nodes=st.integers(0, 50),
    keys=st.sets(st.integers(0, 3000)),
)  # fmt: skip
def test_every_frame_is_in_one_segment_and_none_is_too_large(total, chunk, chunks, nodes, keys):
    sizes = cuts(total, keys, chunk=chunk, chunks=chunks, nodes=nodes)
    assert sum(sizes) == total
    assert all(0 < s <= 1.25 * chunk * chunks for s in sizes)


@given(stops=st.lists(st.integers(1, 200), min_size=2, max_size=9), missing=st.data())
def test_cuts_that_were_lost_are_made_between_those_that_are_known(stops, missing):
    starts = [sum(stops[:n]) for n in range(len(stops))]
    lost = missing.draw(st.sets(st.integers(0, len(stops) - 2)))
    known = {u: s for u, s in enumerate(starts) if u not in lost}
    if sum(stops) < len(stops):
        return
    start = 0
    for unit in range(len(stops) - 1):
        stop = known[unit + 1] if unit + 1 in known and unit in known else known_cut(unit, start, known)
        assert stop is not None
        assert stop >= start
        if unit + 1 in known:
            assert stop == known[unit + 1]
        start = stop


def test_nothing_is_known_of_later_units():
    assert known_cut(3, 60, {0: 0, 1: 20}) is None

"""Where segments begin and end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vidcloud.planes.cuts import Cutter, known_cut


def cuts(total, keys=(), *, chunk=20, chunks=12, nodes=1, preroll=0.25):
    cutter = Cutter(total, sorted(keys), chunk=chunk, chunks=chunks, preroll=preroll)
    found = [0]
    while found[-1] < total:
        found.append(cutter.stop(found[-1], nodes))
    return [b - a for a, b in pairwise(found)]


def test_far_from_the_end_segments_have_the_usual_size():
    assert cuts(24_000, nodes=5)[:80] == [240] * 80


def test_near_the_end_they_shrink_where_cutting_is_free():
    sizes = cuts(24_000, keys=range(24_000), nodes=20)
    assert sizes[0] == 240
    assert sizes[-1] <= 120
    assert min(sizes[:-1]) >= 60


def test_a_keyframe_near_by_is_cut_at():
    assert cuts(10_000, keys=range(0, 10_000, 250))[:30] == [250] * 30


def test_a_keyframe_far_away_is_not():
    assert cuts(10_000, keys=[0, 120, 400])[:2] == [240, 240]


def test_two_nodes_share_a_short_video_evenly():
    assert cuts(96, nodes=2, preroll=0.0) == [48, 48]


def test_the_node_that_decodes_more_gets_fewer_frames():
    first, second = cuts(120, keys=[0], nodes=2, preroll=0.3)
    assert abs(first - (second + 0.3 * first)) <= 1


def test_whole_groups_of_pictures_are_kept_where_cutting_them_costs_more_than_it_gives():
    assert cuts(480, keys=[0, 250], nodes=2, preroll=0.3) == [250, 230]


def test_they_are_cut_where_nodes_would_have_nothing_to_do():
    assert len(cuts(480, keys=[0, 250], nodes=8, preroll=0.3)) >= 8


def test_more_nodes_in_the_end_change_what_is_not_cut_yet():
    cutter = Cutter(1000, [], chunk=20, chunks=12, preroll=0.0)
    start = cutter.stop(0, 2)
    assert cutter.stop(start, 8) - start < cutter.stop(start, 2) - start


@given(
    total=st.integers(1, 3000), chunk=st.integers(1, 30), chunks=st.integers(1, 15), nodes=st.integers(0, 50),
    keys=st.sets(st.integers(0, 3000)), preroll=st.floats(0, 1),
)  # fmt: skip
def test_every_frame_is_in_one_segment_and_none_is_too_large(total, chunk, chunks, nodes, keys, preroll):
    sizes = cuts(total, keys, chunk=chunk, chunks=chunks, nodes=nodes, preroll=preroll)
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

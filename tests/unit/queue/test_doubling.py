"""Which unit gets a second run."""

import pytest

from vidcloud.queue.doubling import Running, slowest

FRAMES = {0: 20, 1: 20, 2: 10}
FINISHED = [0.1] * 5  # a unit of 20 frames takes 2 s


@pytest.mark.parametrize(
    ("running", "unit"),
    [
        ([], None),
        ([Running(0, 2.9)], None),
        ([Running(0, 3.1)], 0),
        ([Running(2, 1.6)], 2),  # a smaller unit is slow sooner
        ([Running(0, 8.0, steps=19)], None),  # slow, but it ends before another could do it
        ([Running(0, 1.0, steps=1)], 0),  # 19 s are left
        ([Running(0, 1.0, steps=20)], None),
        ([Running(0, 5.0, steps=10, shown_s=2.0)], None),  # 3 s for 10 frames, of which 2 are over
        ([Running(0, 5.0), Running(1, 9.0), Running(2, 7.0)], 1),
        ([Running(0, 5.0), Running(1, 2.0, steps=1)], 1),  # it was claimed later and ends last: in 38 s
    ],
)
def test_the_unit_that_ends_last_is_doubled_if_it_is_slow(running, unit):
    assert slowest(running, FRAMES, FINISHED) == unit


def test_without_finished_units_nothing_is_slow():
    assert slowest([Running(0, 100.0)], FRAMES, []) is None


def test_what_ends_in_a_moment_is_left_alone():
    assert slowest([Running(0, 0.4)], FRAMES, [0.001] * 5) is None
    assert slowest([Running(0, 0.6)], FRAMES, [0.001] * 5) == 0

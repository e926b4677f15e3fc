"""How often a collector looks at the share."""

import pytest

from vidcloud.queue.pauses import Pauses


def looks(lease_s, until, **state):
    """The pauses of a collector to which nothing happens from second 0 on."""
    pauses, now, found = Pauses(lease_s, 0.0), 0.0, []
    while now < until:
        found.append(pauses.next_s(now, busy=False, **{"all_claimed": False} | state))
        now += found[-1]
    return found


@pytest.mark.parametrize(("lease_s", "longest"), [(10, 1.0), (60, 1.0), (2, 0.2), (1, 0.1)])
def test_a_quiet_job_is_looked_at_less_often_but_ten_times_a_lease(lease_s, longest):
    found = looks(lease_s, 60)
    assert found == sorted(found)
    assert found[0] < 0.01
    assert found[-1] == pytest.approx(longest)


def test_the_longer_nothing_came_the_longer_it_may_wait():
    assert len(looks(10, 1)) >= 15
    assert 30 <= len(looks(10, 10)) <= 60


def test_at_the_end_of_a_job_a_result_is_seen_soon():
    assert max(looks(10, 60, all_claimed=True)) == pytest.approx(0.1)


def test_what_happens_is_followed_closely():
    pauses = Pauses(10, 0.0)
    for now in range(60):
        pauses.next_s(now, busy=False, all_claimed=False)
    assert pauses.next_s(60, busy=True, all_claimed=False) == 0.005
    assert pauses.next_s(60.1, busy=False, all_claimed=False) < 0.01

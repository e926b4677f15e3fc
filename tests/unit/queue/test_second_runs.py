"""Units that two nodes work on: either claim counts, the first result is taken."""

import pytest
from queues import LEASE, finish, join, make_ledger, offer, pass_time

from vidcloud.errors import JobFailedError, LeaseLostError
from vidcloud.queue import records


@pytest.fixture
def doubled(share, clock, ledger):
    """The only unit of a job is claimed by a slow node and, a second time, by another."""
    offer(ledger, share, 1)
    ledger.close(1)
    slow, other = join(share, clock, "slow"), join(share, clock, "other")
    first = slow.claim()
    pass_time(clock, 2, slow, other, ledger=ledger)
    assert [(r.unit, r.steps) for r in ledger.running()] == [(0, 0)]
    ledger.double(0)
    ledger.publish(force=True)
    assert slow.claim() is None, "it is at it already"
    second = other.claim()
    assert (second.unit, second.epoch) == (0, 2)
    pass_time(clock, 2, slow, other, ledger=ledger)
    assert ledger.takeovers == 0
    return slow, first, other, second


@pytest.mark.parametrize("first_wins", [True, False])
def test_the_first_result_of_a_doubled_unit_counts_under_either_claim(share, clock, ledger, doubled, first_wins):
    slow, first, other, second = doubled
    runs = [(slow, first), (other, second)]
    for worker, claim in runs if first_wins else reversed(runs):
        finish(worker, claim)
        pass_time(clock, 1, slow, other, ledger=None)
    results = ledger.poll()  # both lie there: only one counts
    assert [(r.epoch, r.accepted) for r in results] == [(1, True), (2, False)]
    assert ledger.complete


@pytest.mark.parametrize("first_wins", [True, False])
def test_the_slower_run_of_a_doubled_unit_is_late(share, clock, ledger, doubled, first_wins):
    slow, first, other, second = doubled
    runs = [(slow, first), (other, second)]
    (winner, won), (loser, lost) = runs if first_wins else reversed(runs)
    finish(winner, won)
    assert [(r.epoch, r.accepted) for r in ledger.poll()] == [(won.epoch, True)]
    assert ledger.complete
    assert loser.source(lost).read_bytes() == b"input", "it still reads it"
    finish(loser, lost)
    assert [(r.epoch, r.accepted) for r in ledger.poll()] == [(lost.epoch, False)]
    assert ledger.takeovers == 0


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_of_two_owners_dies_the_others_claim_remains(share, clock, ledger, doubled, dies):
    slow, first, other, second = doubled
    runs = [(slow, first), (other, second)]
    _, lost = runs[dies]
    living, kept = runs[1 - dies]
    third = join(share, clock, "third")
    pass_time(clock, LEASE + 2, living, third, ledger=ledger)
    assert ledger.takeovers == 1
    assert third.claim() is None, "it is not doubled again"
    assert ledger.running() == []
    share.path(records.done_name(0, lost.epoch)).write_bytes(b"zombie's")
    finish(living, kept)
    assert [(r.epoch, r.accepted) for r in sorted(ledger.poll(), key=lambda r: r.accepted)] == [
        (lost.epoch, False),
        (kept.epoch, True),
    ]


def test_when_both_owners_die_a_third_node_takes_over(share, clock, ledger, doubled):
    third = join(share, clock, "third")
    pass_time(clock, LEASE + 2, third, ledger=ledger)
    claim = third.claim()
    assert claim.epoch == 3
    for epoch in (1, 2):
        share.path(records.done_name(0, epoch)).write_bytes(b"zombie's")
    finish(third, claim)
    assert [(r.epoch, r.accepted) for r in ledger.poll()] == [(1, False), (2, False), (3, True)]


def test_an_owner_that_dies_before_the_second_claim_leaves_a_takeover(share, clock, ledger):
    offer(ledger, share, 1)
    ledger.close(1)
    slow, other = join(share, clock, "slow"), join(share, clock, "other")
    slow.claim()
    pass_time(clock, 2, slow, other, ledger=ledger)
    ledger.double(0)
    pass_time(clock, LEASE + 2, other, ledger=ledger)
    assert ledger.takeovers == 1
    assert other.claim().epoch == 2
    share.path(records.done_name(0, 1)).write_bytes(b"zombie's")
    assert [(r.epoch, r.accepted) for r in ledger.poll()] == [(1, False)]


def test_failures_of_both_runs_fail_the_job(share, clock, ledger, doubled):
    slow, first, other, second = doubled
    slow.fail(first, {"detail": "x"})
    pass_time(clock, 1, slow, other, ledger=ledger)
    assert slow.claim() is None, "the other run goes on"
    other.fail(second, {"detail": "x"})
    with pytest.raises(JobFailedError, match=r"x \(2 times, on other, slow\)"):
        pass_time(clock, 1, slow, other, ledger=ledger)


def test_a_run_that_is_given_back_leaves_the_other(share, clock, ledger, doubled):
    slow, first, other, second = doubled
    other.release(second)
    pass_time(clock, 1, slow, other, ledger=ledger)
    assert other.claim() is None
    finish(slow, first)
    assert [(r.epoch, r.accepted) for r in ledger.poll()] == [(1, True)]


def test_the_slower_run_stops_when_the_job_has_ended(share, clock, ledger, doubled):
    slow, first, other, second = doubled
    finish(other, second)
    ledger.poll()
    pass_time(clock, LEASE / 5 + 1, slow)
    slow.check(first, 1)  # it goes on, so that the results can be compared
    ledger.end("done")
    pass_time(clock, LEASE / 5 + 1, slow)
    with pytest.raises(LeaseLostError, match="ended"):
        slow.check(first, 2)
    assert slow.claim() is None


@pytest.mark.parametrize("published", [1, 2])
def test_a_resumed_collector_ends_a_doubled_unit(share, clock, ledger, doubled, published):
    """Only the higher claim counts then; what came under the lower is late, and the unit is done again."""
    slow, first, other, second = doubled
    finish(*((slow, first) if published == 1 else (other, second)))
    again = make_ledger(share, clock, "collector-2", gone=lambda t: t.node == "collector-1")
    again.open()
    assert again.counts(0, 2)
    assert not again.counts(0, 1)
    again.offer(0)
    again.close(1)
    assert [(r.epoch, r.accepted) for r in again.poll()] == [(published, published == 2)]
    if published == 1:
        pass_time(clock, LEASE + 2, slow, ledger=again)  # the second owner is dead
        claim = slow.claim()
        assert claim.epoch == 3
        finish(slow, claim)
        again.poll()
    assert again.complete


def test_only_claimed_units_are_doubled_and_only_with_an_idle_node(share, clock, ledger):
    offer(ledger, share, 2)
    slow, other = join(share, clock, "slow"), join(share, clock, "other")
    slow.claim()
    pass_time(clock, 2, slow, ledger=ledger)
    assert ledger.running() == [], "the number of units is not known"
    ledger.close(2)
    assert ledger.running() == [], "one is not claimed"
    claim = other.claim()
    pass_time(clock, 2, slow, other, ledger=ledger)
    assert ledger.running() == [], "nobody is idle"
    finish(other, claim)
    pass_time(clock, 2, slow, other, ledger=ledger)
    assert len(ledger.running()) == 1


def test_a_unit_that_failed_is_not_doubled(share, clock, ledger):
    offer(ledger, share, 1)
    ledger.close(1)
    one, two = join(share, clock, "one"), join(share, clock, "two")
    pass_time(clock, 1, one, two, ledger=ledger)
    one.fail(one.claim(), {"detail": "x"})
    pass_time(clock, 1, one, two, ledger=ledger)
    assert two.claim().epoch == 2
    pass_time(clock, 2, one, two, ledger=ledger)
    assert ledger.running() == []


def test_results_tell_how_long_they_took(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    claim = worker.claim()
    pass_time(clock, 1, worker, ledger=ledger)
    pass_time(clock, 4, worker)
    finish(worker, claim)
    assert [r.seconds for r in ledger.poll()] == [4.0]

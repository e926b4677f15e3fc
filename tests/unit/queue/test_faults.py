"""Nodes that die, stall, wake up or fail: who gets their units, and when the job ends."""

import pytest
from queues import LEASE, finish, join, make_ledger, offer, pass_time

from vidcloud.errors import JobFailedError, LeaseLostError
from vidcloud.queue import records
from vidcloud.queue.records import Retake


def test_a_dead_workers_unit_is_taken_over_within_the_lease(share, clock, ledger):
    """Regression: with the prototype a dead processor hung the job."""
    offer(ledger, share, 1)
    dead, living = join(share, clock, "dead"), join(share, clock, "living")
    dead.claim()
    pass_time(clock, LEASE - 1, living, ledger=ledger)
    assert living.claim() is None
    pass_time(clock, 3, living, ledger=ledger)
    claim = living.claim()
    assert (claim.unit, claim.epoch) == (0, 2)
    assert ledger.takeovers == 1


def test_a_process_that_is_gone_is_noticed_at_once(share, clock):
    gone = set()
    ledger = make_ledger(share, clock, gone=lambda ticket: ticket.node in gone)
    ledger.open()
    offer(ledger, share, 1)
    dead, living = join(share, clock, "dead"), join(share, clock, "living")
    dead.claim()
    pass_time(clock, 1, dead, living, ledger=ledger)
    gone.add("dead")
    pass_time(clock, 1, living, ledger=ledger)
    assert living.claim().epoch == 2


def test_a_zombie_publishes_nothing_in_place_of_its_successor(share, clock, ledger):
    """Promise 3: it was thought dead, wakes up, and its epoch is old."""
    offer(ledger, share, 1)
    zombie, living = join(share, clock, "zombie"), join(share, clock, "living")
    old = zombie.claim()
    pass_time(clock, LEASE + 2, living, ledger=ledger)
    new = living.claim()
    zombie.private(old).write_bytes(b"zombie's")
    # Even one that does not notice its own silence and links its result:
    share.link(f"{records.PRIVATE}/00000000.1.zombie", records.done_name(0, 1))
    results = ledger.poll()
    assert [(r.epoch, r.accepted) for r in results] == [(1, False)]
    finish(living, new, b"successor's")
    results = ledger.poll()
    assert [(r.epoch, r.accepted) for r in results] == [(2, True)]
    assert results[0].path.read_bytes() == b"successor's"


def test_a_zombies_result_after_its_successors_is_told_for_comparison(share, clock, ledger):
    offer(ledger, share, 1)
    zombie, living = join(share, clock, "zombie"), join(share, clock, "living")
    zombie.claim()
    pass_time(clock, LEASE + 2, living, ledger=ledger)
    finish(living, living.claim())
    assert ledger.poll()[0].accepted
    share.path(records.done_name(0, 1)).write_bytes(b"late")
    late = ledger.poll()
    assert [(r.unit, r.epoch, r.accepted) for r in late] == [(0, 1, False)]
    assert ledger.poll() == [], "told once"


def test_a_worker_that_was_silent_for_half_a_lease_stops_itself(share, clock, ledger):
    offer(ledger, share, 2)
    worker = join(share, clock, "p1")
    claim = worker.claim()
    clock.now += LEASE / 2 + 1
    with pytest.raises(LeaseLostError):
        worker.check(claim, 3)


def test_a_woken_worker_lost_its_claim_although_its_heartbeat_runs_again(share, clock, ledger):
    """After SIGSTOP the heartbeat's thread may be the first to run."""
    offer(ledger, share, 2)
    worker = join(share, clock, "p1")
    claim = worker.claim()
    clock.now += LEASE / 2 + 1
    worker.beat()
    worker.private(claim).write_bytes(b"x")
    with pytest.raises(LeaseLostError):
        worker.publish(claim)
    worker.release(claim)
    ledger.poll()
    assert worker.claim() is not None, "it goes on with other claims"


def test_a_unit_that_is_given_back_for_ever_ends_the_job(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    with pytest.raises(JobFailedError, match="given back 32 times: its input may be missing"):
        for _ in range(40):
            worker.release(worker.claim())
            ledger.poll()
            ledger.publish(force=True)


def test_a_failed_unit_goes_to_another_node_then_fails_the_job(share, clock, ledger):
    offer(ledger, share, 1)
    one, two = join(share, clock, "one"), join(share, clock, "two")
    pass_time(clock, 1, one, two, ledger=ledger)
    one.fail(one.claim(), {"detail": "filter x failed on frame 3"})
    pass_time(clock, 1, one, two, ledger=ledger)
    assert one.claim() is None, "it has failed on it"
    two.fail(two.claim(), {"detail": "filter x failed on frame 3"})
    with pytest.raises(JobFailedError, match=r"filter x failed on frame 3 \(2 times, on one, two\)"):
        pass_time(clock, 1, one, two, ledger=ledger)


def test_the_only_node_tries_a_failed_unit_again(share, clock, ledger):
    offer(ledger, share, 1)
    only = join(share, clock, "only")
    pass_time(clock, 1, only, ledger=ledger)
    only.fail(only.claim(), {"detail": "x"})
    pass_time(clock, 1, only, ledger=ledger)
    assert only.claim().epoch == 2


def test_a_failed_unit_comes_back_when_all_others_are_gone(share, clock, ledger):
    offer(ledger, share, 1)
    one, two = join(share, clock, "one"), join(share, clock, "two")
    pass_time(clock, 1, one, two, ledger=ledger)
    one.fail(one.claim(), {"detail": "x"})
    pass_time(clock, 1, one, two, ledger=ledger)
    pass_time(clock, LEASE + 2, one, ledger=ledger)
    assert one.claim().epoch == 2


def test_a_failed_unit_waits_for_a_node_that_is_asked_for(share, clock):
    """Promise 4: the first node that is up may be a bad one; it alone must not end the job."""
    ledger = make_ledger(share, clock, wanted=lambda: 2)
    ledger.open()
    offer(ledger, share, 1)
    one = join(share, clock, "one")
    pass_time(clock, 1, one, ledger=ledger)
    one.fail(one.claim(), {"detail": "x"})
    pass_time(clock, 50, one, ledger=ledger)
    assert one.claim() is None, "another is to come"
    two = join(share, clock, "two")
    pass_time(clock, 90, one, two, ledger=ledger)
    assert one.claim() is None, "another is there"
    assert two.claim().epoch == 2


@pytest.mark.parametrize("leaves", [True, False])
def test_it_waits_for_nobody_when_none_has_come_for_long(share, clock, leaves):
    ledger = make_ledger(share, clock, wanted=lambda: 3, keep=True)
    ledger.open()
    offer(ledger, share, 1)
    one, other = join(share, clock, "one"), join(share, clock, "other")
    pass_time(clock, 1, one, other, ledger=ledger)
    claim = one.claim()
    pass_time(clock, 70, one, other, ledger=ledger)
    if leaves:
        other.leave()
    pass_time(clock, 1 if leaves else LEASE + 1, one, ledger=ledger)
    one.fail(claim, {"detail": "x"})
    pass_time(clock, 55, one, ledger=ledger)
    assert one.claim() is None, "one has just gone: another may follow it"
    pass_time(clock, 10, one, ledger=ledger)
    one.fail(one.claim(), {"detail": "x"})
    pass_time(clock, 1, one, ledger=ledger)
    assert one.claim().epoch == 3


def test_with_keep_the_third_claim_keeps_frames(share, clock):
    ledger = make_ledger(share, clock, keep=True)
    ledger.open()
    offer(ledger, share, 1)
    only = join(share, clock, "only")
    for expected in (False, False, True):
        pass_time(clock, 1, only, ledger=ledger)
        claim = only.claim()
        assert claim.keep is expected
        if not claim.keep:
            only.fail(claim, {"detail": "x"})
    only.fail(claim, {"detail": "still"})
    with pytest.raises(JobFailedError, match="still"):
        pass_time(clock, 1, only, ledger=ledger)


def test_a_unit_that_kills_its_nodes_ends_the_job(share, clock, ledger):
    offer(ledger, share, 1)
    with pytest.raises(JobFailedError, match="lost 4 times"):
        for n in range(6):
            victim = join(share, clock, f"p{n}")
            assert victim.claim() is not None
            pass_time(clock, LEASE + 2, ledger=ledger)


def test_a_stuck_unit_is_taken_from_a_worker_that_still_beats(share, clock):
    """Promise 4: a filter that never returns must not hang the job."""
    ledger = make_ledger(share, clock, stall_s=60)
    ledger.open()
    offer(ledger, share, 1)
    stuck, other = join(share, clock, "stuck"), join(share, clock, "other")
    stuck.claim()
    pass_time(clock, 58, stuck, other, ledger=ledger)
    assert other.claim() is None
    pass_time(clock, 5, stuck, other, ledger=ledger)
    assert other.claim().epoch == 2


def test_progress_within_a_unit_is_no_stall(share, clock):
    ledger = make_ledger(share, clock, stall_s=60)
    ledger.open()
    offer(ledger, share, 1)
    slow = join(share, clock, "slow")
    claim = slow.claim()
    for frame in range(5):
        pass_time(clock, 40, slow, ledger=ledger)
        slow.check(claim, frame + 1)
    assert ledger.takeovers == 0


def test_a_claim_that_its_worker_does_not_hold_is_taken_over(share, clock, ledger):
    """A lost reply may leave a worker with a claim it does not know of."""
    offer(ledger, share, 2)
    worker = join(share, clock, "p1")
    worker.claim()
    share.path(records.claim_name(1, 1)).hardlink_to(share.path(f"{records.WORKERS}/p1.ticket"))
    pass_time(clock, LEASE + 8, worker, ledger=ledger)
    assert ledger.takeovers == 1
    assert worker.frontier().retake == {1: Retake(2)}


def test_false_death_makes_the_lease_longer(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    pass_time(clock, 2, worker, ledger=ledger)
    pass_time(clock, LEASE + 2, ledger=ledger)
    assert ledger.alive == 0
    pass_time(clock, 1, worker, ledger=ledger)
    assert ledger.alive == 1
    assert ledger.lease_s == 2 * LEASE


def test_a_collector_that_stalls_in_the_middle_of_a_sweep_takes_nobody_for_dead(share, clock, ledger, monkeypatch):
    """It is stopped for three leases after it has read some heartbeats and before it reads the others."""
    offer(ledger, share, 5)
    workers = [join(share, clock, f"p{n}") for n in range(5)]
    claims = []
    for worker in workers:
        claims.append(worker.claim())
        ledger.publish(force=True)  # who knows what is claimed loses no race
    pass_time(clock, 2, *workers, ledger=ledger)
    read, stalled = share.read, []

    def stall(name):
        if name.endswith("p2.beat") and not stalled:
            stalled.append(name)
            pass_time(clock, 3 * LEASE, *workers)
        return read(name)

    monkeypatch.setattr(share, "read", stall)
    pass_time(clock, 3, *workers, ledger=ledger)
    assert stalled
    assert [n.alive for n in ledger.nodes.values()] == [True] * 5
    assert ledger.takeovers == 0
    for worker, claim in zip(workers, claims, strict=True):
        finish(worker, claim)
    assert [r.accepted for r in ledger.poll()] == [True] * 5

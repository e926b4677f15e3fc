"""The claim protocol on a real folder with a clock of the test's own: who may do what, and when."""

import itertools
import os

import pytest
from queues import LEASE, finish, join, make_ledger, offer, pass_time

from vidcloud.errors import JobFailedError, LeaseLostError, ShareError
from vidcloud.queue import records
from vidcloud.queue.directory import ShareDirectory
from vidcloud.queue.records import Retake, Ticket
from vidcloud.queue.worker import Worker


def test_each_unit_is_claimed_once(share, clock, ledger):
    """Regression: the prototype checked for a lock and then touched it, so two processors got one range."""
    offer(ledger, share, 6)
    workers = [join(share, clock, f"p{i}") for i in range(3)]
    claims = [c for w in itertools.islice(itertools.cycle(workers), 12) if (c := w.claim())]
    assert sorted(c.unit for c in claims) == list(range(6))
    assert {c.epoch for c in claims} == {1}


def test_claims_by_two_processes_exclude(share, clock, ledger):
    """A hundred units, four processes at once: each unit has exactly one owner."""
    offer(ledger, share, 100)
    children = []
    for n in range(4):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(read)
            worker = join(share, clock, f"p{n}")
            units = []
            while claim := worker.claim():
                units.append(claim.unit)
            os.write(write, repr(units).encode())
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    claimed = []
    for pid, read in children:
        with os.fdopen(read) as f:
            claimed += eval(f.read())
        os.waitpid(pid, 0)
    # A worker that skips ahead may leave a hole for the next look; what must never be is a unit with two owners.
    last = join(share, clock, "last")
    for _ in range(100):
        if claim := last.claim():
            claimed.append(claim.unit)
    assert sorted(claimed) == list(range(100))


def test_a_collector_that_begins_anew_gives_out_units_that_nobody_had(share, clock, ledger):
    """What was made before it, or still is being made, counts for nothing and does not stay."""
    offer(ledger, share, 6)
    worker, slow = join(share, clock, "p1"), join(share, clock, "p2")
    finish(worker, worker.claim())
    held = slow.claim()
    slow.private(held).write_bytes(b"half")
    second = make_ledger(share, clock, "collector-2", gone=lambda ticket: ticket.node == "collector-1")
    second.take()
    first = second.start_anew(8)
    assert first > held.unit + 8
    assert [share.names(folder) for folder in (records.READY, records.PRIVATE, records.DONE)] == [[], [], []]
    second.open(first)
    with pytest.raises(FileNotFoundError):
        slow.source(held).read_bytes()
    finish(slow, held)
    assert [(r.unit, r.accepted) for r in second.poll()] == [(held.unit, False)]
    share.path(records.ready_name(first)).write_bytes(b"input")
    second.offer(first)
    second.close(first + 1)
    second.publish(force=True)
    claim = worker.claim()
    assert (claim.unit, claim.epoch) == (first, 1)
    finish(worker, claim)
    assert [(r.unit, r.accepted) for r in second.poll()] == [(first, True)]
    assert second.complete


def test_the_first_collector_begins_with_unit_0(share, clock):
    ledger = make_ledger(share, clock)
    ledger.take()
    assert ledger.start_anew(8) == 0


def test_a_result_is_accepted_once_and_in_its_epoch(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    claim = worker.claim()
    finish(worker, claim)
    results = ledger.poll()
    assert [(r.unit, r.epoch, r.accepted) for r in results] == [(0, 1, True)]
    assert results[0].path.read_bytes() == b"result"
    assert ledger.poll() == []
    assert ledger.first == 1


def test_input_is_removed_on_acceptance_and_the_result_when_retired(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    finish(worker, worker.claim())
    ledger.poll()
    assert share.names(records.READY) == []
    assert share.names(records.DONE) == ["00000000.1"]
    ledger.retire(0)
    assert share.names(records.DONE) == []
    assert share.names(records.shard(0)) == ["00000000.1.lock"], "claims stay while the job runs"


def test_nothing_can_be_published_twice(share, clock, ledger):
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    claim = worker.claim()
    finish(worker, claim, b"first")
    with pytest.raises(LeaseLostError):
        finish(worker, claim, b"second")
    assert ledger.poll()[0].path.read_bytes() == b"first"


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


def test_a_released_unit_is_free_at_once(share, clock, ledger):
    offer(ledger, share, 1)
    leaver, stayer = join(share, clock, "leaver"), join(share, clock, "stayer")
    claim = leaver.claim()
    leaver.private(claim).write_bytes(b"half")
    leaver.release(claim)
    leaver.leave()
    ledger.poll()
    ledger.publish(force=True)
    assert stayer.claim().epoch == 2
    assert ledger.takeovers == 0
    assert share.names(records.PRIVATE) == []


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


def test_a_second_collector_is_refused_while_the_first_lives(share, clock, ledger):
    second = make_ledger(share, clock, "collector-2")
    clock_sleep = clock.sleep

    def sleep(seconds):
        clock_sleep(seconds)
        ledger.publish(force=True)

    clock.sleep = sleep
    with pytest.raises(ShareError, match="at work"):
        second.open()


def test_a_dead_collector_is_followed_and_its_words_are_not_heard(share, clock, ledger):
    offer(ledger, share, 2)
    worker = join(share, clock, "p1")
    worker.claim()
    second = make_ledger(share, clock, "collector-2")
    second.open()
    assert not ledger.still_mine()
    assert second.still_mine()
    assert worker.frontier().collector == 2
    ledger.publish(force=True)  # the zombie wakes up
    assert worker.frontier().collector == 2


def test_a_resumed_collector_accepts_what_was_published_meanwhile(share, clock, ledger):
    offer(ledger, share, 3)
    worker = join(share, clock, "p1")
    for _ in range(2):
        finish(worker, worker.claim())
    second = make_ledger(share, clock, "collector-2", gone=lambda t: t.node == "collector-1")
    second.open()
    for unit in range(3):
        second.offer(unit)
    assert sorted((r.unit, r.accepted) for r in second.poll()) == [(0, True), (1, True)]
    second.close(3)
    second.publish(force=True)
    finish(worker, worker.claim())
    second.poll()
    assert second.complete


def test_a_resumed_collector_accepts_what_was_made_in_a_later_claim(share, clock, ledger):
    """Regression: it polled before it knew the claims, threw the result away, and nobody wrote the input again."""
    offer(ledger, share, 2)
    dead, other = join(share, clock, "p1"), join(share, clock, "p2")
    dead.claim()
    pass_time(clock, 2 * LEASE, other, ledger=ledger)
    claim = other.claim()
    assert claim.epoch == 2
    finish(other, claim)
    finish(other, other.claim())
    second = make_ledger(share, clock, "collector-2", gone=lambda _: True)
    second.open()
    assert second.counts(0, 2)
    assert not second.counts(0, 1)
    assert [(r.unit, r.epoch, r.accepted) for r in second.poll()] == [(0, 2, True), (1, 1, True)]


def test_a_resumed_collector_keeps_the_epochs(share, clock, ledger):
    """What a zombie of before the crash publishes must still count for nothing."""
    offer(ledger, share, 1)
    zombie, living = join(share, clock, "zombie"), join(share, clock, "living")
    zombie.claim()
    pass_time(clock, LEASE + 2, living, ledger=ledger)
    new = living.claim()
    second = make_ledger(share, clock, "collector-2", gone=lambda t: t.node == "collector-1")
    second.open()
    second.offer(0)
    second.publish(force=True)
    share.path(records.done_name(0, 1)).write_bytes(b"zombie's")
    assert [r.accepted for r in second.poll()] == [False]
    living.beat()
    finish(living, new)
    assert [r.accepted for r in second.poll()] == [True]


def test_claims_are_sharded(share, clock, ledger):
    """Directories stay small: a folder holds the claims of 1,024 units."""
    assert records.shard(1023) != records.shard(1024)
    assert records.shards(1000, 1030) == ["claims/000000", "claims/000001"]
    assert records.shards(5, 5) == []


def test_a_claim_costs_a_small_constant_number_of_operations(share, clock, ledger):
    """DESIGN: not more with many finished units."""
    offer(ledger, share, 300)

    class Counting(ShareDirectory):
        operations = 0

        def _retry(self, call, name):
            Counting.operations += 1
            return super()._retry(call, name)

    worker = Worker(Counting(share.path(""), clock), clock, Ticket("p1"), lease_s=LEASE)
    costs = []
    for _ in range(300):
        before = Counting.operations
        claim = worker.claim()
        costs.append(Counting.operations - before)
        finish(worker, claim)
        ledger.poll()
        ledger.publish(force=True)
        worker.beat()
    assert max(costs) <= 4, costs


def test_the_frontier_tells_what_is_claimed_above_the_hint(share, clock, ledger, monkeypatch):
    """Regression: workers knew the lowest free unit alone, and lost races for those above it that others had."""
    offer(ledger, share, 6)
    other = join(share, clock, "p1")
    for unit in (2, 3):
        assert other._try(unit, 1, keep=False)
    ledger.publish(force=True)
    worker = join(share, clock, "p2")
    told = worker.frontier()
    assert (told.hint, told.claimed) == (0, 0b1100)
    worker._spread = 5
    tried = []
    link = worker._dir.link
    monkeypatch.setattr(worker._dir, "link", lambda source, name: tried.append(name) or link(source, name))
    claims = [worker.claim() for _ in range(4)]
    assert sorted(c.unit for c in claims) == [0, 1, 4, 5]
    assert len(tried) == 4, "no race was lost"


def test_in_a_crowd_only_as_many_try_as_there_are_units(share, clock, ledger, monkeypatch):
    """A hundred nodes wait for one unit: with a race each it would cost three hundred operations."""
    workers = [join(share, clock, f"p{n}") for n in range(100)]
    pass_time(clock, 2, *workers, ledger=ledger)
    offer(ledger, share, 1)
    tried = []
    for worker in workers:
        link = worker._dir.link
        monkeypatch.setattr(worker._dir, "link", lambda s, n, link=link: tried.append(n) or link(s, n))
    claims = []
    for _ in range(20):
        claims += [c for w in workers if (c := w.claim())]
    assert len(claims) == 1, "and somebody does get it"
    assert len(tried) < 100


def test_a_worker_goes_on_with_the_unit_after_its_last(share, clock, ledger, monkeypatch):
    """A decoder that goes on from where it is decodes nothing twice; so few nodes leave that unit to each other."""
    offer(ledger, share, 8)
    one, two = join(share, clock, "p1"), join(share, clock, "p2")
    claimed = []
    for worker in (one, two, one, two, two, one):
        monkeypatch.setattr(worker._rng, "choice", min)
        ledger.publish(force=True)
        claimed.append(worker.claim().unit)
    assert claimed == [0, 2, 1, 3, 4, 6]


def test_no_unit_is_left_because_it_follows_on_anothers(share, clock, ledger):
    offer(ledger, share, 2)
    one, two = join(share, clock, "p1"), join(share, clock, "p2")
    for worker in (one, two):
        ledger.publish(force=True)
        assert worker.claim() is not None


def test_near_the_end_units_are_taken_in_order(share, clock, ledger, monkeypatch):
    """Regression: what was left to its owner was the last unit taken, and a large one: one node worked, the other waited."""
    offer(ledger, share, 6)
    one, two = join(share, clock, "p1"), join(share, clock, "p2")
    ledger.close(6)
    taken = []
    for worker in (one, two, one, two):
        monkeypatch.setattr(worker._rng, "choice", min)
        ledger.publish(force=True)
        taken.append(worker.claim().unit)
    assert taken == [0, 1, 2, 3]


def test_a_worker_counts_as_waiting_as_soon_as_it_has_joined(share, clock, ledger, monkeypatch):
    """Regression: before their heartbeats were read, a thousand nodes took themselves for a few, and tried all at once."""
    workers = [join(share, clock, f"p{n}") for n in range(30)]
    monkeypatch.setattr(ledger, "_read_beat", lambda _name: None)
    offer(ledger, share, 60)
    assert (workers[0].frontier().nodes, workers[0].told.idle) == (30, 30)
    assert workers[0].claim()
    ledger.publish(force=True)
    assert workers[1].frontier().idle == 29


def test_a_crowd_that_knows_the_same_loses_few_races(share, clock, ledger, monkeypatch):
    """Regression: each tried three times among as many units as nodes wait, and the waiting held the collector up."""
    workers = [join(share, clock, f"p{n}") for n in range(100)]
    offer(ledger, share, 400)
    tried, claims = [], []
    for worker in workers:
        link = worker._dir.link
        monkeypatch.setattr(worker._dir, "link", lambda s, n, link=link: tried.append(n) or link(s, n))
    for worker in workers:  # no word of the collector's between them
        claims += [c for c in [worker.claim()] if c]
    assert len(claims) >= 70
    assert len(tried) - len(claims) <= 30


def test_a_frontier_that_is_just_being_replaced_is_read_again_later(share, clock, ledger):
    """Regression: seen over NFS, where a reader met the old length of the new file, and the processor ended."""
    offer(ledger, share, 1)
    worker = join(share, clock, "p1")
    whole = share.path(records.FRONTIER).read_bytes()
    share.path(records.FRONTIER).write_bytes(whole[:60])
    assert worker.claim() is None
    share.path(records.FRONTIER).write_bytes(whole)
    assert worker.claim().unit == 0

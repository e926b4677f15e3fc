"""The claim protocol on a real folder with a clock of the test's own: who may do what, and when."""

import itertools
import os

import pytest
from queues import LEASE, finish, join, offer

from vidcloud.errors import LeaseLostError
from vidcloud.queue import records
from vidcloud.queue.directory import ShareDirectory
from vidcloud.queue.records import Ticket
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

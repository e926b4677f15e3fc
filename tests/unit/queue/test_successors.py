"""Collectors that begin, that follow a dead one, or are one too many."""

import pytest
from queues import LEASE, finish, join, make_ledger, offer, pass_time

from vidcloud.errors import ShareError
from vidcloud.queue import records


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

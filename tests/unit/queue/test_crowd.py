"""Which free unit a worker tries for, so that many of them lose few races."""

from queues import join, offer, pass_time

from vidcloud.queue import records


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

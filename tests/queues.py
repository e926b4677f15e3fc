"""The queue's roles in one process, with time that passes only when told."""

from vidcloud.queue import records
from vidcloud.queue.directory import ShareDirectory
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import Ticket
from vidcloud.queue.worker import Worker

LEASE = 10.0


class FakeClock:
    """Time that passes only when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def make_ledger(share, clock, node="collector-1", **kwargs):
    kwargs.setdefault("gone", lambda ticket: False)
    return Ledger(share, clock, Ticket(node), lease_s=LEASE, **kwargs)


def offer(ledger, share, count):
    for unit in range(count):
        share.path(records.ready_name(unit)).write_bytes(b"input")
        ledger.offer(unit)
    ledger.publish(force=True)


def join(share, clock, node):
    # Each node has its own view of the share, as two hosts have.
    return Worker(ShareDirectory(share.path(""), clock), clock, Ticket(node), lease_s=LEASE)


def finish(worker, claim, data=b"result"):
    worker.private(claim).write_bytes(data)
    worker.publish(claim)


def pass_time(clock, seconds, *beating, ledger=None):
    """Let time pass as it does for living nodes: they beat, the collector polls."""
    results = []
    for _ in range(int(seconds)):
        clock.now += 1
        for worker in beating:
            worker.beat()
        if ledger:
            results += ledger.poll()
    return results

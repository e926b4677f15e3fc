"""The processor's role: how it leaves."""

import errno
import os
import signal
import threading

import pytest

from vidcloud import job as jobs
from vidcloud import planes
from vidcloud.job import JobSpec
from vidcloud.processor import run_processor
from vidcloud.queue import records
from vidcloud.queue.directory import SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import this_process


@pytest.fixture
def job(tmp_path):
    spec = JobSpec(
        id="j", created=0.0, input="file:///in.mp4", output="file:///out.mp4", filters=(), encode={"codec": "ffv1"}
    )
    return jobs.create(tmp_path, spec)


def test_it_leaves_when_drained_before_it_is_ready(job, monkeypatch):
    """Regression: SIGTERM while libraries were loaded ended it with a traceback, its heartbeat left behind."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(planes, "load_processors", lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run_processor(job, "processor-1")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list((job.root / "workers").iterdir()) == []


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ESTALE, True), (errno.EIO, True), (errno.ENOSPC, False)])
def test_what_a_network_file_system_answers_in_passing_costs_a_unit_and_not_the_node(job, monkeypatch, number, goes_on):
    """Regression: a chunk that another node removed while it was being read is stale on NFS; the processor ended."""
    ledger = Ledger(job.directory, SystemClock(), this_process("collector-1"), lease_s=10, event=lambda *_, **__: None)
    ledger.open()
    job.directory.path(records.ready_name(0)).write_bytes(b"input")
    ledger.offer(0)
    ledger.close(1)
    ledger.publish(force=True)

    class Plane:
        """Its first unit can't be read."""

        calls, closed = 0, False

        def process(self, source, private, step, *, keep):
            self.calls += 1
            if self.calls == 1:
                raise OSError(number, "in passing")
            private.write_bytes(b"result")

        def close(self):
            self.closed = True

    monkeypatch.setattr(planes, "load_processors", lambda: None)
    monkeypatch.setattr(planes, "open_processor", lambda spec, job: plane)
    plane, before = Plane(), signal.getsignal(signal.SIGTERM)
    stop = threading.Event()

    def collect():
        while not stop.is_set():
            ledger.poll()
            if ledger.complete:
                ledger.end("done")
                return

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        if goes_on:
            run_processor(job, "processor-1")
        else:
            with pytest.raises(OSError, match="in passing"):
                run_processor(job, "processor-1")
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert plane.calls == (2 if goes_on else 1)
    assert plane.closed

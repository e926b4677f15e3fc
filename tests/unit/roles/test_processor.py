"""The processor's role: how it leaves."""

import os
import signal

import pytest

from vidcloud import job as jobs
from vidcloud import planes
from vidcloud.job import JobSpec
from vidcloud.processor import run_processor


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

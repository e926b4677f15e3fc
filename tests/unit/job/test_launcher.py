"""Two commands that see to the same nodes, and a job that nobody looks after."""

import threading
import time

import pytest

from vidcloud import job as jobs
from vidcloud import launcher
from vidcloud.clouds.base import Instance
from vidcloud.errors import JobFailedError
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import ShareSite


@pytest.fixture
def job(tmp_path):
    return jobs.create(tmp_path, JobSpec("j", 1.0, "file:///a", "file:///b", (), {}))


def test_one_command_at_a_time_sees_to_the_nodes(job):
    """Regression: a supervisor and `scale` both saw nodes missing, and started twice as many."""
    job.write_nodes(3)
    started, both = [], threading.Barrier(2)

    class SlowCloud:
        def machines(self, nodes):
            return 1

        def describe_instances(self):
            return list(started)

        def run_instances(self, role, user_data, count):
            time.sleep(0.05)  # a real cloud takes its time: the other command looks meanwhile
            started.extend(Instance(f"p{len(started)}", role, "running", "", 0.0) for _ in range(count))

    def reconcile():
        both.wait()
        Launcher(ShareSite(job, SlowCloud())).scale(3)

    threads = [threading.Thread(target=reconcile) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(started) == 3


def test_scale_tells_what_it_changed_although_a_supervisor_was_faster(job):
    """Regression: it said +0 when the supervisor had started the nodes between its two steps."""
    job.write_nodes(1)

    class QuickCloud:
        def machines(self, nodes):
            return 1

        def describe_instances(self):
            return [Instance(f"p{n}", "processor", "running", "", 0.0) for n in range(job.nodes())]

    assert Launcher(ShareSite(job, QuickCloud())).scale(3) == 2


def test_a_supervisor_drains_nothing_that_scale_starts_while_it_looks(job):
    job.write_nodes(1)
    drained = []

    class SlowCloud:
        def describe_instances(self):
            job.write_nodes(3)  # `scale` on a cloud whose launchers have no lock in common
            return [Instance(f"p{n}", "processor", "running", "", 0.0) for n in range(3)]

        def terminate_instances(self, ids, *, drain):
            drained.extend(ids)

    assert Launcher(ShareSite(job, SlowCloud()))._reconcile() == 0
    assert drained == []


def test_a_job_that_nobody_looks_after_is_not_watched_for_ever(job, monkeypatch):
    """Regression: `resume` took a collector that was just dying for alive, and then watched for ever."""
    job.write_progress({"began": time.time()})
    states = iter(["running", "running"])

    class DyingCloud:
        def describe_instances(self):
            return [Instance("c1", "collector", next(states, "terminated"), "", 0.0)]

    monkeypatch.setattr(launcher, "_ALONE_S", 0.1)
    with pytest.raises(JobFailedError, match=f"broke off.*vidcloud resume {job.id}"):
        Launcher(ShareSite(job, DyingCloud())).attach()

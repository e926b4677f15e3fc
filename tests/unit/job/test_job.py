"""What a job is, and where."""

import json
import time

import pytest

from vidcloud import job as jobs
from vidcloud.errors import ShareError, UsageError
from vidcloud.job import JobSpec
from vidcloud.status import snapshot


def spec(**kwargs):
    return JobSpec(
        **{
            "id": "j",
            "created": 1.0,
            "input": "file:///a",
            "output": "file:///b",
            "filters": (),
            "encode": {},
            **kwargs,
        }
    )


def test_a_spec_is_read_as_written(tmp_path):
    written = spec(chunk=7, filters=({"name": "neon"},))
    job = jobs.create(tmp_path, written)
    assert job.spec() == written
    assert jobs.find("j", tmp_path).spec() == written
    assert jobs.find(str(job.root), tmp_path / "elsewhere").spec() == written


def test_unknown_keys_are_ignored_and_newer_versions_refused(tmp_path):
    job = jobs.create(tmp_path, spec())
    record = json.loads((job.root / "spec.json").read_text())
    (job.root / "spec.json").write_text(json.dumps(record | {"new": 1}))
    assert job.spec() == spec()
    (job.root / "spec.json").write_text(json.dumps(record | {"version": 2}))
    with pytest.raises(ShareError, match="newer"):
        job.spec()


def test_an_id_is_used_once(tmp_path):
    jobs.create(tmp_path, spec())
    with pytest.raises(UsageError, match="exists"):
        jobs.create(tmp_path, spec())


@pytest.mark.parametrize("bad", ["", "../x", "A", "a b", "-a", "x" * 64])
def test_bad_ids(tmp_path, bad):
    with pytest.raises(UsageError, match="job id"):
        jobs.create(tmp_path, spec(id=bad))


def test_a_share_that_is_a_file(tmp_path):
    (tmp_path / "share").write_text("")
    with pytest.raises(ShareError, match="can't write to the share"):
        jobs.create(tmp_path / "share", spec())


def test_no_such_job(tmp_path):
    with pytest.raises(UsageError, match="no job x"):
        jobs.find("x", tmp_path)


def test_new_ids_are_valid_and_differ():
    ids = {jobs.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(jobs._ID.fullmatch(i) for i in ids)


def test_state_follows_from_files(tmp_path):
    job = jobs.create(tmp_path, spec())
    assert job.state() == "starting"
    job.write_progress({"frames": {"total": 9, "decoded": 4, "filtered": 3, "encoded": 2}, "began": time.time()})
    now = snapshot(job)
    assert (now.state, now.total, now.decoded, now.filtered, now.encoded) == ("running", 9, 4, 3, 2)
    assert not now.ended
    job.write_result({"state": "done", "frames": 9, "seconds": 1.5, "takeovers": 2})
    now = snapshot(job)
    assert (now.state, now.encoded, now.takeovers, now.seconds) == ("done", 9, 2, 1.5)
    assert set(now.to_json()) >= {"job", "state", "plane", "frames", "nodes"}
    job.reopen()
    assert job.state() == "running"


def test_sweep_leaves_the_record(tmp_path):
    job = jobs.create(tmp_path, spec())
    (job.root / "chunks/ready").mkdir(parents=True)
    (job.root / "chunks/ready/0").write_bytes(b"pixels")
    job.sweep()
    assert not (job.root / "chunks").exists()
    assert job.spec() == spec()


def test_one_command_at_a_time_sees_to_the_nodes(tmp_path):
    """Regression: a supervisor and `scale` both saw nodes missing, and started twice as many."""
    import threading

    from vidcloud.clouds.base import Instance
    from vidcloud.launcher import Launcher
    from vidcloud.sites import ShareSite

    job = jobs.create(tmp_path, spec())
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


def test_scale_tells_what_it_changed_although_a_supervisor_was_faster(tmp_path):
    """Regression: it said +0 when the supervisor had started the nodes between its two steps."""
    from vidcloud.clouds.base import Instance
    from vidcloud.launcher import Launcher
    from vidcloud.sites import ShareSite

    job = jobs.create(tmp_path, spec())
    job.write_nodes(1)

    class QuickCloud:
        def machines(self, nodes):
            return 1

        def describe_instances(self):
            return [Instance(f"p{n}", "processor", "running", "", 0.0) for n in range(job.nodes())]

    assert Launcher(ShareSite(job, QuickCloud())).scale(3) == 2


def test_a_supervisor_drains_nothing_that_scale_starts_while_it_looks(tmp_path):
    from vidcloud.clouds.base import Instance
    from vidcloud.launcher import Launcher
    from vidcloud.sites import ShareSite

    job = jobs.create(tmp_path, spec())
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


def test_a_job_that_nobody_looks_after_is_not_watched_for_ever(tmp_path, monkeypatch):
    """Regression: `resume` took a collector that was just dying for alive, and then watched for ever."""
    from vidcloud import launcher
    from vidcloud.clouds.base import Instance
    from vidcloud.errors import JobFailedError
    from vidcloud.sites import ShareSite

    job = jobs.create(tmp_path, spec())
    job.write_progress({"began": time.time()})
    states = iter(["running", "running"])

    class DyingCloud:
        def describe_instances(self):
            return [Instance("c1", "collector", next(states, "terminated"), "", 0.0)]

    monkeypatch.setattr(launcher, "_ALONE_S", 0.1)
    with pytest.raises(JobFailedError, match=f"broke off.*vidcloud resume {job.id}"):
        launcher.Launcher(ShareSite(job, DyingCloud())).attach()

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

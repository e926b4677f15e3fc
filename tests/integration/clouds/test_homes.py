"""Homes in moto's S3 of jobs on moto's EC2: what a launcher leaves there when it is killed, and who takes it away."""

import subprocess
import sys

import boto3
import pytest

from vidcloud import job as jobs
from vidcloud import storage
from vidcloud.clouds.base import check_options, open_remote
from vidcloud.errors import UsageError
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import HomeSite, all_homes, find_site

HOME = "s3://films/homes/j"
PREPARED = """
import os, sys
from pathlib import Path
from vidcloud import job as jobs, sites, storage
from vidcloud.clouds.base import check_options, open_remote

folder, at, *pairs = sys.argv[1:]
options = check_options("ec2", dict(pair.split("=", 1) for pair in pairs))
count, make = 0, storage._s3

def after(**_):
    global count
    count += 1
    if count == int(at):
        os._exit(9)

def counting():
    client = make()
    client.meta.events.register("after-call.s3", after)
    return client

storage._s3 = counting
job = jobs.find(f"{folder}/jobs/j", Path())
site = sites.HomeSite("s3://films/homes/j", open_remote("ec2", "j", options, "s3://films/homes/j"), job)
site.prepare(lambda *_: None)
"""


@pytest.fixture
def options(endpoint, image, monkeypatch):
    """Of ``-o``, for a cloud whose S3 has a bucket."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "VIDCLOUD_S3_PATH_STYLE"):
        monkeypatch.setenv(name, "")  # to be set by the code, and unset at the end
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="films")
    storage._kept_s3.cache_clear()
    yield {
        "endpoint_url": endpoint, "s3_endpoint_url": endpoint, "image": image, "region": "us-east-1",
        "bucket": "s3://films/homes",
    }  # fmt: skip
    storage._kept_s3.cache_clear()


def begun(folder, options, size=9 << 20):
    """A job from a file here to a file here, whose input goes up in parts; not prepared."""
    source = folder / "cat.avi"
    source.write_bytes(b"x" * size)
    spec = JobSpec("j", 1.0, f"{HOME}/input/cat.avi", f"{HOME}/output/cat.mp4", (), {})
    job = jobs.create(folder, spec)
    told = {
        "cloud": "ec2",
        "options": options,
        "home": HOME,
        "input": str(source),
        "output": f"file://{folder}/cat.mp4",
    }
    job.write_site(told)
    return HomeSite(HOME, open_remote("ec2", "j", options, HOME), job)


def uploads(options):
    client = boto3.client("s3", endpoint_url=options["endpoint_url"], region_name="us-east-1")
    return [u["Key"] for u in client.list_multipart_uploads(Bucket="films").get("Uploads", ())]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_launcher_leaves_that_is_killed_at_any_call_is_found_and_swept(options, tmp_path):
    """kill -9 after each call to S3 of a job's beginning: any machine with credentials sees the job, and ends it."""
    check_options("ec2", options)
    at, code, seen = 0, 9, []
    while code == 9:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        begun(folder, options)
        argv = [sys.executable, "-c", PREPARED, folder, str(at), *(f"{k}={v}" for k, v in options.items())]
        child = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        code = child.returncode
        assert code in (0, 9), child.stderr
        left = storage.tree(HOME)
        seen += left + uploads(options)
        if left or uploads(options):
            assert [s.records.id for s in all_homes("ec2", options)] == ["j"]
            Launcher(find_site("j", "ec2", options)).cancel()
            after = storage.tree(HOME)
            assert [n for n in after if not n.startswith("audit/")] == ["cancel", "result.json", "spec.json"]
            assert uploads(options) == []
            (site,) = all_homes("ec2", options)
            site.clear()
            assert all(n.startswith("audit/") for n in storage.tree(HOME))
            assert all_homes("ec2", options) == []
            for name in storage.tree(HOME):
                storage.remove(f"{HOME}/{name}")
    assert at >= 8, "as many calls as a beginning makes"
    assert {"spec.json", "bundle.tar", "input/cat.avi", "homes/j/input/cat.avi"} <= {*seen}, "each was left once"


def test_a_job_whose_machines_are_forgotten_is_found_by_its_home(options, tmp_path):
    check_options("ec2", options)
    begun(tmp_path, options, 10).prepare(lambda *_: None)
    found = find_site("j", "ec2", options)
    assert [n["action"] for n in found.notes()] == ["started", "stored"]
    assert found.cloud.describe_instances() == []
    with pytest.raises(UsageError, match="no job k in the cloud ec2, nor in s3://films/homes"):
        find_site("k", "ec2", options)


def test_who_watches_sweeps_in_a_killed_launchers_place(options, tmp_path):
    """Regression: input, bundle with its key, and output stayed at the home for ever."""
    check_options("ec2", options)
    site = begun(tmp_path, options, 10)
    Launcher(site).start(1)
    collector = next(i.id for i in site.cloud.describe_instances() if i.role == "collector")
    site.cloud.terminate_instances([i.id for i in site.cloud.describe_instances()])
    storage.write(f"{HOME}/output/cat.mp4", b"a neon cat")
    site.records.write_result(
        {"version": 1, "state": "done", "output": f"{HOME}/output/cat.mp4", "frames": 1, "seconds": 1}
    )
    elsewhere = find_site("j", "ec2", options)
    assert elsewhere.undelivered
    Launcher(elsewhere).attach()
    kept = [n for n in storage.tree(HOME) if n.split("/")[0] in ("input", "output") or n.startswith("bundle")]
    assert kept == ["output/cat.mp4"], "it is for the machine where the job was begun"
    Launcher(site).attach()
    assert (tmp_path / "cat.mp4").read_bytes() == b"a neon cat"
    assert not site.undelivered
    removed = [(n["what"], n["machines"]) for n in site.notes() if n["action"] == "removed"]
    first = [f"{HOME}/{name}" for name in ("bundle.tar", "bundle.sha256", "input/cat.avi")]
    assert removed == [(first, [collector]), ([f"{HOME}/output/cat.mp4"], [collector])]


def test_jobs_of_a_cloud_are_listed_and_cleared(options):
    """Of those that ended; what nobody fetched stays, and so do jobs that run, and all audits."""
    from click.testing import CliRunner

    from vidcloud.cli.main import cli

    check_options("ec2", options)
    for job_id, state in (("fails", "failed"), ("fetched", "done"), ("lies", "done"), ("runs", "")):
        home = f"s3://films/homes/{job_id}"
        spec = JobSpec(job_id, 1.0, f"{home}/input/a", f"{home}/output/b", (), {})
        site = HomeSite(home, open_remote("ec2", job_id, options, home), None)
        site.records.write_spec(spec)
        for name in ("input/a", "bundle.tar", *["output/b"] * (job_id == "lies")):
            storage.write(f"{home}/{name}", b"x")
        if state:
            site.records.write_result({"state": state})
    asked = ["jobs", "--cloud", "ec2", *(w for k, v in options.items() for w in ("-o", f"{k}={v}"))]
    listed = CliRunner().invoke(cli, asked).output.split("\n")
    assert [line.split()[:2] for line in listed if line] == [
        ["fails", "failed"], ["fetched", "done"], ["lies", "done"], ["runs", "starting"],
    ]  # fmt: skip
    said = CliRunner().invoke(cli, [*asked, "--clear"]).output
    assert "lies: kept, for nobody fetched s3://films/homes/lies/output/b" in said
    assert said.endswith("cleared 2 homes\n")
    left = storage.tree("s3://films/homes")
    assert [n for n in left if "/audit/" not in n] == [
        "lies/bundle.tar", "lies/input/a", "lies/output/b", "lies/result.json", "lies/spec.json",
        "runs/bundle.tar", "runs/input/a", "runs/spec.json",
    ]  # fmt: skip
    assert len([n for n in left if n.startswith(("fails/audit/", "fetched/audit/"))]) == 2

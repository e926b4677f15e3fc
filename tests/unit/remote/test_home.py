"""A job's home, and the mirror between it and the share."""

import json
import threading

import pytest

from vidcloud import home
from vidcloud import job as jobs
from vidcloud.errors import StorageError
from vidcloud.home import Home, Mirror
from vidcloud.job import JobSpec


@pytest.fixture
def job(tmp_path):
    spec = JobSpec(id="j", created=0.0, input="s3://b/in", output="s3://b/out", filters=(), encode={})
    return jobs.create(tmp_path / "share", spec)


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/homes/j"


def test_what_launchers_want_comes_to_the_share(job, url):
    afar = home.records(url)
    assert afar.id == "j"
    afar.write_nodes(4)
    told = Home(url)
    told.admit("i-2", "10.0.0.3")
    told.admit("i-1", "10.0.0.2")
    told.ask_to_leave("i-1")
    mirror = Mirror(job, told)
    mirror.step()
    assert job.nodes() == 4
    assert (job.root / "hosts").read_text() == "10.0.0.2\n10.0.0.3\n"
    assert job.lines("drain") == ["i-1"]
    assert not job.cancelled
    told.dismiss("i-1")
    afar.cancel()
    mirror.step()
    assert (job.root / "hosts").read_text() == "10.0.0.3\n"
    assert job.cancelled


def test_what_the_collector_tells_comes_home(job, url):
    afar = home.records(url)
    mirror = Mirror(job, Home(url))
    assert afar.state() == "starting"
    job.write_progress({"frames": {"total": 7}})
    (job.logs / "i-1.log").write_text("claimed\n")
    mirror.step()
    assert afar.state() == "running"
    assert afar.progress() == {"frames": {"total": 7}}
    assert Home(url).read("logs/i-1.log") == b"claimed\n"


def test_the_result_comes_home_last(job, url):
    afar = home.records(url)
    job.write_result({"state": "done", "output": "s3://b/out"})
    mirror = Mirror(job, Home(url))
    mirror.step()
    assert afar.result() is None, "the output's last records may not be there yet"
    mirror.finish()
    assert afar.result() == {"state": "done", "output": "s3://b/out"}
    assert [n["action"] for n in Home(url).notes()] == ["ended"]
    afar.reopen()
    assert afar.result() is None


def test_unchanged_records_are_not_written_again(job, url):
    written = []

    class Counting(Home):
        def replace(self, name, data):
            written.append(name)
            super().replace(name, data)

    mirror = Mirror(job, Counting(url))
    job.write_progress({"frames": {}})
    for _ in range(3):
        mirror.step()
    assert written == ["progress.json"]


def test_a_home_out_of_reach_is_told_once_and_comes_back(job, url, monkeypatch):
    told, back = [], threading.Event()

    class Away(Home):
        away = 3

        def read(self, name):
            if self.away:
                type(self).away -= 1
                raise StorageError("can't reach it")
            back.set()
            return super().read(name)

    monkeypatch.setattr(home, "_STEP_S", 0.01)
    monkeypatch.setattr(home, "event", lambda kind, **fields: told.append((kind, fields["why"])))
    home.records(url).write_nodes(2)
    with Mirror(job, Away(url)).running():
        assert back.wait(30)
    assert told == [("unreachable", "can't reach it")]
    assert job.nodes() == 2


def test_only_the_end_of_a_long_log_goes_home(job, url, monkeypatch):
    monkeypatch.setattr(home, "_LOG_MOST", 10)
    log = job.logs / "i-1.log"
    mirror = Mirror(job, Home(url))
    for said, kept in (
        ("one\ntwo\n", (0, b"one\ntwo\n")),
        ("three\n", (4, b"two\nthree\n")),
        ("a line longer than all that is kept\n", (50, b"")),
        ("4\n", (50, b"4\n")),
    ):
        with log.open("a") as f:
            f.write(said)
        mirror.step()
        assert Home(url).log("i-1") == kept


def test_a_home_without_a_job(url):
    with pytest.raises(FileNotFoundError):
        Home(url).read("spec.json")
    Home(url).remove("spec.json")
    Home(url).replace("x.json", json.dumps({}).encode())
    assert Home(url).read("x.json") == b"{}"

"""Who begins a job far away: what is refused, interrupted or half-started leaves nothing, and an id in use is left alone."""

import signal

import pytest
from homes import site

from vidcloud import storage
from vidcloud.errors import CloudError, UsageError
from vidcloud.launcher import Launcher


def test_a_start_that_fails_leaves_nothing_at_home_but_its_record(begun, tmp_path):
    def refuse(role, user_data, count):
        raise CloudError("no room")

    begun.cloud.run_instances = refuse
    with pytest.raises(CloudError, match="no room"):
        Launcher(begun).start(1)
    left = [p.name for p in (tmp_path / "homes/j").rglob("*") if p.is_file() and p.parent.name != "audit"]
    assert sorted(left) == ["nodes.json", "spec.json"]


def test_a_start_that_fails_and_can_not_be_undone_tells_both_and_what_may_run(begun, tmp_path):
    """Regression: the error of the undoing took the place of the one that counts, and the home was not swept."""
    run = begun.cloud.run_instances

    def refuse(role, user_data, count):
        if role == "processor":
            raise CloudError("no room for them")
        return run(role, user_data, count)

    def unknown(ids, **_):
        raise CloudError("the API is down", tuple(ids))

    begun.cloud.run_instances, begun.cloud.terminate_instances = refuse, unknown
    with pytest.raises(
        CloudError, match=r"no room for them; i-0 may still run \(the API is down\): `vidcloud reap`"
    ) as e:
        Launcher(begun).start(1)
    assert e.value.left_running == ("i-0",)
    assert not (tmp_path / "homes/j/bundle.tar").exists()


def test_what_would_be_refused_is_refused_before_anything_goes_up(begun, tmp_path, monkeypatch):
    """Regression: the processors' price was looked at when the input was there and the collector ran."""

    def preview(nodes):
        raise UsageError(f"{nodes} nodes would cost too much")

    monkeypatch.setattr(begun.cloud, "preview", preview, raising=False)
    with pytest.raises(UsageError, match="9 nodes would cost too much"):
        Launcher(begun).start(9)
    assert not (tmp_path / "homes").exists()
    assert begun.cloud.lines == []


def test_an_upload_that_is_interrupted_leaves_no_input(begun, tmp_path):
    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Launcher(begun).start(1, interrupted)
    assert not list((tmp_path / "homes/j").glob("input/*"))


@pytest.mark.parametrize("left", ["result.json", "cancel", "audit/2026.json"])
def test_a_job_begins_in_an_empty_home(begun, tmp_path, left):
    """Regression: a result that lay there was read as this job's, and success reported for work that nobody did."""
    old = tmp_path / "homes/j" / left
    old.parent.mkdir(parents=True)
    old.write_bytes(b"{}")
    with pytest.raises(UsageError, match="holds another job: choose another --job-id than j"):
        Launcher(begun).start(1)
    assert begun.cloud.lines == []
    assert [p for p in (tmp_path / "homes").rglob("*") if p.is_file()] == [old]
    assert old.read_bytes() == b"{}"


def test_who_takes_an_id_that_is_in_use_leaves_the_other_job_alone(begun, tmp_path):
    """Neither its bundle and input go, nor its machines."""
    Launcher(begun).start(1)
    before = sorted(tmp_path.glob("homes/j/**/*"))
    other = site(tmp_path, share="elsewhere")
    other.cloud = begun.cloud
    with pytest.raises(UsageError, match="a job j has machines that run"):
        Launcher(other).start(1)
    begun.cloud.terminate_instances(["i-0", "i-1"])
    with pytest.raises(UsageError, match="holds another job"):
        Launcher(other).start(1)
    assert sorted(tmp_path.glob("homes/j/**/*")) == before
    assert (tmp_path / "homes/j/input/cat.avi").exists()


def test_who_is_interrupted_while_an_id_is_looked_up_ends_nothing(begun, monkeypatch):
    """Regression: ^C ended all machines tagged with the id, and so those of the job that had it before."""
    from vidcloud.cli import run

    ended = []
    monkeypatch.setattr("vidcloud.request.create", lambda _request: begun._job)
    monkeypatch.setattr("vidcloud.sites.open_site", lambda _job: begun)
    monkeypatch.setattr(begun.cloud, "terminate_instances", ended.append)
    begun.cloud.run_instances("collector", "another's", 1)
    looks, look = iter([signal.SIGINT]), begun.cloud.describe_instances

    def interrupted():
        for number in looks:
            signal.raise_signal(number)
        return look()

    monkeypatch.setattr(begun.cloud, "describe_instances", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run.callback(
            input="cat.avi", filters=("invert",), outputs=(), encoder=(), share=None, dry_run=False, detach=False,
            as_json=True, verbose=False, nodes=1, cloud="ec2", yes=True, eucarc=None,
        )  # fmt: skip
    assert ended == []
    assert not begun._job.root.exists()


def test_of_two_that_begin_at_once_one_has_the_home(begun, tmp_path, monkeypatch):
    """Both saw it empty; the spec's name decides."""
    Launcher(begun).start(1)
    other = site(tmp_path, share="elsewhere")
    monkeypatch.setattr(storage, "tree", lambda _url: [])
    monkeypatch.setattr(storage, "exists", lambda _url: False)
    with pytest.raises(UsageError, match="holds another job"):
        Launcher(other).start(1)
    assert begun.records.spec() == begun._job.spec()

"""A launcher whose job is far away, over a cloud that only writes down what it is asked."""

import dataclasses
import itertools
import threading
from collections import namedtuple

import pytest
from homes import site

from vidcloud import boot, home
from vidcloud import job as jobs
from vidcloud.errors import CloudError, StorageError
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import HomeSite, NewLines


def hosts(site):
    """Who may mount the share."""
    told = home.Home(site.cloud.home)
    return [told.read(f"nodes/{node}.host").decode() for node in told.marks()["host"]]


def test_a_start_uploads_all_and_starts_pinned_lines(begun, tmp_path):
    told = []
    Launcher(begun).start(2, lambda done, total: told.append((done, total)))
    assert (tmp_path / "homes/j/input/cat.avi").read_bytes() == b"a cat"
    collector, processor = (boot.UserData.parse(line) for line in begun.cloud.lines)
    assert collector.script == "collector"
    assert "#sha256=" in collector.server
    assert collector.arguments[-2:] == ("--home", begun.cloud.home)
    assert collector.arguments[6:8] == ("--env", "AWS_REGION=mars-1")
    assert processor.arguments[-2:] == ("--collector", "10.0.0.0")
    assert hosts(begun) == ["10.0.0.1", "10.0.0.2"], "processors, and nobody else"
    assert (begun.records.nodes(), begun.records.machines()) == (2, 3)
    assert begun.records.spec().id == "j"


def test_the_bundle_holds_what_nodes_need_and_nothing_else(begun, tmp_path):
    import tarfile

    Launcher(begun).start(1)
    with tarfile.open(tmp_path / "homes/j/bundle.tar") as tar:
        names = set(tar.getnames())
    assert {"collector", "processor", "job/spec.json", "job/plugins/0123.py"} <= names
    assert any(n.startswith("wheels/vidcloud-") for n in names)
    assert not any("site.json" in n or "instances" in n for n in names)


def test_a_key_of_the_jobs_own_is_in_the_bundle_and_nowhere_else(begun, tmp_path):
    import tarfile

    keys = []
    for made in (site(tmp_path, "k"), begun):
        made.cloud.encrypts = True
        Launcher(made).start(1)
        with tarfile.open(tmp_path / f"homes/{made.records.id}/bundle.tar") as tar:
            member = tar.getmember("tunnel.psk")
            assert member.mode == 0o600
            keys.append(tar.extractfile(member).read().decode().removeprefix("vidcloud:").strip())
    assert [len(bytes.fromhex(key)) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    holders = [p.name for p in tmp_path.rglob("*") if p.is_file() and keys[1].encode() in p.read_bytes()]
    assert holders == ["bundle.tar"], "the launcher keeps no copy"
    assert not any(key in line for key in keys for line in begun.cloud.lines)
    begun.sweep()
    assert not (tmp_path / "homes/j/bundle.tar").exists()


def test_a_bundle_is_its_owners_alone(tmp_path):
    job = jobs.create(tmp_path, JobSpec(id="j", created=0.0, input="i", output="o", filters=(), encode={}))
    target = tmp_path / "bundle.tar"
    target.touch(0o644)
    boot.make_bundle(job.root, target, key=boot.make_key())
    assert target.stat().st_mode & 0o777 == 0o600


def test_scaling_drains_by_the_home(begun):
    launcher = Launcher(begun)
    launcher.start(3)
    begun.records.write_progress({"frames": {}})
    assert launcher.scale(1) == -2
    assert home.Home(begun.cloud.home).marks()["drain"] == ["i-2", "i-3"]
    assert begun.cloud.drained == ["i-2", "i-3"]


def test_a_lost_collector_takes_the_share_with_it(begun):
    """Its processors have mounted what is gone: all start anew."""
    launcher = Launcher(begun)
    launcher.start(2)
    begun.cloud.terminate_instances(["i-0"])
    launcher._replace_collector()
    alive = [(i.id, i.role) for i in begun.cloud.instances if i.alive]
    assert alive == [("i-3", "collector"), ("i-4", "processor"), ("i-5", "processor")]
    assert boot.UserData.parse(begun.cloud.lines[-1]).arguments[-1] == "10.0.0.3"
    assert hosts(begun) == ["10.0.0.4", "10.0.0.5"]


def test_the_output_is_delivered_once_and_the_home_swept(begun, tmp_path):
    begun.prepare(lambda *_: None)
    output = tmp_path / "homes/j/output"
    output.mkdir()
    (output / "cat.mp4").write_bytes(b"a neon cat")
    (output / "cat.mp4.proof.json").write_bytes(b"{}")
    result = {"state": "done", "output": begun.records.spec().output}
    for _ in range(2):
        assert begun.deliver(result)["output"] == f"file://{tmp_path}/cat.mp4"
    assert (tmp_path / "cat.mp4").read_bytes() == b"a neon cat"
    assert (tmp_path / "cat.mp4.proof.json").read_bytes() == b"{}"
    begun.sweep()
    left = [p.name for p in (tmp_path / "homes/j").rglob("*") if p.is_file() and p.parent.name != "audit"]
    assert left == ["spec.json"]
    assert [n["action"] for n in home.Home(begun.cloud.home).notes()] == ["started", "stored", "delivered", "removed"]


def test_a_delivery_replaces_nothing(begun, tmp_path):
    begun.prepare(lambda *_: None)
    output = tmp_path / "homes/j/output"
    output.mkdir()
    (output / "cat.mp4").write_bytes(b"a neon cat")
    (tmp_path / "cat.mp4").write_bytes(b"mine")
    with pytest.raises(StorageError, match="appeared meanwhile"):
        begun.deliver({"state": "done"})
    assert (tmp_path / "cat.mp4").read_bytes() == b"mine"
    assert (output / "cat.mp4").exists()


def test_a_launcher_elsewhere_sees_the_job_and_leaves_the_output_at_home(begun):
    Launcher(begun).start(1)
    elsewhere = HomeSite(begun.cloud.home, begun.cloud, None)
    home.records(begun.cloud.home).write_progress({"began": 0.0, "frames": {"total": 9, "filtered": 3}})
    now = Launcher(elsewhere).status()
    assert (now.state, now.total, now.filtered) == ("running", 9, 3)
    assert [n.role for n in now.nodes] == ["collector", "processor"]
    assert elsewhere.deliver({"state": "done", "output": "s3://b/x"}) == {"state": "done", "output": "s3://b/x"}
    assert Launcher(elsewhere).logs("i-0") == [("i-0", "console of i-0")]


def test_nodes_that_are_there_twice_are_ended(begun):
    """As a cloud without tokens leaves them, when an answer was lost."""
    launcher = Launcher(begun)
    begun.prepare(lambda *_: None)
    begun.records.write_nodes(2)
    begun.cloud.run_instances("collector", "", 2)
    begun.cloud.run_instances("processor", "", 3)
    launcher._step(lambda _status: None)
    assert [i.id for i in begun.cloud.instances if i.alive] == ["i-1", "i-2", "i-3"]
    assert begun.cloud.drained == ["i-4"], "it may be at work"


RESULT = {"version": 1, "state": "done", "seconds": 1.0, "takeovers": 0, "frames": 9, "report": [], "plane": "frames"}


class Outage:
    """A cloud's verbs, of which the n-th call fails."""

    def __init__(self, cloud, at, monkeypatch):
        self.calls = 0
        for name in ("describe_instances", "run_instances", "terminate_instances"):
            monkeypatch.setattr(cloud, name, self.failing(getattr(cloud, name), at), raising=False)

    def failing(self, verb, at):
        def asked(*args, **kwargs):
            self.calls += 1
            if self.calls == at:
                raise CloudError("no route to the cloud")
            return verb(*args, **kwargs)

        return asked


def test_a_supervisor_outlives_an_outage_at_each_call(begun, tmp_path, monkeypatch):
    """Regression: only the first look of a round was let fail; any other call ended the supervisor, and the job's care."""
    begun.prepare(lambda *_: None)
    monkeypatch.setattr(begun, "sweep", lambda: None)
    monkeypatch.setattr("vidcloud.launcher.time.sleep", lambda _s: None)
    for name in ("_END_S", "_AGAIN_S"):
        monkeypatch.setattr(f"vidcloud.launcher.{name}", 0.0)
    at = 0
    while True:
        at += 1
        for name in ("result.json", "cat.mp4"):
            (tmp_path / "homes/j" / name).unlink(missing_ok=True)
        (tmp_path / "cat.mp4").unlink(missing_ok=True)
        (tmp_path / "share/jobs/j/delivered").unlink(missing_ok=True)
        begun.cloud.instances.clear()
        begun.records.write_nodes(2)
        begun.cloud.run_instances("collector", "", 1)
        begun.cloud.run_instances("processor", "", 2)
        (tmp_path / "homes/j/output").mkdir(exist_ok=True)
        (tmp_path / "homes/j/output/cat.mp4").write_bytes(b"a neon cat")
        begun.cloud.terminate_instances(["i-0", "i-2"])
        rounds = []

        def show(_status, rounds=rounds):
            rounds.append([i for i in begun.cloud.instances if i.alive])
            if len(rounds) == 2:  # a processor was lost, too
                lost = [i.id for i in rounds[-1] if i.role == "processor"][-1:]
                begun.cloud.instances = [
                    dataclasses.replace(i, state="terminated") if i.id in lost else i for i in begun.cloud.instances
                ]
            elif len(rounds) >= 4 and len(rounds[-1]) == 3:
                begun.records.write_result({**RESULT, "output": begun.records.spec().output})

        with monkeypatch.context() as patched:
            outage = Outage(begun.cloud, at, patched)
            assert Launcher(begun).supervise(show)["state"] == "done", at
        assert (tmp_path / "cat.mp4").read_bytes() == b"a neon cat"
        assert not [i for i in begun.cloud.instances if i.alive]
        if outage.calls < at:
            break
    assert at > 12, "looks, starts, ends"


def test_a_cloud_that_stays_away_is_given_up(begun, monkeypatch):
    Launcher(begun).start(1)
    now = itertools.count(0, 100)
    monkeypatch.setattr("vidcloud.launcher.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("vidcloud.launcher.time.sleep", lambda _s: None)
    monkeypatch.setattr(
        begun.cloud, "run_instances", lambda *_: (_ for _ in ()).throw(CloudError("never")), raising=False
    )
    begun.cloud.terminate_instances(["i-0"])
    with pytest.raises(CloudError, match="never"):
        Launcher(begun).supervise()


def test_machines_that_never_say_a_word_are_ended(begun):
    """A boot that goes wrong where nobody sees it must not be waited for, and paid for, until the job's end."""
    launcher = Launcher(begun)
    launcher.start(2)

    def after_the_time():
        begun.cloud.boot_timeout_s = 600
        launcher._end_unheard(begun.cloud.instances)
        begun.cloud.boot_timeout_s = -1
        launcher._end_unheard([i for i in begun.cloud.instances if i.alive])
        return [i.id for i in begun.cloud.instances if i.alive]

    told = home.Home(begun.cloud.home)
    assert after_the_time() == ["i-1", "i-2"], "the collector first: the others wait for it"
    launcher._replace_collector()
    told.replace("logs/i-3.log", b"")
    told.replace("logs/i-5.log", b"working")
    assert after_the_time() == ["i-3", "i-5"]
    assert after_the_time() == ["i-3", "i-5"]


def test_nodes_of_another_launcher_may_mount_too(begun):
    """One that this launcher's cloud does not show yet must not lose the share to it."""
    launcher = Launcher(begun)
    launcher.start(2)
    home.Home(begun.cloud.home).admit("i-9", "10.9.9.9")
    begun.cloud.terminate_instances(["i-1"])
    begun.settle(begun.cloud.describe_instances())
    assert hosts(begun) == ["10.0.0.2", "10.9.9.9"]


def test_two_launchers_that_admit_at_once_lose_nobody(begun):
    """Regression: each read all hosts, added its own and wrote all: the later took away what the earlier had added."""
    launcher = Launcher(begun)
    launcher.start(1)
    url, both = begun.cloud.home, threading.Barrier(2, timeout=60)
    Seen = namedtuple("Seen", "id role address alive")  # noqa: PYI024

    class Slow(home.Home):
        def marks(self):
            found = super().marks()
            both.wait()  # until the other has read, too
            return found

    def settle(n):
        elsewhere = HomeSite(url, begun.cloud, None)
        elsewhere._home = Slow(url)
        elsewhere.settle([Seen(f"i-9{n}", "processor", f"10.9.9.{n}", True)])

    threads = [threading.Thread(target=settle, args=(n,)) for n in (1, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert hosts(begun) == ["10.0.0.1", "10.9.9.1", "10.9.9.2"]


def test_a_long_log_is_followed_to_its_end(begun, monkeypatch):
    """Regression: once a log was as long as what is kept of one, nothing of it was printed any more, or cut lines."""
    monkeypatch.setattr(home, "_LOG_MOST", 100)
    Launcher(begun).start(1)
    job = jobs.create(begun._job.root.parent / "far", begun._job.spec())
    mirror, new = home.Mirror(job, home.Home(begun.cloud.home)), NewLines(begun)
    assert new("i-1") == []
    assert new("i-1", last=True) == ["console of i-1"]
    said, told = [], []
    for n in range(60):
        said += [f"line {n} é" + "." * (n % 7)]
        with (job.logs / "i-1.log").open("a") as log:
            log.write(said[-1] + "\n" + "half"[: n % 2 * 4])
        mirror.step()
        told += new("i-1")
        if n % 2:
            said += ["half"]
            with (job.logs / "i-1.log").open("a") as log:
                log.write("\n")
    assert told == said[:-1]
    with (job.logs / "i-1.log").open("a") as log:
        log.write("x" * 90 + "\n" + "y" * 90 + "\n")
    mirror.step()
    assert new("i-1") == ["y" * 90], "what is not kept is left out, and what is comes whole"

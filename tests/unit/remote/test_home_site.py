"""A launcher whose job is far away, over a cloud that only writes down what it is asked."""

import dataclasses
import itertools
import signal
import threading
from collections import namedtuple

import pytest

from vidcloud import boot, home, storage
from vidcloud import job as jobs
from vidcloud.clouds.base import Instance
from vidcloud.errors import CloudError, StorageError, UsageError
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import HomeSite, NewLines


def hosts(site):
    """Who may mount the share."""
    told = home.Home(site.cloud.home)
    return [told.read(f"nodes/{node}.host").decode() for node in told.marks()["host"]]


class PaperCloud:
    """Instances on paper; the collector's has an address."""

    lifetime_s = 3600
    boot_timeout_s = 600
    encrypts = False
    environment = {"AWS_REGION": "mars-1"}

    def __init__(self, home_url):
        self.home = home_url
        self.instances = []
        self.lines = []
        self.drained = []

    def run_instances(self, role, user_data, count):
        self.lines.append(user_data)
        first = len(self.instances)
        made = [
            Instance(f"i-{first + n}", role, "running", f"10.0.0.{first + n}", float(first + n)) for n in range(count)
        ]
        self.instances += made
        return made

    def describe_instances(self):
        return list(self.instances)

    def terminate_instances(self, ids, *, drain=False):
        if drain:
            self.drained += ids
        self.instances = [
            Instance(i.id, i.role, "shutting-down" if drain else "terminated", i.address, i.launched)
            if i.id in ids
            else i
            for i in self.instances
        ]

    def machines(self, nodes):
        return nodes + 1

    def console_output(self, instance_id):
        return f"console of {instance_id}"


@pytest.fixture
def begun(tmp_path):
    """A job from a file here to a file here, its site, and where the collector would leave the output."""
    return site(tmp_path)


def site(tmp_path, job_id="j", share="share"):
    source = tmp_path / "cat.avi"
    source.write_bytes(b"a cat")
    url = f"file://{tmp_path}/homes/{job_id}"
    spec = JobSpec(
        id=job_id,
        created=float(share != "share"),
        input=f"{url}/input/cat.avi",
        output=f"{url}/output/cat.mp4",
        filters=(),
        encode={},
    )
    job = jobs.create(tmp_path / share, spec)
    wanted = f"file://{tmp_path}/cat.mp4"
    job.write_site({"cloud": "paper", "options": {}, "home": url, "input": str(source), "output": wanted})
    (job.plugins / "0123.py").write_text("# mine")
    return HomeSite(url, PaperCloud(url), job)


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

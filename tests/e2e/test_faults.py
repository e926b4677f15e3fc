"""Promises 3, 4 and 5: kills, zombies, scaling and resuming leave the output as it was, and nothing behind."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest
from users import same_frames

from vidcloud.chunkfile import read_header

EXAMPLE = Path(__file__).parents[2] / "examples" / "bigbuckbunny.mp4"


@pytest.fixture
def clip(samples):
    return samples("long-gop.mkv")


both = pytest.mark.parametrize("plane", ["frames", "segments"], indirect=True)


@pytest.fixture
def plane(request):
    """How to ask for it; units are alike on both, one chunk."""
    return ("--plane", getattr(request, "param", "frames"), "--segment-chunks", 1)


@pytest.fixture
def start(user, gates, clip, plane):
    """Start a job of 60 frames in units of 3, which holds frames from ``hold`` on, and frame ``last``; see `Gates`."""

    def begin(*args, nodes=3, hold=6, last=59, seconds=0.0, lease=10):
        return user.start(
            "run", clip, "--filter", f"{gates.filter}:hold={hold},last={last},seconds={seconds}", "--chunk", 3,
            "--nodes", nodes, "--codec", "ffv1", "-o", "out.mkv", "--job-id", "j", "--lease", lease, "--json", *plane, *args,
        )  # fmt: skip

    return begin


@pytest.fixture
def as_ever(user, gates, clip):
    """Assert that the output is the one of a run in which nothing happened."""

    def check():
        user.run(clip, "--filter", gates.filter, "--codec", "ffv1", "-o", "quiet.mkv", "--job-id", "quiet")
        same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")
        assert user("verify", "out.mkv").code == 0
        assert user.processes() == []

    return check


def processors(status):
    return [n for n in status["nodes"] if n["role"] == "processor" and n["state"] == "running"]


@pytest.fixture
def ended(gates):
    """Open all gates and wait for the end."""

    def wait(child):
        gates.open()
        gates.finish()
        out, err = child.communicate(timeout=240)
        return child.returncode, out, err

    return wait


@pytest.mark.parametrize(
    ("plane", "pack"), [("frames", "auto"), ("frames", "coded"), ("segments", "auto")], indirect=["plane"]
)
def test_killed_processors(user, start, gates, ended, as_ever, pack):
    """kill -9 of processors at random, several times; regression: with the prototype one death hung the job."""
    child = start("--pack", pack, hold=1000, seconds=0.05, lease=3)
    rng = random.Random(1)
    for n in (1, 2, 3):
        now = user.when("j", lambda s, n=n: s["frames"]["filtered"] >= 6 * n and processors(s))
        os.kill(rng.choice(processors(now))["pid"], signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


@both
def test_the_only_processor_is_killed(user, start, gates, ended, as_ever):
    child = start(nodes=1, lease=3)
    [pid] = gates.held(1)
    os.kill(pid, signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 0, err
    assert " node_dead " in user("logs", "j").out
    as_ever()


@both
def test_a_stopped_processor_that_wakes_after_takeover(user, start, gates, ended, as_ever):
    """Promise 3."""
    child = start(nodes=2, lease=3)
    zombie = gates.held(2)[0]
    os.kill(zombie, signal.SIGSTOP)
    gates.open()
    user.when_logged("j", " node_dead ")  # its unit may have been doubled before: then nothing is taken over
    os.kill(zombie, signal.SIGCONT)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


@both
def test_scaling_up_and_down(user, start, gates, ended, as_ever):
    child = start(nodes=1, lease=60)
    gates.held(1)
    assert user("scale", "j", "--add", 2).out.strip() == "j: 3 nodes (+2)"
    gates.held(3)
    assert user("scale", "j", "--nodes", 1).code == 0
    now = user.when("j", lambda s: len(processors(s)) == 1)
    code, out, err = ended(child)
    assert code == 0, err
    assert '"takeovers": 0' in out, "who leaves gives back what it holds"
    assert len(now["nodes"]) == 4
    as_ever()


@both
def test_a_killed_collector_is_followed_by_another(user, start, gates, ended, as_ever):
    child = start()
    now = user.when("j", lambda s: s["frames"]["encoded"] >= 6)
    os.kill(next(n["pid"] for n in now["nodes"] if n["role"] == "collector"), signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


@pytest.mark.parametrize(
    ("plane", "pack"), [("frames", "auto"), ("frames", "coded"), ("segments", "auto")], indirect=["plane"]
)
def test_all_is_killed_and_the_job_resumed(user, start, gates, as_ever, pack):
    """Nothing that is done is filtered again: the results on the share are taken as they are."""
    # What is done waits for the first frame, so that it still lies there.
    child = start("--pack", pack, hold=1000, last=0)
    done = user.share / "jobs/j/chunks/done"
    now = user.when("j", lambda _: done.exists() and len(list(done.iterdir())) >= 4)
    user.kill_all(child, now["nodes"])
    done_before = {n.name for n in done.iterdir()}
    gates.open()
    gates.finish()
    resumed = user("resume", "j", "--json", env={"VIDCLOUD_VERBOSE": "1"})
    assert resumed.code == 0, resumed.err
    logs = user("logs", "j").out
    again = {line.split("unit=")[1].split()[0] for line in logs.splitlines() if " published " in line}
    assert again.isdisjoint({str(int(n.split(".")[0])) for n in done_before})
    as_ever()


def test_packed_chunks_outlive_a_zombie_and_a_crash(user, start, gates, as_ever):
    """A takeover, its result is there, all is killed, the job resumed; what lies on the share is packed all the time."""
    child = start("--pack", "blosc2", nodes=2, lease=3)
    os.kill(gates.held(2)[0], signal.SIGSTOP)
    gates.open()
    chunks = user.share / "jobs/j/chunks"
    # Regression: the resumed collector threw away what was made in a second claim, and its input was gone.
    now = user.when("j", lambda _: any(p.suffix not in (".1", ".tmp") for p in (chunks / "done").iterdir()))
    user.kill_all(child, now["nodes"])
    stored = {read_header(p).stored for folder in ("ready", "done") for p in (chunks / folder).iterdir()}
    assert stored == {"blosc2"}
    gates.finish()
    resumed = user("resume", "j", "--json")
    assert resumed.code == 0, resumed.err
    assert "late_result" not in user("logs", "j", "collector-2").out
    as_ever()


@both
def test_a_second_collector_leaves_a_running_job_alone(user, start, gates, ended, as_ever):
    """It is refused, and must not write down that the job failed."""
    child = start(lease=3)
    gates.held(1)
    second = user("collector", "--job", user.share / "jobs/j", "--node", "collector-9")
    assert second.code == 1
    assert "another collector" in second.err
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


def test_resume_of_a_running_job_watches_it(user, start, gates, ended, as_ever):
    child = start()
    gates.held(1)
    second = user.start("resume", "j")
    assert "is running; watching" in second.stderr.readline()
    assert ended(child)[0] == 0
    second.communicate(timeout=120)
    assert second.returncode == 0
    as_ever()


def test_the_launcher_is_killed_and_the_job_goes_on(user, start, gates, as_ever):
    child = start()
    gates.held(3)
    child.kill()
    gates.open()
    gates.finish()
    assert user("watch", "j").code == 0
    as_ever()


def test_detach(user, clip, gates, as_ever):
    begun = user("run", clip, "--filter", gates.filter, "--codec", "ffv1", "-o", "out.mkv", "--detach", "--job-id", "j")
    assert (begun.code, begun.out) == (0, "j\n")
    assert user("watch", "j").code == 0
    assert user.status("j")["state"] == "done"
    user.when_no_processes()
    as_ever()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_ends_all_it_started(user, start, gates, number):
    child = start()
    gates.held(1)
    child.send_signal(number)
    _, err = child.communicate(timeout=120)
    code = child.returncode
    assert code == 130
    assert "nothing is left running" in err
    assert "Traceback" not in err
    assert user.processes() == []
    assert user.status("j")["state"] == "cancelled"
    assert sorted(p.name for p in user.folder.iterdir()) == ["gated.py", "share"], "no half-made output"
    assert not (user.share / "jobs/j/chunks").exists()


def test_cancel(user, start, gates):
    child = start()
    gates.held(1)
    assert user("cancel", "j").out == "j: cancelled\n"
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "cancelled" in err
    assert user.processes() == []
    again = user("cancel", "j")
    assert (again.code, again.err) == (2, "vidcloud: job j is cancelled already\n")


@both
def test_a_processor_without_a_collector_ends_itself(user, start, gates):
    """The dead-man time: nobody is there to start or end it."""
    child = start("--dead-man", 5)
    gates.held(3)
    now = user.status("j")
    child.kill()
    child.wait()
    os.kill(next(n["pid"] for n in now["nodes"] if n["role"] == "collector"), signal.SIGKILL)
    gates.open()
    gates.finish()
    user.when_no_processes(timeout=120)
    assert "dead_man" in user("logs", "j").out


@both
def test_a_failing_filter_fails_the_job_with_a_clear_line(user, clip, plane):
    (user.folder / "bad.py").write_text(
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def bad(frame, *, at):\n"
        "    if at.frame == 23:\n"
        "        raise RuntimeError('no good')\n"
        "    return frame\n"
    )
    failed = user("run", clip, "--filter", "./bad.py", "--nodes", 2, "-o", "out.mkv", "--job-id", "j", *plane)
    assert failed.code == 1
    last = failed.err.strip().splitlines()[-1]
    assert "filter ./bad.py failed on frame 23 (at 0.920 s): RuntimeError: no good" in last
    assert "(2 times, on processor-1, processor-2)" in last
    assert "Traceback" not in failed.err
    assert "raise RuntimeError('no good')" in user("logs", "j").out, "the logs have the whole traceback"
    assert not (user.folder / "out.mkv").exists()
    assert user.processes() == []


@both
def test_on_error_keep_keeps_the_unfiltered_frame(user, clip, plane):
    (user.folder / "bad.py").write_text(
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def bad(frame, *, at):\n"
        "    if at.frame == 23:\n"
        "        raise RuntimeError('no good')\n"
        "    return type(frame)(*(255 - p for p in frame))\n"
    )
    import numpy as np
    from users import frames_of

    told = user.run(
        clip, "--filter", "./bad.py", "--nodes", 2, "-o", "out.mkv", "--codec", "ffv1", "--on-error", "keep", *plane
    )
    assert any("frame 23" in line and "no good" in line for line in told["report"])
    (got, _), (source, _) = frames_of(user.folder / "out.mkv"), frames_of(clip)
    assert np.array_equal(got[23], source[23])
    assert np.array_equal(got[24], 255 - source[24])


@both
def test_a_filter_that_kills_its_process_ends_the_job(user, clip, plane):
    """Promise 4: a segfault is no exception; it must not go on for ever."""
    (user.folder / "crash.py").write_text(
        "import os, signal\n"
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def crash(frame, *, at):\n"
        "    if at.frame == 23:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return frame\n"
    )
    failed = user("run", clip, "--filter", "./crash.py", "--nodes", 2, "-o", "out.mkv", *plane)
    assert failed.code == 1
    assert "unit 1 was lost 4 times" in failed.err
    assert user.processes() == []


@both
def test_a_filter_that_never_returns_ends_the_job(user, clip, plane):
    (user.folder / "stuck.py").write_text(
        "import time\n"
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def stuck(frame, *, at):\n"
        "    time.sleep(3600 if at.frame == 23 else 0)\n"
        "    return frame\n"
    )
    failed = user("run", clip, "--filter", "./stuck.py", "--nodes", 5, "-o", "out.mkv", "--frame-timeout", 1, *plane)
    assert failed.code == 1
    assert "no progress for 1 s" in failed.err
    assert user.processes() == []


def test_the_share_stays_bounded(user, start, gates):
    """The window bounds the pixels on the share, whatever the video's length."""
    child = start("--window", 2, hold=1000, seconds=0.02)
    gates.finish()
    ready = user.share / "jobs/j/chunks/ready"
    most = 0
    while child.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # not yet, or not any more
            most = max(most, sum(1 for _ in ready.iterdir()))
    assert child.returncode == 0
    assert 1 <= most <= 3


def test_a_changed_plugin_is_refused(user, start, gates, ended):
    """Promise 6: what nodes run is pinned by SHA-256."""
    child = start(nodes=1)
    [pid] = gates.held(1)
    plugin = next((user.share / "jobs/j/plugins").glob("*.py"))
    plugin.write_text(plugin.read_text() + "\n# changed\n")
    os.kill(pid, signal.SIGKILL)
    code, _, err = ended(child)
    assert code != 0
    assert "is not the file that the job pinned" in err

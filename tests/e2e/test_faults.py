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


@pytest.fixture
def start(user, slow, clip):
    """Start a job that lasts a while; its output must be that of a quiet run."""

    def begin(*args, seconds=0.02, nodes=3, lease=2):
        return user.start(
            "run", clip, "--filter", f"{slow}:seconds={seconds}", "--chunk", 3, "--nodes", nodes, "--codec", "ffv1",
            "-o", "out.mkv", "--job-id", "j", "--lease", lease, "--json", *args,
        )  # fmt: skip

    return begin


@pytest.fixture
def as_ever(user, slow, clip):
    """Assert that the output is the one of a run in which nothing happened."""

    def check():
        user.run(clip, "--filter", f"{slow}:seconds=0", "--codec", "ffv1", "-o", "quiet.mkv", "--job-id", "quiet")
        same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")
        assert user("verify", "out.mkv").code == 0
        assert user.processes() == []

    return check


def processors(status):
    return [n for n in status["nodes"] if n["role"] == "processor" and n["state"] == "running"]


def ended(child):
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


def test_killed_processors(user, start, as_ever):
    """kill -9 of processors at random, several times; regression: with the prototype one death hung the job."""
    child = start(seconds=0.05)
    rng = random.Random(1)
    for n in (1, 2, 3):
        now = user.when("j", lambda s, n=n: s["frames"]["filtered"] >= 6 * n and processors(s))
        os.kill(rng.choice(processors(now))["pid"], signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


def test_the_only_processor_is_killed(user, start, as_ever):
    child = start(nodes=1, seconds=0.03)
    now = user.when("j", lambda s: s["frames"]["filtered"] >= 6)
    os.kill(processors(now)[0]["pid"], signal.SIGKILL)
    code, out, err = ended(child)
    assert code == 0, err
    assert '"takeovers": 1' in out or '"takeovers": 0' in out
    as_ever()


def test_a_stopped_processor_that_wakes_after_takeover(user, start, as_ever):
    """Promise 3."""
    child = start(seconds=0.1, nodes=2, lease=1)
    now = user.when("j", lambda s: s["frames"]["filtered"] >= 6)
    zombie = processors(now)[0]["pid"]
    os.kill(zombie, signal.SIGSTOP)
    user.when("j", lambda s: s["takeovers"] >= 1)
    os.kill(zombie, signal.SIGCONT)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


def test_scaling_up_and_down(user, start, as_ever):
    child = start(nodes=1, seconds=0.15)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    assert user("scale", "j", "--add", 2).out.strip() == "j: 3 nodes (+2)"
    now = user.when("j", lambda s: len(processors(s)) == 3 and all(n["chunks"] for n in processors(s)))
    assert user("scale", "j", "--nodes", 1).code == 0
    user.when("j", lambda s: len(processors(s)) == 1)
    code, out, err = ended(child)
    assert code == 0, err
    assert '"takeovers": 0' in out, "who leaves gives back what it holds"
    assert len(now["nodes"]) == 4
    as_ever()


def test_a_killed_collector_is_followed_by_another(user, start, as_ever):
    child = start(seconds=0.05)
    now = user.when("j", lambda s: s["frames"]["encoded"] >= 6)
    os.kill(next(n["pid"] for n in now["nodes"] if n["role"] == "collector"), signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


def test_all_is_killed_and_the_job_resumed(user, start, as_ever):
    """Nothing that is done is filtered again: the results on the share are taken as they are."""
    child = start(seconds=0.05)
    now = user.when("j", lambda s: s["frames"]["filtered"] >= 12)
    child.kill()
    child.wait()
    for node in now["nodes"]:
        os.kill(node["pid"], signal.SIGKILL)
    done_before = {n.name for n in (user.share / "jobs/j/chunks/done").iterdir()}
    resumed = user("resume", "j", "--json", env={"VIDCLOUD_VERBOSE": "1"})
    assert resumed.code == 0, resumed.err
    logs = user("logs", "j").out
    again = {line.split("unit=")[1].split()[0] for line in logs.splitlines() if " published " in line}
    assert again.isdisjoint({str(int(n.split(".")[0])) for n in done_before})
    as_ever()


def test_packed_chunks_outlive_a_zombie_and_a_crash(user, start, as_ever):
    """A takeover, its result is there, all is killed, the job resumed; what lies on the share is packed all the time."""
    child = start("--pack", "blosc2", seconds=0.1, nodes=2, lease=1)
    now = user.when("j", lambda s: s["frames"]["filtered"] >= 6)
    os.kill(processors(now)[0]["pid"], signal.SIGSTOP)
    chunks = user.share / "jobs/j/chunks"
    # Regression: the resumed collector threw away what was made in a second claim, and its input was gone.
    now = user.when("j", lambda _: any(p.suffix == ".2" for p in (chunks / "done").iterdir()))
    child.kill()
    child.wait()
    for node in now["nodes"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node["pid"], signal.SIGKILL)
    stored = {read_header(p).stored for folder in ("ready", "done") for p in (chunks / folder).iterdir()}
    assert stored == {"blosc2"}
    resumed = user("resume", "j", "--json")
    assert resumed.code == 0, resumed.err
    assert "late_result" not in user("logs", "j", "collector-2").out
    as_ever()


def test_a_second_collector_leaves_a_running_job_alone(user, start, as_ever):
    """It is refused, and must not write down that the job failed."""
    child = start(seconds=0.15, lease=2)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    second = user("collector", "--job", user.share / "jobs/j", "--node", "collector-9")
    assert second.code == 1
    assert "another collector" in second.err
    code, _, err = ended(child)
    assert code == 0, err
    as_ever()


def test_resume_of_a_running_job_watches_it(user, start, as_ever):
    child = start(seconds=0.03)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    second = user("resume", "j")
    assert second.code == 0
    assert "is running; watching" in second.err
    assert ended(child)[0] == 0
    as_ever()


def test_the_launcher_is_killed_and_the_job_goes_on(user, start, as_ever):
    child = start(seconds=0.03)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    child.kill()
    assert user("watch", "j").code == 0
    as_ever()


def test_detach(user, clip, slow, as_ever):
    begun = user(
        "run", clip, "--filter", f"{slow}:seconds=0.02", "--codec", "ffv1", "-o", "out.mkv", "--detach", "--job-id", "j"
    )
    assert (begun.code, begun.out) == (0, "j\n")
    assert user("watch", "j").code == 0
    assert user.status("j")["state"] == "done"
    user.when_no_processes()
    as_ever()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_ends_all_it_started(user, start, number):
    child = start(seconds=0.1)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    child.send_signal(number)
    code, _, err = ended(child)
    assert code == 130
    assert "nothing is left running" in err
    assert "Traceback" not in err
    assert user.processes() == []
    assert user.status("j")["state"] == "cancelled"
    assert sorted(p.name for p in user.folder.iterdir()) == ["share", "slow.py"], "no half-made output"
    assert not (user.share / "jobs/j/chunks").exists()


def test_cancel(user, start):
    child = start(seconds=0.1)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    assert user("cancel", "j").out == "j: cancelled\n"
    code, _, err = ended(child)
    assert code == 1
    assert "cancelled" in err
    assert user.processes() == []
    again = user("cancel", "j")
    assert (again.code, again.err) == (2, "vidcloud: job j is cancelled already\n")


def test_a_processor_without_a_collector_ends_itself(user, start):
    """The dead-man time: nobody is there to start or end it."""
    child = start("--dead-man", 1, seconds=0.05)
    now = user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    child.kill()
    child.wait()
    os.kill(next(n["pid"] for n in now["nodes"] if n["role"] == "collector"), signal.SIGKILL)
    user.when_no_processes()
    assert "dead_man" in user("logs", "j").out


def test_a_failing_filter_fails_the_job_with_a_clear_line(user, clip):
    (user.folder / "bad.py").write_text(
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def bad(frame, *, at):\n"
        "    if at.frame == 23:\n"
        "        raise RuntimeError('no good')\n"
        "    return frame\n"
    )
    failed = user("run", clip, "--filter", "./bad.py", "--nodes", 2, "-o", "out.mkv", "--job-id", "j")
    assert failed.code == 1
    last = failed.err.strip().splitlines()[-1]
    assert "filter ./bad.py failed on frame 23 (at 0.920 s): RuntimeError: no good" in last
    assert "processor-1" in last
    assert "Traceback" not in failed.err
    assert "raise RuntimeError('no good')" in user("logs", "j").out, "the logs have the whole traceback"
    assert not (user.folder / "out.mkv").exists()
    assert user.processes() == []


def test_on_error_keep_keeps_the_unfiltered_frame(user, clip):
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
        clip, "--filter", "./bad.py", "--nodes", 2, "-o", "out.mkv", "--codec", "ffv1", "--on-error", "keep"
    )
    assert any("frame 23" in line and "no good" in line for line in told["report"])
    (got, _), (source, _) = frames_of(user.folder / "out.mkv"), frames_of(clip)
    assert np.array_equal(got[23], source[23])
    assert np.array_equal(got[24], 255 - source[24])


def test_a_filter_that_kills_its_process_ends_the_job(user, clip):
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
    failed = user("run", clip, "--filter", "./crash.py", "--nodes", 2, "-o", "out.mkv")
    assert failed.code == 1
    assert "unit 1 was lost 4 times" in failed.err
    assert user.processes() == []


def test_a_filter_that_never_returns_ends_the_job(user, clip):
    (user.folder / "stuck.py").write_text(
        "import time\n"
        "from vidcloud.filter import YUV, frame_filter\n"
        "@frame_filter(formats=YUV)\n"
        "def stuck(frame, *, at):\n"
        "    time.sleep(3600 if at.frame == 23 else 0)\n"
        "    return frame\n"
    )
    failed = user("run", clip, "--filter", "./stuck.py", "--nodes", 5, "-o", "out.mkv", "--frame-timeout", 1)
    assert failed.code == 1
    assert "no progress for 1 s" in failed.err
    assert user.processes() == []


def test_the_share_stays_bounded(user, start, clip):
    """The window bounds the pixels on the share, whatever the video's length."""
    child = start("--window", 2, seconds=0.02)
    ready = user.share / "jobs/j/chunks/ready"
    most = 0
    while child.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # not yet, or not any more
            most = max(most, sum(1 for _ in ready.iterdir()))
    assert ended(child)[0] == 0
    assert 1 <= most <= 3


def test_a_changed_plugin_is_refused(user, start):
    """Promise 6: what nodes run is pinned by SHA-256."""
    child = start(nodes=1, seconds=0.1)
    user.when("j", lambda s: s["frames"]["filtered"] >= 3)
    plugin = next((user.share / "jobs/j/plugins").glob("*.py"))
    plugin.write_text(plugin.read_text() + "\n# changed\n")
    now = user.status("j")
    os.kill(processors(now)[0]["pid"], signal.SIGKILL)
    code, _, err = ended(child)
    assert code != 0
    assert "is not the file that the job pinned" in err

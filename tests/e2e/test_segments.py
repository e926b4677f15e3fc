"""The segments plane: every kind of source, several sizes and encoders, frame by frame as the frames plane makes them."""

import json
import os
import signal
from pathlib import Path

import pytest
from users import frames_of, same_frames

KINDS = [
    "bframes.mp4", "open-gop.mp4", "open-gop-hevc.mp4", "long-gop.mkv", "ffv1-yuv422p.mkv", "vfr.mp4", "vfr-90k.mp4",
    "edit-list.mp4", "cfr.ts", "mpeg2.ts", "mpeg4.avi", "h264.avi", "rich.mkv", "av1.mkv", "odd-vp9.webm", "10bit.mp4",
    "interlaced.mp4", "interlaced-bff.ts", "late-start.mkv", "one.mp4", "n21.mp4", "prores.mov", "x264rgb.mp4",
]  # fmt: skip
CHAIN = ("--filter", "invert", "--filter", "temporal-denoise:radius=1")


def proof(path):
    return json.loads(Path(f"{path}.proof.json").read_text())["frames"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_source_at_a_seam(user, samples, name):
    """Units of 8 frames, so that there are seams everywhere, and a halo across each."""
    plane = ("--plane", "segments", "--chunk", 4, "--segment-chunks", 2, "--nodes", 2)
    user.run(samples(name), "-o", "segments.mkv", "--codec", "ffv1", *CHAIN, *plane)
    user.run(samples(name), "-o", "frames.mkv", "--codec", "ffv1", *CHAIN, "--plane", "frames")
    assert proof(user.folder / "segments.mkv") == proof(user.folder / "frames.mkv")
    same_frames(user.folder / "segments.mkv", user.folder / "frames.mkv")


@pytest.mark.parametrize(("nodes", "chunks"), [(1, 1), (3, 1), (3, 3), (1, 12)])
def test_nodes_and_sizes_make_no_difference(user, samples, nodes, chunks):
    source = samples("long-gop.mkv")
    plane = ("--plane", "segments", "--segment-chunks", chunks, "--nodes", nodes)
    told = user.run(source, "-o", "segments.mp4", "--crf", 0, *CHAIN, *plane)
    assert told["plane"] == "segments"
    user.run(source, "-o", "frames.mp4", "--crf", 0, *CHAIN, "--plane", "frames")
    same_frames(user.folder / "segments.mp4", user.folder / "frames.mp4")
    assert user("verify", "segments.mp4").code == 0


@pytest.mark.parametrize(
    ("codec", "output", "more"),
    [
        ("libx264", "o.mp4", ["--preset", "veryfast"]),
        ("libx265", "o.mp4", ["--preset", "ultrafast"]),
        ("libsvtav1", "o.mp4", ["--preset", "12", "--crf", "40"]),
        ("libvpx-vp9", "o.webm", ["--crf", "40", "-e", "cpu-used=8", "-e", "deadline=realtime"]),
        ("ffv1", "o.mkv", []),
        ("prores_ks", "o.mov", []),
        ("mpeg4", "o.mp4", []),
    ],
)
def test_encoders_join(user, samples, codec, output, more):
    """Number of frames, timestamps and audio packets are exact, whatever the encoder loses."""
    user.run(samples("vfr-90k.mp4"), "-o", output, "--filter", "invert", "--plane", "segments", "--chunk", 5,
             "--segment-chunks", 2, "--nodes", 2, "--codec", codec, *more)  # fmt: skip
    checked = user("verify", output)
    assert checked.code == 0, checked.out


def test_kill_and_zombie(user, samples, gates):
    """Promises 1, 3 and 4 hold on this plane, too."""
    args = ("--plane", "segments", "--chunk", 2, "--segment-chunks", 2, "--codec", "ffv1")
    child = user.start("run", samples("long-gop.mkv"), "--filter", f"{gates.filter}:hold=8,last=59", "-o", "out.mkv",
                       "--nodes", 3, "--job-id", "j", "--lease", 3, "--json", *args)  # fmt: skip
    killed, stopped, _ = gates.held(3)
    os.kill(killed, signal.SIGKILL)
    os.kill(stopped, signal.SIGSTOP)
    gates.open()
    user.when_logged("j", " node_dead ", 2)
    os.kill(stopped, signal.SIGCONT)
    gates.finish()
    _, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    user.run(samples("long-gop.mkv"), "--filter", gates.filter, "-o", "quiet.mkv", "--codec", "ffv1")
    same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")
    assert user.processes() == []


def test_a_killed_job_is_resumed(user, samples, gates):
    args = ("--plane", "segments", "--chunk", 2, "--segment-chunks", 2, "--codec", "ffv1")
    child = user.start("run", samples("long-gop.mkv"), "--filter", f"{gates.filter}:last=59", "-o", "out.mkv", "--nodes", 2,
                       "--job-id", "j", *args)  # fmt: skip
    now = user.when("j", lambda s: s["frames"]["encoded"] >= 12)
    user.kill_all(child, now["nodes"])
    gates.finish()
    assert user("resume", "j").code == 0
    user.run(samples("long-gop.mkv"), "--filter", gates.filter, "-o", "quiet.mkv", "--codec", "ffv1")
    same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")


def test_progress_within_segments_is_told(user, samples, gates):
    """Regression: until the first segment was finished, the bars stood at 0 of ?."""
    source = samples("bframes.mp4")
    child = user.start("run", source, "-o", "out.mkv", "--filter", f"{gates.filter}:hold=3", "--plane", "segments",
                       "--codec", "ffv1", "--job-id", "j", "--chunk", 2)  # fmt: skip
    now = user.when("j", lambda s: s["frames"]["working"] > 0)
    assert now["frames"]["filtered"] == 0
    assert now["frames"]["total"] == len(frames_of(source)[0])
    gates.open()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err

"""Two passes: the encoder sees the whole video twice, and the output is that of a plain loop that does so."""

import gc
import json
import os
import signal

import av
import numpy as np
import pytest
from av.codec.context import Flags
from samples import write
from users import frames_of, same_frames

FRAMES, RATE_K, GOP = 130, 320, 10
SIZE = 256, 128
"""Not all are encoded alike each time: 96×64 libx264 makes anew with its AVX-512 code and macroblock trees, and libx265's
weighted prediction reads memory that nobody wrote where pictures are 64 high (so `MALLOC_PERTURB_=170` changes its output)."""
TWO = ("-e", f"b={RATE_K}k", "-e", f"g={GOP}", "--passes", 2, "--chunk", 5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A still half, then a noisy one: bits must go from the one to the other, which a first pass alone can tell."""
    folder = tmp_path_factory.mktemp("clip")
    source = write(folder / "plain.mkv", codec="ffv1", size=SIZE, frames=FRAMES, audio="aac")
    noise = np.random.default_rng(1)
    made = folder / "clip.mkv"
    with av.open(str(source)) as found, av.open(str(made), "w") as out:
        video, sound = out.add_stream("ffv1", rate=25), out.add_stream_from_template(found.streams.audio[0])
        (video.width, video.height), video.pix_fmt = SIZE, "yuv420p"
        for packet in found.demux():
            if packet.stream.type == "audio":
                if packet.dts is not None:
                    packet.stream = sound
                    out.mux(packet)
                continue
            for frame in packet.decode():
                flat = frame.to_ndarray()
                n = round(frame.time * 25)
                flat[:] = noise.integers(16, 235, flat.shape, np.uint8) if n > FRAMES // 2 else flat // 8 + 100
                changed = av.VideoFrame.from_ndarray(flat, format="yuv420p")
                changed.pts, changed.time_base = frame.pts, frame.time_base
                out.mux(video.encode(changed))
        out.mux(video.encode(None))
    return made


@pytest.fixture(scope="module")
def serial(clip, tmp_path_factory):
    """Decode, invert, encode twice: PyAV and numpy alone, no line of vidcloud. Both passes' outputs."""
    folder, made = tmp_path_factory.mktemp("serial"), {}

    def get(codec):
        if codec not in made:
            made[codec] = [folder / f"{codec}-{number}.mkv" for number in (1, 2)]
            for number, path in enumerate(made[codec], 1):
                encode(clip, path, codec, number)
                gc.collect()  # only now the encoder is gone, and its statistics are whole
        return made[codec]

    return get


def encode(clip, path, codec, number):
    with av.open(str(clip)) as found, av.open(str(path), "w") as out:
        video, log = out.add_stream(codec, rate=25), path.with_name(f"{codec}.log")
        context = video.codec_context
        (context.width, context.height), context.pix_fmt = SIZE, "yuv420p"
        context.time_base = video.time_base = found.streams.video[0].time_base
        context.gop_size, context.thread_count = GOP, 0
        context.flags |= Flags.closed_gop.value | Flags.global_header.value
        context.options = {"b": f"{RATE_K}k", "preset": "medium"}
        if codec == "libx264":
            context.flags |= (Flags.pass1 if number == 1 else Flags.pass2).value
            context.options |= {"passlogfile": str(log)}
        else:
            context.options |= {"x265-params": f"log-level=none:open-gop=0:info=0:pass={number}:stats={log}"}
        for frame in found.decode(video=0):
            inverted = av.VideoFrame.from_ndarray(255 - frame.to_ndarray(), format="yuv420p")
            inverted.pts, inverted.time_base = frame.pts, frame.time_base
            out.mux(video.encode(inverted))
        out.mux(video.encode(None))


def far_off(path):
    """By what part of it the video's rate misses the one that was asked for."""
    return abs(sum(coded(path)) / (RATE_K * 1000 / 8 * FRAMES / 25) - 1)


def coded(path):
    """Bytes of the video's packets."""
    with av.open(str(path)) as container:
        return [p.size for p in container.demux(video=0) if p.size]


def sound(path):
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_output_is_that_of_a_serial_encode_in_two_passes(user, gates, clip, serial, codec):
    told = user.run(
        clip, "--filter", gates.filter, "--codec", codec, *TWO, "--nodes", 2, "-o", "out.mkv", "--job-id", "j"
    )
    assert (told["frames"], told["plane"]) == (FRAMES, "frames")
    first, reference = serial(codec)
    assert far_off(user.folder / "out.mkv") < min(0.5, far_off(first))
    verified = user("verify", "out.mkv", "--recompute")
    assert verified.code == 0, verified.err  # what the encoder was given; below, what it made of it
    same_frames(user.folder / "out.mkv", reference)
    assert coded(user.folder / "out.mkv") == coded(reference)
    assert frames_of(user.folder / "out.mkv")[1] == frames_of(clip)[1]
    assert sound(user.folder / "out.mkv") == sound(clip)
    assert user("verify", "out.mkv").code == 0
    proof = json.loads((user.folder / "out.mkv.proof.json").read_text())
    assert (len(proof["frames"]), proof["job"]["encode"]["passes"]) == (FRAMES, 2)
    now = user.status("j")
    assert (now["frames"]["total"], now["frames"]["encoded"], now["passes"]) == (FRAMES, FRAMES, 1)
    assert not (user.share / "jobs/j/parts").exists()


@pytest.fixture
def again(user):
    """A filter that inverts, and waits for the file ``open`` at frame ``at`` whenever it is not its first time there."""
    (user.folder / "again.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from vidcloud.filter import YUV, frame_filter, param\n"
        "SHARE = Path(os.environ['VIDCLOUD_SHARE'])\n"
        "def first():\n"
        "    try:\n"
        "        os.close(os.open(SHARE / 'first', os.O_CREAT | os.O_EXCL))\n"
        "    except FileExistsError:\n"
        "        return False\n"
        "    return True\n"
        "@frame_filter(formats=YUV)\n"
        "def again(frame, *, at, hold: int = param(-1), differs: int = param(0)):\n"
        "    add = 0\n"
        "    if at.frame == hold and not first():\n"
        "        add = differs\n"
        "        while not differs and not (SHARE / 'open').exists():\n"
        "            time.sleep(0.02)\n"
        "    return type(frame)(*(255 - plane + add for plane in frame))\n"
    )
    return "./again.py:again"


def kill_collector(status):
    [pid] = [n["pid"] for n in status["nodes"] if n["role"] == "collector" and n["state"] == "running"]
    os.kill(pid, signal.SIGKILL)


def resumed_at(user):
    """What the second collector's log says of its beginning."""
    return next(line for line in user("logs", "j", "collector-2").out.splitlines() if " opened " in line)


@pytest.fixture
def as_ever(user, clip, serial):
    """Assert that the output is the one of a run in which nothing happened."""

    def check():
        same_frames(user.folder / "out.mkv", serial("libx264")[1])
        assert coded(user.folder / "out.mkv") == coded(serial("libx264")[1])
        assert sound(user.folder / "out.mkv") == sound(clip)
        assert user("verify", "out.mkv").code == 0
        assert user.processes() == []

    return check


def test_a_collector_that_is_killed_in_the_first_pass_is_followed_by_another(user, gates, clip, as_ever):
    child = user.start(
        "run",
        clip,
        "--filter",
        f"{gates.filter}:hold=30",
        *TWO,
        "--nodes",
        2,
        "-o",
        "out.mkv",
        "--job-id",
        "j",
        "--json",
    )
    kill_collector(user.when("j", lambda s: s["frames"]["encoded"] >= 20 and s["passes"] == 2))
    gates.open()
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert json.loads(out)["frames"] == FRAMES
    assert f" first_pass frames={FRAMES}" in user("logs", "j", "collector-2").out
    as_ever()


@pytest.mark.parametrize("all_die", [False, True])
def test_a_job_that_breaks_off_in_the_second_pass_begins_that_anew(user, again, clip, as_ever, all_die):
    child = user.start(
        "run", clip, "--filter", f"{again}:hold=115", *TWO, "--nodes", 2, "-o", "out.mkv", "--job-id", "j", "--json"
    )
    parts = user.share / "jobs/j/parts"
    now = user.when("j", lambda _: any(parts.glob("part-??????????")))  # which must not be in the output
    if all_die:
        user.kill_all(child, now["nodes"])
    else:
        kill_collector(now)
    (user.share / "open").touch()
    if all_die:
        resumed = user("resume", "j", "--json")
        assert resumed.code == 0, resumed.err
    else:
        _, err = child.communicate(timeout=240)
        assert child.returncode == 0, err
    assert "resumed_at=0 units=0" not in resumed_at(user), "its units are new ones"
    assert " first_pass " not in user("logs", "j", "collector-2").out, "the statistics were whole"
    as_ever()


def test_a_doubled_unit_of_the_first_pass_is_harmless(user, uneven, clip, as_ever):
    """The slow node holds frame 0 of the first pass until the job has ended."""
    told = user.run(
        clip, "--filter", f"{uneven}:until= ended state=done", *TWO, "--nodes", 2, "--window", 60,
        "-o", "out.mkv", "--job-id", "j",
    )  # fmt: skip
    assert told["takeovers"] == 0
    assert " doubled unit=0 epoch=2 " in user("logs", "j").out
    assert not (user.folder / "waited").exists()
    as_ever()


def test_a_filter_that_makes_other_pixels_the_second_time_is_reported(user, again, clip):
    told = user.run(clip, "--filter", f"{again}:hold=30,differs=1", *TWO, "-o", "out.mkv")
    assert any("other pixels in the second pass" in line for line in told["report"])

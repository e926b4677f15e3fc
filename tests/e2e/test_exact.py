"""Promise 1: distributed equals serial; promise 2: a filter can't see chunk borders."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from samples import write
from users import frames_of, same_frames

EXAMPLE = Path(__file__).parents[2] / "examples" / "bigbuckbunny.mp4"
FFV1 = ("--codec", "ffv1")
CODED = [
    "open-gop.mp4", "open-gop-hevc.mp4", "long-gop.mkv", "vfr.mp4", "cfr.ts", "mpeg4.avi", "edit-list.mp4", "late-start.mkv",
    "n21.mp4", "ffv1-gbrp10.mkv",
]  # fmt: skip
BUILT_IN = [
    "edge", "gaussian-blur", "invert", "motion-blur", "motion-blur:type=radial", "motion-blur:type=zoom", "neon",
    "soft-glow", "temporal-denoise", "threshold",
]  # fmt: skip


def proof(path):
    return json.loads(Path(f"{path}.proof.json").read_text())["frames"]


@pytest.fixture(scope="module")
def serial(tmp_path_factory, samples):
    """One node, the whole video in one chunk: what all others must equal."""
    from users import User

    user = User(tmp_path_factory.mktemp("serial"))
    made = {}

    def get(name, *filters, **kwargs):
        key = (name, *filters)
        if key not in made:
            output = user.folder / f"{len(made)}.mkv"
            user.run(samples(name), "-o", output, "--chunk", 100000, *FFV1, *options(filters), **kwargs)
            made[key] = output
        return made[key]

    yield get
    user.leave()


def options(filters):
    return [word for f in filters for word in ("--filter", f)]


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 20, 97])
def test_nodes_and_chunks_make_no_difference(user, samples, serial, nodes, chunk):
    """With a halo in the chain, which would show a border."""
    chain = ("invert", "temporal-denoise")
    output = user.folder / "out.mkv"
    told = user.run(samples("long-gop.mkv"), "-o", output, "--nodes", nodes, "--chunk", chunk, *FFV1, *options(chain))
    reference = serial("long-gop.mkv", *chain)
    same_frames(output, reference)
    assert proof(output) == proof(reference)
    assert told["frames"] == len(proof(reference))


@pytest.mark.parametrize("name", ["long-gop.mkv", "ffv1-yuv420p10.mkv"])
@pytest.mark.parametrize("pack", ["auto", "raw", "blosc2", "coded"])
def test_how_pixels_are_stored_makes_no_difference(user, samples, serial, pack, name):
    output = user.folder / "out.mkv"
    chain = ("invert", "temporal-denoise")
    user.run(samples(name), "-o", output, "--nodes", 2, "--chunk", 7, "--pack", pack, *FFV1, *options(chain))
    assert proof(output) == proof(serial(name, *chain))
    same_frames(output, serial(name, *chain))


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("name", CODED)
def test_inputs_that_stay_coded_make_no_difference(user, samples, serial, name, nodes):
    """Kinds of sources by where decoding can start and how packets tell time, each with a halo at every border."""
    output = user.folder / "out.mkv"
    chain = ("temporal-denoise",)
    user.run(
        samples(name), "-o", output, "--nodes", nodes, "--chunk", 7, "--plane", "frames", "--pack", "coded",
        *FFV1, *options(chain),
    )  # fmt: skip
    assert proof(output) == proof(serial(name, *chain))


@pytest.mark.parametrize("name", ["cfr.mp4", "ffv1-yuv420p10.mkv", "vfr.mkv"])
@pytest.mark.parametrize("filter_", BUILT_IN)
def test_every_built_in_filter_distributed_equals_serial(user, samples, serial, filter_, name):
    output = user.folder / "out.mkv"
    user.run(samples(name), "-o", output, "--nodes", 2, "--chunk", 7, *FFV1, "--filter", filter_)
    same_frames(output, serial(name, filter_))


def test_the_picture_is_what_a_plain_loop_makes(user, samples):
    """An independent reference: decode with PyAV, invert with numpy, no line of vidcloud."""
    output = user.folder / "out.mkv"
    user.run(samples("cfr.mp4"), "-o", output, "--nodes", 2, *FFV1, "--filter", "invert")
    source, times = frames_of(samples("cfr.mp4"))
    got, got_times = frames_of(output)
    assert len(got) == len(source)
    assert np.allclose(times, got_times, atol=0.0005), "Matroska counts milliseconds"
    for flat, inverted in zip(source, got, strict=True):
        luma = len(flat) * 2 // 3
        expected = np.clip(16 + 235 - flat[:luma].astype(int), 0, 255)
        assert np.array_equal(inverted[:luma], expected)


def test_do_nothing_gives_the_input_back_bit_for_bit(user, samples):
    (user.folder / "nothing.py").write_text(
        "from vidcloud.filter import WORK_FORMATS, frame_filter\n"
        "@frame_filter(formats=WORK_FORMATS)\n"
        "def nothing(frame):\n    return frame\n"
    )
    for name in (
        "cfr.mp4",
        "ffv1-yuv420p10.mkv",
        "odd-420.mkv",
        "ffv1-bgr0.mkv",
        "ffv1-gbrp10.mkv",
        "ffv1-gray10.mkv",
        "prores.mov",
    ):
        output = user.folder / f"{name}.out.mkv"
        user.run(samples(name), "-o", output, "--nodes", 2, "--filter", "./nothing.py", *FFV1)
        same_frames_at_any_clock(output, samples(name))


def same_frames_at_any_clock(one, other):
    (a, at), (b, bt) = frames_of(one), frames_of(other)
    assert len(a) == len(b)
    assert np.allclose(at, bt, atol=0.0005)
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        assert np.array_equal(x, y), f"frame {n} differs"


@pytest.mark.parametrize("frames", [1, 19, 20, 21])
def test_lengths_around_a_chunk(user, samples, frames):
    """Regression: ranges of 21 frames, and a last frame that was never assigned when the total was 1 mod 21."""
    output = user.folder / "out.mp4"
    told = user.run(
        samples("one.mp4" if frames == 1 else f"n{frames}.mp4"), "-o", output, "--filter", "invert", "--nodes", 2
    )
    assert told["frames"] == frames == len(frames_of(output)[0])


def test_units_are_of_twenty_frames(user, samples):
    """Regression: the prototype's ranges had 21. Read off the claims that the nodes made."""
    user.run(samples("n21.mp4"), "-o", user.folder / "o.mp4", "--filter", "invert", "-v", env={"VIDCLOUD_VERBOSE": "1"})
    logs = next((user.share / "jobs").glob("*/logs/processor-1.log")).read_text()
    assert {line.split("unit=")[1].split()[0] for line in logs.splitlines() if " published " in line} == {"0", "1"}


def test_size_rate_and_audio_are_the_inputs(user):
    """Regression: the prototype made all videos 640x480 at 25 fps and dropped the sound."""
    output = user.folder / "out.mp4"
    told = user.run(EXAMPLE, "-o", output, "--filter", "invert", "--nodes", 2, "--preset", "ultrafast")
    assert told["frames"] == 132
    with av.open(str(output)) as got, av.open(str(EXAMPLE)) as source:
        assert (got.streams.video[0].width, got.streams.video[0].height) == (1280, 720)
        assert got.streams.video[0].average_rate == source.streams.video[0].average_rate
        kept = [bytes(p) for p in got.demux(audio=0)]
        assert kept == [bytes(p) for p in source.demux(audio=0)]
    checked = user("verify", output)
    assert checked.code == 0, checked.out
    assert "audio: 1 streams, 249 packets" in checked.out


def test_no_generation_is_lost_on_the_way(user, samples):
    """Regression: the prototype's frames went through JPEG twice. Lossless in, lossless out, nothing between."""
    output = user.folder / "out.mkv"
    user.run(samples("ffv1-yuv422p.mkv"), "-o", output, "--filter", "invert", "--filter", "invert", "--nodes", 2, *FFV1)
    same_frames(output, samples("ffv1-yuv422p.mkv"))


def test_verify_sees_a_changed_output(user, samples):
    output = user.folder / "out.mkv"
    user.run(samples("cfr.mp4"), "-o", output, "--filter", "invert", *FFV1)
    assert user("verify", output, "--recompute").code == 0
    other = user.folder / "other.mkv"
    user.run(samples("cfr.mp4"), "-o", other, "--filter", "edge", *FFV1)
    swapped = user("verify", output, "--proof", f"{other}.proof.json")
    assert swapped.code == 1
    assert "FAILED  pixels" in swapped.out
    assert "Traceback" not in swapped.err


def test_verify_compares_the_sound_with_the_inputs(user):
    """Regression: it was compared with what had been read off the same output."""
    user.run(write(user.folder / "in.mkv", audio="aac"), "-o", "out.mkv", "--filter", "invert", *FFV1)
    assert user("verify", "out.mkv").code == 0
    proof_file = user.folder / "out.mkv.proof.json"
    record = json.loads(proof_file.read_text())
    record["input_audio"][0]["xxh3_128"] = "0" * 32
    proof_file.write_text(json.dumps(record))
    wrong = user("verify", "out.mkv")
    assert wrong.code == 1
    assert "FAILED  audio: stream 1 is not the input's" in wrong.out


@pytest.mark.parametrize(
    ("output", "audio", "report"),
    [("out.ts", "aac", "later: mpegts starts at zero"), ("out.avi", "libopus", "not carried: audio stream 1 (opus)")],
)
def test_verify_knows_what_the_report_tells(user, output, audio, report):
    """Regression: outputs whose start was moved were told to be wrong. Headers of AAC in MPEG-TS are not its sound."""
    write(user.folder / "in.mkv", audio=audio, options={"bf": "0"})
    told = user.run("in.mkv", "-o", output, "--filter", "invert")
    assert any(report in line for line in told["report"])
    checked = user("verify", output)
    assert checked.code == 0, checked.out


@pytest.mark.parametrize(("codec", "options"), [("libx264", ["--preset", "veryfast"]), ("mpeg4", [])])
def test_a_bit_rate_gives_the_size(user, codec, options):
    """One encoder sees all frames: as many as there were, near the size that was asked for."""
    write(user.folder / "in.mkv", size=(160, 128), frames=300, codec="ffv1")
    told = user.run(
        "in.mkv", "-o", "out.mkv", "--filter", "invert", "--nodes", 2, "--codec", codec, "-e", "b=240k", *options
    )
    assert told["plane"] == "frames"
    assert told["frames"] == 300
    size = (user.folder / "out.mkv").stat().st_size
    assert 0.8 < size / (240_000 / 8 * 12) < 1.2, size
    assert user("verify", "out.mkv").code == 0

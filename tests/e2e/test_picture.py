"""Promise 7, through whole jobs: what the input carried the output carries, or the report says what was lost."""

import shutil

import av
import pytest
from users import frames_of

KINDS = [
    "bframes.mp4", "open-gop.mp4", "open-gop-hevc.mp4", "vfr.mp4", "vfr-90k.mp4", "vfr.mkv", "10bit.mp4", "cfr.ts",
    "mpeg4.avi", "pcm.avi", "interlaced.mp4", "odd-444.mp4", "odd-vp9.webm", "av1.mkv", "no-audio.mp4",
    "long-audio.mp4", "short-audio.mkv", "edit-list.mp4", "late-start.mp4", "late-start.mkv", "full-range.mp4",
    "bt601.mp4", "bt2020.mp4", "sar.mp4", "x264rgb.mp4", "prores.mov",
]  # fmt: skip


def audio(path):
    with av.open(str(path)) as container:
        return [[bytes(p) for p in container.demux(s) if p.size] for s in container.streams.audio[:1]]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_input(user, samples, name):
    """Frames, timestamps and audio packets of the output are the input's; the defaults choose container and encoder."""
    source = samples(name)
    shutil.copy(source, user.folder / name)
    told = user.run(name, "--filter", "invert", "--nodes", 2, "--chunk", 7, "--preset", "ultrafast")
    pictures, times = frames_of(source)
    got, got_times = frames_of(told["output"])
    assert told["frames"] == len(got) == len(pictures)
    tolerance = 0.0005 if told["output"].endswith(".mkv") else 1e-9
    assert max(abs(a - b) for a, b in zip(times, got_times, strict=True)) <= tolerance
    if name != "cfr.ts":  # its AAC has headers of its own that MP4 does not keep; counted below
        assert audio(told["output"]) == audio(source)
    assert [len(s) for s in audio(told["output"])] == [len(s) for s in audio(source)]
    checked = user("verify", told["output"])
    assert checked.code == 0, checked.out


def test_all_that_matroska_holds(user, samples):
    told = user.run(samples("rich.mkv"), "-o", "out.mkv", "--filter", "invert")
    with av.open(str(user.folder / "out.mkv")) as got, av.open(str(samples("rich.mkv"))) as source:
        kinds = [s.type for s in source.streams]
        assert sorted(s.type for s in got.streams) == sorted(kinds)
        assert "subtitle" in kinds
        assert "attachment" in kinds
        assert [c["metadata"] for c in got.chapters()] == [c["metadata"] for c in source.chapters()]
        assert got.metadata["title"] == source.metadata["title"]
    assert not [line for line in told["report"] if "not carried" in line]


def test_what_a_container_can_not_hold_is_told(user, samples):
    told = user.run(samples("rich.mkv"), "-o", "out.mp4", "--filter", "invert")
    lost = " ".join(line for line in told["report"] if "not carried" in line)
    assert "subtitle" in lost
    assert "attachment" in lost


def test_rotation(user, samples):
    user.run(samples("rotated.mp4"), "-o", "out.mp4", "--filter", "invert")
    with av.open(str(user.folder / "out.mp4")) as got, av.open(str(samples("rotated.mp4"))) as source:
        assert next(got.decode(video=0)).rotation == next(source.decode(video=0)).rotation != 0


def test_depth_lost_in_a_filter_is_told(user, samples):
    (user.folder / "flat.py").write_text(
        "from vidcloud.filter import frame_filter\n@frame_filter(formats=('bgr24',))\ndef flat(frame):\n    return frame\n"
    )
    told = user.run(samples("10bit-264.mkv"), "-o", "out.mkv", "--filter", "./flat.py")
    assert any("8 bits" in line for line in told["report"])
    told = user.run(samples("10bit-264.mkv"), "-o", "deep.mkv", "--filter", "invert")
    assert not any("8 bits" in line for line in told["report"])
    with av.open(str(user.folder / "deep.mkv")) as got:
        assert got.streams.video[0].pix_fmt == "yuv420p10le"


def test_rgb_stays_rgb(user, samples):
    user.run(samples("x264rgb.mp4"), "-o", "out.mp4", "--filter", "invert", "--crf", 0)
    user.run(samples("ffv1-bgr0.mkv"), "-o", "out.mkv", "--filter", "invert", "--codec", "ffv1", "--pix-fmt", "bgr0")
    for output, source in (("out.mp4", "x264rgb.mp4"), ("out.mkv", "ffv1-bgr0.mkv")):
        with av.open(str(user.folder / output)) as got, av.open(str(samples(source))) as given:
            for a, b in zip(got.decode(video=0), given.decode(video=0), strict=True):
                assert (a.to_ndarray(format="bgr24") == 255 - b.to_ndarray(format="bgr24")).all()


def test_variable_frame_rate_is_refused_where_it_can_not_be_held(user, samples):
    refused = user("run", samples("vfr.mp4"), "-o", "out.avi", "--filter", "invert")
    assert refused.code == 2
    assert len(refused.err.strip().splitlines()) == 1

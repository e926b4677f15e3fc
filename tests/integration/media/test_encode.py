"""Encoding settings are checked early; parts are cut where a fresh encoder can go on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
from media_tools import encode_frames, read
from samples import write

from vidcloud.errors import MediaError, UsageError
from vidcloud.media.encode import EncodedPacket, Encoder, EncodeSettings, Statistics, check_settings, resolve
from vidcloud.media.mux import mux
from vidcloud.media.parts import PartCutter, decode_part, part_path, read_part, whole_parts
from vidcloud.media.probe import probe
from vidcloud.media.settings import fit_settings
from vidcloud.pixels import pixel_format

FAST = {"libx264": {"preset": "ultrafast"}, "libx265": {"preset": "ultrafast"}, "libsvtav1": {"preset": "12"}}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    return read(write(tmp_path_factory.mktemp("long") / "long.mkv", codec="ffv1", frames=90, audio="aac"))


@pytest.mark.parametrize("codec", ["libx264", "libx264rgb", "libx265"])
def test_statistics_are_where_they_are_wanted_and_are_read(long_video, tmp_path, codec):
    """Whatever the share is called: x265 is told the path among options that are parted by colons."""
    folder = tmp_path / "a b:c'd\\e,f=g"
    folder.mkdir()
    settings = EncodeSettings(codec, preset="ultrafast", options={"b": "80k"})

    def made(statistics):
        encoder = Encoder(settings, long_video.info, statistics=statistics)
        flat = np.zeros(pixel_format(encoder.resolved.storage).samples(96, 64), np.uint8)
        packets = []
        for n, frame in enumerate(long_video.frames):
            flat[:] = frame[n // 45] if codec == "libx264rgb" else frame
            packets += encoder.encode(flat, n * 40)
        packets += encoder.flush()
        encoder.close()
        return [p.data for p in packets]

    made(Statistics(folder / "s", write=True))
    assert (folder / "s").stat().st_size > 0
    assert not list(folder.glob("*.temp")), "closed, they are whole"
    assert made(Statistics(folder / "s", write=False)) != made(None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (EncodeSettings("libx999"), "no encoder is called libx999"),
        (EncodeSettings("aac"), "aac encodes audio"),
        (EncodeSettings("libx264", pix_fmt="yuv410p"), "does not take the pixel format yuv410p: it takes"),
        (EncodeSettings("ffv1", crf=20), "ffv1 has no crf"),
        (EncodeSettings("mpeg4", preset="fast"), "mpeg4 has no preset"),
        (EncodeSettings("libx264", preset="quick"), "preset"),
        (EncodeSettings("libx264", options={"nonsense": "1"}), "libx264 has no option nonsense"),
        (EncodeSettings("libx264", options={"bf": "many"}), "bf"),
        (EncodeSettings("libx264", options={"x264-params": "open-gop=1"}), "open GOPs"),
        (EncodeSettings("libx265", options={"x265-params": "open-gop=1"}), "open GOPs"),
        (EncodeSettings("libx264", options={"intra-refresh": "1"}), "intra refresh"),
    ],
)
def test_refused_before_any_work(samples, settings, says):
    with pytest.raises(UsageError, match=says) as e:
        check_settings(settings, probe(samples("cfr.mp4")))
    assert "\n" not in str(e.value)


def test_libx265_is_not_given_pictures_that_break_it(samples):
    """Regression: it wrote past its memory, so that processors died of it, one after the other."""
    wide = probe(samples("cfr.mp4"))
    with pytest.raises(UsageError, match="48 wide, under 64: take another --codec"):
        resolve(EncodeSettings("libx265"), replace(wide, width=48))
    assert resolve(EncodeSettings("libx265"), replace(wide, width=64)).encoder == "libx265"


@pytest.mark.parametrize(
    ("source", "settings", "encoder", "pix_fmt", "storage"),
    [
        ("cfr.mp4", EncodeSettings(), "libx264", "yuv420p", "yuv420p"),
        ("10bit.mp4", EncodeSettings(), "libx264", "yuv420p10le", "yuv420p10"),
        ("full-range.mp4", EncodeSettings(), "libx264", "yuv420p", "yuv420p"),
        ("ffv1-bgr0.mkv", EncodeSettings(), "libx264rgb", "bgr0", "bgr24"),
        ("cfr.mp4", EncodeSettings(pix_fmt="bgr0"), "libx264rgb", "bgr0", "bgr24"),
        ("utvideo-gbrp.avi", EncodeSettings(), "libx264rgb", "bgr24", "bgr24"),
        ("ffv1-gbrp10.mkv", EncodeSettings("libx265"), "libx265", "gbrp10le", "gbrp10"),
        ("ffv1-gbrp10.mkv", EncodeSettings(), "libx264", "yuv444p10le", "yuv444p10"),
        ("ffv1-yuv422p12.mkv", EncodeSettings("libx265"), "libx265", "yuv422p12le", "yuv422p12"),
        ("ffv1-yuv444p16.mkv", EncodeSettings(), "libx264", "yuv444p10le", "yuv444p10"),
        ("odd-420.mkv", EncodeSettings(), "libx264", "yuv444p", "yuv444p"),
        ("odd-420.mkv", EncodeSettings("libvpx-vp9"), "libvpx-vp9", "yuv420p", "yuv420p"),
        ("mjpeg.avi", EncodeSettings("mjpeg"), "mjpeg", "yuv420p", "yuv420p"),
        ("cfr.mp4", EncodeSettings("prores_ks"), "prores_ks", "yuv422p10le", "yuv422p10"),
        ("rawvideo-nv12.nut", EncodeSettings(), "libx264", "nv12", "yuv420p"),
    ],
)
def test_pixel_format_is_the_sources_or_the_nearest(samples, source, settings, *, encoder, pix_fmt, storage):
    info = probe(samples(source))
    found = check_settings(settings, info)
    assert (found.encoder, found.pix_fmt, found.storage) == (encoder, pix_fmt, storage)
    from vidcloud.pixels import pixel_format

    if pixel_format(info.storage).bits > pixel_format(storage).bits:
        assert any("depth" in n for n in found.notes)


def test_settings_survive_json():
    settings = EncodeSettings("libx265", 21.5, "slow", "yuv420p10le", {"x265-params": "a=1"})
    assert EncodeSettings.from_json(json.loads(json.dumps({**settings.to_json(), "later": 1}))) == settings


LOSSLESS = {
    "libx264": EncodeSettings("libx264", crf=0, options={"g": "12", "bf": "3"}, preset="veryfast"),
    "libx265": EncodeSettings("libx265", preset="ultrafast", options={"g": "12", "x265-params": "lossless=1:pools=1"}),
    "libvpx-vp9": EncodeSettings("libvpx-vp9", options={"g": "12", "lossless": "1", "cpu-used": "8"}),
    "ffv1": EncodeSettings("ffv1"),
    "ffvhuff": EncodeSettings("ffvhuff"),
    "rawvideo": EncodeSettings("rawvideo"),
}
LOSSY = {
    "libx264-pyramid": EncodeSettings("libx264", crf=12, options={"g": "16", "bf": "6", "x264-params": "b-adapt=0"}),
    "libsvtav1": EncodeSettings("libsvtav1", crf=15, preset="12", options={"g": "16"}),
    "prores_ks": EncodeSettings("prores_ks"),
    "mpeg4": EncodeSettings("mpeg4", options={"bf": "2", "g": "12"}),
    "mpeg2video": EncodeSettings("mpeg2video", options={"bf": "2", "g": "12"}),
    "mjpeg": EncodeSettings("mjpeg"),
}


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_a_killed_encoder_goes_on_after_the_last_whole_part(long_video, tmp_path, name):
    """Parts of two encoder runs join to the frames, in number, order, time and pixels."""
    settings = {**LOSSLESS, **LOSSY}[name]
    folder = tmp_path / "parts"
    folder.mkdir()
    flow = encode_frames(long_video, settings, folder, min_frames=20)
    next(flow)
    second = next(flow)
    flow.close()  # the kill: the third part is unfinished
    assert sorted(p.name for p in folder.iterdir())[:2] == [
        part_path(folder, 0).name,
        part_path(folder, second.first).name,
    ]
    whole = whole_parts(folder)
    stop = whole[-1].first + whole[-1].frames
    assert [p.first for p in whole] == [0, second.first]
    list(encode_frames(long_video, settings, folder, stop, min_frames=20))
    parts = whole_parts(folder)
    assert [a.first + a.frames for a in parts] == [*(p.first for p in parts[1:]), 90]
    assert all(p.frames >= 20 for p in parts[:-1])

    output = tmp_path / ("out.avi" if name == "ffvhuff" else "out.mov" if name == "prores_ks" else "out.mkv")
    mux(parts, long_video.path, long_video.info, output)
    made = read(output)
    assert made.times == long_video.times
    if name in LOSSLESS:
        assert made.hashes == long_video.hashes
    elif made.info.storage == long_video.info.storage:
        for n, (a, b) in enumerate(zip(made.frames, long_video.frames, strict=True)):
            near = [
                np.abs(a.astype(int) - long_video.frames[k]).mean() for k in (max(0, n - 1), min(89, n + 1)) if k != n
            ]
            assert np.abs(a.astype(int) - b).mean() < min(near), f"frame {n} is another one"
    with av.open(str(output)) as c:
        dts = [p.dts for p in c.demux(video=0) if p.dts is not None]
        assert all(a < b for a, b in pairwise(dts))


@pytest.mark.parametrize("name", ["libx264", "libx265", "libvpx-vp9", "ffv1"])
def test_every_part_decodes_alone(long_video, tmp_path, name):
    """GOPs are closed: a part needs nothing of its neighbours."""
    parts = list(encode_frames(long_video, LOSSLESS[name], tmp_path, min_frames=20))
    assert len(parts) > 2
    for part in parts:
        frames = list(decode_part(part))
        assert len(frames) == part.frames
        luma = np.frombuffer(frames[0].planes[0], np.uint8).reshape(frames[0].height, -1)[:, : frames[0].width]
        np.testing.assert_array_equal(luma.ravel(), long_video.frames[part.first][: luma.size])


def test_gops_are_at_most_240_frames(tmp_path):
    """The collector must get a checkpoint now and then, also where nothing moves."""
    source = read(write(tmp_path / "s.mkv", codec="ffv1", frames=10))
    source.times = [n * source.info.time_base * 40 for n in range(500)]
    source.frames = source.frames[:1] * 500
    parts = list(encode_frames(source, EncodeSettings(preset="ultrafast"), tmp_path))
    assert max(p.frames for p in parts) <= 240


def test_intra_codecs_do_not_make_a_part_a_frame(long_video, tmp_path):
    parts = list(encode_frames(long_video, EncodeSettings("mjpeg"), tmp_path))
    assert [p.frames for p in parts] == [48, 42]


def test_a_damaged_part_is_seen(long_video, tmp_path):
    part = next(encode_frames(long_video, LOSSLESS["ffv1"], tmp_path, min_frames=20))
    data = bytearray(part.path.read_bytes())
    data[len(data) // 2] ^= 1
    part.path.write_bytes(data)
    with pytest.raises(MediaError, match="damaged"):
        list(read_part(part.path).packets())
    part.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError):
        read_part(part.path)
    part.path.write_bytes(b"")
    with pytest.raises(MediaError):
        read_part(part.path)


def test_an_unfinished_part_has_no_name(long_video, tmp_path):
    flow = encode_frames(long_video, LOSSLESS["ffv1"], tmp_path, min_frames=20)
    first = next(flow)
    names = {p.name for p in tmp_path.iterdir()}
    assert names - {f"part-{first.frames:010d}.partial"} == {first.path.name}
    flow.close()
    assert whole_parts(tmp_path) == [first]


def test_a_gap_ends_the_whole_parts(long_video, tmp_path):
    parts = list(encode_frames(long_video, LOSSLESS["ffv1"], tmp_path, min_frames=20))
    parts[1].path.unlink()
    assert whole_parts(tmp_path) == parts[:1]


def test_parts_of_other_settings_do_not_join(long_video, tmp_path, samples):
    one, two = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    two.mkdir()
    first = list(encode_frames(long_video, LOSSLESS["libx264"], one, min_frames=20))
    second = list(encode_frames(long_video, EncodeSettings(preset="medium"), two, first[0].frames, min_frames=20))
    with pytest.raises(MediaError, match=r"other parameters.*--plane frames"):
        mux([first[0], *second], long_video.path, long_video.info, tmp_path / "o.mkv")
    with pytest.raises(MediaError, match=r"does not follow.*start the job anew"):
        mux([first[0], first[2]], long_video.path, long_video.info, tmp_path / "o.mkv")


def test_avi_gets_no_b_frames():
    fitted = fit_settings(EncodeSettings(), "avi")
    assert fitted.options["bf"] == "0"
    assert fit_settings(EncodeSettings(), "mp4") == EncodeSettings()
    assert fit_settings(EncodeSettings("ffv1"), "avi") == EncodeSettings("ffv1")
    with pytest.raises(UsageError, match="B-frames"):
        fit_settings(EncodeSettings(options={"bf": "2"}), "avi")


@pytest.mark.parametrize("name", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_encoders_leave_scheduling_as_it_was(samples, name):
    """Regression: SVT-AV1 made root's processes real-time ones, by which two processors halted a machine."""
    code = (
        "import os, sys; from vidcloud.media.probe import probe; from vidcloud.media.encode import *\n"
        f"e = Encoder(EncodeSettings({name!r}), probe(sys.argv[1]), threads=2)\n"
        "print(len(os.listdir('/proc/self/task')), {os.sched_getscheduler(int(t)) for t in os.listdir('/proc/self/task')})"
    )
    told = subprocess.run([sys.executable, "-c", code, samples("cfr.mp4")], capture_output=True, text=True, check=True)
    threads, policies = told.stdout.split(maxsplit=1)
    assert policies == f"{{{os.SCHED_OTHER}}}\n"
    assert int(threads) > 1


@pytest.mark.parametrize("name", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_encoders_are_quiet(samples, name):
    """Nothing of x264, x265 or SVT-AV1 reaches the user's terminal."""
    code = (
        "import sys; from vidcloud.media.probe import probe; from vidcloud.media.encode import *\n"
        "from vidcloud.media.decode import decode; i = probe(sys.argv[1])\n"
        "e = Encoder(EncodeSettings(sys.argv[2]), i)\n"
        "for f in decode(sys.argv[1], i): e.encode(f.flat, f.pts, f.duration)\n"
        "e.flush(); Encoder(EncodeSettings(sys.argv[2]), i)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(samples("n19.mp4")), name], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_timestamps_must_not_be_changed_by_an_encoder(samples):
    """VFR goes through every encoder, those that only count frames too."""
    info = probe(samples("vfr.mp4"))
    video = read(samples("vfr.mp4"))
    ticks = [int(t / info.time_base) for t in video.times]
    for settings in (
        EncodeSettings(preset="ultrafast"),
        EncodeSettings("mpeg2video"),
        EncodeSettings("libsvtav1", preset="12"),
    ):
        encoder = Encoder(settings, info)
        packets = []
        for at, frame in zip(ticks, video.frames, strict=True):
            packets += encoder.encode(frame, at, 3)
        packets += encoder.flush()
        assert sorted(p.pts for p in packets) == ticks
        assert {p.duration for p in packets} == {3}


def test_resolve_opens_nothing(samples):
    assert resolve(EncodeSettings("libx264", options={"nonsense": "1"}), probe(samples("cfr.mp4"))).codec == "h264"


def test_no_part_ends_where_frames_are_owed(tmp_path):
    """An open GOP: after the keyframe come frames that are shown before it. A fresh encoder could not go on there."""
    maker = SimpleNamespace(
        template=b"template",
        codec_tag="",
        colour=(2, 2, 2, 0),
        parameters="",
        resolved=SimpleNamespace(codec="h264", encoder="libx264"),
    )
    cutter = PartCutter(tmp_path, maker, Fraction(1, 25), first=100, min_frames=1)
    order = [(0, True), (2, False), (1, False), (5, True), (3, False), (4, False), (6, True), (7, False)]
    done = cutter.feed([EncodedPacket(bytes([n]), n * 2, 2, key, n) for n, key in order])
    done += cutter.finish()
    assert [(p.first, p.frames, p.pts) for p in done] == [(100, 6, (0, 2, 4, 6, 8, 10)), (106, 2, (12, 14))]
    assert [(p.data[0], p.pts, p.key) for p in done[0].packets()] == [(n, n * 2, key) for n, key in order[:6]]
    assert done[0].delay == 1
    with pytest.raises(MediaError, match="no keyframe"):
        PartCutter(tmp_path, maker, Fraction(1, 25)).feed([EncodedPacket(b"x", 0, 1, key=False, frame=0)])


@pytest.mark.parametrize(("encoder", "suffix"), [("mpeg2video", "ts"), ("mpeg2video", "mkv"), ("prores_ks", "mov")])
@pytest.mark.parametrize("name", ["interlaced.mp4", "interlaced-bff.mkv"])
def test_fields_are_coded_as_fields(samples, tmp_path, name, encoder, suffix):
    video = read(samples(name))
    parts = list(encode_frames(video, EncodeSettings(encoder), tmp_path))
    mux(parts, video.path, video.info, tmp_path / f"o.{suffix}")
    with av.open(str(tmp_path / f"o.{suffix}")) as c:
        assert next(c.decode(video=0)).interlaced_frame
    assert probe(tmp_path / f"o.{suffix}").field_order == video.info.field_order

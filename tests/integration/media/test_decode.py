"""Decoded frames are exactly those of the file, and damage never passes silently."""

from itertools import pairwise

import av
import numpy as np
import pytest
from samples import GOOD, HURT, TRUNCATED, picture, write

from vidcloud.errors import MediaError
from vidcloud.media.decode import decode
from vidcloud.media.lengths import missing_bytes
from vidcloud.media.probe import probe

LOSSLESS = [n for n in GOOD if n.startswith(("ffv1", "x264-lossless", "utvideo", "rawvideo", "odd-420"))]


@pytest.mark.parametrize("name", GOOD)
def test_no_false_alarm(samples, name):
    """Open GOPs, edit lists, long audio and odd starts are no damage."""
    path = samples(name)
    info = probe(path)
    decoder = decode(path, info)
    pts = [f.pts for f in decoder]
    assert pts
    assert all(a < b for a, b in pairwise(pts))
    assert pts[0] == info.start_pts
    assert decoder.report.notes == []
    assert decoder.report.frames == len(pts)


@pytest.mark.parametrize("name", GOOD)
def test_frames_are_those_that_libav_decodes(samples, name):
    path = samples(name)
    with av.open(str(path)) as c:
        stream = next(s for s in c.streams.video if not s.disposition & 0x400)
        wanted = sum(1 for _ in c.decode(stream))
    assert sum(1 for _ in decode(path, probe(path))) == wanted


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_the_pictures(samples, name):
    path = samples(name)
    info = probe(path)
    for frame in decode(path, info):
        wanted = picture(frame.index, info.storage, info.width, info.height)
        np.testing.assert_array_equal(frame.flat, wanted, err_msg=f"frame {frame.index}")


def test_edit_list_is_honoured(samples):
    """Frames before the edit are decoded and not shown."""
    path = samples("edit-list.mp4")
    assert [f.pts for f in decode(path, probe(path))] == [512 * n for n in range(23)]


def test_start_gives_the_later_frames(samples):
    path = samples("bframes.mp4")
    info = probe(path)
    whole = [(f.index, f.pts, f.flat.tobytes()) for f in decode(path, info)]
    assert [(f.index, f.pts, f.flat.tobytes()) for f in decode(path, info, start=13)] == whole[13:]


def test_threads_change_nothing(samples):
    path = samples("long-gop.mkv")
    info = probe(path)
    one = [f.flat.tobytes() for f in decode(path, info, threads=1)]
    assert [f.flat.tobytes() for f in decode(path, info, threads=4)] == one


@pytest.mark.parametrize("name", [*TRUNCATED, *HURT])
def test_damage_fails_and_says_what_helps(samples, name):
    path = samples(name)
    info = probe(path)
    with pytest.raises(MediaError, match="--on-damage conceal"):
        list(decode(path, info))
    decoder = decode(path, info, on_damage="conceal")
    assert list(decoder)
    assert decoder.report.notes


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncation_is_called_so(samples, name):
    path = samples(name)
    decoder = decode(path, probe(path), on_damage="conceal")
    frames = [f.index for f in decoder]
    assert 0 < len(frames) < 30
    assert decoder.report.truncated
    assert "truncated" in decoder.report.notes[0]


@pytest.mark.parametrize("keep", [0.35, 0.5, 0.65, 0.8, 0.95, 0.999])
@pytest.mark.parametrize(
    "name", ["rich.mkv", "cfr.ts", "mpeg4.avi", "fast.mp4", "ffv1-yuv422p.mkv", "prores.mov", "odd-vp9.webm"]
)
def test_truncation_anywhere_is_seen(samples, tmp_path, name, keep):
    """Wherever a download stopped, the file is refused or decoding fails."""
    data = samples(name).read_bytes()
    path = tmp_path / name
    size = int(len(data) * keep)
    # A transport stream that ends with a whole packet can't be told from a short one.
    path.write_bytes(data[: size - (size % 188 == 0)])
    with pytest.raises(MediaError):
        list(decode(path, probe(path)))


def test_dropping_the_iterator_is_safe(samples):
    """A role that stops half-way leaves no thread of the decoder in a lock."""
    for _ in range(20):
        path = samples("long-gop.mkv")
        flow = iter(decode(path, probe(path)))
        next(flow)
        flow.close()


def test_a_size_that_changes_is_refused(samples, tmp_path):
    one, two = tmp_path / "a.ts", tmp_path / "b.ts"
    write(one, codec="mpeg2video", frames=10)
    write(two, codec="mpeg2video", frames=10, size=(128, 96))
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(MediaError, match="size changes from 96x64 to 128x96"):
        list(decode(both, probe(both), on_damage="conceal"))


def test_a_clock_that_jumps_back_is_repaired(tmp_path):
    one = write(tmp_path / "a.ts", codec="mpeg2video", frames=30, pts=range(200, 230))
    two = write(tmp_path / "b.ts", codec="mpeg2video", frames=30)
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    decoder = decode(both, probe(both), on_damage="conceal")
    pts = [f.pts for f in decoder]
    assert len(pts) == 60
    assert {b - a for a, b in pairwise(pts)} == {3600}
    assert decoder.report.repaired


def test_lengths_of_unknown_files_are_not_judged(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x1aE\xdf\xa3")
    assert missing_bytes(path) == ""
    path.write_bytes(b"RIFF")
    assert missing_bytes(path) == ""

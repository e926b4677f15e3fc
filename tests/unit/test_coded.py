"""When inputs had better stay coded, and what a unit then says of them."""

from array import array

import pytest

from vidcloud.chunkfile import ChunkHeader, write_chunk
from vidcloud.errors import ShareError
from vidcloud.media.index import FrameIndex
from vidcloud.planes.coded import CodedRun, coded_pays, peek_coded, read_coded, stretch


def index(count, keys):
    """Timestamps are ten times a frame's number."""
    return FrameIndex(array("q", range(0, 10 * count, 10)), array("q", [10 * k for k in keys]), array("q", keys))


def test_one_processor_decodes_each_frame_once():
    assert stretch(index(1000, [0]), 20, 1) == (1.0, 980)


def test_with_a_keyframe_at_every_chunk_so_do_many():
    assert stretch(index(1000, range(0, 1000, 20)), 20, 9) == (1.0, 0)


def test_many_decode_what_lies_between_their_chunks():
    """Of three, each goes on over two chunks to its next, but for the first two chunks, which are nearer to the start."""
    assert stretch(index(1000, [0]), 20, 3) == (1 + (0 + 20 + 48 * 40) / 50 / 20, 980)


def test_or_from_the_keyframe_before():
    """One each 250: the way is as long as from there at most, and 120 on an average."""
    times, longest = stretch(index(10_000, range(0, 10_000, 250)), 20, 100)
    assert 1 + 110 / 20 < times < 1 + 130 / 20
    assert longest == 240


def test_a_video_that_begins_before_its_first_keyframe():
    assert stretch(index(100, [50]), 20, 9)[1] == 40
    assert stretch(index(100, []), 20, 9)[1] == 80


@pytest.mark.parametrize(
    ("decode_s", "pixels_s", "nodes", "pays"),
    [
        (0.01, 2.0, 1, True),
        (0.01, 0.2, 1, False),  # even
        (0.01, 0.3, 1, True),
        (0.01, 0.3, 9, False),  # each frame would be decoded 3.4 times
        (0.01, 0.8, 9, True),
    ],
)
def test_it_pays_where_decoding_again_is_cheaper_than_pixels(decode_s, pixels_s, nodes, pays):
    told = coded_pays(index(10_000, range(0, 10_000, 100)), 20, nodes, decode_s=decode_s, pixels_s=pixels_s)
    assert told == pays


def test_reading_counts_as_decoding_does():
    assert coded_pays(index(900, [0]), 20, 1, decode_s=0.01, pixels_s=0.5, read_s=0.01)
    assert not coded_pays(index(900, [0]), 20, 1, decode_s=0.01, pixels_s=0.5, read_s=0.02)


def test_a_long_way_from_a_keyframe_is_not_gone_whatever_it_saves():
    """Who takes over the last unit would decode the whole video first."""
    assert coded_pays(index(900, [0]), 20, 3, decode_s=0.06, pixels_s=100)
    assert not coded_pays(index(1100, [0]), 20, 3, decode_s=0.06, pixels_s=100)


def test_a_slow_machine_goes_the_way_from_the_usual_keyframe():
    """Regression: 1080p at 50 ms a frame went over a slow share as pixels, for 240 frames are more than ten seconds there."""
    assert coded_pays(index(10_000, range(0, 10_000, 250)), 20, 1, decode_s=0.05, pixels_s=6.7)


def test_a_unit_tells_its_frames_with_their_halo(tmp_path):
    run = CodedRun.of(index(100, [0, 30]), 40, 60, (2, 1))
    assert (run.first, run.start, run.stop) == (38, 40, 60)
    assert run.pts == list(range(380, 610, 10))
    assert run.entries == [300, 0]
    (tmp_path / "unit").write_bytes(run.to_bytes())
    assert peek_coded(tmp_path / "unit") == read_coded(tmp_path / "unit") == run
    assert CodedRun.of(index(100, [0]), 0, 20, (2, 1)).first == 0
    assert len(CodedRun.of(index(100, [0]), 80, 100, (2, 9)).pts) == 22


def test_pixels_and_damage_are_told_apart(tmp_path):
    header = ChunkHeader("gray", 2, 2, 0, 0, 1, (0,), (1,))
    write_chunk(tmp_path / "pixels", header, [memoryview(bytearray(4))])
    assert peek_coded(tmp_path / "pixels") is None
    with pytest.raises(ShareError, match="does not tell frames"):
        read_coded(tmp_path / "pixels")
    (tmp_path / "cut").write_bytes(CodedRun(0, 0, 1, [0], [0]).to_bytes()[:-5])
    with pytest.raises(ShareError, match="cut short"):
        peek_coded(tmp_path / "cut")
    with pytest.raises(FileNotFoundError):
        peek_coded(tmp_path / "none")

"""The index of packets: what the decoder gives is what it tells, and a long video costs little."""

import tracemalloc
from array import array
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest
from samples import GOOD, HURT

from vidcloud.errors import MediaError
from vidcloud.media import index as indices
from vidcloud.media.decode import decode
from vidcloud.media.index import FrameIndex, RunReader, build_index, tried_index
from vidcloud.media.probe import probe


@pytest.mark.parametrize("name", ["bframes.mp4", "vfr.mp4", "mpeg4.avi", "one.mp4", "late-start.mkv"])
def test_it_tells_what_a_decoder_gives(samples, name):
    source = samples(name)
    with av.open(str(source)) as container:
        shown = [(f.pts if f.pts is not None else f.dts, f.key_frame) for f in container.decode(video=0)]
    index = build_index(source, probe(str(source)))
    assert index.pts.tolist() == [pts for pts, _ in shown]
    assert index.keys.tolist() == [pts for pts, key in shown if key]
    assert [index.pts[n] for n in index.key_frames] == index.keys.tolist()


def test_entries_are_the_nearest_keyframes_before():
    tens = array("q", [0, 10, 20, 30, 40])
    index = FrameIndex(array("q", range(60)), tens, tens)
    assert index.entries(35) == [30, 20, 10]
    assert index.entries(30) == [30, 20, 10]
    assert index.entries(10) == [10, 0]
    assert FrameIndex(array("q", [3, 4]), array("q", [4]), array("q", [1])).entries(3) == []


@pytest.mark.parametrize("times", [[0, 1, 1, 2], []])
def test_packets_that_do_not_tell_are_refused(monkeypatch, samples, times):
    source = samples("one.mp4")
    info = probe(str(source))

    class Container:
        streams = [SimpleNamespace(index=n) for n in range(info.stream + 1)]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def demux(self, _stream):
            for t in times:
                packet = av.Packet(b"x")
                packet.pts = packet.dts = t
                yield packet

    monkeypatch.setattr("vidcloud.media.index.open_input", lambda _: Container())
    monkeypatch.setattr("vidcloud.media.index.missing_samples", lambda _: None)
    with pytest.raises(MediaError, match="use --plane frames"):
        build_index(source, info)


def run_of(reader, index, start, size=8, halo=2):
    """A chunk with its halo."""
    first = max(0, start - halo)
    pts = index.pts[first : start + size + halo]
    return [(f.index, f.pts, f.flat.tobytes()) for f in reader.run(first, pts, index.entries(pts[0]))]


@pytest.mark.parametrize("keep", [0, 4])
@pytest.mark.parametrize("name", GOOD)
def test_runs_in_any_order_are_those_of_a_whole_decoding(samples, name, keep):
    """In order, back again, and with gaps: by going on, by seeking, from what was kept."""
    source = samples(name)
    info, index = probe(source), build_index(source, probe(source))
    whole = [(f.index, f.pts, f.flat.tobytes()) for f in decode(source, info)]
    reader, count = RunReader(source, info, 1, keep), len(index.pts)
    for start in (n for n in [*range(0, count, 8), 0, 16, *range(3, count, 8), 2] if n < count):
        assert run_of(reader, index, start) == whole[max(0, start - 2) : start + 10]
    reader.close()


def test_who_reads_on_opens_the_file_once(samples, monkeypatch):
    """And who needs a frame behind the next keyframe does not decode all that is before."""
    source, opened = samples("long-gop.mkv"), []
    info, index = probe(source), build_index(source, probe(source))
    real = indices.open_input
    monkeypatch.setattr(indices, "open_input", lambda path: opened.append(path) or real(path))
    reader = RunReader(source, info, keep=4)
    for start in range(0, len(index.pts), 8):
        run_of(reader, index, start)
    assert len(opened) == 1
    run_of(reader, index, 0)
    assert len(opened) == 2
    reader.close()


@pytest.mark.parametrize("name", HURT)
def test_damage_is_not_passed_on(samples, name):
    """Regression: a wrong checksum in FFV1 was only logged."""
    source = samples(name)
    info, index = probe(source), build_index(source, probe(source))
    reader = RunReader(source, info)
    with pytest.raises(MediaError, match="did not come out of the decoder"):
        for start in range(0, len(index.pts), 8):
            run_of(reader, index, start)
    reader.close()


def test_packets_that_lie_are_found_out(samples, monkeypatch):
    source = samples("long-gop.mkv")
    info = probe(source)
    assert len(tried_index(source, info).pts)
    real = build_index(source, info)
    wrong = FrameIndex(array("q", [p + 1 for p in real.pts]), real.keys, real.key_frames)
    monkeypatch.setattr(indices, "build_index", lambda *_: wrong)
    with pytest.raises(MediaError, match="use --plane frames --pack blosc2"):
        tried_index(source, info)


def test_a_frame_costs_few_bytes(tmp_path):
    """Eight hours have 720,000 frames, and the collector holds the index for all of the job."""
    source, count = tmp_path / "long.mkv", 20_000
    with av.open(str(source), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(16, 16, "yuv420p")
        for n in range(count):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    info = probe(str(source))
    tracemalloc.start()
    try:
        index = build_index(source, info)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index.pts) == count
    assert held < 12 * count
    assert most < 60 * count

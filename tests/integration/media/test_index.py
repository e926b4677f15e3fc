"""The index of packets: what the decoder gives is what it tells, and a long video costs little."""

import tracemalloc
from array import array
from fractions import Fraction

import av
import pytest

from vidcloud.errors import MediaError
from vidcloud.media.index import FrameIndex, build_index
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
        streams = {info.stream: None}

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

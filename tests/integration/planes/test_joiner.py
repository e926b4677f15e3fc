"""Joining while parts are still being made."""

import threading

import av
import pytest

from vidcloud.errors import MediaError
from vidcloud.media.decode import Decoder
from vidcloud.media.encode import Encoder
from vidcloud.media.mux import MuxReport, mux
from vidcloud.media.parts import PartWriter, part_path
from vidcloud.media.probe import probe
from vidcloud.media.settings import EncodeSettings
from vidcloud.planes import joiner as module
from vidcloud.planes.joiner import Joiner


def make_parts(folder, source, sizes):
    """Parts of the given numbers of frames, each by an encoder of its own."""
    info = probe(source)
    frames = [(f.flat.copy(), f.pts, f.duration) for f in Decoder(source, info)]
    first, parts = 0, []
    for size in sizes:
        encoder = Encoder(EncodeSettings("libx264", 20.0, "medium"), info, threads=1)
        packets = [p for f in frames[first : first + size] for p in encoder.encode(*f)] + encoder.flush()
        writer = PartWriter(part_path(folder, first), encoder, info.time_base, first)
        for packet in packets:
            writer.add(packet)
        parts.append(writer.finish())
        first += size
    return info, parts


def packets(path):
    with av.open(str(path)) as container:
        return [(p.stream_index, p.pts, p.dts, p.duration, bytes(p)) for p in container.demux() if p.size]


@pytest.mark.parametrize("sizes", [(20, 10), (1, 20, 9)], ids=["alike", "a-longer-delay-comes-later"])
def test_what_is_joined_as_it_comes_is_what_is_joined_at_the_end(tmp_path, samples, sizes):
    source = samples("bframes.mp4")
    info, parts = make_parts(tmp_path, source, sizes)
    assert (parts[0].delay < max(p.delay for p in parts)) == (sizes[0] == 1)
    made = Joiner(source, info, tmp_path / "joined.mp4")
    for part in parts:
        made.add(part)
    assert made.finish().frames == sum(sizes)
    mux(parts, source, info, tmp_path / "whole.mp4")
    assert packets(tmp_path / "joined.mp4") == packets(tmp_path / "whole.mp4")


def test_parts_are_written_before_the_last_one_is_there(tmp_path, samples, monkeypatch):
    taken = threading.Event()

    def watched(parts, *_args, delay):
        for n, _ in enumerate(parts):
            if n == 1:
                taken.set()
        return MuxReport(frames=2)

    monkeypatch.setattr(module, "mux", watched)
    info, parts = make_parts(tmp_path, samples("bframes.mp4"), (20, 10))
    made = Joiner(samples("bframes.mp4"), info, tmp_path / "joined.mp4")
    for part in parts:
        made.add(part)
    assert taken.wait(30)
    assert made.finish().frames == 2


def test_an_output_that_can_not_be_written_is_told(tmp_path, samples):
    info, parts = make_parts(tmp_path, samples("bframes.mp4"), (10, 10))
    made = Joiner(samples("bframes.mp4"), info, tmp_path / "no-such-folder" / "joined.mp4")
    made.add(parts[0])
    with pytest.raises(MediaError, match="can't be written"):
        made.finish()


def test_a_joiner_that_is_given_up_ends(tmp_path, samples):
    info, parts = make_parts(tmp_path, samples("bframes.mp4"), (10,))
    for given in ([], parts):
        made = Joiner(samples("bframes.mp4"), info, tmp_path / "joined.mp4")
        for part in given:
            made.add(part)
        made.abandon()
        assert not made._thread.is_alive()

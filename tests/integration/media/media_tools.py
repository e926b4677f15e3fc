"""What the media tests share: read a file whole, encode frames into parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import xxhash

from vidcloud.filter import FrameSpec
from vidcloud.media.convert import converter
from vidcloud.media.decode import decode
from vidcloud.media.encode import Encoder, EncodeSettings
from vidcloud.media.mux import MuxReport
from vidcloud.media.parts import Part, PartCutter
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.pixels import Array, pixel_format


@dataclass
class Video:
    """A file's frames: times in seconds, exactly, and pixels."""

    path: Path
    info: VideoInfo
    times: list[Fraction]
    frames: list[Array]

    @property
    def hashes(self) -> list[str]:
        return [xxhash.xxh3_128_hexdigest(f) for f in self.frames]


@dataclass
class Remade:
    source: Video
    parts: list[Part]
    output: Path
    report: MuxReport
    notes: list[str]

    def read(self) -> Video:
        return read(self.output)


def read(path: Path) -> Video:
    info = probe(path)
    decoder = decode(path, info)
    frames = [(f.pts * info.time_base, f.flat.copy()) for f in decoder]
    assert decoder.report.notes == []
    return Video(path, info, [t for t, _ in frames], [f for _, f in frames])


def encode_frames(video: Video, settings: EncodeSettings, folder: Path, start: int = 0, **how: Any) -> Iterator[Part]:
    """Parts of frames ``start …``, as they are finished; dropping the iterator is the crash of an encoder."""
    info = video.info
    encoder = Encoder(settings, info, threads=1)
    fmt = pixel_format(encoder.resolved.storage)
    spec = FrameSpec(fmt, info.width, info.height, info.full_range or fmt.family != "yuv", info.matrix)
    convert = converter(info.spec, spec)
    flat: Array = np.empty(fmt.samples(info.width, info.height), fmt.dtype)
    cutter = PartCutter(folder, encoder, info.time_base, start, **how)
    for time, frame in list(zip(video.times, video.frames, strict=True))[start:]:
        convert(frame, flat)
        yield from cutter.feed(encoder.encode(flat, int(time / info.time_base)))
    yield from cutter.feed(encoder.flush())
    yield from cutter.finish()


def packet_times(path: Path, kind: str, number: int = 0) -> list[Fraction]:
    """Timestamps of a stream's packets in seconds, in order of the file."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        return [
            (p.pts if p.pts is not None else p.dts) * p.time_base
            for p in container.demux(stream)
            if p.size and p.dts is not None
        ]

"""What a frame costs here: a few of the input are decoded, filtered and encoded on one core, and put on the share.

CPU seconds, not wall time, for other processes may be at work.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import av.error
import cv2
import numpy as np

from vidcloud.chain import Chain, Stage
from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk, write_chunk
from vidcloud.errors import MediaError
from vidcloud.media.convert import converter
from vidcloud.media.encode import Encoder
from vidcloud.media.files import open_input
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings, resolve
from vidcloud.pixels import Array, PixelFormat, pixel_format

_FRAMES = 48
_BYTES = 256e6
"""… or as many as fit in this, for large pictures; they are held as decoded and as filtered."""
_AT = 0.3
"""Where in the video the sample lies: beginnings are often black, which costs little."""


@dataclass(frozen=True)
class Costs:
    """One frame of a job, on one core of this machine.

    Attributes:
        decode: CPU seconds.
        filter: CPU seconds of all filters, with conversions and the hash of the result.
        encode: CPU seconds.
        move: seconds of writing a frame's pixels to the share and reading them back.
        read: bytes of the coded input.
        coded: bytes of the coded output.
        pixels: bytes of the decoded frame and of the filtered one.
        frames: how many frames were measured.
        seconds: how long that took.
    """

    decode: float
    filter: float
    encode: float
    move: float
    read: float
    coded: float
    pixels: int
    frames: int
    seconds: float

    @property
    def whole(self) -> float:
        """CPU seconds of decoding, filtering and encoding."""
        return self.decode + self.filter + self.encode

    def __str__(self) -> str:
        """For people."""
        each = (self.decode, self.filter, self.encode, self.move)
        decode, filtering, encode, move = (f"{s * 1e3:.1f}" for s in each)
        return f"a frame costs {decode} ms to decode, {filtering} to filter, {encode} to encode, {move} on the share"


def measure(
    source: Path, info: VideoInfo, settings: EncodeSettings, stages: list[Stage], scratch: Path, limit_s: float = 1.5
) -> Costs:
    """Measure a few frames out of the video.

    Args:
        source: the input as a local file.
        info: what `probe` says of it.
        settings: of the encoder.
        stages: the filters.
        scratch: a folder on the share, for one file that is removed again.
        limit_s: about how long it may take; with slow filters and encoders fewer frames are measured.

    Raises:
        MediaError: nothing could be decoded.
        FilterError: a filter raised.
    """
    began = time.monotonic()
    shown, pts, decode, read = _decode(source, info, limit_s / 4)
    target = pixel_format(resolve(settings, info).storage)
    out, filtering = _filter(shown, pts, info, stages, target, limit_s / 4)
    encode, coded = _encode(out, pts, info, settings, limit_s / 3)
    move = _move(shown, pts, info, scratch / "measured")
    pixels = shown[0].nbytes + out[0].nbytes
    return Costs(
        decode, filtering, encode, move * pixels / shown[0].nbytes, read, coded, pixels,
        len(shown), time.monotonic() - began,
    )  # fmt: skip


def _decode(source: Path, info: VideoInfo, limit_s: float) -> tuple[Array, list[int], float, float]:
    fmt = pixel_format(info.storage)
    wanted = max(1, min(_FRAMES, int(_BYTES / fmt.frame_bytes(info.width, info.height))))
    shown: Array = np.empty((wanted, fmt.samples(info.width, info.height)), fmt.dtype)
    read, pts, size = reader(info.pix_fmt, info.storage), list[int](), 0
    with open_input(source) as container:
        stream = container.streams[info.stream]
        stream.codec_context.thread_count = 1
        if info.frames > 4 * _FRAMES and stream.duration:
            with contextlib.suppress(av.error.FFmpegError):
                container.seek((stream.start_time or 0) + int(stream.duration * _AT), stream=stream, backward=True)
        began = time.process_time()
        with contextlib.suppress(av.error.FFmpegError):  # damage is for the job to find
            for packet in container.demux(stream):
                size += packet.size
                for frame in stream.decode(packet):
                    if frame.pts is None or frame.format.name != info.pix_fmt or len(pts) == wanted:
                        continue
                    read(frame, shown[len(pts)])
                    pts.append(frame.pts)
                if len(pts) == wanted or (len(pts) > 2 and time.process_time() - began > limit_s):
                    break
        spent = time.process_time() - began
        stream.codec_context.flush_buffers()
    if not pts:
        raise MediaError(f"{source}: nothing could be decoded to measure")
    return shown[: len(pts)], pts, spent / len(pts), size / len(pts)


def _filter(
    shown: Array, pts: list[int], info: VideoInfo, stages: list[Stage], target: PixelFormat, limit_s: float
) -> tuple[Array, float]:
    cv2.setNumThreads(1)  # as in a processor
    chain = Chain(stages, info.spec, target, converter)
    out: Array = np.empty((len(shown), target.samples(info.width, info.height)), target.dtype)
    times = [float(p * info.time_base) for p in pts]
    done, began = 0, time.process_time()
    chain.run(shown, 0, out[:1], 0, times, keep=True)  # tables and buffers are made for the first frame
    # Runs of one frame filter their halo anew each time; longer ones would take too long with a slow filter.
    size = 8 if time.process_time() - began < limit_s / 16 else 1
    began = time.process_time()
    while done < len(shown):
        stop = min(done + size, len(shown))
        chain.run(shown, 0, out[done:stop], done, times, keep=True)
        for flat in out[done:stop]:
            frame_hash(flat)
        done = stop
        if time.process_time() - began > limit_s:
            break
    return out[:done], (time.process_time() - began) / done


def _encode(
    out: Array, pts: list[int], info: VideoInfo, settings: EncodeSettings, limit_s: float
) -> tuple[float, float]:
    encoder = Encoder(settings, info, threads=1)
    size, given, began = 0, 0, time.process_time()
    for flat, at in zip(out, pts, strict=False):
        size += sum(len(p.data) for p in encoder.encode(flat, at))
        given += 1
        if time.process_time() - began > limit_s:
            break
    size += sum(len(p.data) for p in encoder.flush())
    return (time.process_time() - began) / given, size / given


def _move(shown: Array, pts: list[int], info: VideoInfo, path: Path) -> float:
    some = shown[:20]
    header = ChunkHeader(
        info.storage, info.width, info.height, 0, 0, len(some), tuple(pts[: len(some)]), (0,) * len(some)
    )
    began = time.monotonic()
    try:
        write_chunk(path, header, some)
        int(read_chunk(path)[1].max())
        return (time.monotonic() - began) / len(some)
    finally:
        path.unlink(missing_ok=True)

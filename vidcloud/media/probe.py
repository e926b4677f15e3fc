"""What a video file is: probed once, carried as JSON through the job."""

import contextlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
from av.stream import Disposition

from vidcloud.errors import InputError
from vidcloud.filter import FrameSpec
from vidcloud.media import colour
from vidcloud.media.files import open_input, reason
from vidcloud.pixels import pixel_format

PROGRESSIVE = 1
_TOP_FIRST = (2, 5)
_INTERLACED = (2, 3, 4, 5)
_CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")


@dataclass(frozen=True)
class StreamInfo:
    """A stream beside the video.

    Attributes:
        index: its number in the file.
        kind: ``audio``, ``subtitle``, ``attachment``, ``data``, ``video`` (another one) or ``cover`` (attached
            picture).
        codec: FFmpeg's name, empty where unknown.
        language: as tagged, or empty.
        title: as tagged, or empty.
    """

    index: int
    kind: str
    codec: str
    language: str = ""
    title: str = ""


@dataclass(frozen=True)
class VideoInfo:
    """What all frames of a video have in common, and what the file has besides.

    Attributes:
        container: FFmpeg's name of the demuxer, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: name of the codec (not of a decoder): ``h264``, ``av1``.
        stream: index of the video stream in the file.
        width: in pixels, as decoded (not rotated, not scaled by the aspect ratio).
        height: in pixels.
        pix_fmt: FFmpeg's name of the pixel format as decoded.
        storage: name of the storage format (`vidcloud.pixels`) that holds decoded frames.
        losses: notes on what ``storage`` can't hold of ``pix_fmt``.
        full_range: whether samples use the whole range (always for RGB and gray).
        matrix: FFmpeg's name of the YUV matrix that conversions use; ``rgb`` for RGB sources.
        primaries: colour primaries, FFmpeg's number; 2 is unspecified. To be carried.
        trc: transfer characteristic, likewise.
        colorspace: matrix as tagged, likewise.
        color_range: 0 unspecified, 1 limited, 2 full, as tagged.
        chroma_location: FFmpeg's name, or empty where unspecified.
        time_base: unit of all timestamps, seconds.
        average_rate: frames a second on average, None where unknown.
        start_pts: presentation timestamp of the first frame.
        frames: estimated number of frames, 0 where nothing tells.
        duration_s: estimated duration in seconds, 0 where nothing tells.
        sample_aspect_ratio: of one pixel; 1 where square or unknown.
        field_order: FFmpeg's number: 0 unknown, 1 progressive, 2 and 5 top field first, 3 and 4 bottom field first.
        display_matrix: nine integers as FFmpeg has them, or None.
        rotation: counter-clockwise degrees in which players turn the picture.
        hdr: names of HDR side data found (mastering display, light level).
        others: the file's other streams.
    """

    container: str
    codec: str
    stream: int
    width: int
    height: int
    pix_fmt: str
    storage: str
    losses: tuple[str, ...]
    full_range: bool
    matrix: str
    primaries: int
    trc: int
    colorspace: int
    color_range: int
    chroma_location: str
    time_base: Fraction
    average_rate: Fraction | None
    start_pts: int
    frames: int
    duration_s: float
    sample_aspect_ratio: Fraction
    field_order: int
    display_matrix: tuple[int, ...] | None
    rotation: int
    hdr: tuple[str, ...]
    others: tuple[StreamInfo, ...]

    @property
    def interlaced(self) -> bool:
        """Whether a frame holds two fields of different times."""
        return self.field_order in _INTERLACED

    @property
    def top_field_first(self) -> bool:
        """Which field of an interlaced frame is shown first."""
        return self.field_order in _TOP_FIRST

    @property
    def spec(self) -> FrameSpec:
        """The decoded frames, as filters and converters are told of them."""
        return FrameSpec(pixel_format(self.storage), self.width, self.height, self.full_range, self.matrix)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's types; fractions are ``"n/d"``."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Fraction):
                value = f"{value.numerator}/{value.denominator}"
            elif f.name == "others":
                value = [vars(s) for s in value]
            elif isinstance(value, tuple):
                value = list(value)
            out[f.name] = value
        return out

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "VideoInfo":
        """Read what `to_json` wrote; unknown keys are ignored."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in record.items() if k in known}
        for name in ("time_base", "average_rate", "sample_aspect_ratio"):
            values[name] = None if values[name] is None else Fraction(values[name])
        for name in ("losses", "hdr"):
            values[name] = tuple(values[name])
        matrix = values["display_matrix"]
        values["display_matrix"] = None if matrix is None else tuple(matrix)
        values["others"] = tuple(StreamInfo(**s) for s in values["others"])
        return cls(**values)


def probe(path: Path | str) -> VideoInfo:
    """Find out what a video file is; decodes its first frame.

    Raises:
        InputError: no such file, a directory, not a video, no video stream, or no frame that can be decoded.
        MediaError: the file can't be read.
    """
    with open_input(path) as container:
        stream = main_video(container, path)
        others = tuple(_other(s) for s in container.streams if s.index != stream.index)
        if stream.codec_context is None:
            raise InputError(f"{path}: the video stream has a codec that FFmpeg can't decode")
        frame = _first_frame(container, stream, path)
        return _describe(container, stream, frame, others, path)


def main_video(container: Any, path: Path | str) -> Any:
    """The video stream that is meant: FFmpeg's best one that is no attached picture.

    Raises:
        InputError: there is none.
    """
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        has = "only a cover picture" if container.streams.video else "no video stream"
        audio = " (it is audio)" if container.streams.audio else ""
        raise InputError(f"{path} has {has}{audio}")
    best = container.streams.best("video")
    return best if best in videos else videos[0]


def codec_name(stream: Any) -> str:
    """The codec's name, ``av1`` where the decoder is called ``libdav1d``."""
    context = stream.codec_context
    return str(context.codec.canonical_name) if context is not None else str(getattr(stream, "name", "") or "")


def _other(stream: Any) -> StreamInfo:
    kind = stream.type
    if kind == "video" and stream.disposition & Disposition.attached_pic:
        kind = "cover"
    meta = stream.metadata
    title = meta.get("title") or (meta.get("filename", "") if kind == "attachment" else "")
    codec = "" if kind == "attachment" else codec_name(stream)
    return StreamInfo(stream.index, kind, codec, meta.get("language", ""), title)


def _first_frame(container: Any, stream: Any, path: Path | str) -> Any:
    # One thread: a decoder that is dropped half-way has no work in flight.
    stream.codec_context.thread_count = 1
    detail = ""
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return frame
            except av.error.FFmpegError as e:
                detail = f": {reason(e)}"
    except av.error.FFmpegError as e:
        detail = f": {reason(e)}"
    raise InputError(f"{path} has no frame that can be decoded{detail}")


def _describe(container: Any, stream: Any, frame: Any, others: tuple[StreamInfo, ...], path: Path | str) -> VideoInfo:
    context = stream.codec_context
    pix_fmt = frame.format.name
    try:
        storage, losses = colour.storage_of(pix_fmt)
    except KeyError:
        raise InputError(f"{path} has the pixel format {pix_fmt}, which can't be filtered") from None
    family = pixel_format(storage).family
    tags = _tags(frame, context)
    matrix = "rgb" if family == "rgb" else colour.matrix_name(tags[2], tags[0], frame.height)
    if matrix == "ycgco" or (family == "yuv" and tags[2] == 0):
        losses = (*losses, "the YCgCo or identity matrix is taken for BT.709 where pixels become RGB")
    duration = Fraction(0)
    if stream.duration:
        duration = stream.duration * stream.time_base
    elif container.duration:
        duration = Fraction(container.duration, 1_000_000)
    rate = stream.average_rate or stream.guessed_rate or None
    frames = stream.frames or (round(duration * rate) if rate else 0)
    start = frame.pts if frame.pts is not None else frame.dts
    display, rotation, hdr = _side_data(frame)
    field_order = context.field_order
    if frame.interlaced_frame and field_order in (0, PROGRESSIVE):
        field_order = 2  # the flag without the order: nearly always top first
    return VideoInfo(
        container=container.format.name,
        codec=codec_name(stream),
        stream=stream.index,
        width=frame.width,
        height=frame.height,
        pix_fmt=pix_fmt,
        storage=storage,
        losses=losses,
        full_range=colour.is_full_range(pix_fmt, tags[3], family),
        matrix=matrix,
        primaries=tags[0],
        trc=tags[1],
        colorspace=tags[2],
        color_range=tags[3],
        chroma_location=_chroma_location(container, stream),
        time_base=stream.time_base,
        average_rate=Fraction(rate) if rate else None,
        start_pts=start if start is not None else 0,
        frames=frames,
        duration_s=float(duration),
        sample_aspect_ratio=Fraction(stream.sample_aspect_ratio or 1),
        field_order=field_order,
        display_matrix=display,
        rotation=rotation,
        hdr=hdr,
        others=others,
    )


def _tags(frame: Any, context: Any) -> tuple[int, int, int, int]:
    """Primaries, transfer, matrix and range: the frame's, else the stream's."""
    unset = colour.UNSPECIFIED
    pairs = (
        (frame.color_primaries, context.color_primaries, unset),
        (frame.color_trc, context.color_trc, unset),
        (frame.colorspace, context.colorspace, unset),
        (frame.color_range, context.color_range, 0),
    )
    primaries, trc, space, rng = (int(c) if int(f) == none else int(f) for f, c, none in pairs)
    return primaries, trc, space, rng


def _side_data(frame: Any) -> tuple[tuple[int, ...] | None, int, tuple[str, ...]]:
    display: tuple[int, ...] | None = None
    hdr = []
    for k in range(len(frame.side_data)):  # a Mapping by name only, which iterates over values
        data = frame.side_data[k]
        name = data.type.name
        if name == "DISPLAYMATRIX":
            display = struct.unpack("=9i", bytes(data)[:36])
        elif name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
            hdr.append(name.lower())
    return display, int(frame.rotation), tuple(hdr)


def _chroma_location(container: Any, stream: Any) -> str:
    # PyAV has no property for it; FFmpeg's own description of the stream names it when asked to be verbose.
    before = av.logging.get_level()
    with contextlib.ExitStack() as stack:
        stack.callback(av.logging.set_level, before)
        stack.callback(av.logging.set_libav_level, av.logging.INFO)
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_libav_level(av.logging.VERBOSE)
        dump = container.dumps_format()
    for line in dump.splitlines():
        if f"Stream #0:{stream.index}" in line and "Video:" in line:
            words = line.replace("(", " ").replace(")", " ").replace(",", " ").split()
            return next((w for w in words if w in _CHROMA_LOCATIONS), "")
    return ""

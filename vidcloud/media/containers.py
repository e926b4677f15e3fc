"""Which container an output has, what it can hold, and which of the source's streams go into it."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition

from vidcloud.errors import UsageError
from vidcloud.media.files import open_input
from vidcloud.media.probe import VideoInfo, codec_name

_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".qt": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
    ".mts": "mpegts",
    ".nut": "nut",
}
ISO = ("mp4", "mov")
MATROSKA = ("matroska", "webm")
# MPEG-TS takes any codec and then plays these only.
_TS_CODECS = frozenset([
    "h264", "hevc", "mpeg2video", "mpeg1video",
    "aac", "aac_latm", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus",
    "dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle",
])  # fmt: skip
# Codecs that don't tell the shape of a pixel themselves; Matroska could, if PyAV let it.
_NO_ASPECT = frozenset(("av1", "ffv1", "vp8", "vp9", "prores", "rawvideo", "utvideo", "png"))
# Listed in FFmpeg's tables, and refused by the muxer or unreadable afterwards.
_REFUSED = frozenset(
    [("avi", c) for c in ("hevc", "av1", "vp9", "vp8", "prores", "opus", "mpeg2video", "mpeg1video")]
    + [("mov", c) for c in ("opus", "vp8", "vp9", "av1", "rawvideo")]
)


@dataclass(frozen=True)
class Carried:
    """A stream of the source and how it goes into the output.

    Attributes:
        index: in the source.
        how: ``copy``, ``attach`` (an attachment or a cover that becomes one), or ``lost``.
        told: the stream in words.
        why: for a lost one.
    """

    index: int
    how: str
    told: str
    why: str = ""


def container_format(path: Path | str) -> str:
    """FFmpeg's name of the muxer for an output file's extension.

    Raises:
        UsageError: an extension that is not known.
    """
    suffix = Path(path).suffix.lower()
    try:
        return _FORMATS[suffix]
    except KeyError:
        known = ", ".join(sorted(_FORMATS))
        raise UsageError(f"{path}: the extension must name a container: one of {known}") from None


def check_container(path: Path | str, codec: str, info: VideoInfo, source: Path | str | None = None) -> list[str]:
    """Refuse early what the output's container can't hold.

    Args:
        path: the output; its extension names the container.
        codec: the video codec's name, as `encode.Resolved` has it.
        info: the source.
        source: the source file, read where the container needs all its timestamps beforehand (AVI), and to tell which
            streams won't be carried.

    Returns:
        Lines for the user: streams that the container can't hold, timestamps that it rounds.

    Raises:
        UsageError: an unknown extension, a codec that the container can't hold, or timestamps that it can't hold.
    """
    name = container_format(path)
    if not holds(name, codec):
        raise UsageError(f"{Path(path).suffix} can't hold {codec} video: choose another container or --codec")
    notes = []
    clock = clock_of(name, info)
    if clock is not None and (info.time_base / clock).denominator != 1:
        notes.append(f"{Path(path).suffix} rounds timestamps to {_told_clock(clock)}")
    if info.sample_aspect_ratio != 1 and (name == "avi" or (name in MATROSKA and codec in _NO_ASPECT)):
        notes.append(f"the sample aspect ratio is not carried: {codec} in {Path(path).suffix} does not keep it")
    if source is not None:
        if name == "avi":
            _check_grid(path, source, info)
        with open_input(source) as container:
            notes.extend(f"{c.told} is not carried: {c.why}" for c in plan(name, container, info) if c.how == "lost")
    return notes


def clock_of(container: str, info: VideoInfo) -> Fraction | None:
    """The unit of timestamps that a container forces on video; None where it takes the source's."""
    if container in MATROSKA:
        return Fraction(1, 1000)
    if container == "mpegts":
        return Fraction(1, 90000)
    if container == "avi":
        return 1 / info.average_rate if info.average_rate else Fraction(1, 25)
    return None


def _told_clock(clock: Fraction) -> str:
    return "milliseconds" if clock.denominator == 1000 else f"{clock} s"


def holds(container: str, codec: str) -> bool:
    """Whether a container can hold a codec, by FFmpeg's tables and a few of ours."""
    if container == "mpegts":
        return codec in _TS_CODECS
    if (container, codec) in _REFUSED:
        return False
    try:
        av.open(io.BytesIO(), "w", format=container).add_mux_stream(codec)
    except ValueError:
        return False
    return True


def plan(container: str, source: Any, info: VideoInfo) -> Sequence[Carried]:
    """How each stream of the source beside the video goes into a container.

    Args:
        container: the muxer's name.
        source: the opened ``av`` input.
        info: what `probe` told of it.
    """
    found = []
    for stream in source.streams:
        if stream.index == info.stream:
            continue
        codec = codec_name(stream) if stream.type != "attachment" else ""
        cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
        kind = "cover picture" if cover else stream.type
        told = f"{kind} stream {stream.index}" + (f" ({codec})" if codec else "")
        how, why = _how(container, stream, codec, cover=cover, source=source)
        found.append(Carried(stream.index, how, told, why))
    return found


def _how(container: str, stream: Any, codec: str, *, cover: bool, source: Any) -> tuple[str, str]:
    if stream.type == "attachment" or (cover and container in MATROSKA):
        if container == "matroska":
            return "attach", ""
        return "lost", f"{container} holds no attachments"
    if stream.type == "data":
        if codec == "bin_data" and source.chapters():
            return "chapters", ""  # QuickTime's chapter track: chapters are carried as such
        if container in ISO and "timecode" in stream.metadata:
            return "timecode", ""  # made anew from the metadata
        return "lost", f"{container} output holds no such data"
    if stream.type == "video" and not cover:
        return "lost", "an output has one video stream"
    if cover and container not in ISO:
        return "lost", f"{container} holds no cover picture"
    if stream.type not in ("audio", "subtitle", "video") or stream.codec_context is None:
        return "lost", "FFmpeg does not know its codec"
    if container == "avi" and stream.type == "subtitle":
        return "lost", "avi holds no subtitles"
    if not holds(container, codec):
        return "lost", f"{container} can't hold {codec}"
    return "copy", ""


def _check_grid(path: Path | str, source: Path | str, info: VideoInfo) -> None:
    """AVI shows frames at a constant rate from zero: every timestamp must be a multiple of it."""
    tick = clock_of("avi", info)
    assert tick is not None  # noqa: S101 - AVI has one
    with ExitStack() as stack:
        container = stack.enter_context(open_input(source))
        stream = container.streams[info.stream]
        last = None
        for pts in sorted(p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard):
            steps = pts * info.time_base / tick
            if last is not None and abs((steps - last) - round(steps - last)) > Fraction(1, 4):
                raise UsageError(
                    f"{Path(path).name}: AVI holds only a constant frame rate, and the input's varies: use .mkv or .mp4"
                )
            last = steps

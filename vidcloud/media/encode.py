"""Encode flat frames with closed GOPs, whole timestamps, and the source's colour, aspect and field order."""

import contextlib
import gc
import io
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import av.logging
import xxhash
from av.codec.context import Flags

from vidcloud.errors import MediaError, UsageError
from vidcloud.media import colour
from vidcloud.media.files import reason
from vidcloud.media.pictures import writer
from vidcloud.media.probe import VideoInfo
from vidcloud.media.scheduling import scheduling_kept
from vidcloud.media.settings import (
    COUNT_FRAMES,
    FIXED_QUALITY,
    INTERLACING,
    MAX_GOP,
    EncodeSettings,
    Resolved,
    check_options,
    encoder_options,
    resolve,
)
from vidcloud.pixels import Array, pixel_format

__all__ = ["EncodeSettings", "EncodedPacket", "Encoder", "Resolved", "Statistics", "check_settings", "resolve"]

_MPEG_RATES = [Fraction(n) for n in (24, 25, 30, 50, 60)] + [Fraction(n * 1000, 1001) for n in (24, 30, 60)]
# SVT-AV1 prints to stderr by itself, even when an encoder is dropped; what matters it returns as an error.
os.environ.setdefault("SVT_LOG", "0")


class EncodedPacket(NamedTuple):
    """One coded frame.

    Attributes:
        data: its bytes.
        pts: in the video's time base.
        duration: in the time base.
        key: whether decoding can start here.
        frame: its number in order of presentation, from 0 for the first frame this encoder was given.
    """

    data: bytes
    pts: int
    duration: int
    key: bool
    frame: int


class Statistics(NamedTuple):
    """What rate control learns in a first pass and uses in a second, with encoders that keep it in files.

    Attributes:
        file: its path; beside it the encoder puts another of that name with a suffix.
        write: whether this is the first pass.
    """

    file: Path
    write: bool


def check_settings(settings: EncodeSettings, info: VideoInfo) -> Resolved:
    """Refuse bad settings before any work, by opening the encoder once.

    Raises:
        UsageError: an unknown encoder, option or value, or a pixel format or size that the encoder does not take.
    """
    found = resolve(settings, info)
    check_options(settings, found)
    Encoder(settings, info)
    return found


class Encoder:
    """An encoder for one run of frames in order.

    Every GOP is closed, and no longer than 240 frames unless the option ``g`` says so. It may be dropped at any time.

    Args:
        settings: what was asked.
        info: the source; its time base is that of the packets.
        threads: 0 is one a core.
        statistics: of which pass this is, and where; None: the only one. `close` makes those of a first pass whole.

    Attributes:
        resolved: the encoder and the format that `encode` takes.
        codec_tag: the tag that the encoder chose, or empty.
        colour: what it was told: primaries, transfer, matrix, range, as FFmpeg's numbers.
        parameters: a hash of what a decoder is told beforehand (codec, size, extradata).

    Raises:
        UsageError: the encoder refuses the settings.
    """

    def __init__(
        self, settings: EncodeSettings, info: VideoInfo, *, threads: int = 0, statistics: Statistics | None = None
    ) -> None:
        self.resolved = resolve(settings, info)
        self._statistics = statistics
        self._info = info
        self._counts = self.resolved.encoder in COUNT_FRAMES
        rate = info.average_rate or Fraction(25)
        self._rate = rate.limit_denominator(1001)
        if self.resolved.encoder in ("mpeg1video", "mpeg2video"):  # they know these rates only
            self._rate = min(_MPEG_RATES, key=lambda known: abs(known - rate))
        self._time_base = 1 / self._rate if self._counts else info.time_base
        self._pending: dict[int | None, tuple[int, int, int]] = {}
        self._given = 0
        self._to_frame = writer(self.resolved.storage, self.resolved.pix_fmt, info.width, info.height)
        self._template: bytes | None = None
        with scheduling_kept():
            self._open(settings, threads)
        told = f"{self.resolved.codec} {info.width}x{info.height} ".encode() + (self._context.extradata or b"")
        self.parameters = xxhash.xxh3_128_hexdigest(told)
        self._fields = _FieldFlags(info, self.resolved.pix_fmt) if self._interlaced else None
        tag = self._context.codec_tag
        context = self._context
        self.colour = tuple(
            int(n) for n in (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        )
        self.codec_tag = tag if tag.isprintable() and tag.strip("\0 ") else ""

    @property
    def _interlaced(self) -> bool:
        return self._info.interlaced and self.resolved.encoder in INTERLACING

    def _open(self, settings: EncodeSettings, threads: int) -> None:
        failure = ""
        for container in ("nut", "mov", "matroska"):
            try:
                self._sink = io.BytesIO()
                self._output = av.open(self._sink, "w", format=container)
                self._stream = self._output.add_stream(self.resolved.encoder, rate=self._rate)
                self._configure(settings, threads)
            except ValueError as e:
                failure = str(e)
                if "does not support" in failure:
                    continue
                raise UsageError(f"{self.resolved.encoder}: {reason(e)}") from e
            try:
                self._output.start_encoding()
            except (av.error.FFmpegError, ValueError) as e:
                raise UsageError(f"{self.resolved.encoder} refuses its settings: {self._why(settings, e)}") from e
            left = {k for k in self._context.options if k in settings.options}
            if left:
                raise UsageError(f"{self.resolved.encoder} has no option {', '.join(sorted(left))}")
            return
        raise UsageError(f"{self.resolved.encoder} can't be used here: {failure}")

    def _configure(self, settings: EncodeSettings, threads: int) -> None:
        info, found = self._info, self.resolved
        context: Any = self._stream.codec_context
        self._context = context
        options = encoder_options(settings, found)
        context.width, context.height, context.pix_fmt = info.width, info.height, found.pix_fmt
        context.time_base = self._time_base
        self._stream.time_base = self._time_base
        context.framerate = self._rate
        context.thread_count = threads
        _limit_threads(options, found.encoder, threads)
        codec = context.codec
        context.flags |= Flags.global_header.value
        if not codec.intra_only:
            context.flags |= Flags.closed_gop.value
            if "g" not in options and found.encoder != "ffv1":
                context.gop_size = MAX_GOP
        context.sample_aspect_ratio = info.sample_aspect_ratio
        _tag_colour(context, info, found)
        if info.chroma_location and pixel_format(found.storage).family == "yuv":
            options.setdefault("chroma_sample_location", info.chroma_location)
        if self._interlaced:
            context.flags |= Flags.interlaced_dct.value | Flags.interlaced_me.value
            if found.encoder.startswith("libx264"):
                order = "tff=1" if info.top_field_first else "bff=1"
                options["x264-params"] = ":".join(p for p in (order, options.get("x264-params", "")) if p)
        context.field_order = info.field_order
        quality = options.pop("q", None) or options.pop("qscale", None)
        if quality is None and found.encoder in FIXED_QUALITY and not {"b", "global_quality"} & set(options):
            quality = "3"
        if quality is not None:
            context.flags |= Flags.qscale.value
            context.global_quality = int(float(quality))
        if found.encoder == "mjpeg" and not info.full_range:
            options.setdefault("strict", "unofficial")
        if self._statistics:
            _keep_statistics(context, options, found.encoder, self._statistics)
        context.options = options

    def _why(self, settings: EncodeSettings, error: Exception) -> str:
        """FFmpeg's own words for a refusal: only its log has them, so try once more and listen."""
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture(local=False) as logs, contextlib.suppress(av.error.FFmpegError, ValueError):
                output = av.open(io.BytesIO(), "w", format=self._output.format.name)
                self._stream = output.add_stream(self.resolved.encoder, rate=self._rate)
                self._configure(settings, 0)
                output.start_encoding()
        finally:
            av.logging.set_level(before)
        lines = [text.strip() for _, _, text in logs if text.strip()]
        return "; ".join(list(dict.fromkeys(lines))[:3]) or reason(error)

    def encode(self, flat: Array, pts: int, duration: int = 0) -> list[EncodedPacket]:
        """Encode the next frame.

        Args:
            flat: the samples in the format `resolved` names; may be reused after the call.
            pts: larger than the frame's before.
            duration: in the time base, 0 where unknown.

        Returns:
            The packets that came out, in order of decoding; often of earlier frames.

        Raises:
            MediaError: the encoder failed.
        """
        frame = self._to_frame(flat)
        key = self._given if self._counts else pts
        self._pending[key] = (pts, duration, self._given)
        self._given += 1
        frame.pts, frame.time_base = key, self._time_base
        info = self._info
        frame.color_range = self._context.color_range
        frame.colorspace, frame.color_primaries, frame.color_trc = (
            self._context.colorspace,
            info.primaries,
            info.trc,
        )
        if self._fields:
            frame = self._fields.mark(frame)
        return self._send(frame)

    def flush(self) -> list[EncodedPacket]:
        """End: the packets that were still inside."""
        packets = self._send(None)
        if self._pending:
            raise MediaError(f"{self.resolved.encoder} kept {len(self._pending)} frames to itself")
        return packets

    def close(self) -> None:
        """Let go of the encoder, which may have files to end; nothing can be asked of it any more."""
        del self._context, self._stream, self._output
        gc.collect()  # PyAV's container and stream hold each other, and FFmpeg's encoder with them

    def _send(self, frame: Any) -> list[EncodedPacket]:
        try:
            made = self._context.encode(frame)
        except av.error.FFmpegError as e:
            raise MediaError(f"{self.resolved.encoder} failed near frame {self._given - 1}: {reason(e)}") from e
        out = []
        for packet in made:
            try:
                pts, duration, number = self._pending.pop(packet.pts)
            except KeyError:
                raise MediaError(f"{self.resolved.encoder} changed a timestamp to {packet.pts}") from None
            data = bytes(packet)
            out.append(EncodedPacket(data, pts, duration, packet.is_keyframe, number))
            if self._template is None:
                self._template = self._make_template(data)
        return out

    @property
    def template(self) -> bytes:
        """A tiny file with the codec's parameters and one packet; there once the first packet is out."""
        if self._template is None:
            raise MediaError("the encoder has made no packet yet")
        return self._template

    def _make_template(self, data: bytes) -> bytes:
        packet = av.Packet(data)
        packet.stream = self._stream
        packet.pts = packet.dts = 0
        packet.time_base = self._time_base
        packet.is_keyframe = True
        self._output.mux_one(packet)
        self._output.close()
        made = self._sink.getvalue()
        self._sink.close()
        return made


def _limit_threads(options: dict[str, str], encoder: str, threads: int) -> None:
    """Tell encoders with thread pools of their own how many threads they have, unless the user did."""
    name, param = {"libx265": ("x265-params", "pools"), "libsvtav1": ("svtav1-params", "lp")}.get(encoder, ("", ""))
    told = options.get(name, "")
    if name and threads and param not in (p.partition("=")[0] for p in told.split(":")):
        options[name] = ":".join(p for p in (told, f"{param}={threads}") if p)


def _keep_statistics(context: Any, options: dict[str, str], encoder: str, statistics: Statistics) -> None:
    if encoder == "libx265":
        path = "".join(f"\\{c}" if c in "\\':" else c for c in str(statistics.file))
        told = f"pass={1 if statistics.write else 2}:stats={path}"
        options["x265-params"] = ":".join(p for p in (options.get("x265-params", ""), told) if p)
    else:
        context.flags |= (Flags.pass1 if statistics.write else Flags.pass2).value
        options["passlogfile"] = str(statistics.file)


def _tag_colour(context: Any, info: VideoInfo, found: Resolved) -> None:
    family = pixel_format(found.storage).family
    context.color_primaries, context.color_trc = info.primaries, info.trc
    if family == "rgb":
        context.colorspace, context.color_range = 0, colour.RANGE_FULL
    elif family == "gray":
        context.color_range = colour.RANGE_FULL
    else:
        # A source that was RGB is converted with the matrix of its chain's spec, which is then told.
        context.colorspace = info.colorspace if info.matrix != "rgb" else 1
        full = colour.RANGE_FULL if info.full_range else info.color_range or colour.RANGE_LIMITED
        context.color_range = full
        if not info.full_range and not info.color_range:
            context.color_range = 0


class _FieldFlags:
    """Marks frames as interlaced; only a filter can set that flag through PyAV."""

    def __init__(self, info: VideoInfo, pix_fmt: str) -> None:
        graph: Any = av.filter.Graph()
        ends = [graph.add_buffer(width=info.width, height=info.height, format=pix_fmt, time_base=info.time_base)]
        ends.append(graph.add("setfield", "tff" if info.top_field_first else "bff"))
        ends.append(graph.add("buffersink"))
        for one, other in pairwise(ends):
            one.link_to(other)
        graph.configure()
        self._graph = graph

    def mark(self, frame: Any) -> Any:
        pts, base = frame.pts, frame.time_base
        self._graph.push(frame)
        out = self._graph.pull()
        out.pts, out.time_base = pts, base
        return out

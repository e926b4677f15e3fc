"""Encode flat frames with closed GOPs, whole timestamps, and the source's colour, aspect and field order."""

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error
import av.logging
from av.codec.codec import Codec, PixFmtLoss, find_best_pix_fmt_of_list
from av.codec.context import CodecContext, Flags

from vidcloud.errors import MediaError, UsageError
from vidcloud.media import colour
from vidcloud.media.pictures import writer
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import Array, pixel_format

MAX_GOP = 240
# SVT-AV1 prints to stderr by itself; 1 leaves errors only.
os.environ.setdefault("SVT_LOG", "1")

_X26X = ("libx264", "libx264rgb", "libx265")
# Their time base is limited, so they count frames; timestamps are put back on their packets.
_COUNT_FRAMES = ("mpeg4", "mpeg2video", "mpeg1video", "msmpeg4", "msmpeg4v2", "h263", "h263p", "flv", "wmv1", "wmv2")
_FIXED_QUALITY = (*_COUNT_FRAMES, "mjpeg")
# With encoders of the mpegvideo family closed GOPs exclude scene cuts.
_NO_SCENE_CUTS = {"sc_threshold": "1000000000"}
_INTERLACING = ("libx264", "libx264rgb", "mpeg2video", "mpeg4", "prores_ks", "prores", "dnxhd")
_OPEN_GOPS = ("open-gop=1", "open_gop=1", "intra-refresh=1", "intra_refresh=1", "irefresh-type=1")


@dataclass(frozen=True)
class EncodeSettings:
    """What the user asked of the encoder.

    Attributes:
        codec: FFmpeg's name of the encoder.
        crf: constant quality, for encoders that have it; None leaves their default.
        preset: speed preset, for encoders that have it.
        pix_fmt: FFmpeg's pixel format, None for the source's own or the nearest.
        options: further options of the encoder as text.
    """

    codec: str = "libx264"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's types."""
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EncodeSettings":
        """Read what `to_json` wrote; unknown keys are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in record.items() if k in known})


@dataclass(frozen=True)
class Resolved:
    """The encoder that serves a source.

    Attributes:
        encoder: FFmpeg's name of the encoder (``libx264rgb`` where libx264 was asked for an RGB source).
        codec: the codec's name, as muxers know it: ``h264``.
        pix_fmt: what the encoder is given, FFmpeg's name.
        storage: the storage format that `Encoder.encode` takes.
        notes: lines for the user on what changes.
    """

    encoder: str
    codec: str
    pix_fmt: str
    storage: str
    notes: tuple[str, ...]


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


def encoder_codec(name: str) -> Codec:
    """FFmpeg's video encoder of that name.

    Raises:
        UsageError: there is none, or it is no video encoder.
    """
    try:
        codec = Codec(name, "w")
    except ValueError:
        raise UsageError(f"no encoder is called {name}: try libx264, libx265, libsvtav1, libvpx-vp9 or ffv1") from None
    if codec.type != "video":
        raise UsageError(f"{name} encodes {codec.type}, not video")
    return codec


def resolve(settings: EncodeSettings, info: VideoInfo) -> Resolved:
    """Choose encoder and pixel format for a source.

    Without a pixel format asked for: the source's own where the encoder takes it, else the least lossy one. RGB stays
    RGB with libx264.

    Raises:
        UsageError: an unknown encoder, or a pixel format that it does not take.
    """
    encoder = settings.codec
    rgb_asked = settings.pix_fmt in ("bgr0", "bgr24", "rgb24")
    rgb_source = info.matrix == "rgb" and settings.pix_fmt is None and pixel_format(info.storage).bits == 8
    if encoder == "libx264" and (rgb_asked or rgb_source):
        encoder = "libx264rgb"
    codec = encoder_codec(encoder)
    formats = [f.name for f in codec.video_formats or ()]
    pix_fmt, notes = _choose(encoder, formats, info, settings.pix_fmt)
    try:
        storage, losses = colour.storage_of(pix_fmt)
    except KeyError:
        raise UsageError(f"{encoder} can't be fed {pix_fmt} frames: they live in a graphics card") from None
    del losses  # alpha of an output format is opaque, nothing is lost
    if info.interlaced and encoder not in _INTERLACING:
        notes.append(f"{encoder} codes interlaced video as whole frames; the container keeps the field order")
    return Resolved(encoder, str(codec.canonical_name), pix_fmt, storage, tuple(notes))


def _choose(encoder: str, formats: list[str], info: VideoInfo, asked: str | None) -> tuple[str, list[str]]:
    def fits(name: str) -> bool:
        """H.264 and H.265 crop in whole chroma samples."""
        if encoder not in _X26X:
            return True
        try:
            wide, high = pixel_format(name).log2_chroma
        except KeyError:
            wide, high = (1, 1) if name.startswith("nv12") else (1, 0) if name.startswith("nv16") else (0, 0)
        return not (info.width % (1 << wide) or info.height % (1 << high))

    known = [f for f in formats if fits(f)] if formats else []
    if asked is not None:
        for name in (asked, f"{asked}le"):
            if name in known or (not formats and _is_format(name)):
                return name, []
        if any(n in formats for n in (asked, f"{asked}le")):
            raise UsageError(f"{encoder} can't code {info.width}x{info.height} in {asked}: the size is odd")
        raise UsageError(f"{encoder} does not take the pixel format {asked}: it takes {', '.join(formats)}")
    native = pixel_format(info.storage).av_name
    for name in (info.pix_fmt, native):
        plain = name.replace("yuvj", "yuv")
        if not formats or plain in known:
            return plain, []
        if name in known:
            return name, []
    if native.replace("yuv", "yuvj") in known and info.full_range:
        return native.replace("yuv", "yuvj"), []
    best, loss = find_best_pix_fmt_of_list([f for f in known if _storable(f)], native)
    if best is None:
        raise UsageError(f"{encoder} takes no pixel format that {info.pix_fmt} can become")
    lost = [part.name.lower() for part in PixFmtLoss if part.value and part & loss and part.name]
    tail = f" (loses {', '.join(lost)})" if lost else ""
    return best.name, [f"{encoder} does not take {info.pix_fmt} at this size: coded as {best.name}{tail}"]


def _is_format(name: str) -> bool:
    try:
        colour.storage_of(name)
    except KeyError:
        return False
    return True


def _storable(name: str) -> bool:
    # Without alpha planes to invent.
    return _is_format(name) and not colour.storage_of(name)[1]


def check_settings(settings: EncodeSettings, info: VideoInfo) -> Resolved:
    """Refuse bad settings before any work, by opening the encoder once.

    Raises:
        UsageError: an unknown encoder, option or value, or a pixel format or size that the encoder does not take.
    """
    found = resolve(settings, info)
    options = _options(settings, found)
    joined = ":".join(f"{k}={v}" for k, v in options.items())
    if any(word in joined for word in _OPEN_GOPS):
        raise UsageError("the video is cut at keyframes, so open GOPs and intra refresh can't be used")
    names = CodecContext.create(found.encoder, "w").supported_options
    known = {o.name for o in (*names.generic, *names.private)}
    private = {o.name for o in names.private}
    for name, value in (("crf", settings.crf), ("preset", settings.preset)):
        if value is not None and name not in private:
            raise UsageError(f"{found.encoder} has no {name}: leave --{name} out or give its own options with -e")
    for name in settings.options:
        if name not in known and name not in ("q", "qscale"):
            raise UsageError(f"{found.encoder} has no option {name}")
    Encoder(settings, info)
    return found


def _options(settings: EncodeSettings, found: Resolved) -> dict[str, str]:
    """The encoder's options: ours first, the user's over them."""
    encoder = found.encoder
    options: dict[str, str] = {}
    if encoder == "ffv1":
        options.update({"level": "3", "slicecrc": "1"})
    if encoder in _COUNT_FRAMES:
        options.update(_NO_SCENE_CUTS)
    if settings.crf is not None:
        options["crf"] = f"{settings.crf:g}"
    if settings.preset is not None:
        options["preset"] = settings.preset
    options.update({k: str(v) for k, v in settings.options.items()})
    if encoder == "libx265":
        mine = "log-level=none:open-gop=0"
        options["x265-params"] = ":".join(p for p in (mine, options.get("x265-params", "")) if p)
    return options


class Encoder:
    """An encoder for one run of frames in order.

    Every GOP is closed, and no longer than 240 frames unless the option ``g`` says so. It may be dropped at any time.

    Args:
        settings: what was asked.
        info: the source; its time base is that of the packets.
        threads: 0 is one a core.

    Attributes:
        resolved: the encoder and the format that `encode` takes.
        codec_tag: the tag that the encoder chose, or empty.

    Raises:
        UsageError: the encoder refuses the settings.
    """

    def __init__(self, settings: EncodeSettings, info: VideoInfo, *, threads: int = 0) -> None:
        self.resolved = resolve(settings, info)
        self._info = info
        self._counts = self.resolved.encoder in _COUNT_FRAMES
        rate = info.average_rate or Fraction(25)
        self._rate = rate.limit_denominator(1001)
        self._time_base = 1 / self._rate if self._counts else info.time_base
        self._pending: dict[int | None, tuple[int, int, int]] = {}
        self._given = 0
        self._to_frame = writer(self.resolved.storage, self.resolved.pix_fmt, info.width, info.height)
        self._template: bytes | None = None
        self._open(settings, threads)
        self._fields = _FieldFlags(info, self.resolved) if self._interlaced else None
        tag = self._context.codec_tag
        self.codec_tag = tag if tag.isprintable() and tag.strip("\0 ") else ""

    @property
    def _interlaced(self) -> bool:
        return self._info.interlaced and self.resolved.encoder in _INTERLACING

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
                raise UsageError(f"{self.resolved.encoder}: {reason_of(e)}") from e
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
        options = _options(settings, found)
        context.width, context.height, context.pix_fmt = info.width, info.height, found.pix_fmt
        context.time_base = self._time_base
        self._stream.time_base = self._time_base
        context.framerate = self._rate
        context.thread_count = threads
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
        context.field_order = info.field_order
        quality = options.pop("q", None) or options.pop("qscale", None)
        if quality is None and found.encoder in _FIXED_QUALITY and not {"b", "global_quality"} & set(options):
            quality = "3"
        if quality is not None:
            context.flags |= Flags.qscale.value
            context.global_quality = int(float(quality))
        if found.encoder == "mjpeg" and not info.full_range:
            options.setdefault("strict", "unofficial")
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
        return "; ".join(dict.fromkeys(lines)) or reason_of(error)

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

    def _send(self, frame: Any) -> list[EncodedPacket]:
        try:
            made = self._context.encode(frame)
        except av.error.FFmpegError as e:
            raise MediaError(f"{self.resolved.encoder} failed near frame {self._given - 1}: {reason_of(e)}") from e
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
    """Marks frames as interlaced; only a filter graph can set that flag through PyAV."""

    def __init__(self, info: VideoInfo, found: Resolved) -> None:
        graph: Any = av.filter.Graph()
        source = graph.add_buffer(width=info.width, height=info.height, format=found.pix_fmt, time_base=info.time_base)
        mark = graph.add("setfield", "tff" if info.top_field_first else "bff")
        sink = graph.add("buffersink")
        source.link_to(mark)
        mark.link_to(sink)
        graph.configure()
        self._graph = graph

    def mark(self, frame: Any) -> Any:
        pts, base = frame.pts, frame.time_base
        self._graph.push(frame)
        out = self._graph.pull()
        out.pts, out.time_base = pts, base
        return out


def reason_of(error: BaseException) -> str:
    """FFmpeg's message without the call that PyAV adds."""
    text = str(getattr(error, "strerror", None) or error)
    return text.removeprefix("[Errno ").strip()

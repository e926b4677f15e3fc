"""What is asked of the encoder, and which encoder and pixel format serve a source."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from av.codec.codec import Codec, PixFmtLoss, find_best_pix_fmt_of_list
from av.codec.context import CodecContext
from av.video.format import VideoFormat

from vidcloud.errors import UsageError
from vidcloud.media import colour
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import pixel_format

MAX_GOP = 240

X26X = ("libx264", "libx264rgb", "libx265")
"""Encoders that keep the statistics of a first pass in a file; and that crop in whole chroma samples."""
COUNT_FRAMES = ("mpeg4", "mpeg2video", "mpeg1video", "msmpeg4", "msmpeg4v2", "h263", "h263p", "flv", "wmv1", "wmv2")
"""Encoders whose time base is limited: they are given frame numbers, and timestamps are put back on their packets."""
FIXED_QUALITY = (*COUNT_FRAMES, "mjpeg")
INTERLACING = ("libx264", "libx264rgb", "mpeg2video", "mpeg4", "prores_ks", "prores", "dnxhd")
"""Encoders that code the fields of interlaced frames as such."""
_X265_WIDTH = 64
"""Of narrower pictures libx265 corrupts its process's memory (glibc's checks tell: 48 pixels do, 64 do not)."""
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
        passes: how often the encoder sees the video, 1 or 2.
    """

    codec: str = "libx264"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    passes: int = 1

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
        UsageError: an unknown encoder, or a pixel format or size that it does not take.
    """
    encoder = settings.codec
    rgb_asked = settings.pix_fmt in ("bgr0", "bgr24", "rgb24")
    rgb_source = info.matrix == "rgb" and settings.pix_fmt is None and pixel_format(info.storage).bits == 8
    if encoder == "libx264" and (rgb_asked or rgb_source):
        encoder = "libx264rgb"
    if encoder == "libx265" and info.width < _X265_WIDTH:
        raise UsageError(f"libx265 breaks on pictures {info.width} wide, under {_X265_WIDTH}: take another --codec")
    codec = encoder_codec(encoder)
    formats = [f.name for f in codec.video_formats or ()]
    pix_fmt, notes = _choose(encoder, formats, info, settings.pix_fmt)
    try:
        storage, losses = colour.storage_of(pix_fmt)
    except KeyError:
        raise UsageError(f"{encoder} can't be fed {pix_fmt} frames: they live in a graphics card") from None
    del losses  # alpha of an output format is opaque, nothing is lost
    if info.interlaced and encoder not in INTERLACING:
        notes.append(f"{encoder} codes interlaced video as whole frames; the container keeps the field order")
    return Resolved(encoder, str(codec.canonical_name), pix_fmt, storage, tuple(notes))


def _choose(encoder: str, formats: list[str], info: VideoInfo, asked: str | None) -> tuple[str, list[str]]:
    def fits(name: str) -> bool:
        """H.264 and H.265 crop in whole chroma samples."""
        if encoder not in X26X:
            return True
        fmt = VideoFormat(name, 64, 64)
        return not (info.width % (64 // fmt.chroma_width(64)) or info.height % (64 // fmt.chroma_height(64)))

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
    kept = colour.storage_of(best.name)[0]
    if not lost and pixel_format(kept).family == "rgb":
        return best.name, []
    tail = f" (loses {', '.join(lost)})" if lost else ""
    why = "" if info.pix_fmt not in formats else f" at {info.width}x{info.height}"
    return best.name, [f"{encoder} does not take {info.pix_fmt}{why}: coded as {best.name}{tail}"]


def _is_format(name: str) -> bool:
    try:
        colour.storage_of(name)
    except KeyError:
        return False
    return True


def _storable(name: str) -> bool:
    # Without alpha planes to invent.
    return _is_format(name) and not colour.storage_of(name)[1]


def encoder_options(settings: EncodeSettings, found: Resolved) -> dict[str, str]:
    """The encoder's options: ours first, the user's over them."""
    encoder = found.encoder
    options: dict[str, str] = {}
    if encoder == "ffv1":
        options.update({"level": "3", "slicecrc": "1"})
    if encoder in COUNT_FRAMES:
        options["sc_threshold"] = "1000000000"  # closed GOPs exclude scene cuts here
    if settings.crf is not None:
        options["crf"] = f"{settings.crf:g}"
    if settings.preset is not None:
        options["preset"] = settings.preset
    options.update({k: str(v) for k, v in settings.options.items()})
    if encoder == "libx265":
        mine = "log-level=none:open-gop=0:info=0"  # its info tells threads and processor, by which parts would differ
        options["x265-params"] = ":".join(p for p in (mine, options.get("x265-params", "")) if p)
    return options


def fit_settings(settings: EncodeSettings, container: str) -> EncodeSettings:
    """Settings for a container: AVI holds no timestamps, so frames must be coded in the order in which they are shown.

    Raises:
        UsageError: B-frames were asked for in AVI.
    """
    known = {o.name for o in CodecContext.create(encoder_codec(settings.codec).name, "w").supported_options.generic}
    if container != "avi" or not encoder_codec(settings.codec).reorder or "bf" not in known:
        return settings
    if settings.options.get("bf", "0") != "0":
        raise UsageError("AVI can't hold B-frames: leave -e bf out, or use .mkv or .mp4")
    return replace(settings, options={**settings.options, "bf": "0"})


def check_options(settings: EncodeSettings, found: Resolved) -> None:
    """Refuse options that the encoder does not have.

    Raises:
        UsageError: names the option.
    """
    joined = ":".join(f"{k}={v}" for k, v in encoder_options(settings, found).items())
    if any(word in joined for word in _OPEN_GOPS):
        raise UsageError("the video is cut at keyframes, so open GOPs and intra refresh can't be used")
    names = CodecContext.create(found.encoder, "w").supported_options
    private = {o.name for o in names.private}
    for name, value in (("crf", settings.crf), ("preset", settings.preset)):
        if value is not None and name not in private:
            raise UsageError(f"{found.encoder} has no {name}: leave --{name} out or give its own options with -e")
    for name in settings.options:
        if name not in private and name not in {o.name for o in names.generic} and name not in ("q", "qscale"):
            raise UsageError(f"{found.encoder} has no option {name}")

"""Colour tags and pixel formats as FFmpeg numbers and names them."""

import re

from av.video.format import VideoFormat

from vidcloud.pixels import pixel_format

UNSPECIFIED = 2
_MATRICES = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
}
_BT2020_PRIMARIES = 9
_HD_LINES = 720
RANGE_LIMITED, RANGE_FULL = 1, 2

_PACKED_BITS = 8
_WIDEST = 16


def matrix_name(colorspace: int, primaries: int, height: int) -> str:
    """FFmpeg's name of the YUV matrix.

    Where the stream has no tag, players guess and so do we: BT.2020 primaries mean bt2020nc, 720 lines and more bt709,
    fewer smpte170m.
    """
    if colorspace in _MATRICES and colorspace != 0:
        return _MATRICES[colorspace]
    if primaries == _BT2020_PRIMARIES:
        return "bt2020nc"
    return "bt709" if height >= _HD_LINES else "smpte170m"


def is_full_range(pix_fmt: str, color_range: int, family: str) -> bool:
    """Whether samples use the whole range: always for RGB and gray, by name for ``yuvj…``, else by the stream's tag."""
    return family != "yuv" or pix_fmt.startswith("yuvj") or color_range == RANGE_FULL


def storage_of(pix_fmt: str) -> tuple[str, tuple[str, ...]]:
    """The storage format (`vidcloud.pixels`) that holds frames of an FFmpeg pixel format, and what it loses.

    Returns:
        Its name, and notes on what is lost (alpha, float precision); none where every sample is kept.

    Raises:
        KeyError: FFmpeg has no such pixel format, or it is not one of pictures (hardware surfaces).
    """
    try:
        return pixel_format(pix_fmt).name, ()
    except KeyError:
        pass
    try:
        fmt = VideoFormat(pix_fmt, 64, 64)
        parts = fmt.components
    except ValueError as e:
        raise KeyError(pix_fmt) from e
    if not parts:
        raise KeyError(pix_fmt)
    notes: list[str] = []
    if any(p.is_alpha for p in parts) and not fmt.has_palette:
        notes.append(f"{pix_fmt}: the alpha channel is dropped")
    colour = [p for p in parts if not p.is_alpha]
    bits = max(p.bits for p in colour)
    if re.search(r"f(16|32)", pix_fmt):
        notes.append(f"{pix_fmt}: floating point samples are rounded to 16 bits")
        bits = _WIDEST
    if bits > _WIDEST:
        notes.append(f"{pix_fmt}: samples are rounded to 16 bits")
        bits = _WIDEST
    if fmt.is_bayer or pix_fmt.startswith("xyz"):
        notes.append(f"{pix_fmt}: converted to RGB")
        return ("bgr48" if "16" in pix_fmt or "12" in pix_fmt else "bgr24"), tuple(notes)
    if fmt.is_rgb or fmt.has_palette:
        return _rgb_storage(fmt, bits), tuple(notes)
    depth = "" if bits <= _PACKED_BITS else _depth(bits)
    if len(colour) == 1:
        return f"gray{depth}", tuple(notes)
    shrink = {(64, 64): "444", (32, 64): "422", (32, 32): "420", (64, 32): "440", (16, 64): "411", (16, 16): "410"}
    sub = shrink[fmt.chroma_width(64), fmt.chroma_height(64)]
    return pixel_format(f"yuv{sub}p{depth}").name, tuple(notes)


def _rgb_storage(fmt: VideoFormat, bits: int) -> str:
    if fmt.name.startswith("gbr"):
        return "gbrp" if bits <= _PACKED_BITS else f"gbrp{_depth(bits)}"
    if bits <= _PACKED_BITS:
        return "bgr24"
    return "bgr48" if bits == _WIDEST else f"gbrp{_depth(bits)}"


def _depth(bits: int) -> str:
    return str(next(b for b in (9, 10, 12, 14, 16) if b >= bits))

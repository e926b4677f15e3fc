"""Converters between pixel formats of the same picture, exact where it can be, with the stream's matrix and range.

Chains of conversions that undo each other give back the samples: shifts between depths, planes against packed pixels.
YUV against RGB goes through swscale with its bit-exact flags, so that every machine computes the same.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from av import VideoFrame
from av.video.format import VideoFormat
from av.video.reformatter import VideoReformatter

from vidcloud.chain import Convert
from vidcloud.filter import FrameSpec
from vidcloud.media.pictures import EXACT, fill, plane_array
from vidcloud.pixels import Array, PixelFormat, pixel_format, planes_of

_BYTE = 8
_SWS_MATRIX = {
    "bt709": 1,
    "fcc": 4,
    "bt470bg": 5,
    "smpte170m": 5,
    "smpte240m": 7,
    "bt2020nc": 9,
    "bt2020c": 9,
}
_LIMITED, _FULL = 1, 2


def converter(src: FrameSpec, dst: FrameSpec) -> Convert:
    """Make a converter between two formats of the same picture.

    The returned function reads one flat array and fills the other; it keeps buffers, so one thread uses it at a time.

    Between depths, limited luma and chroma are shifted up, and down with rounding and clipping; full-range samples are
    scaled, so that white stays white. Gray and RGB have full range; gray is the picture's luma. A gray picture becomes
    YUV with neutral chroma.

    Args:
        src: the frames given; its matrix and range rule where one side is YUV.
        dst: the frames wanted; same size.

    Raises:
        ValueError: the sizes differ.
    """
    if (src.width, src.height) != (dst.width, dst.height):
        raise ValueError("a converter does not scale")
    return _Route(src, dst).convert


class _Route:
    """Steps from one format to the next, with a buffer between each."""

    def __init__(self, src: FrameSpec, dst: FrameSpec) -> None:
        steps = _steps(src, dst)
        self._steps = steps
        self._between: list[Array] = [np.empty(fmt.samples(src.width, src.height), fmt.dtype) for _, fmt in steps[:-1]]

    def convert(self, flat: Array, out: Array) -> None:
        for (step, _), target in zip(self._steps, [*self._between, out], strict=True):
            step(flat, target)
            flat = target


def _steps(src: FrameSpec, dst: FrameSpec) -> list[tuple[Convert, PixelFormat]]:
    a, b = src.format, dst.format
    size = (src.width, src.height)
    if a == b and (src.full_range == dst.full_range or a.family != "yuv"):
        return [(_copy, b)]
    if a.family == b.family and a.log2_chroma == b.log2_chroma and src.full_range == dst.full_range:
        return _same_family(a, b, size, full=src.full_range)
    if b.family == "gray":
        return _to_gray(src, b, size)
    if a.family == "gray":
        return _from_gray(dst, a, size)
    if _in_ffmpeg(a) and b.family == "rgb" and (b.planes == 1 or b.name.startswith("gbrp")):
        # swscale is many times faster to planar RGB than to packed; a merge follows.
        planar = pixel_format("gbrp" if b.bits == _BYTE else "gbrp16" if b.planes == 1 else b.name)
        first = (_scaled(src, planar, dst), planar)
        return [first, *([] if planar == b else _same_family(planar, b, size, full=True))]
    for fmt, spec in ((a, src), (b, dst)):
        if not _in_ffmpeg(fmt):  # 4:4:0 ends at 12 bits in FFmpeg
            known = replace(spec, format=pixel_format(fmt.name[: fmt.name.index("p")] + "p12"))
            return [*_steps(src, known), *_steps(known, dst)]
    return [(_scaled(src, b, dst), b)]


def _in_ffmpeg(fmt: PixelFormat) -> bool:
    try:
        VideoFormat(fmt.av_name, 16, 16)
    except ValueError:
        return False
    return True


def _copy(flat: Array, out: Array) -> None:
    np.copyto(out, flat)


def _same_family(
    a: PixelFormat, b: PixelFormat, size: tuple[int, int], *, full: bool
) -> list[tuple[Convert, PixelFormat]]:
    """Steps that change depth and the order of samples, and nothing else."""
    steps: list[tuple[Convert, PixelFormat]] = []
    if a.family == "rgb" and (a.planes, a.name[:3]) != (b.planes, b.name[:3]):
        same_depth = b if a.bits == b.bits else _reordered(a, b)
        steps.append((_reorder(a, same_depth, size), same_depth))
        a = same_depth
    if a.bits != b.bits:
        steps.append((_depth(a, b, size, full=full), b))
    return steps or [(_copy, b)]


def _reordered(a: PixelFormat, b: PixelFormat) -> PixelFormat:
    """``b``'s order of samples at ``a``'s depth. Packed formats of 9 to 14 bits exist nowhere but between our steps."""
    if b.planes == 1:
        base = b.name[:3]
        return PixelFormat(f"{base}_{a.bits}", "rgb", a.bits, channels=3)
    return pixel_format("gbrp" if a.bits == _BYTE else f"gbrp{a.bits}")


def _reorder(a: PixelFormat, b: PixelFormat, size: tuple[int, int]) -> Convert:
    def as_bgr(fmt: PixelFormat, flat: Array) -> list[Any]:
        planes = planes_of(fmt.view(flat, *size))
        if fmt.planes == 1:
            packed: Any = planes[0]
            return [packed] if fmt.name.startswith("bgr") else [packed[..., ::-1]]
        green, blue, red = planes
        return [blue, green, red]

    def convert(flat: Array, out: Array) -> None:
        if a.planes == 1 and b.planes == 1:
            source: Any = a.view(flat, *size)
            target: Any = b.view(out, *size)
            cv2.cvtColor(source, cv2.COLOR_BGR2RGB, dst=target)
        elif a.planes == 1:
            rgb = a.name.startswith("rgb")
            green, blue, red = planes_of(b.view(out, *size))
            packed: Any = a.view(flat, *size)
            cv2.split(packed, [red, green, blue] if rgb else [blue, green, red])
        else:
            blue_green_red = as_bgr(a, flat)
            packed = b.view(out, *size)
            cv2.merge(blue_green_red[::-1] if b.name.startswith("rgb") else blue_green_red, dst=packed)

    return convert


def _depth(a: PixelFormat, b: PixelFormat, size: tuple[int, int], *, full: bool) -> Convert:
    """Change the bits of samples as FFmpeg does.

    Samples of full range are scaled, so that white stays white: their top bits are repeated below. Limited luma, and
    chroma always, are shifted. What goes down comes back exactly if it came up before.
    """
    scaled = a.samples(*size) if a.family != "yuv" else size[0] * size[1] if full else 0
    pieces = [(slice(0, scaled), True), (slice(scaled, None), False)]
    spare = np.empty(a.samples(*size), np.uint16)
    by = abs(a.bits - b.bits)

    def up(flat: Array, out: Array, part: slice, *, scale: bool) -> None:
        np.multiply(flat[part], np.uint16(1 << by), out=out[part], dtype=np.uint16, casting="unsafe")
        if scale:
            out[part] |= flat[part] >> (a.bits - by) if by < a.bits else flat[part]

    def down(flat: Array, out: Array, part: slice, *, scale: bool) -> None:
        work, half = spare[part], np.uint16(1 << (by - 1))
        if scale:
            np.right_shift(flat[part], b.bits, out=work)
            np.subtract(flat[part], work, out=work)
        else:
            # So that adding the half can't run over.
            np.minimum(flat[part], np.uint16((((1 << b.bits) - 1) << by) | (int(half) - 1)), out=work)
        work += half
        np.right_shift(work, by, out=work)
        np.copyto(out[part], work, casting="unsafe")

    change = up if b.bits > a.bits else down

    def convert(flat: Array, out: Array) -> None:
        for part, scale in pieces:
            change(flat, out, part, scale=scale)

    return convert


def _scaled(src: FrameSpec, target: PixelFormat, dst: FrameSpec) -> Convert:
    """One step of swscale, YUV against RGB or between chroma sizes."""
    yuv = src if src.format.family == "yuv" else dst
    matrix = _SWS_MATRIX.get(src.matrix if src.format.family == "yuv" else dst.matrix, 1)
    to_full = dst.full_range if target.family == "yuv" else True
    from_full = src.full_range if src.format.family == "yuv" else True
    ranges = (_FULL if from_full else _LIMITED, _FULL if to_full else _LIMITED)
    frame = VideoFrame(yuv.width, yuv.height, src.format.av_name)
    scaler = VideoReformatter()

    def convert(flat: Array, out: Array) -> None:
        fill(frame, flat, src.format)
        made = scaler.reformat(
            frame,
            format=target.av_name,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ranges[0],
            dst_color_range=ranges[1],
            interpolation=EXACT,
            threads=1,
        )
        for plane, want in zip(made.planes, planes_of(target.view(out, src.width, src.height)), strict=True):
            rows = want.reshape(want.shape[0], -1)
            np.copyto(rows, plane_array(plane, target.dtype, rows.shape[1]))

    return convert


def _to_gray(src: FrameSpec, b: PixelFormat, size: tuple[int, int]) -> list[tuple[Convert, PixelFormat]]:
    a = src.format
    if a.family == "rgb":
        # The luma of a full-range YUV picture; swscale's own RGB to gray uses BT.601 whatever is asked.
        name = "yuv420p" if a.bits == _BYTE else "yuv420p16"
        full = FrameSpec(pixel_format(name), *size, full_range=True, matrix=_rgb_matrix(src))
        return [*_steps(src, full), *_to_gray(full, b, size)]
    luma = size[0] * size[1]
    gray = pixel_format("gray" if a.bits == _BYTE else f"gray{a.bits}")
    if src.full_range:
        first: Convert = lambda flat, out: np.copyto(out, flat[:luma])  # noqa: E731
    else:
        table = _range_table(a.bits, a.dtype, to_full=True)
        first = lambda flat, out: _look_up(flat[:luma], table, out)  # noqa: E731
    return [(first, gray), *([] if gray == b else _same_family(gray, b, size, full=True))]


def _rgb_matrix(spec: FrameSpec) -> str:
    return spec.matrix if spec.matrix in _SWS_MATRIX else "bt709"


def _from_gray(dst: FrameSpec, a: PixelFormat, size: tuple[int, int]) -> list[tuple[Convert, PixelFormat]]:
    b = dst.format
    steps: list[tuple[Convert, PixelFormat]] = []
    if a.bits != b.bits:
        deeper = pixel_format("gray" if b.bits == _BYTE else f"gray{b.bits}")
        steps.append((_depth(a, deeper, size, full=True), deeper))
    luma = size[0] * size[1]
    if b.family == "rgb":

        def spread(flat: Array, out: Array) -> None:
            picture: Any = flat.reshape(size[1], size[0])
            if b.planes == 1:
                packed: Any = b.view(out, *size)
                cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR, dst=packed)
                return
            for plane in planes_of(b.view(out, *size)):
                plane[...] = picture

        return [*steps, (spread, b)]
    table = None if dst.full_range else _range_table(b.bits, b.dtype, to_full=False)

    def with_chroma(flat: Array, out: Array) -> None:
        if table is None:
            np.copyto(out[:luma], flat)
        else:
            _look_up(flat, table, out[:luma])
        out[luma:] = 1 << (b.bits - 1)

    return [*steps, (with_chroma, b)]


def _range_table(bits: int, dtype: np.dtype[Any], *, to_full: bool) -> Array:
    """Luma of limited range against full range, for every value; rounded to nearest and clipped."""
    values = np.arange(1 << bits, dtype=np.float64)
    low, span, most = 16 << (bits - 8), 219 << (bits - 8), (1 << bits) - 1
    scaled = (values - low) * most / span if to_full else values * span / most + low
    return np.clip(np.floor(scaled + 0.5), 0, most).astype(dtype)


def _look_up(flat: Array, table: Array, out: Array) -> None:
    if table.dtype == np.uint8:
        cv2.LUT(flat, table, dst=out)
    else:
        np.take(table, flat, out=out, mode="clip")

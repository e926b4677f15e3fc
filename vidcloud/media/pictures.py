"""Between FFmpeg's frames (padded planes, any pixel format) and flat storage arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vidcloud.pixels import Array, PixelFormat, pixel_format, planes_of

EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
"""swscale flags under which its C and SIMD code agree on every machine, and chroma is interpolated at full size."""

# Packed 8-bit formats of four bytes a pixel: where blue, green and red lie.
_FOUR_BYTES = {
    "bgr0": (0, 1, 2),
    "bgra": (0, 1, 2),
    "rgb0": (2, 1, 0),
    "rgba": (2, 1, 0),
    "0rgb": (3, 2, 1),
    "argb": (3, 2, 1),
    "0bgr": (1, 2, 3),
    "abgr": (1, 2, 3),
}

FromFrame = Callable[[Any, Array], None]
"""Copies an ``av.VideoFrame`` into a flat storage array."""
ToFrame = Callable[[Array], Any]
"""Makes an ``av.VideoFrame`` of a flat storage array; the frame owns its memory."""


def plane_array(plane: Any, dtype: np.dtype[Any], samples: int) -> NDArray[Any]:
    """A plane of an FFmpeg frame as an array ``(height, samples)`` over FFmpeg's own memory, top line first."""
    line = plane.line_size
    rows = np.frombuffer(plane, dtype).reshape(plane.height, abs(line) // dtype.itemsize)
    return (rows if line > 0 else rows[::-1])[:, :samples]


def _copy_planes(frame: Any, out: Array, fmt: PixelFormat) -> None:
    for plane, target in zip(frame.planes, planes_of(fmt.view(out, frame.width, frame.height)), strict=False):
        flat = target.reshape(target.shape[0], -1)
        np.copyto(flat, plane_array(plane, fmt.dtype, flat.shape[1]))


def reader(pix_fmt: str, storage: str) -> FromFrame:
    """How to copy decoded frames of ``pix_fmt`` into ``storage``, the format that `colour.storage_of` names."""
    fmt = pixel_format(storage)
    same = pix_fmt.replace("yuvj", "yuv").removesuffix("le")
    without_alpha = same.replace("yuva", "yuv", 1).replace("gbrap", "gbrp", 1)
    if storage in (same, without_alpha):
        # An alpha plane comes last and is left out.
        return lambda frame, out: _copy_planes(frame, out, fmt)
    if pix_fmt in _FOUR_BYTES and storage == "bgr24":
        order = _FOUR_BYTES[pix_fmt]

        def four_bytes(frame: Any, out: Array) -> None:
            rows = plane_array(frame.planes[0], fmt.dtype, frame.width * 4)
            pixels = rows.reshape(frame.height, frame.width, 4) if rows.flags.c_contiguous else None
            if pixels is None:
                pixels = np.lib.stride_tricks.as_strided(
                    rows, (frame.height, frame.width, 4), (rows.strides[0], 4, 1), writeable=False
                )
            picture = fmt.view(out, frame.width, frame.height)
            for channel, place in enumerate(order):
                picture[..., channel] = pixels[..., place]  # type: ignore[index]

        return four_bytes
    if pix_fmt in ("nv12", "nv16", "nv24") and fmt.family == "yuv":

        def interleaved(frame: Any, out: Array) -> None:
            y, u, v = planes_of(fmt.view(out, frame.width, frame.height))
            np.copyto(y, plane_array(frame.planes[0], fmt.dtype, frame.width))
            both = plane_array(frame.planes[1], fmt.dtype, 2 * u.shape[1])
            np.copyto(u, both[:, 0::2])
            np.copyto(v, both[:, 1::2])

        return interleaved
    scaler = VideoReformatter()

    def reformatted(frame: Any, out: Array) -> None:
        # The same range on both sides: samples are moved, not rescaled.
        made = scaler.reformat(
            frame, format=fmt.av_name, interpolation=EXACT, src_color_range=2, dst_color_range=2, threads=1
        )
        _copy_planes(made, out, fmt)

    return reformatted


def fill(frame: Any, flat: Array, fmt: PixelFormat) -> None:
    """Copy a flat storage array into an FFmpeg frame of the same pixel format."""
    for plane, source in zip(frame.planes, planes_of(fmt.view(flat, frame.width, frame.height)), strict=True):
        rows = source.reshape(source.shape[0], -1)
        np.copyto(plane_array(plane, fmt.dtype, rows.shape[1]), rows)


def writer(storage: str, pix_fmt: str, width: int, height: int) -> ToFrame:
    """How to make FFmpeg frames of ``pix_fmt`` from flat arrays of ``storage``."""
    fmt = pixel_format(storage)
    try:
        direct = pixel_format(pix_fmt) == fmt
    except KeyError:
        direct = False

    def plain(flat: Array) -> Any:
        frame = VideoFrame(width, height, pix_fmt if direct else fmt.av_name)
        fill(frame, flat, fmt)
        return frame

    if direct:
        return plain
    scaler = VideoReformatter()
    return lambda flat: scaler.reformat(
        plain(flat), format=pix_fmt, interpolation=EXACT, src_color_range=2, dst_color_range=2, threads=1
    )

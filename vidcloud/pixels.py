"""Pixel formats: how one frame's samples lie in a flat array, and how to see them as planes.

A frame is stored as its planes one after the other without padding, samples of 8 bits in ``uint8`` and of 9 to 16 bits
in native ``uint16`` (the value in the low bits, as FFmpeg has it). Names are FFmpeg's without the ``le`` suffix.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Family = Literal["yuv", "rgb", "gray"]


class Planes(NamedTuple):
    """The planes of a planar YUV frame; chroma planes are smaller where the format subsamples.

    Each is an array ``(height, width)`` of ``uint8`` or ``uint16``.
    """

    y: Array
    u: Array
    v: Array


class PlanesRGB(NamedTuple):
    """The planes of a planar RGB frame in FFmpeg's order; each ``(height, width)``."""

    g: Array
    b: Array
    r: Array


Frame: TypeAlias = Array | Planes | PlanesRGB
"""One frame: ``(h, w, 3)`` for packed RGB and BGR, ``(h, w)`` for gray, `Planes` for planar YUV."""


@dataclass(frozen=True)
class PixelFormat:
    """How one frame's samples lie in memory.

    Attributes:
        name: FFmpeg's name without ``le``: ``yuv420p``, ``yuv420p10``, ``bgr24``, ``bgr48``, ``gray16``, ``gbrp12``.
        family: colour model.
        bits: significant bits a sample; samples of more than 8 are ``uint16``.
        channels: samples a pixel in a packed format (3), otherwise 1.
        planes: number of planes.
        log2_chroma: how far the chroma planes are shrunk, as powers of two, ``(horizontally, vertically)``.
    """

    name: str
    family: Family
    bits: int
    channels: int = 1
    planes: int = 1
    log2_chroma: tuple[int, int] = (0, 0)

    @cached_property
    def av_name(self) -> str:
        """The name FFmpeg knows it by on a little-endian machine."""
        return self.name if self.bits == 8 else f"{self.name}le"

    @cached_property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """``uint8`` or ``uint16``."""
        return np.dtype(np.uint8) if self.bits == 8 else np.dtype(np.uint16)

    def plane_shapes(self, width: int, height: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the planes of a frame, ``(h, w)`` or ``(h, w, channels)``; odd chroma sizes round up."""
        if self.planes == 1:
            return ((height, width) if self.channels == 1 else (height, width, self.channels),)
        lw, lh = self.log2_chroma
        chroma = (-(-height >> lh), -(-width >> lw))
        return ((height, width), chroma, chroma)

    def samples(self, width: int, height: int) -> int:
        """Samples in one frame."""
        return sum(int(np.prod(shape)) for shape in self.plane_shapes(width, height))

    def frame_bytes(self, width: int, height: int) -> int:
        """Bytes of one frame."""
        return self.samples(width, height) * self.dtype.itemsize

    def view(self, flat: Array, width: int, height: int) -> Frame:
        """See one frame's flat samples, shape ``(samples,)``, as a frame without copying."""
        parts: list[Array] = []
        start = 0
        for shape in self.plane_shapes(width, height):
            stop = start + int(np.prod(shape))
            parts.append(flat[start:stop].reshape(shape))
            start = stop
        if self.planes == 1:
            return parts[0]
        return Planes(*parts) if self.family == "yuv" else PlanesRGB(*parts)


class FrameBuffer:
    """One frame's memory, allocated once and reused.

    Attributes:
        flat: all samples, as they are stored.
        frame: the same memory as planes, to write into.
        shown: the same, read-only: what a filter is given to look at.
    """

    def __init__(self, fmt: PixelFormat, width: int, height: int) -> None:
        self.format = fmt
        self.flat: Array = np.empty(fmt.samples(width, height), fmt.dtype)
        self.frame: Frame = fmt.view(self.flat, width, height)
        shown = self.flat.view()
        shown.flags.writeable = False
        self.shown: Frame = fmt.view(shown, width, height)


def planes_of(frame: Frame) -> tuple[Array, ...]:
    """The arrays a frame consists of: one for packed and gray, three for planar formats."""
    return tuple(frame) if isinstance(frame, (Planes, PlanesRGB)) else (frame,)


_SUBSAMPLING = {"410": (2, 2), "411": (2, 0), "420": (1, 1), "422": (1, 0), "440": (0, 1), "444": (0, 0)}


@lru_cache(maxsize=256)
def pixel_format(name: str) -> PixelFormat:
    """The storage format of that name.

    Takes FFmpeg's names with or without ``le``, and its ``yuvj…`` names (same samples as ``yuv…``; their full range is
    a property of the stream, not of the layout).

    Raises:
        KeyError: a format that chunks don't hold as it is (``nv12``, ``yuyv422``, ``bgr0``, ``pal8``): convert first.
    """
    bare = name.removesuffix("le").replace("yuvj", "yuv")
    if bare in ("rgb24", "bgr24"):
        return PixelFormat(bare, "rgb", 8, channels=3)
    if bare in ("rgb48", "bgr48"):
        return PixelFormat(bare, "rgb", 16, channels=3)
    if bare.startswith("gray") and bare[4:] in ("", "9", "10", "12", "14", "16"):
        return PixelFormat(bare, "gray", int(bare[4:] or 8))
    if bare.startswith("gbrp") and bare[4:] in ("", "9", "10", "12", "14", "16"):
        return PixelFormat(bare, "rgb", int(bare[4:] or 8), planes=3)
    planar = bare.startswith("yuv") and bare[3:6] in _SUBSAMPLING and bare[6:7] == "p"
    if planar and bare[7:] in ("", "9", "10", "12", "14", "16"):
        return PixelFormat(bare, "yuv", int(bare[7:] or 8), planes=3, log2_chroma=_SUBSAMPLING[bare[3:6]])
    raise KeyError(name)

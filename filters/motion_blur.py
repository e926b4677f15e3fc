"""Motion blur: as if the camera had moved, turned or zoomed while the shutter was open."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.pixels import Array, Frame

SPACING = 2.5
"""Samples of a long blur lie about so many pixels apart where it is longest; closer ones show no difference."""
DIRECT = 8
"""Blurs of up to so many samples are summed directly."""
SMALL = 121
"""Kernels of up to so many entries are faster than copies; from 130 on, OpenCV would go through a Fourier transform."""
RINGS = 0.6
"""Rings of a picture in polar coordinates lie so many pixels apart."""
FAINT = 2048
"""Pixels of which less than this of 65535 comes from inside the picture are left as they are."""


@dataclass
class MotionBlur(Filter):
    """Average along a line, along circles around a point, or along rays from it, in linear light.

    What would come from outside the picture is left out of the average.

    Source: GIMP 2.10, ``plug-in-mblur``, that is ``gegl:motion-blur-linear`` (Kolås), ``-circular`` and ``-zoom``
    (Mazars, after GIMP 2.8's plug-in). Here a short line is a convolution, and a turn a running mean over the angle
    of polar coordinates. The many samples of a zoom or a long line are factored: the average of 16 of them is the
    average of 4 pictures that are averages of 4.
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    type: str = param("radial", choices=("linear", "radial", "zoom"), help="which way the camera moved")
    length: float = param(5.0, low=0, high=255, help="linear: pixels; zoom: 256ths of the way to the centre")
    angle: float = param(
        5.0, low=0, high=360, help="linear: direction, clockwise from the right; radial: turn; degrees"
    )
    x: float = param(0.5, low=0, high=1, help="centre of turn and zoom, from left (0) to right (1)")
    y: float = param(0.5, low=0, high=1, help="centre of turn and zoom, from top (0) to bottom (1)")

    _smear: Any = field(default=None, init=False, repr=False, compare=False)
    _tables: Any = field(default=None, init=False, repr=False, compare=False)
    _light: Any = field(default=None, init=False, repr=False, compare=False)
    _blurred: Any = field(default=None, init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Plan the samples and allocate buffers."""
        shape = spec.format.plane_shapes(spec.width, spec.height)[0]
        self._smear = Smear(self.type, shape, self.length, self.angle, (self.x * spec.width, self.y * spec.height))
        self._tables = light_tables(spec.format.bits)
        self._light, self._blurred = np.empty(shape, np.uint16), np.empty(shape, np.uint16)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Blur one frame."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        to_light, from_light = self._tables
        if not self._smear:
            np.copyto(want, picture)
            return
        look_up(picture, to_light, self._light)
        self._smear.blur(self._light, self._blurred)
        look_up(self._blurred, from_light, want)


class Smear:
    """The average of moved copies of a picture of linear light, ``uint16``.

    False if nothing moves.

    Args:
        kind: ``linear``, ``radial`` or ``zoom``.
        shape: of the pictures, ``(height, width)`` or ``(height, width, channels)``.
        length: how far, as in `MotionBlur`.
        angle: direction or turn, in degrees.
        centre: of turn and zoom, ``(x, y)`` in pixels.
    """

    def __init__(
        self, kind: str, shape: tuple[int, ...], length: float, angle: float, centre: tuple[float, float]
    ) -> None:
        self._kind, self._centre, self._along = kind, centre, (1.0, 0.0)
        height, width = shape[:2]
        far_x, far_y = (max(c, size - c) for c, size in zip(centre, (width, height), strict=True))
        far = math.hypot(far_x, far_y)
        turn = math.radians(angle)
        # `samples` is how many GIMP takes where the blur is longest. Its sums are of left edges, or of both: `start`
        # and `stop` bound the even light that has the same mean and spread.
        if kind == "linear":
            samples = math.ceil(length) + 1
            pixels = length * samples / max(samples - 1, 1)
            self._along = math.cos(turn), math.sin(turn)
            start, stop = -pixels / 2, pixels / 2
        elif kind == "radial":
            pixels = far * turn
            samples = max(math.ceil(pixels * 1.41), 3)
            start = -turn / 2 + turn / (2 * samples)
            stop = start + turn
        else:
            share = length / 256
            pixels = -far * math.log1p(-share)
            samples = max(math.ceil(far * share + 1), 3)
            start, stop = (-math.log1p(-t) for t in (-share / (2 * samples), share - share / (2 * samples)))
        self._counts = _factors(samples if samples <= DIRECT else max(DIRECT, math.ceil(pixels / SPACING)))
        self._moves = pixels > 0
        if not self._moves:
            return
        count = math.prod(self._counts)
        step = (stop - start) / count
        self._kernel: Any = None
        self._polar: _Polar | None = None
        self._border = cv2.BORDER_REPLICATE if kind == "zoom" else cv2.BORDER_CONSTANT
        self._gains: list[tuple[tuple[slice, slice], Any, Any]] = []
        # OpenCV moves pixels of 4 samples faster than those of 3.
        four = (*shape[:2], 4) if len(shape) > 2 else shape
        self._ends = []
        if kind == "linear":
            kernel = self._bilinear(start, step, count)
            if kernel.size <= SMALL:
                self._kernel = kernel
                self._floats = [np.empty(shape, np.float32) for _ in range(2)]
        if kind == "radial" and 2 * _Polar.cells(far, step, count) < height * width * sum(self._counts):
            self._polar = _Polar(four, centre, far, step, count, (start + stop) / 2)
        if self._kernel is None:
            self._ends = [np.empty(four, np.uint16) for _ in range(2)] if four != shape else []
            if self._polar is None:
                self._plan_copies(four, start, stop, step, (far_x, far_y))
        if kind != "zoom":
            self._gains = self._borders(shape, far_x, far_y, start, stop)

    def __bool__(self) -> bool:
        return self._moves

    def _bilinear(self, start: float, step: float, count: int) -> Any:
        """The kernel of the mean of copies moved along the line."""
        moves = [np.multiply(self._along, start + (k + 0.5) * step) for k in range(count)]
        reach = np.ceil(np.abs(moves).max(axis=0) - 1e-9).astype(int)
        kernel = np.zeros((2 * reach[1] + 1, 2 * reach[0] + 1), np.float32)
        y, x = np.mgrid[-reach[1] : reach[1] + 1, -reach[0] : reach[0] + 1]
        for dx, dy in moves:
            kernel += np.maximum(1 - np.abs(x - dx), 0) * np.maximum(1 - np.abs(y - dy), 0) / count
        return kernel

    def _plan_copies(
        self, shape: tuple[int, ...], start: float, stop: float, step: float, far: tuple[float, float]
    ) -> None:
        height, width = shape[:2]
        # A copy that is moved out of the picture in one stage may come back in the next: stages work on a canvas with
        # a margin for what the first moves.
        reach = step * self._counts[0] / 2
        self._pad = 0, 0
        if len(self._counts) > 1 and self._kind != "zoom":
            x, y = self._along if self._kind == "linear" else far[::-1]
            self._pad = math.ceil(abs(reach * x)) + 1, math.ceil(abs(reach * y)) + 1
        self._stages = self._plan(start, stop, step)
        tall, wide = height + 2 * self._pad[1], width + 2 * self._pad[0]
        self._sizes = [(wide, tall)] * (len(self._stages) - 1) + [(width, height)]
        canvas = (tall, wide, *shape[2:])
        self._buffers = [np.empty(canvas, np.uint16) for _ in range(2)]
        self._moved = np.empty(canvas, np.uint16)

    def _plan(self, start: float, stop: float, step: float) -> list[list[tuple[Any, float]]]:
        stages = []
        for n, count in enumerate(self._counts):
            middle = (start + stop) / 2 if n == len(self._counts) - 1 else 0.0
            pad_from = self._pad if n else (0, 0)
            pad_to = self._pad if n < len(self._counts) - 1 else (0, 0)
            offsets = [middle + (k - (count - 1) / 2) * step for k in range(count)]
            # Steps of a zoom are geometric, those of light are even: near the start they count for more.
            weights = [math.exp(-o) if self._kind == "zoom" else 1.0 for o in offsets]
            stages.append([(self._matrix(o, pad_from, pad_to), w) for o, w in zip(offsets, weights, strict=True)])
            step *= count
        return stages

    def _matrix(self, offset: float, pad_from: tuple[int, ...], pad_to: tuple[int, ...]) -> Any:
        """Where a pixel comes from: 2 by 3, from coordinates of the result to those of the source."""
        turn, by = np.eye(2), np.zeros(2)
        if self._kind == "linear":
            by = np.multiply(self._along, offset)
        else:
            if self._kind == "radial":
                turn = np.array([[math.cos(offset), -math.sin(offset)], [math.sin(offset), math.cos(offset)]])
            else:
                turn = turn * math.exp(-offset)
            by = self._centre - turn @ self._centre
        by = by - turn @ pad_to + pad_from
        return np.column_stack([turn, by])

    def _borders(
        self, shape: tuple[int, ...], far_x: float, far_y: float, start: float, stop: float
    ) -> list[tuple[tuple[slice, slice], Any, Any]]:
        """Strips along the borders; by what to multiply there for what lies outside; where all lies outside."""
        height, width = shape[:2]
        most = max(-start, stop)
        if self._kind == "linear":
            dx, dy = (abs(most * a) for a in self._along)
        else:
            sine, rest = math.sin(min(most, math.pi / 2)), 1 - math.cos(min(most, math.pi))
            dx, dy = far_y * sine + far_x * rest, far_x * sine + far_y * rest
        dx, dy = min(math.ceil(dx) + 2, width), min(math.ceil(dy) + 2, height)
        white = np.full(shape, 65535, np.uint16)
        weight = np.empty_like(white)
        self.blur(white, weight)
        lost = weight < FAINT
        gain = np.float32(65535) / np.maximum(weight, FAINT)
        rows = slice(dy, max(height - dy, dy))
        strips = [
            (slice(0, dy), slice(None)),
            (slice(rows.stop, height), slice(None)),
            (rows, slice(0, dx)),
            (rows, slice(max(width - dx, dx), width)),
        ]
        return [
            (s, np.ascontiguousarray(gain[s], np.float32), lost[s].copy() if lost[s].any() else None)
            for s in strips
            if gain[s].size
        ]

    def blur(self, light: Any, out: Any) -> None:
        """Blur one picture into another."""
        if self._kernel is not None:
            np.copyto(self._floats[0], light)
            cv2.filter2D(self._floats[0], -1, self._kernel, dst=self._floats[1], borderType=cv2.BORDER_CONSTANT)
            round_to(self._floats[1], out)
        elif self._ends:
            cv2.cvtColor(light, cv2.COLOR_BGR2BGRA, dst=self._ends[0])
            self._move(self._ends[0], self._ends[1])
            cv2.cvtColor(self._ends[1], cv2.COLOR_BGRA2BGR, dst=out)
        else:
            self._move(light, out)
        for strip, gain, lost in self._gains:
            cv2.multiply(out[strip], gain, dst=out[strip], dtype=cv2.CV_16U)
            if lost is not None:
                np.copyto(out[strip], light[strip], where=lost)

    def _move(self, light: Any, out: Any) -> None:
        if self._polar is not None:
            self._polar.blur(light, out)
            return
        source = light
        for n, stage in enumerate(self._stages):
            width, height = self._sizes[n]
            total = out if n == len(self._stages) - 1 else self._buffers[n % 2]
            weights = 0.0
            for k, (matrix, weight) in enumerate(stage):
                moved = self._moved[:height, :width] if k else total
                cv2.warpAffine(
                    source,
                    matrix,
                    (width, height),
                    dst=moved,
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=self._border,
                )
                weights += weight
                if k:
                    cv2.addWeighted(total, 1 - weight / weights, moved, weight / weights, 0, dst=total)
            source = total


class _Polar:
    """The mean over an arc, as a running mean over the angle of polar coordinates.

    Args:
        shape: of the pictures.
        centre: of the turn, ``(x, y)``.
        far: how far from it the farthest pixel is.
        step: angle from sample to sample.
        count: samples in the mean.
        middle: angle of the arc's middle, from the pixel's.
    """

    def __init__(
        self, shape: tuple[int, ...], centre: tuple[float, float], far: float, step: float, count: int, middle: float
    ) -> None:
        around, rings = self._size(far, step, count)
        first = -(count + 2) * step
        angle = first + np.arange(around)[:, None] * step
        away = np.arange(rings)[None, :] * RINGS
        self._to: list[Any] = [
            (c + away * turn(angle)).astype(np.float32) for c, turn in zip(centre, (np.cos, np.sin), strict=True)
        ]
        y, x = np.mgrid[: shape[0], : shape[1]]
        x, y = x - centre[0], y - centre[1]
        # Entry k of a running mean is that from k - count // 2 to k - count // 2 + count - 1.
        row = (np.arctan2(y, x) % (2 * math.pi) + middle - first) / step + count // 2 - (count - 1) / 2
        self._back: list[Any] = [np.float32(np.hypot(x, y) / RINGS), np.float32(row)]
        self._count = count
        self._turned = np.empty((around, rings, *shape[2:]), np.uint16)

    @staticmethod
    def _size(far: float, step: float, count: int) -> tuple[int, int]:
        return math.ceil(2 * math.pi / step) + 2 * count + 4, math.ceil(far / RINGS) + 2

    @classmethod
    def cells(cls, far: float, step: float, count: int) -> int:
        """How many pixels the picture has in polar coordinates."""
        return math.prod(cls._size(far, step, count))

    def blur(self, light: Any, out: Any) -> None:
        """Blur one picture into another."""
        x, y = self._to
        cv2.remap(light, x, y, cv2.INTER_LINEAR, dst=self._turned, borderMode=cv2.BORDER_CONSTANT)
        cv2.blur(self._turned, (1, self._count), dst=self._turned)
        x, y = self._back
        cv2.remap(self._turned, x, y, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE)


def _factors(samples: int) -> list[int]:
    """Factors whose product is about ``samples`` or a little more, and whose sum is small."""
    if samples <= DIRECT:
        return [samples]
    stages = 2
    while samples > 5**stages:
        stages += 1
    counts = []
    for left in range(stages, 0, -1):
        counts.append(math.ceil(samples ** (1 / left) - 1e-9))
        samples = math.ceil(samples / counts[-1])
    return counts


def light_tables(bits: int) -> tuple[Any, Any]:
    """From samples of that depth to linear light in 16 bits, and back.

    Source: IEC 61966-2-1 (sRGB), as GIMP has it for pictures without a profile.
    """
    top = (1 << bits) - 1
    v = np.arange(top + 1) / top
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    v = np.arange(65536) / 65535
    sample = np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)
    return np.rint(light * 65535).astype(np.uint16), np.rint(sample * top).astype(np.uint8 if bits == 8 else np.uint16)


def _take(source: Any, table: Any, out: Any) -> None:
    np.take(table, source, out=out, mode="clip")


def _lut(source: Any, table: Any, out: Any) -> None:
    cv2.LUT(source, table, dst=out)


def _sixteen() -> bool:
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), np.zeros(65536, np.uint16))
    except cv2.error:
        return False
    return True


_DEEP: Callable[[Any, Any, Any], None] = _lut if _sixteen() else _take  # OpenCV 4 looks up 8 bits only


_NOTHING = cast("Any", 0.0)  # adding it converts; OpenCV's stubs know of no numbers among the terms


def round_to(source: Any, out: Any) -> None:
    """Round floats to whole numbers, limited to what the result can hold."""
    cv2.add(source, _NOTHING, dst=out, dtype=cv2.CV_8U if out.dtype == np.uint8 else cv2.CV_16U)


def look_up(source: Any, table: Any, out: Any) -> None:
    """Replace each sample by the table's entry."""
    (_lut if source.dtype == np.uint8 else _DEEP)(source, table, out)

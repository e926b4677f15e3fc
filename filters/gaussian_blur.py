"""Gaussian blur."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vidcloud.filter import YUV, YUV16, At, Filter, FrameSpec, param
from vidcloud.pixels import Array, Frame, planes_of

DEVIATIONS = 0.32
"""Standard deviations in one pixel of GIMP's radius."""


@dataclass
class GaussianBlur(Filter):
    """Soften the picture.

    A blur is a weighted mean of samples and YUV an affine function of RGB: the blur of the planes is the blur of the
    picture, at a third of the price. Chroma planes that are smaller get a kernel that is smaller.

    Source: GIMP 2.10, Filters > Blur > Gaussian Blur (``plug-in-gauss``). It works on the stored, gamma-encoded values.
    """

    formats: ClassVar = (*YUV, *YUV16, "bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    horizontal: float = param(5.0, low=0, high=500, help="radius across, in pixels")
    vertical: float = param(5.0, low=0, high=500, help="radius down, in pixels")
    _kernels: Any = field(default=None, init=False, repr=False, compare=False)
    _wide: Any = field(default=None, init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Build the kernels."""
        luma = (0, 0)
        shrunk = spec.format.log2_chroma
        self._kernels = [
            (kernel(self.horizontal / (1 << across)), kernel(self.vertical / (1 << down)))
            for across, down in (luma, shrunk, shrunk)[: spec.format.planes]
        ]
        self._wide = wide(spec)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Blur one frame."""
        for plane, want, (x, y) in zip(planes_of(window[0]), planes_of(out), self._kernels, strict=True):
            blur(plane, x, y, want, self._wide)


def wide(spec: FrameSpec) -> NDArray[np.float32]:
    """The buffer that `blur` needs for planes of such frames: none for 8 bits."""
    largest = int(np.prod(spec.format.plane_shapes(spec.width, spec.height)[0])) if spec.format.bits > 8 else 0
    return np.empty(largest, np.float32)


def blur(plane: Array, x: NDArray[np.float32], y: NDArray[np.float32], out: Array, buffer: NDArray[np.float32]) -> None:
    """Filter rows with one kernel and columns with another, borders smeared outwards, rounded.

    Args:
        plane: ``(h, w)`` or ``(h, w, channels)``.
        x: weights across.
        y: weights down.
        out: of the same shape and dtype as ``plane``.
        buffer: see `wide`.
    """
    if plane.dtype == np.uint8:
        cv2.sepFilter2D(plane, -1, x, y, dst=out, borderType=cv2.BORDER_REPLICATE)
        return
    # OpenCV has vector code for float32 and none for uint16: the way through floats takes a third of the time.
    between = buffer[: plane.size].reshape(plane.shape)
    np.copyto(between, plane)
    cv2.sepFilter2D(between, -1, x, y, dst=between, borderType=cv2.BORDER_REPLICATE)
    cv2.add(between, cast("Any", 0), dst=out, dtype=cv2.CV_16U)  # rounds and saturates


def kernel(radius: float) -> NDArray[np.float32]:
    """The weights with which GIMP blurs for a radius, shape ``(n,)``, n odd; they sum up to 1.

    From a standard deviation of 1 on, GIMP runs a recursive filter over the line and back. It is not quite a Gaussian
    (its tails are longer), and what it does to a single point is this kernel.

    Source: Young and van Vliet, "Recursive implementation of the Gaussian filter", Signal Processing 44 (1995),
    139-151, equations 11 and 8c.
    """
    sigma = DEVIATIONS * radius
    if sigma < 0.05:  # the neighbours' weights would be below one in 10^80
        return np.ones(1, np.float32)
    reach = math.ceil(6 * sigma) + 2
    if sigma < 1:
        x = np.arange(-reach, reach + 1)
        weights = np.exp(-(x**2) / (2 * sigma**2))
    else:
        q = 0.98711 * sigma - 0.96330 if sigma >= 2.5 else 3.97156 - 4.14554 * math.sqrt(1 - 0.26891 * sigma)
        b0 = 1.57825 + 2.44413 * q + 1.4281 * q**2 + 0.422205 * q**3
        b1 = (2.44413 * q + 2.85619 * q**2 + 1.26661 * q**3) / b0
        b2 = -(1.4281 * q**2 + 1.26661 * q**3) / b0
        b3 = 0.422205 * q**3 / b0
        forth = np.zeros(3 + 2 * reach)  # the answer to a point, after three zeros of the past
        forth[3] = 1
        for n in range(4, len(forth)):
            forth[n] = b1 * forth[n - 1] + b2 * forth[n - 2] + b3 * forth[n - 3]
        weights = np.correlate(forth[3:], forth[3:], "full")  # and back
    # Weights that together move no sample of 8 bits by more than a tenth are left out: every weight costs time.
    middle = len(weights) // 2
    weights /= weights.sum()
    tail = np.cumsum(np.abs(weights[: middle + 1]))
    cut = int(np.searchsorted(tail, 2e-4))
    weights = weights[cut : len(weights) - cut]
    normal: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normal

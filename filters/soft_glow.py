"""Soft glow: highlights spread a soft light over what is near them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.filters.gaussian_blur import blur, wide
from vidcloud.pixels import Array, Frame

_ONE = np.ones(1, np.float32)


@dataclass
class SoftGlow(Filter):
    """Make highlights intense and fuzzy.

    How light a pixel is (the middle between its largest and smallest channel) goes through a steep curve that keeps
    highlights alone, is blurred, and laid over the picture as a second projector would.

    Source: GIMP 2.10, Filters > Artistic > Softglow (``plug-in-softglow`` by S. Kimball). It works on the stored,
    gamma-encoded values.
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    radius: float = param(10.0, low=1, high=50, help="how far the light spreads, in pixels")
    brightness: float = param(0.75, low=0, high=1, help="how strong the light is")
    sharpness: float = param(0.85, low=0, high=1, help="how sharply highlights are told from the rest")

    _table: Any = field(default=None, init=False, repr=False, compare=False)
    _kernel: Any = field(default=None, init=False, repr=False, compare=False)
    _planes: Any = field(default=None, init=False, repr=False, compare=False)
    _float: Any = field(default=None, init=False, repr=False, compare=False)
    _wide: Any = field(default=None, init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Build the curve and the kernel, allocate buffers."""
        top = (1 << spec.format.bits) - 1
        light = np.arange(top + 1) / top
        glow = self.brightness / (1 + np.exp(-(2 + 20 * self.sharpness) * (light - 0.5)))
        self._table = np.floor(glow * top).astype(spec.format.dtype)
        self._kernel = kernel((self.radius + 1) / math.sqrt(2 * math.log(255)))
        self._float = wide(spec)
        shape = (spec.height, spec.width)
        self._planes = [np.empty(shape, spec.format.dtype) for _ in range(3)]
        self._wide = np.empty((*shape, 3), spec.format.dtype)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Let one frame glow."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        light, other, spare = self._planes
        if picture.ndim == 3:
            cv2.split(picture, mv=[light, other, spare])
            least = self._wide.reshape(-1)[: spare.size].reshape(spare.shape)  # not needed before the end
            cv2.min(light, other, dst=least)
            cv2.min(least, spare, dst=least)
            cv2.max(light, other, dst=light)
            cv2.max(light, spare, dst=light)
            cv2.addWeighted(light, 0.5, least, 0.5, 0.25, dst=light)  # halves are rounded up
        else:
            np.copyto(light, picture)
        if light.dtype == np.uint8:
            cv2.LUT(light, self._table, dst=other)
        else:
            np.take(self._table, light, out=other, mode="clip")  # "raise" would copy first
        if light.dtype == np.uint8:
            # GIMP keeps whole numbers after each step, rounded down: in the dark one step is a tenth of the light.
            smear = cv2.BORDER_REPLICATE
            cv2.sepFilter2D(other, -1, _ONE, self._kernel, dst=spare, delta=-0.5, borderType=smear)
            cv2.sepFilter2D(spare, -1, self._kernel, _ONE, dst=light, delta=-0.5, borderType=smear)
        else:
            blur(other, self._kernel, self._kernel, light, self._float)
        # A screen: what each of the two lights lacks is multiplied.
        cv2.bitwise_not(light, dst=light)
        cv2.bitwise_not(picture, dst=want)
        lacks = light if picture.ndim == 2 else cv2.cvtColor(light, cv2.COLOR_GRAY2BGR, dst=self._wide)
        cv2.multiply(want, lacks, dst=want, scale=1 / np.iinfo(want.dtype).max)
        cv2.bitwise_not(want, dst=want)


def kernel(sigma: float) -> NDArray[np.float32]:
    """The weights of Deriche's approximation to a Gaussian, shape ``(n,)``, n odd; they sum up to 1.0002.

    Source: R. Deriche, "Recursively implementing the Gaussian and its derivatives", INRIA RR-1893 (1993), section 2.
    """
    reach = math.ceil(4.5 * sigma)
    x = np.abs(np.arange(-reach, reach + 1)) / sigma
    slow = (1.6803 * np.cos(0.6318 * x) + 3.735 * np.sin(0.6318 * x)) * np.exp(-1.783 * x)
    fast = (0.6803 * np.cos(1.997 * x) + 0.2598 * np.sin(1.997 * x)) * np.exp(-1.723 * x)
    weights: NDArray[np.float32] = ((slow - fast) / (math.sqrt(2 * math.pi) * sigma)).astype(np.float32)
    return weights

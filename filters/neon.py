"""Neon: edges glow in their own colours, over black."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.filters.motion_blur import SMALL, Smear, light_tables, look_up, round_to
from vidcloud.pixels import Array, Frame


@dataclass
class Neon(Filter):
    """Zoom towards the centre, then show how steeply each channel falls to the right and downwards.

    Source: GIMP 2.10, ``plug-in-mblur`` (zoom) then ``plug-in-neon`` (``gegl:edge-neon`` by S. Kimball and
    P. O'Regan). GIMP runs Deriche's recursive filter ("Recursively implementing the Gaussian and its derivatives",
    INRIA research report 1893, 1993); this convolves with its impulse response.
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    radius: float = param(15.0, low=1, high=200, help="how wide the glow is, in pixels")
    amount: float = param(0.0, low=0, high=10, help="how much brighter: 1 is ten times")
    blur: float = param(20.0, low=0, high=255, help="zoom before, in 256ths of the way to the centre; 0 is none")

    _smear: Any = field(default=None, init=False, repr=False, compare=False)
    _to_light: Any = field(default=None, init=False, repr=False, compare=False)
    _from_light: Any = field(default=None, init=False, repr=False, compare=False)
    _light: Any = field(default=None, init=False, repr=False, compare=False)
    _smeared: Any = field(default=None, init=False, repr=False, compare=False)
    _soft: Any = field(default=None, init=False, repr=False, compare=False)
    _across: Any = field(default=None, init=False, repr=False, compare=False)
    _down: Any = field(default=None, init=False, repr=False, compare=False)
    _kernel: Any = field(default=None, init=False, repr=False, compare=False)
    _one: ClassVar = np.ones(1)

    def setup(self, spec: FrameSpec) -> None:
        """Make the kernel and tables, allocate buffers."""
        shape = spec.format.plane_shapes(spec.width, spec.height)[0]
        self._smear = Smear("zoom", shape, self.blur, 0, (spec.width / 2, spec.height / 2))
        top = (1 << spec.format.bits) - 1
        self._to_light = light_tables(spec.format.bits)[0]
        self._from_light = light_tables(16)[1] * np.float32(top / 65535)
        self._light, self._smeared = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
        self._soft, self._across, self._down = (np.empty(shape, np.float32) for _ in range(3))
        self._kernel = _slope(self.radius) * (1 + 9 * self.amount)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Make one frame glow."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        if self._smear:
            look_up(picture, self._to_light, self._light)
            self._smear.blur(self._light, self._smeared)
            look_up(self._smeared, self._from_light, self._soft)
        else:
            np.copyto(self._soft, picture)
        for found, kernel in ((self._across, self._kernel.reshape(1, -1)), (self._down, self._kernel.reshape(-1, 1))):
            if kernel.size <= SMALL:
                cv2.filter2D(self._soft, -1, kernel, dst=found, borderType=cv2.BORDER_REPLICATE)
            else:
                kx, ky = (self._one, kernel) if kernel.shape[1] == 1 else (kernel, self._one)
                cv2.sepFilter2D(self._soft, -1, kx, ky, dst=found, borderType=cv2.BORDER_REPLICATE)
            cv2.max(found, cast("Any", 0.0), dst=found)  # as GIMP does: what rises is as dark as what is even
            cv2.multiply(found, found, dst=found)
        # Not cv2.magnitude: in OpenCV 5.0 its last bit depends on where in memory the buffers happen to lie.
        glow = cv2.sqrt(cv2.add(self._across, self._down, dst=self._soft), dst=self._soft)
        round_to(glow, want)


def _slope(radius: float) -> Any:
    """A correlation kernel: the first derivative of a Gaussian that has faded to 1/255 at ``radius`` + 1 pixels.

    Not normalised: the peak of its answer to a step from 0 to 1 is about its standard deviation.
    """
    sigma = (radius + 1) / math.sqrt(2 * math.log(255))
    n = np.arange(math.ceil(4.5 * sigma) + 1) / sigma
    half = (0.6472 * np.cos(0.6719 * n) + 4.531 * np.sin(0.6719 * n)) * np.exp(-1.527 * n)
    half -= (0.6494 * np.cos(2.072 * n) + 0.9557 * np.sin(2.072 * n)) * np.exp(-1.516 * n)
    return np.concatenate([half[:0:-1], half[:1], -half[1:]])

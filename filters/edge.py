"""Edge: bright lines where the picture changes, black where it is even."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.pixels import Array, Frame


@dataclass
class Edge(Filter):
    """Blur a little, then show how steep each channel is.

    Source: GIMP 2.10, ``plug-in-gauss`` then Filters > Edge-Detect > Edge, Sobel, smear.
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    amount: float = param(2.0, low=1, high=10, help="how bright the lines are")
    blur: float = param(5.0, low=0, high=500, help="radius of the Gaussian blur before, in pixels; 0 is none")

    _x: Any = field(default=None, init=False, repr=False, compare=False)
    _y: Any = field(default=None, init=False, repr=False, compare=False)
    _soft: Any = field(default=None, init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Allocate buffers."""
        shape = spec.format.plane_shapes(spec.width, spec.height)[0]
        self._x, self._y, self._soft = (np.empty(shape, np.float32) for _ in range(3))

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Find the edges of one frame."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        np.copyto(self._soft, picture)
        if self.blur:
            sigma = 0.32 * self.blur
            cv2.GaussianBlur(self._soft, (0, 0), sigma, dst=self._soft, borderType=cv2.BORDER_REPLICATE)
        cv2.Sobel(self._soft, cv2.CV_32F, 1, 0, dst=self._x, borderType=cv2.BORDER_REPLICATE)
        cv2.Sobel(self._soft, cv2.CV_32F, 0, 1, dst=self._y, borderType=cv2.BORDER_REPLICATE)
        steep = np.hypot(self._x, self._y, out=self._x)
        steep *= np.sqrt(self.amount)
        np.rint(steep, out=steep)
        np.minimum(steep, np.iinfo(want.dtype).max, out=steep)
        np.copyto(want, steep, casting="unsafe")

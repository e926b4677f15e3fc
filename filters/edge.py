"""Edge: bright lines where the picture changes, black where it is even."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.filters.gaussian_blur import blur, kernel, wide
from vidcloud.pixels import Array, Frame

_ROWS = 16


@dataclass
class Edge(Filter):
    """Blur a little, then show how steep each channel is.

    The slope is Sobel's, its length times the root of ``amount``. It is no linear function, so it is taken of RGB.

    Source: GIMP 2.10, ``plug-in-gauss``, then Filters > Edge-Detect > Edge with Sobel and smeared borders
    (``gegl:edge`` by J. Poskanzer and T. Manni).
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    amount: float = param(2.0, low=1, high=10, help="how bright the lines are")
    blur: float = param(5.0, low=0, high=500, help="radius of the Gaussian blur before, in pixels; 0 is none")

    _kernel: Any = field(default=None, init=False, repr=False, compare=False)
    _soft: Any = field(default=None, init=False, repr=False, compare=False)
    _wide: Any = field(default=None, init=False, repr=False, compare=False)
    _x: Any = field(default=None, init=False, repr=False, compare=False)
    _y: Any = field(default=None, init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Build the kernel and allocate buffers."""
        shape = spec.format.plane_shapes(spec.width, spec.height)[0]
        self._kernel = kernel(self.blur)
        self._soft = np.empty(shape, spec.format.dtype)  # rounded, as between two of GIMP's procedures
        self._wide = wide(spec)
        self._x, self._y = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Find the edges of one frame."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        smear, scale = cv2.BORDER_REPLICATE, math.sqrt(self.amount)
        if len(self._kernel) > 1:
            blur(picture, self._kernel, self._kernel, self._soft, self._wide)
            picture = cast("Array", self._soft)
        cv2.Sobel(picture, cv2.CV_32F, 1, 0, dst=self._x, borderType=smear)
        cv2.Sobel(picture, cv2.CV_32F, 0, 1, dst=self._y, borderType=smear)
        # Not cv2.magnitude: its last bit depends on where in memory the result lies, so frames would not be the same
        # on all nodes. NumPy's products, sums and roots are each rounded correctly. Some rows at a time stay in cache.
        for top in range(0, len(want), _ROWS):
            x, y, rows = (part[top : top + _ROWS] for part in (self._x, self._y, want))
            np.multiply(x, x, out=x)
            np.multiply(y, y, out=y)
            np.add(x, y, out=x)
            np.sqrt(x, out=x)
            if want.dtype == np.uint8:
                cv2.convertScaleAbs(x, dst=rows, alpha=scale)  # rounds and saturates
            else:
                np.multiply(x, np.float32(scale), out=x)
                cv2.add(x, cast("Any", 0), dst=rows, dtype=cv2.CV_16U)  # so does this, but slowly

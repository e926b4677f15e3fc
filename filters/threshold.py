"""Threshold: white where the picture is bright, black elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.pixels import Array, Frame


@dataclass
class Threshold(Filter):
    """White where a pixel's value, the largest of red, green and blue, lies from low to high; else black.

    Source: GIMP 2.10, Colours > Threshold on the channel Value (``gimp-drawable-threshold``).
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    low: int = param(170, low=0, high=255, help="darkest value that becomes white, of 8 bits")
    high: int = param(255, low=0, high=255, help="brightest value that becomes white, of 8 bits")

    _bounds: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _dark: Array = field(init=False, repr=False, compare=False)
    _white: Array = field(init=False, repr=False, compare=False)
    _wide: Array = field(init=False, repr=False, compare=False)

    def setup(self, spec: FrameSpec) -> None:
        """Scale the bounds to the depth.

        Raises:
            ValueError: nothing lies from low to high.
        """
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        scale = 257 if spec.format.bits == 16 else 1  # 257 · 255 = 65535
        self._bounds = (self.low * scale, self.high * scale)
        shape = (spec.height, spec.width)
        self._dark, self._white = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        self._wide = np.empty(shape, spec.format.dtype)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Make one frame black and white."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        low, high = self._bounds
        # The largest channel is not computed: it is below `low` if all are, and at most `high` if all are.
        _all_within(picture, low - 1, self._dark)
        cv2.bitwise_not(self._dark, dst=self._white)
        if high < np.iinfo(picture.dtype).max:
            _all_within(picture, high, self._dark)
            cv2.bitwise_and(self._white, self._dark, dst=self._white)
        mask = self._white
        if picture.dtype == np.uint16:
            mask = cast("Any", np.multiply(mask, 257, out=self._wide, dtype=np.uint16))
        if picture.ndim == 2:
            np.copyto(want, mask)
        else:
            cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR, dst=want)


def _all_within(picture: Array, high: int, out: Array) -> None:
    """255 where every channel is at most ``high``; -1 means nowhere."""
    cv2.inRange(picture, (0, 0, 0, 0), (high,) * 4, dst=out)

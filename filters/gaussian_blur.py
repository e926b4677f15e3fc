"""Gaussian blur."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import cv2

from vidcloud.filter import At, Filter, FrameSpec, param
from vidcloud.pixels import Array, Frame


@dataclass
class GaussianBlur(Filter):
    """Soften the picture with a Gaussian.

    Source: GIMP 2.10, Filters > Blur > Gaussian Blur (``plug-in-gauss``); a radius is 1/0.32 standard deviations.
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    horizontal: float = param(5.0, low=0, high=500, help="radius across, in pixels")
    vertical: float = param(5.0, low=0, high=500, help="radius down, in pixels")
    _sigma: tuple[float, float] = field(default=(0.0, 0.0), init=False, repr=False)

    def setup(self, spec: FrameSpec) -> None:  # noqa: ARG002
        """Turn radii into standard deviations."""
        self._sigma = (max(0.32 * self.horizontal, 1e-6), max(0.32 * self.vertical, 1e-6))

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Blur one frame."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        x, y = self._sigma
        cv2.GaussianBlur(picture, (0, 0), x, dst=want, sigmaY=y, borderType=cv2.BORDER_REPLICATE)

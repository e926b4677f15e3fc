"""Soft glow: highlights spread a soft light over what is near them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import At, Filter, param
from vidcloud.pixels import Array, Frame


@dataclass
class SoftGlow(Filter):
    """Make highlights intense and fuzzy.

    Source: GIMP 2.10, Filters > Artistic > Softglow (``plug-in-softglow``; ``gegl:softglow`` by S. Kimball, M. Nicco
    and T. Mazars).
    """

    formats: ClassVar = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    radius: float = param(10.0, low=1, high=50, help="how far the light spreads, in pixels")
    brightness: float = param(0.75, low=0, high=1, help="how strong the light is")
    sharpness: float = param(0.85, low=0, high=1, help="how sharply highlights are told from the rest")

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Let one frame glow."""
        picture, want = cast("Array", window[0]), cast("Array", out)  # no format of ours is planar
        top = np.iinfo(picture.dtype).max
        light = picture.astype(np.float32) / top
        luma = light if light.ndim == 2 else cv2.cvtColor(light, cv2.COLOR_BGR2GRAY)
        glow = (self.brightness / (1 + np.exp(-(2 + self.sharpness * 20) * (luma - 0.5)))).astype(np.float32)
        sigma = (self.radius + 1) / math.sqrt(2 * math.log(255))
        glow = cv2.GaussianBlur(glow, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        if light.ndim == 3:
            glow = glow[:, :, None]
        np.copyto(want, np.rint((1 - (1 - light) * (1 - glow)) * top), casting="unsafe")

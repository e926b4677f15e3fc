"""Invert: every colour becomes its opposite, as in a film negative."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import cv2
import numpy as np

from vidcloud.filter import YUV, YUV16, At, Filter, FrameSpec
from vidcloud.pixels import Frame, planes_of


@dataclass
class Invert(Filter):
    """The negative of the picture.

    An RGB sample becomes its distance from white. YUV is an affine function of RGB, so the negative is made in it
    directly and is the same picture: luma is mirrored at the middle of its range, chroma at its zero.

    Source: GIMP 2.10, Colours > Invert (``gimp-drawable-invert``), which works on the stored, gamma-encoded values.
    """

    formats: ClassVar = (*YUV, *YUV16, "bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    _mirrors: tuple[int, ...] = field(default=(), init=False, repr=False)

    def setup(self, spec: FrameSpec) -> None:
        """Find what a sample and its negative add up to."""
        step = 1 << (spec.format.bits - 8)
        top = (1 << spec.format.bits) - 1
        luma = top if spec.full_range else (16 + 235) * step
        # What a sample and its negative add up to, less `top`: bitwise not makes the sum `top` without any arithmetic.
        self._mirrors = (luma - top, 256 * step - top, 256 * step - top) if spec.format.family == "yuv" else (0,)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Invert one frame."""
        for plane, want, shift in zip(planes_of(window[0]), planes_of(out), self._mirrors, strict=True):
            np.invert(plane, out=want)
            # OpenCV's arithmetic saturates: what lies outside the nominal range stays at the edge of the type.
            # Its stubs know no scalars as arrays, hence the casts.
            if shift > 0:
                cv2.add(want, cast("Any", shift), dst=want)
            elif shift < 0:
                cv2.subtract(want, cast("Any", -shift), dst=want)

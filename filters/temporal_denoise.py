"""Temporal denoise: average each pixel with its past and future, where they are alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cv2
import numpy as np

from vidcloud.filter import YUV, YUV16, At, Filter, FrameSpec, Halo, param
from vidcloud.pixels import Frame, planes_of

_FULL = 255  # weight of a sample that is the same
_REACH = 3.5  # differences beyond so many deviations weigh less than half a 255th: nothing


@dataclass
class TemporalDenoise(Filter):
    """Average over time, each sample weighted by how close it is to the present one.

    Grain changes from frame to frame and averages out; what moved differs by more than grain and is left out.

    Source: the bilateral filter (C. Tomasi, R. Manduchi, ICCV 1998), along time alone and without weights for distance.
    """

    formats: ClassVar = (*YUV, *YUV16, "bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    radius: int = param(2, low=1, high=8, help="frames before and after")
    strength: float = param(6.0, low=0.5, high=64, help="how much grain differs, of 255 (a standard deviation)")

    _table: Any = field(default=None, init=False, repr=False, compare=False)
    _shrink: float = field(default=1.0, init=False, repr=False, compare=False)
    _buffers: Any = field(default=None, init=False, repr=False, compare=False)

    @property
    def halo(self) -> Halo:
        """As many frames on both sides."""
        return Halo(self.radius, self.radius)

    def setup(self, spec: FrameSpec) -> None:
        """Build the table of weights, allocate buffers."""
        fmt = spec.format
        # The table's 256 entries are differences up to the reach; a difference of 16 bits is scaled down to an entry.
        deviation = self.strength * (257 if fmt.bits > 8 else 1)
        self._shrink = 255 / (_REACH * deviation) if fmt.bits > 8 else 1.0
        difference = np.arange(256) / self._shrink
        self._table = np.rint(_FULL * np.exp(-0.5 * (difference / deviation) ** 2)).astype(fmt.dtype)
        self._table[_REACH * deviation <= difference] = 0
        self._buffers = [
            (
                np.empty(shape, fmt.dtype),
                np.empty(shape, np.uint8),
                np.empty(shape, np.float32),
                np.empty(shape, np.float32),
            )
            for shape in fmt.plane_shapes(spec.width, spec.height)
        ]

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Denoise one frame."""
        frames = [planes_of(frame) for frame in window]
        for k, want in enumerate(planes_of(out)):
            now = frames[self.radius][k]
            weight, entry, total, weights = self._buffers[k]
            np.multiply(now, _FULL, out=total, dtype=np.float32)
            weights.fill(_FULL)
            for n, frame in enumerate(frames):
                if n == self.radius:
                    continue
                cv2.absdiff(now, frame[k], dst=weight)
                if weight.dtype == np.uint8:
                    cv2.LUT(weight, self._table, dst=weight)
                else:
                    cv2.convertScaleAbs(weight, dst=entry, alpha=self._shrink)
                    cv2.LUT(entry, self._table, dst=weight)
                # Whole numbers, and of 8 bits below 2^24: sums are exact in float32, in whatever order.
                cv2.accumulate(weight, weights)
                cv2.accumulateProduct(weight, frame[k], total)
            cv2.divide(total, weights, dst=want, dtype=cv2.CV_8U if want.dtype == np.uint8 else cv2.CV_16U)

"""Temporal denoise: average each pixel with its past and future, where they are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vidcloud.filter import YUV, YUV16, At, Filter, Halo, param
from vidcloud.pixels import Frame, planes_of


@dataclass
class TemporalDenoise(Filter):
    """Average over time, each sample weighted by how close it is to the present one.

    Grain changes from frame to frame and averages out; what moved differs by more than grain and is left out.

    Source: the bilateral filter (Tomasi and Manduchi, 1998) along time alone.
    """

    formats: ClassVar = (*YUV, *YUV16, "bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
    radius: int = param(2, low=1, high=8, help="frames before and after")
    strength: float = param(6.0, low=0.5, high=64, help="how much grain differs, of 255")

    @property
    def halo(self) -> Halo:
        """As many frames on both sides."""
        return Halo(self.radius, self.radius)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:  # noqa: ARG002
        """Denoise one frame."""
        for k, want in enumerate(planes_of(out)):
            now = planes_of(window[self.radius])[k].astype(np.float32)
            scale = self.strength * (np.iinfo(want.dtype).max / 255)
            total, weights = now.copy(), np.ones_like(now)
            for n, frame in enumerate(window):
                if n != self.radius:
                    other = planes_of(frame)[k].astype(np.float32)
                    weight = np.exp(((other - now) / scale) ** 2 * np.float32(-0.5))
                    weights += weight
                    total += weight * other
            np.copyto(want, np.rint(total / weights), casting="unsafe")

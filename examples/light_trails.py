"""Light trails: a filter to copy. It is the long form, a class, for it looks at frames of the past.

Try it::

    vidcloud filters test examples/light_trails.py
    vidcloud run examples/bigbuckbunny.mp4 --filter examples/light_trails.py:length=12 --nodes 3

Each node gets the frames that it needs before its chunk (the halo), so the chunks' borders can't be seen.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vidcloud.filter import YUV, YUV16, Filter, Halo, param
from vidcloud.pixels import planes_of


@dataclass
class LightTrails(Filter):
    """What is bright leaves a trail."""

    formats: ClassVar = (*YUV, *YUV16)  # the pixels as they were decoded: nothing is converted
    length: int = param(6, low=1, high=60, help="frames that a trail lasts")

    @property
    def halo(self):
        return Halo(before=self.length, after=0)

    def apply(self, window, out, at):
        # A trail is bright in luma; it keeps the colour that is there now.
        now = window[-1]
        np.maximum.reduce([frame.y for frame in window], out=out.y)
        for plane, want in zip(planes_of(now)[1:], planes_of(out)[1:], strict=True):
            want[...] = plane

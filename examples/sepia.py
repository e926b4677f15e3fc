"""Sepia: a filter to copy. It is the short form, a function of one frame.

Try it::

    vidcloud filters test examples/sepia.py
    vidcloud filters preview examples/bigbuckbunny.mp4 --filter examples/sepia.py -o sheet.png
    vidcloud run examples/bigbuckbunny.mp4 --filter examples/sepia.py:strength=0.8 --nodes 3
"""

import cv2
import numpy as np

from vidcloud.filter import frame_filter, param

# Rows and columns in the order blue, green, red. Source: W3C Filter Effects Module, sepia().
TONE = np.array([[0.131, 0.534, 0.272], [0.168, 0.686, 0.349], [0.189, 0.769, 0.393]])


@frame_filter(formats=("bgr24", "bgr48"))
def sepia(frame, *, strength: float = param(1.0, low=0, high=1, help="0 keeps the colours, 1 is all brown")):
    """Brown as an old photograph."""
    return cv2.transform(frame, TONE * strength + np.eye(3) * (1 - strength))

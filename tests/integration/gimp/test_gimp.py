"""Every built-in filter gives the picture that GIMP 2.10 gives, as far as the eye can tell.

The references are made by ``make_reference.py``; GIMP is not needed here.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidcloud.chain import Chain
from vidcloud.filter import FrameSpec
from vidcloud.pixels import pixel_format
from vidcloud.plugins import resolve

HERE = Path(__file__).parent
REFERENCES = json.loads((HERE / "references.json").read_text("utf-8"))


def ssim(a, b):
    """Structural similarity of two BGR pictures, 1 if they are the same; the mean over pixels and channels.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE TIP 13 (2004). The same as
    scikit-image's with gaussian_weights=True, use_sample_covariance=False, but for the border of 5 pixels.
    """

    def mean(x):
        return cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = mean(a), mean(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    similar = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return float(similar.mean())


def psnr(a, b):
    """Peak signal to noise in dB."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def filtered(picture, text, fmt="bgr24"):
    """A BGR picture through a filter, without any conversion."""
    spec = FrameSpec(pixel_format(fmt), picture.shape[1], picture.shape[0], full_range=True, matrix="bt709")
    chain = Chain([resolve(text).stage], spec, spec.format, converter=None)
    assert chain.formats == (fmt,)
    out = np.empty((1, picture.size), picture.dtype)
    chain.run(picture.reshape(1, -1), 0, out, 0, [0.0])
    return out.reshape(picture.shape)


def read(name):
    picture = cv2.imread(str(HERE / name), cv2.IMREAD_COLOR)
    assert picture is not None, name
    return picture


@pytest.mark.parametrize("reference", REFERENCES)
def test_filter_gives_the_picture_that_gimp_gives(reference):
    source, text = REFERENCES[reference]
    assert ssim(filtered(read(source), text), read(reference)) >= 0.97


@pytest.mark.parametrize("name", ["bunny1", "drawn"])
def test_two_different_pictures_are_told_apart(name):
    """The measure is one: it is 1 for the same picture, and the input itself would not pass for most outputs."""
    source = read(f"{name}.png")
    assert ssim(source, source) == pytest.approx(1)
    for key in ("threshold", "edge", "soft-glow", "neon"):
        assert ssim(source, read(f"{name}.{key}.png")) < 0.97, key

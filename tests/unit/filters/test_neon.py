"""Neon's slopes: one kernel, however it is applied."""

import numpy as np
import pytest

from vidcloud.filter import At, FrameSpec
from vidcloud.filters import neon
from vidcloud.filters.neon import Neon
from vidcloud.pixels import pixel_format


def glow(picture, fmt, **values):
    """One picture through the filter."""
    made = Neon(**values)
    made.setup(FrameSpec(pixel_format(fmt), picture.shape[1], picture.shape[0], full_range=True, matrix="bt709"))
    out = np.full_like(picture, 7)
    made.apply([picture], out, At(0, 0.0))
    return out


@pytest.mark.parametrize("radius", [1, 5, 15, 43])
def test_direct_and_separated_kernels_agree(monkeypatch, radius):
    picture = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
    direct = glow(picture, "bgr24", radius=radius)
    monkeypatch.setattr(neon, "SMALL", 0)
    assert np.abs(glow(picture, "bgr24", radius=radius).astype(int) - direct).max() <= 1


@pytest.mark.parametrize("radius", [1, 6.5, 15, 200])
def test_kernel_is_odd(radius):
    kernel = neon._slope(radius)
    middle = kernel.size // 2
    assert kernel[:middle] == pytest.approx(-kernel[middle + 1 :][::-1])
    assert -0.003 < kernel[middle] <= 0  # the constants leave so much: even pictures stay black
    assert kernel.argmax() < middle  # left minus right: what falls to the right glows


@pytest.mark.parametrize("radius", [10, 100])
def test_an_even_picture_is_black_at_every_radius(radius):
    assert not glow(np.full((40, 60), 50000, np.uint16), "gray16", radius=radius).any()


def test_slopes_to_the_right_and_downwards_add_as_lengths():
    kernel = neon._slope(4)
    n = np.arange(kernel.size) - kernel.size // 2
    y, x = np.mgrid[:80, :80]
    one = glow((60000 - 60 * x).astype(np.uint16), "gray16", blur=0, radius=4)[40, 40]
    both = glow((60000 - 60 * x - 60 * y).astype(np.uint16), "gray16", blur=0, radius=4)[40, 40]
    assert one == pytest.approx(kernel @ (57600 - 60 * n), abs=1)
    assert both == pytest.approx(2**0.5 * (kernel @ (55200 - 60 * n)), abs=1)

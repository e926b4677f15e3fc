"""Motion blur by kernel, in polar coordinates and by copies: the ways agree, and go where they pay."""

import math

import cv2
import numpy as np
import pytest

from vidcloud.filter import At, FrameSpec
from vidcloud.filters import motion_blur
from vidcloud.filters.motion_blur import MotionBlur, Smear
from vidcloud.pixels import pixel_format

SMOOTH = cv2.GaussianBlur(np.random.default_rng(1).random((90, 160, 3)), (0, 0), 2)
LIGHT = np.rint(65535 * (SMOOTH - SMOOTH.min()) / (SMOOTH.max() - SMOOTH.min())).astype(np.uint16)


def smeared(kind, light, length=5.0, angle=5.0, centre=None):
    """A picture of light, blurred."""
    centre = centre or (light.shape[1] / 2, light.shape[0] / 2)
    smear = Smear(kind, light.shape, length, angle, centre)
    out = np.full_like(light, 7)
    smear.blur(light, out)
    return smear, out


def impulse(value=60000):
    light = np.zeros((61, 61), np.uint16)
    light[30, 30] = value
    return light


@pytest.mark.parametrize("angle", [0, 5, 37, 90, 180, 310])
@pytest.mark.parametrize("length", [1, 5, 8.5, 30])
def test_a_line_keeps_energy_and_has_its_length(length, angle):
    _, got = smeared("linear", impulse(), length, angle)
    assert got.sum(dtype=np.int64) == pytest.approx(60000, rel=0.01)
    y, x = np.nonzero(got)
    along = (x - 30) * math.cos(math.radians(angle)) + (y - 30) * math.sin(math.radians(angle))
    across = (y - 30) * math.cos(math.radians(angle)) - (x - 30) * math.sin(math.radians(angle))
    samples = math.ceil(length) + 1
    assert np.abs(along).max() == pytest.approx(length / 2 * samples / (samples - 1), abs=2.5)
    assert np.abs(across).max() <= (1.5 if length < 9 else 3)


def test_a_short_line_has_known_samples():
    """A length of 2 takes three samples, a pixel apart."""
    _, got = smeared("linear", impulse(), 2, 0)
    assert got[30].nonzero()[0].tolist() == [29, 30, 31]
    assert got[30, 29:32].tolist() == [20000] * 3
    assert got.sum(dtype=np.int64) == 60000


def test_kernel_and_copies_give_the_same_line(monkeypatch):
    by_kernel, one = smeared("linear", LIGHT, 6, 20)
    monkeypatch.setattr(motion_blur, "SMALL", 0)
    by_copies, other = smeared("linear", LIGHT, 6, 20)
    assert by_kernel._kernel is not None
    assert by_copies._kernel is None
    assert np.abs(one.astype(int) - other).max() < 150


@pytest.mark.parametrize("angle", [10, 40, 120])
@pytest.mark.parametrize("centre", [(80.0, 45.0), (40.0, 90.0)])
def test_polar_and_copies_give_the_same_turn(monkeypatch, angle, centre):
    monkeypatch.setattr(motion_blur._Polar, "cells", lambda *_: 0)
    in_polar, one = smeared("radial", LIGHT, 0, angle, centre)
    monkeypatch.setattr(motion_blur._Polar, "cells", lambda *_: 10**12)
    by_copies, other = smeared("radial", LIGHT, 0, angle, centre)
    off = np.abs(one.astype(int) - other)
    assert (in_polar._polar is None, by_copies._polar is None) == (False, True)
    assert off.mean() < 250  # 0.4%
    if centre == (80, 45):  # around another, corners have only few samples inside
        assert off[8:-8, 8:-8].max() < 1700
    assert np.abs((one.astype(int) - other).mean()) < 60


def test_gray_and_colour_are_blurred_alike():
    for kind in ("linear", "radial", "zoom"):
        for length, angle in ((5, 5), (30, 30)):
            gray = np.ascontiguousarray(LIGHT[..., 1])
            _, colour = smeared(kind, np.dstack([gray] * 3), length, angle)
            _, alone = smeared(kind, gray, length, angle)
            assert np.abs(colour.astype(int) - alone[..., None]).max() <= 1


def test_a_turn_takes_no_more_memory_than_it_is_worth():
    """Tiny turns of big pictures, and long narrow ones, would need rings of many more pixels than the picture has."""
    for shape, angle in (((1080, 1920, 3), 0.3), ((8, 4000), 5)):
        assert Smear("radial", shape, 5, angle, (shape[1] / 2, shape[0] / 2))._polar is None
    assert Smear("radial", (360, 640, 3), 5, 5, (320, 180))._polar is not None


def test_ten_bits_stay_ten_bits():
    """A slope of 16 bits does not fall onto 256 levels."""
    slope = np.broadcast_to(np.linspace(20000, 40000, 640).astype(np.uint16)[None, :, None], (32, 640, 3)).copy()
    spec = FrameSpec(pixel_format("bgr48"), 640, 32, full_range=True, matrix="bt709")
    for kind in ("linear", "radial", "zoom"):
        made = MotionBlur(type=kind)
        made.setup(spec)
        out = np.zeros_like(slope)
        made.apply([slope], out, At(0, 0.0))
        assert len(np.unique(out[16, :, 0])) > 500


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rounding_limits_to_the_range(dtype):
    top = np.iinfo(dtype).max
    out = np.zeros((1, 5), dtype)
    motion_blur.round_to(np.array([[-3, 1.4, 1.6, top - 0.4, top + 9]], np.float32), out)
    assert out.tolist() == [[0, 1, 2, top, top]]

"""Motion blur and neon: the promises of a filter in each pixel format, and pictures whose result is known."""

import math

import cv2
import numpy as np
import pytest

from vidcloud.chain import Chain
from vidcloud.contract import check, synthetic_frames
from vidcloud.filter import At, FrameSpec
from vidcloud.filters import motion_blur
from vidcloud.pixels import pixel_format
from vidcloud.plugins import resolve

KINDS = ("motion-blur:type=linear", "motion-blur:type=radial", "motion-blur:type=zoom")
LONG = (
    "motion-blur:type=linear,length=40,angle=200",
    "motion-blur:type=radial,angle=90",
    "motion-blur:type=zoom,length=200",
)
TEXTS = (*KINDS, *LONG, "neon", "neon:radius=3,amount=0.5,blur=0")
FORMATS = ("bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
SIZES = [(1, 1), (2, 2), (7, 5), (1, 9), (90, 3)]


def one(text, picture, fmt=None):
    """One packed or gray picture through a filter."""
    fmt = fmt or {2: "gray", 3: "bgr24"}[picture.ndim]
    spec = FrameSpec(pixel_format(fmt), picture.shape[1], picture.shape[0], full_range=True, matrix="bt709")
    made = resolve(text).filter
    made.setup(spec)
    out = np.full_like(picture, 7)
    made.apply([picture], out, At(0, 0.0))
    return out


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("text", ["motion-blur", "neon"])
def test_filter_keeps_its_promises_in_each_format(text, fmt):
    assert resolve(text).filter.formats == FORMATS
    assert check(resolve(text).filter, [fmt]) == []


@pytest.mark.parametrize("text", TEXTS)
def test_filter_keeps_its_promises_with_other_parameters(text):
    assert check(resolve(text).filter, ["bgr24"]) == []


@pytest.mark.parametrize("chunk", [1, 7, 20])
@pytest.mark.parametrize("text", ["motion-blur:angle=40", "neon"])
def test_chunked_equals_unchunked(text, chunk):
    spec = FrameSpec(pixel_format("bgr24"), 33, 21, full_range=True, matrix="bt709")
    frames = np.random.default_rng(5).integers(0, 256, (23, 33 * 21 * 3), np.uint8)
    whole, parts = np.zeros_like(frames), np.zeros_like(frames)
    Chain([resolve(text).stage], spec, spec.format, converter=None).run(frames, 0, whole, 0, [0.0] * 23)
    for first in range(0, 23, chunk):
        some = slice(first, min(first + chunk, 23))
        count = some.stop - first
        chain = Chain([resolve(text).stage], spec, spec.format, converter=None)
        chain.run(frames[some], first, parts[some], first, [0.0] * count)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("fmt", ["bgr24", "gray16"])
def test_tiny_and_narrow_pictures_work(text, size, fmt):
    form = pixel_format(fmt)
    frame = form.view(synthetic_frames(form, *size, 2)[0], *size)
    before = frame.copy()
    assert np.array_equal(one(text, frame, fmt), one(text, frame, fmt))
    assert np.array_equal(frame, before)


@pytest.mark.parametrize("size", [*SIZES, (64, 48)])
@pytest.mark.parametrize("text", [*KINDS, *LONG])
def test_an_even_picture_stays_even_up_to_the_borders(text, size):
    """What lies outside is left out of the average: it does not darken the borders."""
    for level in (0, 30, 200, 255):
        picture = np.full((size[1], size[0], 3), level, np.uint8)
        assert np.abs(one(text, picture).astype(int) - level).max() <= (level < 40)  # light has fewer steps in the dark
    deep = np.full((size[1], size[0]), 40000, np.uint16)
    assert np.abs(one(text, deep, "gray16").astype(int) - 40000).max() < 64


@pytest.mark.parametrize(
    "text", ["motion-blur:type=linear,length=0", "motion-blur:type=radial,angle=0", "motion-blur:type=zoom,length=0"]
)
def test_no_motion_is_no_change(text):
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(one(text, picture), picture)


@pytest.mark.parametrize("text", [*KINDS, *LONG])
def test_sixteen_bits_are_eight_bits_scaled(text):
    picture = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)
    shallow, deep = one(text, picture), one(text, picture.astype(np.uint16) * 257, "bgr48")
    assert np.abs(deep / 257 - shallow).max() < 1


def test_neon_of_sixteen_bits_is_that_of_eight_scaled():
    picture = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)
    for text in ("neon", "neon:blur=0,radius=4"):
        assert np.abs(one(text, picture.astype(np.uint16) * 257, "bgr48") / 257 - one(text, picture)).max() < 1


# -- motion blur -------------------------------------------------------------------------------------------------------


def test_the_average_is_of_light_not_of_samples():
    """A linear blur of 7 pixels takes 8 copies; one of them is of a white line."""
    picture = np.zeros((11, 61), np.uint8)
    picture[:, 30] = 255
    got = one("motion-blur:type=linear,length=7,angle=0", picture)[5]
    light = 1 / 8
    want = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert got[28:33].tolist() == pytest.approx([want] * 5, abs=1.5)  # the ends have half a pixel
    assert not got[:25].any()
    assert not got[36:].any()


@pytest.mark.parametrize(("angle", "row", "column"), [(0, 0, 1), (90, 1, 0), (45, 1, 1), (135, 1, -1)])
def test_a_line_turns_clockwise(angle, row, column):
    picture = np.zeros((41, 41), np.uint8)
    picture[20, 20] = 255
    got = one(f"motion-blur:type=linear,length=16,angle={angle}", picture)
    assert got[20 + 4 * row, 20 + 4 * column] > 0
    assert got[20 - 4 * row, 20 - 4 * column] > 0
    assert not got[20 - 4 * column, 20 + 4 * row]


def test_a_turn_keeps_rings_and_a_zoom_keeps_rays():
    y, x = np.mgrid[:101, :101]
    away, phi = np.hypot(x - 50.5, y - 50.5), np.arctan2(y - 50.5, x - 50.5)
    rings = (127 + 100 * np.sin(away / 4)).astype(np.uint8)
    rays = (127 + 100 * np.sin(4 * phi)).astype(np.uint8)
    inner = (away > 12) & (away < 45)
    changed = {
        (kind, name): np.abs(one(f"motion-blur:type={kind},length=60,angle=30", picture).astype(int) - picture)[
            inner
        ].mean()
        for kind in ("radial", "zoom")
        for name, picture in (("rings", rings), ("rays", rays))
    }
    assert max(changed["radial", "rings"], changed["zoom", "rays"]) < 3
    assert min(changed["radial", "rays"], changed["zoom", "rings"]) > 15


def test_a_zoom_takes_from_towards_its_centre():
    picture = np.zeros((41, 81), np.uint8)
    picture[:, 60] = 255
    got = one("motion-blur:type=zoom,length=128", picture)[20]
    assert got[64] > 0
    assert not got[:59].any()
    moved = one("motion-blur:type=zoom,length=128,x=1", picture)[20]
    assert moved[50] > 0
    assert not moved[62:].any()


@pytest.mark.parametrize("samples", [1, 3, 8, 9, 16, 40, 100, 1000, 5000])
def test_a_long_blur_is_factored(samples):
    counts = motion_blur._factors(samples)
    assert samples <= math.prod(counts) <= 2 * samples
    assert sum(counts) <= max(8, 4.5 * math.log(samples))


def test_light_and_back_gives_the_sample():
    for bits in (8, 16):
        to_light, from_light = motion_blur.light_tables(bits)
        back = from_light[to_light].astype(int)
        assert np.abs(back - np.arange(1 << bits)).max() <= (0 if bits == 8 else 7)  # less than a step of 12 bits
    assert motion_blur.light_tables(8)[0][[0, 128, 255]].tolist() == [0, 14146, 65535]


def test_both_ways_to_look_up_agree():
    table = np.arange(65536, dtype=np.uint16)[::-1].copy()
    source = np.random.default_rng(3).integers(0, 65536, (5, 7, 3), np.uint16)
    for way in (motion_blur._take, motion_blur._DEEP):
        out = np.zeros_like(source)
        way(source, table, out)
        assert np.array_equal(out, 65535 - source)


def plainly(kind, light, length, angle):
    """GIMP's sum, sample by sample, of one channel of linear light in floats; outside counts for nothing."""
    height, width = light.shape
    y, x = np.mgrid[:height, :width].astype(float)
    across, down = x - width / 2, y - height / 2
    away, phi, turn = np.hypot(across, down), np.arctan2(down, across), math.radians(angle)
    if kind == "linear":
        samples = np.full(light.shape, math.ceil(length) + 1)
    elif kind == "radial":
        samples = np.maximum(np.ceil(away * turn * 1.41), 3)
    else:
        samples = np.maximum(np.ceil(away * length / 256 + 1), 3)
    total, weights = np.zeros_like(light), np.zeros_like(light)
    both = np.pad(np.stack([light, np.ones_like(light)], axis=-1), ((1, 2), (1, 2), (0, 0)))
    edge = 0 if kind == "radial" else -1  # circles take no pixel that is only partly inside at the top and left
    for k in range(int(samples.max())):
        if kind == "linear":
            t = (k / (samples - 1) - 0.5) * length
            at_x, at_y = x + t * math.cos(turn), y + t * math.sin(turn)
        elif kind == "radial":
            at = phi + turn / 2 - k * turn / samples
            at_x, at_y = width / 2 + away * np.cos(at), height / 2 + away * np.sin(at)
        else:
            t = k / samples * length / 256
            at_x, at_y = x - across * t, y - down * t
        taken = (k < samples) & (at_x >= edge) & (at_x < width) & (at_y >= edge) & (at_y < height)
        ix, iy = (np.clip(np.floor(a) + 1, 0, size + 1).astype(int) for a, size in ((at_x, width), (at_y, height)))
        fx, fy = (at_x + 1 - ix)[..., None], (at_y + 1 - iy)[..., None]
        upper = both[iy, ix] * (1 - fx) + both[iy, ix + 1] * fx
        lower = both[iy + 1, ix] * (1 - fx) + both[iy + 1, ix + 1] * fx
        found = (upper * (1 - fy) + lower * fy) * taken[..., None]
        total, weights = total + found[..., 0], weights + found[..., 1]
    return np.where(weights > 0, total / np.maximum(weights, 1e-9), light)


@pytest.mark.parametrize(
    ("kind", "length", "angle", "most"),
    [
        ("linear", 6, 20, 0.01),
        ("linear", 30, 250, 0.5),
        ("radial", 0, 8, 1.5),
        ("radial", 0, 60, 0.85),
        ("zoom", 20, 0, 1.1),
        ("zoom", 150, 0, 1),
    ],
)
def test_factored_sums_are_the_plain_sum(kind, length, angle, most):
    rng = np.random.default_rng(4)
    picture = cv2.GaussianBlur(rng.random((90, 120)), (0, 0), 2)  # smooth, so that interpolation costs nothing
    picture = np.rint(65535 * (picture - picture.min()) / (picture.max() - picture.min())).astype(np.uint16)
    to_light, from_light = motion_blur.light_tables(16)
    want = from_light[np.rint(65535 * plainly(kind, to_light[picture] / 65535, length, angle)).astype(int)]
    got = one(f"motion-blur:type={kind},length={length},angle={angle}", picture, "gray16")
    off = np.abs(got.astype(int) - want) / 257
    assert off.mean() < most  # GIMP's samples are half a step off, more so in the middle: that is what remains


# -- neon --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["bgr24", "gray", "bgr48"])
def test_an_even_picture_is_black(fmt):
    form = pixel_format(fmt)
    frame = form.view(np.full(form.samples(50, 40), 200, form.dtype), 50, 40)
    assert not one("neon", frame, fmt).any()
    assert not one("neon:amount=2,blur=0,radius=3", frame, fmt).any()


def test_only_what_falls_to_the_right_or_downwards_glows():
    picture = np.zeros((60, 90), np.uint8)
    picture[20:40, 30:60] = 40
    got = one("neon:blur=0,radius=5", picture)
    assert got[30, 58:61].min() > 30
    assert got[38:41, 45].min() > 30
    assert not got[30, 28:31].any()
    assert not got[18:21, 45].any()


def test_the_peak_at_a_step_is_its_height_times_the_deviation():
    picture = np.zeros((20, 120), np.uint8)
    picture[:, :60] = 20
    sigma = 16 / math.sqrt(2 * math.log(255))
    assert one("neon:blur=0", picture)[10].max() == pytest.approx(20 * sigma, rel=0.02)
    assert one("neon:blur=0,amount=0.1", picture)[10].max() == pytest.approx(20 * sigma * 1.9, rel=0.02)


def test_bright_edges_saturate():
    picture = np.zeros((20, 120), np.uint16)
    picture[:, :60] = 65535
    assert one("neon:blur=0", picture, "gray16").max() == 65535


def recursive(x, sigma):
    """Deriche's filter as GIMP runs it: there and back, each sample from four before it. Starts are held."""
    a0, a1, b0, b1, c0, c1, w0, w1 = 0.6472, 4.531, 1.527, 1.516, -0.6494, -0.9557, 0.6719, 2.072
    # Poles and gains of the two damped oscillations, as complex numbers.
    poles = [np.exp(complex(-b0, w0) / sigma), np.exp(complex(-b1, w1) / sigma)]
    gains = [complex(a0, -a1), complex(c0, -c1)]

    def there(x, now):
        state, found = [g * x[0] / (1 - p) for g, p in zip(gains, poles, strict=True)], []
        for value in x:
            before = [s * p for s, p in zip(state, poles, strict=True)]
            state = [b + g * value for b, g in zip(before, gains, strict=True)]
            found.append(sum(state if now else before).real)
        return np.array(found)

    return there(x, now=True) - there(x[::-1], now=False)[::-1]


def test_neon_is_the_recursive_filter():
    row = np.random.default_rng(6).integers(0, 256, 200).astype(np.uint8)
    got = one("neon:blur=0,radius=9", np.tile(row, (12, 1)))[6].astype(float)
    want = np.clip(recursive(row.astype(float), 10 / math.sqrt(2 * math.log(255))), 0, 255)
    assert np.abs(got - want).max() < 1
    assert abs((got - want)[(want > 0) & (want < 255)].mean()) < 0.1  # rounded, not cut off

"""Conversions: exact where exactness is possible, the standard's formula elsewhere."""

import numpy as np
import pytest
from samples import picture

from vidcloud.filter import WORK_FORMATS, FrameSpec
from vidcloud.media.convert import converter
from vidcloud.pixels import pixel_format, planes_of

KR_KB = {
    "bt709": (0.2126, 0.0722),
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt2020nc": (0.2627, 0.0593),
}
STORED = ["yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "gray", "bgr24", "rgb24", "gbrp"]
STORED += ["yuv420p10", "yuv422p12", "yuv444p9", "yuv420p16", "gray10", "gray16", "bgr48", "rgb48", "gbrp10", "gbrp16"]


def spec(name, size, *, full=False, matrix="bt709"):
    fmt = pixel_format(name)
    return FrameSpec(fmt, *size, full or fmt.family != "yuv", matrix)


def run(flat, a, b):
    out = np.zeros(b.format.samples(b.width, b.height), b.format.dtype)
    converter(a, b)(flat, out)
    return out


def random_flat(a, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << a.format.bits, a.format.samples(a.width, a.height)).astype(a.format.dtype)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("yuv420p10", "yuv420p16"),
        ("yuv420p", "yuv420p16"),
        ("yuv422p12", "yuv422p16"),
        ("yuv444p9", "yuv444p16"),
        ("gbrp", "bgr24"),
        ("gbrp", "rgb24"),
        ("gbrp", "bgr48"),
        ("gbrp10", "bgr48"),
        ("gbrp12", "rgb48"),
        ("gbrp16", "bgr48"),
        ("bgr24", "rgb24"),
        ("bgr24", "gbrp"),
        ("rgb24", "bgr48"),
        ("gray", "gray16"),
        ("gray10", "gray16"),
        ("gray", "bgr24"),
        ("gray", "yuv444p"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_there_and_back_is_exact(one, other, full, size):
    """Every sample value survives the way to a wider or differently ordered format, odd sizes too."""
    a, b = spec(one, size, full=full), spec(other, size, full=full or one == "gray")
    flat = random_flat(a)
    if (one, other) == ("gray", "bgr24"):
        there = run(flat, a, b).reshape(-1, 3)
        assert all((there[:, c] == flat).all() for c in range(3))
        return
    np.testing.assert_array_equal(run(run(flat, a, b), b, a), flat)


def test_depths_are_shifted_or_scaled_as_ffmpeg_does():
    size = (16, 1)
    ramp = np.linspace(0, 1023, 16).astype(np.uint16)
    wide = run(ramp, spec("gray10", size), spec("gray16", size))
    assert wide.max() == 65535
    limited = np.concatenate([ramp] * 3)
    shifted = run(limited, spec("yuv444p10", size), spec("yuv444p16", size))
    np.testing.assert_array_equal(shifted, limited << 6)
    top = np.full(48, 65535, np.uint16)
    assert run(top, spec("yuv444p16", size), spec("yuv444p10", size)).max() == 1023
    half = np.full(48, 64 * 100 + 32, np.uint16)
    assert set(run(half, spec("yuv444p16", size), spec("yuv444p10", size))) == {101}


def formula_rgb(y, u, v, *, bits, full, matrix):
    """ITU-R BT.601/709/2020: RGB in 0…1."""
    kr, kb = KR_KB[matrix]
    scale = 1 << (bits - 8)
    luma, offset, chroma = (((1 << bits) - 1), 0, (1 << bits) - 1) if full else (219 * scale, 16 * scale, 224 * scale)
    y, u, v = (y - offset) / luma, (u - 128 * scale) / chroma, (v - 128 * scale) / chroma
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.clip([r, (y - kr * r - kb * b) / (1 - kr - kb), b], 0, 1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize(
    ("yuv", "rgb"),
    [("yuv444p", "bgr24"), ("yuv444p", "gbrp"), ("yuv420p", "rgb24"), ("yuv420p10", "bgr48"), ("yuv422p10", "gbrp10")],
)
def test_yuv_to_rgb_is_the_formula(yuv, rgb, matrix, full):
    """Patches of one colour each, so that chroma interpolation plays no part; one step of 8 bits is allowed."""
    a, b = spec(yuv, (32, 32), full=full, matrix=matrix), spec(rgb, (32, 32), matrix=matrix)
    rng = np.random.default_rng(1)
    worst = 0.0
    for _ in range(40):
        values = rng.integers(20, 235, 3) << (a.format.bits - 8)
        flat = np.empty(a.format.samples(32, 32), a.format.dtype)
        for plane, value in zip(planes_of(a.format.view(flat, 32, 32)), values, strict=True):
            plane[...] = value
        got = b.format.view(run(flat, a, b), 32, 32)
        middle = got[16, 16] if b.format.planes == 1 else np.array([p[16, 16] for p in got])
        order = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "gbr": [2, 0, 1]}[rgb[:3]]
        wanted = formula_rgb(*values.astype(float), bits=a.format.bits, full=full, matrix=matrix)
        worst = max(worst, np.abs(middle[order] / ((1 << b.format.bits) - 1) - wanted).max() * 255)
    assert worst <= 1.0


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize(("rgb", "yuv"), [("bgr24", "yuv420p"), ("gbrp", "yuv444p"), ("bgr48", "yuv420p10")])
def test_rgb_to_yuv_is_the_formula(yuv, rgb, matrix, full):
    a, b = spec(rgb, (32, 32), matrix=matrix), spec(yuv, (32, 32), full=full, matrix=matrix)
    rng = np.random.default_rng(2)
    scale = 1 << (b.format.bits - 8)
    for _ in range(40):
        red, green, blue = rng.integers(0, 256, 3) * (257 if a.format.bits == 16 else 1)
        flat = np.empty(a.format.samples(32, 32), a.format.dtype)
        picture_ = a.format.view(flat, 32, 32)
        if a.format.planes == 1:
            picture_[...] = (blue, green, red)
        else:
            for plane, value in zip(picture_, (green, blue, red), strict=True):
                plane[...] = value
        got = np.array([p[p.shape[0] // 2, p.shape[1] // 2] for p in b.format.view(run(flat, a, b), 32, 32)])
        most = (1 << b.format.bits) - 1
        y, u, v = got.astype(float)
        back = formula_rgb(y, u, v, bits=b.format.bits, full=full, matrix=matrix)
        source = np.array([red, green, blue]) / ((1 << a.format.bits) - 1)
        kr, kb = KR_KB[matrix]
        luma = kr * source[0] + (1 - kr - kb) * source[1] + kb * source[2]
        wanted_y = luma * (most if full else 219 * scale) + (0 if full else 16 * scale)
        assert abs(y - wanted_y) <= scale
        assert np.abs(back - source).max() * 255 <= 2.5


@pytest.mark.parametrize("full", [False, True])
def test_gray_is_luma_of_full_range(full):
    size = (256, 2)
    a = spec("yuv420p", size, full=full)
    flat = np.full(a.format.samples(*size), 77, np.uint8)
    flat[:512] = np.tile(np.arange(256, dtype=np.uint8), 2)
    got = run(flat, a, spec("gray", size))[:256].astype(int)
    x = np.arange(256)
    wanted = x if full else np.clip(np.floor((x - 16) * 255 / 219 + 0.5), 0, 255)
    np.testing.assert_array_equal(got, wanted)


def test_chroma_is_interpolated_not_repeated():
    """Full-size chroma interpolation: a chroma edge between two 4:2:0 columns becomes a slope."""
    a, b = spec("yuv420p", (32, 32)), spec("bgr24", (32, 32))
    flat = np.full(a.format.samples(32, 32), 128, np.uint8)
    planes_of(a.format.view(flat, 32, 32))[1][:, 8:] = 200
    blue = b.format.view(run(flat, a, b), 32, 32)[16, :, 0].astype(int)
    assert len(set(blue[14:18])) > 2
    assert (np.diff(blue[14:18]) > 0).all()


@pytest.mark.parametrize("one", STORED)
@pytest.mark.parametrize("other", WORK_FORMATS)
def test_all_pairs_work_and_repeat(one, other):
    """Any stored format becomes any work format and back, deterministically, without touching its input."""
    size = (67, 35)
    a, b = spec(one, size), spec(other, size)
    flat = picture(5, a.format, *size)
    before = flat.copy()
    there, back = converter(a, b), converter(b, a)
    out = np.empty(b.format.samples(*size), b.format.dtype)
    end = np.empty_like(flat)
    there(flat, out)
    first = out.copy()
    back(out, end)
    there(random_flat(a), out)
    there(flat, out)
    np.testing.assert_array_equal(out, first)
    np.testing.assert_array_equal(flat, before)
    if a.format.family == b.format.family != "rgb":
        return
    if a.format.family == b.format.family:
        assert np.abs(end.astype(int) - flat.astype(int)).max() <= (1 << max(0, a.format.bits - b.format.bits))


def test_read_only_input_is_taken():
    """Filters' results and mapped chunks come as read-only views."""
    a, b = spec("yuv420p", (64, 48)), spec("bgr24", (64, 48))
    flat = picture(1, "yuv420p", 64, 48)
    flat.flags.writeable = False
    run(flat, a, b)
    run(picture(1, "gbrp", 64, 48), spec("gbrp", (64, 48)), b)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="does not scale"):
        converter(spec("gray", (8, 8)), spec("gray", (8, 9)))

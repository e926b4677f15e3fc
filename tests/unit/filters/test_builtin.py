"""The built-in filters: the promises of a filter in each pixel format, and pictures whose result is known."""

import cv2
import numpy as np
import pytest

from vidcloud.chain import Chain
from vidcloud.contract import check, synthetic_frames
from vidcloud.errors import PluginError
from vidcloud.filter import At, FrameSpec, Halo
from vidcloud.filters import gaussian_blur, soft_glow
from vidcloud.pixels import pixel_format
from vidcloud.plugins import resolve

NAMES = ("invert", "threshold", "gaussian-blur", "edge", "soft-glow", "temporal-denoise")
CASES = [(name, fmt) for name in NAMES for fmt in resolve(name).filter.formats]
DEEP = {"bgr24": "bgr48", "rgb24": "rgb48", "gray": "gray16"} | {f"yuv{s}p": f"yuv{s}p16" for s in (420, 422, 444, 440)}


def run(text, frames, fmt, size, *, full=False):
    """Frames ``(n, samples)`` through a filter."""
    spec = FrameSpec(pixel_format(fmt), *size, full_range=full, matrix="bt709")
    stage = resolve(text).stage
    stage.filter.formats = (fmt,)  # what it would choose itself is not the question
    chain = Chain([stage], spec, spec.format, converter=None)
    out = np.full_like(frames, 7)
    chain.run(frames, 0, out, 0, [n / 25 for n in range(len(frames))])
    return out


def one(text, picture, fmt="bgr24", **kwargs):
    """One packed or gray picture through a filter."""
    size = (picture.shape[1], picture.shape[0])
    return run(text, picture.reshape(1, -1), fmt, size, **kwargs).reshape(picture.shape)


@pytest.mark.parametrize(("name", "fmt"), CASES)
def test_filter_keeps_its_promises_in_each_format(name, fmt):
    assert check(resolve(name).filter, [fmt]) == []


@pytest.mark.parametrize(
    "text",
    ["threshold:low=9,high=9", "gaussian-blur:horizontal=0,vertical=40", "edge:blur=0", "soft-glow:radius=50",
     "temporal-denoise:radius=1,strength=64"],
)  # fmt: skip
def test_filter_keeps_its_promises_with_other_parameters(text):
    assert check(resolve(text).filter, resolve(text).filter.formats[:1]) == []


@pytest.mark.parametrize(("name", "fmt"), [c for c in CASES if c[1] in ("yuv420p", "bgr24", "bgr48", "gray16")])
def test_where_buffers_lie_in_memory_does_not_matter(name, fmt):
    """Some vector code treats what comes before an aligned address otherwise (cv2.magnitude does)."""
    spec = FrameSpec(pixel_format(fmt), 64, 48, full_range=False, matrix="bt709")
    made = resolve(name).filter
    frames = synthetic_frames(spec.format, 64, 48, sum(made.halo) + 1)
    seen, held = set(), []
    for shift in (0, 2, 16, 32, 48):
        held.append(np.empty(1000 * shift + shift, np.uint8))  # moves what setup allocates
        made.setup(spec)
        moved = [_at(shift, frame) for frame in frames]
        out = _at(shift, np.zeros_like(frames[0]))
        made.apply([spec.format.view(f, 64, 48) for f in moved], spec.format.view(out, 64, 48), At(0, 0.0))
        seen.add(out.tobytes())
    assert len(seen) == 1


def _at(shift, samples):
    """A copy so many bytes after a multiple of 64."""
    memory = np.empty(samples.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + shift
    moved = memory[start : start + samples.nbytes].view(samples.dtype)
    moved[:] = samples
    return moved


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 5), (1, 9), (9, 1)])
@pytest.mark.parametrize(("name", "fmt"), CASES)
def test_tiny_pictures_work(name, fmt, size):
    frames = synthetic_frames(pixel_format(fmt), *size, 3)
    assert np.array_equal(run(name, frames, fmt, size), run(name, frames, fmt, size))


@pytest.mark.parametrize(("name", "fmt"), [c for c in CASES if c[1] in DEEP])
def test_sixteen_bits_are_eight_bits_scaled(name, fmt):
    size = (48, 31)
    frames = synthetic_frames(pixel_format(fmt), *size, 5)
    scale = 256 if fmt.startswith("yuv") else 257  # YUV's zero of chroma is 128 and 128·256
    shallow, deep = run(name, frames, fmt, size), run(name, frames.astype(np.uint16) * scale, DEEP[fmt], size)
    off = np.abs(deep / scale - shallow)
    if name == "edge":  # it makes four times what rounding the blurred picture to 8 bits has cost
        assert off.mean() < 1.5
        assert off.max() < 12
    elif name == "invert":
        assert off.max() < 1  # 255 and 65535 are where a sum of 256 saturates
    else:
        assert off.max() < 2.5
        assert off.mean() < 0.8


@pytest.mark.parametrize("name", ["threshold", "gaussian-blur", "edge", "soft-glow", "temporal-denoise", "invert"])
def test_the_order_of_channels_does_not_matter(name):
    frames = synthetic_frames(pixel_format("bgr24"), 24, 18, 5)
    turned = np.ascontiguousarray(frames.reshape(5, 18, 24, 3)[..., ::-1]).reshape(5, -1)
    got = run(name, turned, "rgb24", (24, 18)).reshape(5, 18, 24, 3)[..., ::-1]
    assert np.array_equal(got.reshape(5, -1), run(name, frames, "bgr24", (24, 18)))


# -- invert ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "full", "luma", "chroma"),
    [
        ("yuv444p", False, {16: 235, 235: 16, 100: 151, 0: 251, 255: 0}, {128: 128, 16: 240, 0: 255, 255: 1}),
        ("yuv444p", True, {0: 255, 255: 0, 100: 155}, {128: 128, 1: 255, 0: 255}),
        ("yuv444p16", False, {16 << 8: 235 << 8, 235 << 8: 16 << 8, 65535: 0}, {1 << 15: 1 << 15, 0: 65535, 9: 65527}),
        ("yuv444p16", True, {0: 65535, 65535: 0}, {1 << 15: 1 << 15, 0: 65535}),
    ],
)
def test_invert_mirrors_luma_in_its_range_and_chroma_at_its_zero(fmt, full, luma, chroma):
    dtype = pixel_format(fmt).dtype
    for y, want_y in luma.items():
        for u, want_u in chroma.items():
            frame = np.array([[y, u, u]], dtype)
            assert run("invert", frame, fmt, (1, 1), full=full).tolist() == [[want_y, want_u, want_u]]


def test_invert_of_yuv_is_the_negative_of_the_rgb_picture():
    """BT.601 with full range, computed here in floats: within rounding of the planes."""
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (500, 3)).astype(float)
    y = rgb @ [0.299, 0.587, 0.114]
    planes = np.stack([y, 128 + (rgb[:, 2] - y) / 1.772, 128 + (rgb[:, 0] - y) / 1.402])
    frame = np.clip(np.rint(planes), 0, 255).astype(np.uint8).reshape(1, -1)
    got = run("invert", frame, "yuv444p", (500, 1), full=True).reshape(3, 500).astype(float)
    red = got[0] + 1.402 * (got[2] - 128)
    blue = got[0] + 1.772 * (got[1] - 128)
    assert np.abs(red - (255 - rgb[:, 0])).max() < 2
    assert np.abs(blue - (255 - rgb[:, 2])).max() < 2


@pytest.mark.parametrize("fmt", ["bgr24", "gray", "bgr48", "yuv420p", "yuv420p16"])
def test_invert_twice_gives_the_frame_back(fmt):
    frames = synthetic_frames(pixel_format(fmt), 12, 8, 2) // 2 + (np.iinfo(pixel_format(fmt).dtype).max // 8)
    assert np.array_equal(run("invert", run("invert", frames, fmt, (12, 8)), fmt, (12, 8)), frames)


# -- threshold ---------------------------------------------------------------------------------------------------------


def test_threshold_judges_the_largest_channel_and_includes_both_bounds():
    values = [(59, 0, 0), (0, 60, 0), (0, 0, 140), (140, 140, 140), (141, 0, 0), (100, 141, 3), (0, 0, 0)]
    picture = np.array([values], np.uint8)
    want = [0, 255, 255, 255, 0, 0, 0]
    assert one("threshold:low=60,high=140", picture)[0].tolist() == [[w] * 3 for w in want]
    deep = one("threshold:low=60,high=140", picture.astype(np.uint16) * 257, "bgr48")
    assert deep[0].tolist() == [[w * 257] * 3 for w in want]


def test_threshold_from_zero_is_white_everywhere_and_crossed_bounds_are_refused():
    assert (one("threshold:low=0", np.zeros((2, 2, 3), np.uint8)) == 255).all()
    with pytest.raises(PluginError, match="low=200 is above high=100"):
        one("threshold:low=200,high=100", np.zeros((2, 2, 3), np.uint8))


# -- gaussian blur -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 0.1, 1, 3, 3.2, 5, 7.9, 24, 200])
def test_blur_kernel_is_even_and_as_wide_as_a_gaussian(radius):
    weights = gaussian_blur.kernel(radius).astype(float)
    x = np.arange(len(weights)) - len(weights) // 2
    assert len(weights) % 2 == 1
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(weights, weights[::-1], atol=1e-7)
    if radius >= 3:
        assert np.sqrt((weights * x**2).sum()) == pytest.approx(
            0.32 * radius, rel=0.25
        )  # GIMP's is wider where it is small


@pytest.mark.parametrize("fmt", ["bgr24", "bgr48", "gray"])
def test_blur_keeps_even_pictures_and_a_radius_of_zero_changes_nothing(fmt):
    frames = synthetic_frames(pixel_format(fmt), 20, 10, 8)
    assert np.array_equal(run("gaussian-blur:horizontal=0,vertical=0", frames, fmt, (20, 10)), frames)
    assert np.array_equal(run("gaussian-blur:horizontal=30,vertical=3", frames[5:], fmt, (20, 10)), frames[5:])


def test_blur_goes_in_its_own_direction():
    picture = np.zeros((21, 31, 3), np.uint8)
    picture[10, 15] = 255
    spread = one("gaussian-blur:horizontal=9,vertical=0", picture)
    assert spread[10, 12:19].min() > 0
    assert not spread[[9, 11]].any()


def test_blur_of_small_chroma_is_the_blur_of_large_chroma():
    small = np.zeros((24, 32), np.uint8)
    small[8:16, 10:22] = 200
    y = np.full((48, 64), 90, np.uint8)
    frame = np.concatenate([y.ravel(), small.ravel(), small.ravel()])[None]
    got = run("gaussian-blur:horizontal=12,vertical=12", frame, "yuv420p", (64, 48))[0, y.size : y.size + small.size]
    large = one("gaussian-blur:horizontal=12,vertical=12", np.kron(small, np.ones((2, 2), np.uint8)), "gray")
    halved = cv2.resize(large, (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(got.reshape(24, 32).astype(int) - halved).max() < 8


# -- edge --------------------------------------------------------------------------------------------------------------


def test_edge_of_a_step_and_of_a_slope():
    step = np.zeros((9, 12), np.uint8)
    step[:, 6:] = 20
    got = one("edge:blur=0,amount=4", step, "gray")
    assert got[4].tolist() == [0, 0, 0, 0, 0, 160, 160, 0, 0, 0, 0, 0]  # Sobel 4·20, times the root of 4
    slope = np.tile(np.arange(0, 60, 3, dtype=np.uint8)[:, None], (1, 15))
    assert (one("edge:blur=0,amount=1", slope, "gray")[1:-1] == 24).all()
    deep = one("edge:blur=0,amount=4", step.astype(np.uint16) * 257, "gray16")
    assert np.array_equal(deep, got.astype(np.uint16) * 257)


@pytest.mark.parametrize("fmt", ["gray", "gray16"])
def test_edge_saturates_and_even_pictures_are_black(fmt):
    top = np.iinfo(pixel_format(fmt).dtype).max
    picture = np.zeros((9, 12), pixel_format(fmt).dtype)
    picture[:, 6:] = top
    assert one("edge:blur=0,amount=10", picture, fmt).max() == top
    assert not one("edge", np.full_like(picture, top // 3), fmt).any()


# -- soft glow ---------------------------------------------------------------------------------------------------------


def test_glow_never_darkens_and_spreads_from_highlights():
    picture = np.zeros((61, 61, 3), np.uint8)
    picture[28:33, 28:33] = 255
    got = one("soft-glow:sharpness=1", picture)
    assert (got >= picture).all()
    assert got[30, 36].min() > got[30, 40].min() > got[30, 50].max() == 0
    assert np.array_equal(one("soft-glow:brightness=0", picture), picture)


def test_glow_of_an_even_picture_is_the_screen_of_its_curve():
    light, sharpness, brightness = 150, 0.5, 0.6
    got = one(f"soft-glow:sharpness={sharpness},brightness={brightness}", np.full((30, 30, 3), light, np.uint8))
    glow = int(255 * brightness / (1 + np.exp(-(2 + 20 * sharpness) * (light / 255 - 0.5))))
    assert got[15, 15].tolist() == pytest.approx([255 - (255 - light) * (255 - glow) / 255] * 3, abs=1.5)


def test_glow_kernel_is_nearly_a_gaussian():
    x = np.arange(-15, 16)
    weights = soft_glow.kernel(3.3)
    assert np.abs(weights - np.exp(-(x**2) / (2 * 3.3**2)) / (3.3 * np.sqrt(2 * np.pi))).max() < 1e-3


# -- temporal denoise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["yuv420p", "yuv420p16", "bgr24", "bgr48"])
def test_denoise_takes_grain_away(fmt):
    rng = np.random.default_rng(3)
    form = pixel_format(fmt)
    scale = np.iinfo(form.dtype).max / 255
    frames = (rng.normal(120, 3, (7, form.samples(32, 24))) * scale).astype(form.dtype)
    got = run("temporal-denoise:radius=3,strength=6", frames, fmt, (32, 24))[3]
    assert np.std(got / scale) < 0.55 * np.std(frames[3] / scale)


def test_denoise_leaves_what_moved():
    frames = np.full((5, 16 * 16), 40, np.uint8)
    frames[2] = 200
    assert np.array_equal(run("temporal-denoise", frames, "gray", (16, 16)), frames)


def test_denoise_weighs_by_closeness():
    frames = np.array([[100], [100], [103], [100], [100]], np.uint8)
    weight = round(255 * np.exp(-0.5 * (3 / 3) ** 2))
    want = (255 * 103 + 4 * weight * 100) / (255 + 4 * weight)
    assert run("temporal-denoise:strength=3", frames, "gray", (1, 1))[2, 0] == round(want)
    deep = run("temporal-denoise:strength=3", frames.astype(np.uint16) * 257, "gray16", (1, 1))[2, 0]
    assert deep / 257 == pytest.approx(want, abs=0.02)


def test_denoise_needs_its_radius_on_both_sides():
    assert resolve("temporal-denoise:radius=5").filter.halo == Halo(5, 5)

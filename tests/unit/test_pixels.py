"""Pixel formats: shapes, also of odd sizes, and views without copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcloud.pixels import FrameBuffer, Planes, PlanesRGB, pixel_format, planes_of

STORED = [
    *(f"yuv{s}p{b}" for s in ("410", "411", "420", "422", "440", "444") for b in ("", "9", "10", "12", "14", "16")),
    *(f"gbrp{b}" for b in ("", "9", "10", "12", "14", "16")),
    *(f"gray{b}" for b in ("", "9", "10", "12", "14", "16")),
    "rgb24",
    "bgr24",
    "rgb48",
    "bgr48",
]


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("yuv420p", (64, 48), [(48, 64), (24, 32), (24, 32)]),
        ("yuv420p", (5, 3), [(3, 5), (2, 3), (2, 3)]),
        ("yuv422p10", (5, 3), [(3, 5), (3, 3), (3, 3)]),
        ("yuv440p", (5, 3), [(3, 5), (2, 5), (2, 5)]),
        ("yuv411p", (5, 3), [(3, 5), (3, 2), (3, 2)]),
        ("yuv410p", (5, 3), [(3, 5), (1, 2), (1, 2)]),
        ("yuv444p", (1, 1), [(1, 1), (1, 1), (1, 1)]),
        ("bgr24", (5, 3), [(3, 5, 3)]),
        ("gray", (5, 3), [(3, 5)]),
        ("gbrp12", (5, 3), [(3, 5), (3, 5), (3, 5)]),
    ],
)
def test_chroma_of_odd_sizes_rounds_up(name, size, shapes):
    assert list(pixel_format(name).plane_shapes(*size)) == shapes


@pytest.mark.parametrize("name", STORED)
@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_planes_lie_one_after_the_other_without_gaps(name, width, height):
    fmt = pixel_format(name)
    flat = np.arange(fmt.samples(width, height)).astype(fmt.dtype)
    planes = planes_of(fmt.view(flat, width, height))
    assert np.array_equal(np.concatenate([p.ravel() for p in planes]), flat)
    assert tuple(p.shape for p in planes) == fmt.plane_shapes(width, height)
    assert all(np.shares_memory(p, flat) for p in planes)
    assert fmt.frame_bytes(width, height) == flat.nbytes


@pytest.mark.parametrize("name", STORED)
def test_depth_decides_the_dtype_and_ffmpegs_name(name):
    fmt = pixel_format(name)
    deep = fmt.bits > 8
    assert fmt.dtype == (np.uint16 if deep else np.uint8)
    assert fmt.av_name == (f"{name}le" if deep else name)
    assert pixel_format(fmt.av_name) == fmt


@pytest.mark.parametrize(
    ("name", "family", "bits"),
    [
        ("yuv420p", "yuv", 8),
        ("yuv420p10", "yuv", 10),
        ("bgr48", "rgb", 16),
        ("gbrp", "rgb", 8),
        ("gbrp14", "rgb", 14),
        ("gray", "gray", 8),
        ("gray12", "gray", 12),
    ],
)
def test_family_and_bits(name, family, bits):
    assert (pixel_format(name).family, pixel_format(name).bits) == (family, bits)


def test_the_old_full_range_names_have_the_same_layout():
    assert pixel_format("yuvj420p") == pixel_format("yuv420p")


@pytest.mark.parametrize(
    "name", ["nv12", "bgr0", "pal8", "yuyv422", "yuva420p", "gbrap", "grayf32", "yuv420p8", "rgb2", ""]
)
def test_formats_that_chunks_do_not_hold_are_refused(name):
    with pytest.raises(KeyError) as e:
        pixel_format(name)
    assert e.value.args == (name,)


def test_planes_are_named():
    flat = np.arange(12, dtype=np.uint8)
    frame = pixel_format("yuv444p").view(flat, 2, 2)
    assert isinstance(frame, Planes)
    assert frame.v.tolist() == [[8, 9], [10, 11]]
    rgb = pixel_format("gbrp").view(flat, 2, 2)
    assert isinstance(rgb, PlanesRGB)
    assert rgb.g.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("name", ["yuv420p", "bgr24", "gray16"])
def test_a_buffer_shows_what_is_written_and_lets_nobody_write_who_only_looks(name):
    buffer = FrameBuffer(pixel_format(name), 6, 4)
    planes_of(buffer.frame)[0][...] = 7
    assert (planes_of(buffer.shown)[0] == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        planes_of(buffer.shown)[0][...] = 1

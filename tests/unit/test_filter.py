"""Filters: parameters as text, the short form, and which pixel format a filter gets."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from vidcloud.errors import PluginError
from vidcloud.filter import (
    WORK_FORMATS,
    YUV,
    YUV16,
    At,
    Filter,
    Halo,
    configure,
    frame_filter,
    negotiate,
    param,
    parameters,
)
from vidcloud.pixels import Planes, pixel_format


@dataclass
class Sample(Filter):
    """All kinds of parameters."""

    radius: int = param(3, low=1, high=9, help="how far")
    amount: float = param(0.5, low=0)
    edge_mode: str = param("wrap", choices=("wrap", "smear"))
    linear: bool = param(default=False)

    def apply(self, window, out, at):
        out[...] = window[0]


# -- parameters --------------------------------------------------------------------------------------------------------


def test_parameters_are_read_from_the_class():
    found = parameters(Sample)
    assert [(p.name, p.type, p.default) for p in found] == [
        ("radius", int, 3),
        ("amount", float, 0.5),
        ("edge_mode", str, "wrap"),
        ("linear", bool, False),
    ]
    assert (found[0].low, found[0].high, found[0].help) == (1, 9, "how far")


def test_text_becomes_values():
    made = configure(Sample, {"radius": "9", "amount": "1e1", "edge-mode": "smear", "linear": "Yes"}, "s")
    assert made == Sample(9, 10.0, "smear", linear=True)
    assert type(made.amount) is float


def test_dashes_and_underscores_mean_the_same():
    assert configure(Sample, {"edge_mode": "smear"}, "s") == configure(Sample, {"edge-mode": "smear"}, "s")


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("radius", "0", "filter s: radius=0: must be at least 1"),
        ("radius", "10", "filter s: radius=10: must be at most 9"),
        ("radius", "1.5", "filter s: radius=1.5: must be a whole number"),
        ("amount", "lots", "filter s: amount=lots: must be a number"),
        ("amount", "nan", "filter s: amount=nan: must be a finite number"),
        ("amount", "inf", "filter s: amount=inf: must be a finite number"),
        ("edge-mode", "x", "filter s: edge_mode=x: must be one of wrap, smear"),
        ("linear", "maybe", "filter s: linear=maybe: must be true or false"),
        ("radios", "1", "filter s has no parameter radios: it has radius, amount, edge-mode, linear"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(key, text, line):
    with pytest.raises(PluginError) as e:
        configure(Sample, {key: text}, "s")
    assert str(e.value) == line


def test_bounds_are_inclusive():
    assert [configure(Sample, {"radius": t}, "s").radius for t in "19"] == [1, 9]


def test_a_class_must_be_a_dataclass_with_plain_defaults():
    class Undecorated(Filter):
        def apply(self, window, out, at):
            pass

    @dataclass
    class NoDefault(Undecorated):
        radius: int

    @dataclass
    class Strange(Undecorated):
        radius: complex = 1j

    for cls, line in [
        (Undecorated, "must be a dataclass"),
        (NoDefault, "radius of NoDefault needs a default"),
        (Strange, "radius of Strange must be int, float, bool or str"),
    ]:
        with pytest.raises(PluginError, match=line):
            configure(cls, {}, "s")


@pytest.mark.parametrize("wanted", [("yuv420p10",), ("bgr24", "nv12"), ()])
def test_unknown_formats_are_refused(wanted):
    @dataclass
    class Odd(Sample):
        formats: ClassVar = wanted

    with pytest.raises(PluginError, match="asks for pixel format"):
        configure(Odd, {}, "s")


def test_an_unfinished_class_is_refused():
    @dataclass
    class Unfinished(Filter):
        pass

    with pytest.raises(PluginError, match="abstract"):
        configure(Unfinished, {}, "s")


# -- the short form ----------------------------------------------------------------------------------------------------


HERE = At(0, 0.0)


def apply(made, *frames, out=None, at=HERE):
    out = np.zeros_like(frames[0]) if out is None else out
    made.apply(frames, out, at)
    return out


def test_a_function_becomes_a_filter_with_parameters():
    @frame_filter(formats=("gray",))
    def add(frame, *, amount: int = param(1, high=5), twice=False):
        """Add."""
        return frame + np.uint8(amount * (1 + twice))

    assert (add.__name__, add.__doc__, add.formats) == ("add", "Add.", ("gray",))
    assert [(p.name, p.type, p.high) for p in parameters(add)] == [("amount", int, 5), ("twice", bool, None)]
    made = configure(add, {"amount": "2", "twice": "1"}, "add")
    assert made.halo == Halo(0, 0)
    assert apply(made, np.full((2, 2), 10, np.uint8)).tolist() == [[14, 14], [14, 14]]


def test_a_function_may_ask_where_the_frame_stands():
    @frame_filter(formats=("gray",))
    def mark(frame, *, at):
        return np.full_like(frame, at.frame + round(at.time_s * 10))

    assert parameters(mark) == ()
    assert apply(mark(), np.zeros((1, 1), np.uint8), at=At(3, 0.5)).tolist() == [[8]]


def test_a_function_of_yuv_may_return_planes_or_a_plain_tuple():
    frame = Planes(*(np.full((2, 2), n, np.uint8) for n in (1, 2, 3)))

    @frame_filter(formats=("yuv444p",))
    def swap(frame, *, named=False):
        parts = frame.y, frame.v, frame.u
        return Planes(*parts) if named else parts

    for named in (False, True):
        out = Planes(*(np.zeros((2, 2), np.uint8) for _ in range(3)))
        apply(swap(named), frame, out=out)
        assert [int(p[0, 0]) for p in out] == [1, 3, 2]


def test_a_function_that_returns_something_else_is_told_what_it_must_be():
    @frame_filter(formats=("yuv444p",))
    def luma(frame):
        return frame.y

    out = Planes(*(np.zeros((2, 2), np.uint8) for _ in range(3)))
    with pytest.raises(
        ValueError, match=r"returned array \(2, 2\) uint8; must be array .*, array .*, array \(2, 2\) uint8"
    ):
        apply(luma(), out, out=out)


NOTHING = param(None)


def test_parameters_of_a_function_are_keyword_only_with_default_and_type():
    def positional(frame, amount=1):
        return frame

    def undecided(frame, *, amount):
        return frame

    def untyped(frame, *, amount=NOTHING):
        return frame

    for function in (positional, undecided, untyped):
        with pytest.raises(TypeError, match="amount must be keyword-only with a default and a type"):
            frame_filter()(function)


# -- which pixel format a filter gets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("native", "formats", "chosen"),
    [
        # as decoded, where the filter takes it
        *((name, WORK_FORMATS, name) for name in (*YUV, *YUV16)),
        ("yuv422p", ("bgr24", *YUV), "bgr24"),  # no loss either way: the filter's order decides
        ("yuv420p", (*YUV, *YUV16, "bgr24", "bgr48"), "yuv420p"),
        # more bits find the 16-bit twin, fewer don't
        ("yuv420p10", (*YUV, *YUV16), "yuv420p16"),
        ("yuv422p12", (*YUV, *YUV16), "yuv422p16"),
        ("yuv420p10", ("bgr24", "bgr48"), "bgr48"),
        ("yuv420p", ("bgr48", "bgr24"), "bgr24"),
        ("yuv420p", ("bgr48",), "bgr48"),
        ("yuv420p10", ("yuv420p",), "yuv420p"),
        # depth before colour before subsampling
        ("yuv420p10", ("yuv420p", "gray16"), "gray16"),
        ("yuv420p", ("gray", "yuv444p"), "yuv444p"),
        ("yuv422p", ("yuv420p", "rgb24"), "rgb24"),
        ("yuv422p", ("yuv420p",), "yuv420p"),
        # RGB stays RGB
        ("bgr24", ("yuv444p", "rgb24"), "rgb24"),
        ("gbrp", (*YUV, "bgr24"), "bgr24"),
        ("gbrp10", (*YUV, *YUV16, "bgr24", "bgr48"), "bgr48"),
        ("gbrp10", (*YUV16, "bgr24"), "bgr24"),
        ("gbrp10", ("gray16", "bgr24"), "bgr24"),
        ("rgb24", YUV, "yuv420p"),
        # gray
        ("gray", (*YUV, "gray"), "gray"),
        ("gray", (*YUV, "bgr24"), "bgr24"),
        ("gray10", ("gray", "gray16"), "gray16"),
        ("gray", ("gray16", "gray"), "gray"),
    ],
)
def test_the_format_with_the_least_loss_is_chosen(native, formats, chosen):
    assert negotiate(pixel_format(native), formats).name == chosen


def test_halos_add():
    assert Halo(1, 2) + Halo(3, 0) == Halo(4, 2)


def test_negotiation_keeps_the_order_of_channels():
    """Swapping channels and back would cost, and show nothing."""
    assert negotiate(pixel_format("rgb24"), ("bgr24", "rgb24")).name == "rgb24"
    assert negotiate(pixel_format("bgr24"), ("rgb24", "bgr24")).name == "bgr24"
    assert negotiate(pixel_format("gbrp"), ("bgr24", "rgb24")).name == "bgr24"

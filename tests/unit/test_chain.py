"""Chains: windows and halos, formats, errors; and the promise that chunk borders can't be seen."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcloud.chain import Chain, Stage, total_halo
from vidcloud.errors import FilterError, PluginError
from vidcloud.filter import YUV, YUV16, Filter, FrameSpec, Halo, param
from vidcloud.pixels import pixel_format, planes_of

WIDTH, HEIGHT = 4, 3
GRAY = FrameSpec(pixel_format("gray"), WIDTH, HEIGHT, full_range=True, matrix="bt709")


@dataclass
class Weigh(Filter):
    """Sees which frame stands where in its window, and the frame's own number."""

    formats: ClassVar = ("gray",)
    before: int = param(0)
    after: int = param(0)

    @property
    def halo(self):
        return Halo(self.before, self.after)

    def apply(self, window, out, at):
        assert len(window) == self.before + 1 + self.after
        out[...] = sum((2 * k + 1) * frame.astype(np.int64) for k, frame in enumerate(window)) + at.frame


@dataclass
class Weigh16(Weigh):
    formats: ClassVar = ("gray16",)


@dataclass
class Spy(Weigh):
    """Writes down what it is given."""

    seen: Any = field(default_factory=list, init=False)

    def apply(self, window, out, at):
        self.seen.append((at, [int(f[0, 0]) for f in window]))
        out[...] = window[self.before]


@dataclass
class Fails(Weigh):
    at_frame: int = param(5)

    def apply(self, window, out, at):
        out[...] = 99
        if at.frame == self.at_frame:
            raise RuntimeError("too bright\nto look at")
        out[...] = window[self.before] + 1


def convert(src, dst):
    """8 and 16 bits of gray into each other."""
    up = dst.format.bits > src.format.bits

    def run(flat, out):
        out[...] = flat.astype(np.int64) * 257 if up else flat >> 8

    return run


def no_convert(src, dst):
    raise AssertionError(f"no conversion is needed from {src.format.name} to {dst.format.name}")


def chain(*filters, source=GRAY, target=None, converter=convert):
    stages = [Stage(type(f).__name__.lower(), f) for f in filters]
    return Chain(stages, source, target or source.format, converter)


def frames_of(count, spec=GRAY, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, spec.format.samples(spec.width, spec.height))).astype(spec.format.dtype)


def numbered(count):
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None], WIDTH * HEIGHT, axis=1)


def run(made, frames, part=None, **kwargs):
    """Filter a part as a processor does: it has the part and its halo."""
    part = range(len(frames)) if part is None else part
    before, after = made.halo
    first, stop = max(0, part.start - before), min(len(frames), part.stop + after)
    out = np.empty((len(part), frames.shape[1]), frames.dtype)
    made.run(frames[first:stop].copy(), first, out, part.start, [n / 25 for n in range(first, stop)], **kwargs)
    return out


def serially(filters, frames):
    """An oracle that shares nothing with `Chain`: the whole video through one filter after the other."""
    pictures, deep = [f.astype(np.int64) for f in frames], False
    for f in filters:
        wants_deep = f.formats == ("gray16",)
        if wants_deep != deep:
            pictures, deep = [p * 257 if wants_deep else p >> 8 for p in pictures], wants_deep
        made = []
        for i in range(len(pictures)):
            window = [pictures[min(max(j, 0), len(pictures) - 1)] for j in range(i - f.before, i + f.after + 1)]
            made.append((sum((2 * k + 1) * p for k, p in enumerate(window)) + i) % (65536 if deep else 256))
        pictures = made
    return np.array([p >> 8 if deep else p for p in pictures], np.uint8)


# -- chunk borders can't be seen ---------------------------------------------------------------------------------------

some_filters = st.lists(
    st.builds(lambda cls, b, a: cls(b, a), st.sampled_from([Weigh, Weigh16]), st.integers(0, 4), st.integers(0, 4)),
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(filters=some_filters, count=st.integers(1, 30), data=st.data())
def test_chunked_equals_serial_for_any_chain_and_any_chunks(filters, count, data):
    frames = frames_of(count, seed=count)
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=5), label="cuts")})
    parts = [range(a, b) for a, b in pairwise(cuts)]
    made = chain(*filters)
    want = serially(filters, frames)
    for part in data.draw(st.permutations(parts), label="order"):
        assert np.array_equal(run(made, frames, part), want[part.start : part.stop])


@pytest.mark.parametrize("name", [*YUV, *YUV16, "bgr24", "gray16"])
def test_chunked_equals_unchunked_in_every_layout(name):
    @dataclass
    class Mean(Weigh):
        formats: ClassVar = (name,)

        def apply(self, window, out, at):
            for k, want in enumerate(planes_of(out)):
                want[...] = np.mean([planes_of(f)[k] for f in window], axis=0)

    spec = FrameSpec(pixel_format(name), 5, 3, full_range=False, matrix="bt709")
    frames = frames_of(9, spec)
    made = chain(Mean(1, 1), Mean(0, 2), source=spec, converter=no_convert)
    whole = run(made, frames)
    assert np.array_equal(np.concatenate([run(made, frames, range(n, n + 1)) for n in range(9)]), whole)


def test_more_frames_than_the_halo_change_nothing():
    frames = frames_of(20)
    made = chain(Weigh(2, 1), Weigh(1, 1))
    out = np.empty((3, frames.shape[1]), np.uint8)
    made.run(frames, 0, out, 9, [0.0] * 20)
    assert np.array_equal(out, run(made, frames, range(9, 12)))


def test_halos_of_a_chain_add_up():
    assert chain(Weigh(2, 1), Weigh(0, 3), Weigh16(1, 0)).halo == Halo(3, 4)
    assert chain().halo == Halo(0, 0)
    assert total_halo(iter([Weigh(1, 2), Weigh(3, 4)])) == Halo(4, 6)


# -- what a filter sees ------------------------------------------------------------------------------------------------


def test_the_video_ends_repeat_the_first_and_last_frame():
    spy = Spy(2, 1)
    run(chain(spy), numbered(4))
    assert [w for _, w in spy.seen] == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3]]


def test_a_video_shorter_than_the_halo_works():
    spy = Spy(3, 3)
    run(chain(spy), numbered(1))
    assert [w for _, w in spy.seen] == [[0] * 7]


def test_a_filter_is_told_the_frames_place_in_the_video():
    spy = Spy(1, 0)
    run(chain(spy), numbered(10), range(4, 6))
    assert [at for at, _ in spy.seen] == [(4, 4 / 25), (5, 5 / 25)]


def test_a_filter_before_one_with_a_halo_is_told_the_right_places_too():
    spy = Spy(0, 0)
    run(chain(spy, Weigh(2, 1)), numbered(10), range(4, 6))
    assert [at.frame for at, _ in spy.seen] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("filters", [(Spy(1, 1),), (Weigh(), Spy(1, 1)), (Weigh16(), Spy(1, 1))])
def test_frames_are_shown_read_only(filters):
    class Writes(Spy):
        def apply(self, window, out, at):
            window[0][...] = 0

    made = chain(*filters[:-1], Writes(1, 1))
    frames = frames_of(3)
    with pytest.raises(FilterError, match="read-only"):
        run(made, frames)


def test_the_source_is_not_changed():
    frames = frames_of(6)
    before = frames.copy()
    made = chain(Weigh(1, 1), Weigh16())
    made.run(frames, 0, np.empty_like(frames), 0, [0.0] * 6)
    assert np.array_equal(frames, before)


def test_setup_is_called_once_with_the_format_of_the_filter():
    told = []

    @dataclass
    class Asks(Weigh):
        formats: ClassVar = ("gray", "bgr24")

        def setup(self, spec):
            told.append(spec)

    yuv = FrameSpec(pixel_format("yuv420p"), 4, 3, full_range=False, matrix="smpte170m")
    made = Chain([Stage("asks", Asks())], yuv, yuv.format, lambda _a, _b: lambda _x, _y: None)
    assert told == [FrameSpec(pixel_format("bgr24"), 4, 3, full_range=True, matrix="smpte170m")]
    assert made.formats == ("bgr24",)


def test_a_filter_that_refuses_the_frames_is_a_plugin_error():
    @dataclass
    class Refuses(Weigh):
        def setup(self, spec):
            raise ValueError("radius is larger than the picture")

    with pytest.raises(PluginError, match="filter refuses: radius is larger than the picture"):
        chain(Refuses())


# -- formats -----------------------------------------------------------------------------------------------------------


def conversions(source, target, *formats):
    """Which conversions a chain of filters of these formats asks for."""
    asked = []

    def factory(src, dst):
        asked.append((src.format.name, dst.format.name, src.full_range, dst.full_range))
        return lambda _a, _b: None

    stages = []
    for wanted in formats:

        @dataclass
        class Some(Weigh):
            formats: ClassVar = wanted

        stages.append(Stage("some", Some()))
    spec = FrameSpec(pixel_format(source), 4, 3, full_range=False, matrix="bt709")
    Chain(stages, spec, pixel_format(target), factory)
    return asked


@pytest.mark.parametrize(
    ("source", "target", "formats", "asked"),
    [
        ("yuv420p", "yuv420p", [], []),
        ("yuv420p", "yuv420p", [YUV], []),
        ("yuv420p", "yuv420p", [YUV, YUV, YUV], []),
        ("yuv420p", "yuv444p", [], [("yuv420p", "yuv444p")]),
        ("yuv420p", "yuv420p", [("bgr24",), ("bgr24",)], [("yuv420p", "bgr24"), ("bgr24", "yuv420p")]),
        ("yuv420p", "bgr24", [("bgr24",)], [("yuv420p", "bgr24")]),
        ("yuv420p10", "yuv420p10", [(*YUV, *YUV16)], [("yuv420p10", "yuv420p16"), ("yuv420p16", "yuv420p10")]),
        ("gbrp", "gbrp", [(*YUV, "bgr24")], [("gbrp", "bgr24"), ("bgr24", "gbrp")]),
        # once in RGB, a filter that takes both stays in RGB
        ("yuv420p", "yuv420p", [("bgr24",), (*YUV, "bgr24")], [("yuv420p", "bgr24"), ("bgr24", "yuv420p")]),
    ],
)
def test_conversions_are_made_only_where_formats_differ(source, target, formats, asked):
    assert [c[:2] for c in conversions(source, target, *formats)] == asked


def test_conversions_know_the_range_of_both_sides():
    assert conversions("yuv420p", "yuv420p", ("bgr24",), ("gray",)) == [
        ("yuv420p", "bgr24", False, True),
        ("bgr24", "gray", True, True),
        ("gray", "yuv420p", True, False),
    ]


def test_without_filters_frames_pass():
    frames = frames_of(5)
    assert np.array_equal(run(chain(converter=no_convert), frames), frames)
    assert np.array_equal(run(chain(converter=no_convert), frames, range(2, 4)), frames[2:4])


# -- errors and progress -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [(Fails(),), (Weigh(), Fails()), (Fails(), Weigh(2, 2)), (Weigh16(), Fails())])
def test_an_error_names_filter_frame_time_and_reason(filters):
    with pytest.raises(FilterError) as e:
        run(chain(*filters), frames_of(10), range(4, 8))
    assert (e.value.filter_name, e.value.frame, e.value.time_s) == ("fails", 5, 0.2)
    assert e.value.detail == "RuntimeError: too bright to look at"
    assert str(e.value) == "filter fails failed on frame 5 (at 0.200 s): RuntimeError: too bright to look at"
    assert "raise RuntimeError" in e.value.traceback
    assert isinstance(e.value.__cause__, RuntimeError)


def test_keep_passes_the_unfiltered_frame_and_tells():
    frames = numbered(10)
    made = chain(Fails())
    out = run(made, frames, keep=True)
    assert out[:, 0].tolist() == [1, 2, 3, 4, 5, 5, 7, 8, 9, 10]
    assert (out == out[:, :1]).all()
    assert made.kept == [(5, "fails: RuntimeError: too bright to look at")]


def test_keep_goes_on_with_the_next_filter():
    out = run(chain(Fails(), Fails(at_frame=-1)), numbered(10), keep=True)
    assert out[:, 0].tolist() == [2, 3, 4, 5, 6, 6, 8, 9, 10, 11]


def test_a_frame_of_the_halo_that_is_kept_is_told_by_its_own_chunk_only():
    made = chain(Fails(), Weigh(1, 1))
    run(made, numbered(10), range(6, 8), keep=True)
    assert made.kept == []
    run(made, numbered(10), range(4, 6), keep=True)
    assert [frame for frame, _ in made.kept] == [5]
    run(made, numbered(10), range(2), keep=True)
    assert made.kept == []


def test_an_interrupt_is_not_a_filters_error():
    @dataclass
    class Interrupted(Weigh):
        def apply(self, window, out, at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(chain(Interrupted()), frames_of(2), keep=True)


def test_a_chain_can_be_used_again_after_an_error():
    frames = frames_of(10)
    made = chain(Weigh(1, 1), Fails())
    with pytest.raises(FilterError):
        run(made, frames)
    assert np.array_equal(run(made, frames, range(7, 9)), run(chain(Weigh(1, 1), Fails()), frames, range(7, 9)))


@pytest.mark.parametrize("filters", [(), (Weigh(1, 1),), (Weigh16(1, 1),)])
def test_each_finished_frame_is_told(filters):
    told = []
    run(chain(*filters), frames_of(10), range(3, 6), step=told.append)
    assert told == [1, 2, 3]

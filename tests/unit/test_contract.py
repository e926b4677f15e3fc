"""The contract sees every kind of filter that would come out differently on many machines, and passes those that don't."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from vidcloud.contract import PROMISES, assert_keeps_promises, check, synthetic_frames
from vidcloud.filter import WORK_FORMATS, YUV, YUV16, Filter, Halo, frame_filter, param
from vidcloud.pixels import pixel_format, planes_of


@dataclass
class Average(Filter):
    """A good one, with a halo, in all formats."""

    formats: ClassVar = WORK_FORMATS
    before: int = param(2, low=0, high=9)
    after: int = param(1, low=0, high=9)

    @property
    def halo(self):
        return Halo(self.before, self.after)

    def apply(self, window, out, at):
        for k, want in enumerate(planes_of(out)):
            want[...] = np.mean([planes_of(f)[k] for f in window], axis=0)


@dataclass
class Plain(Filter):
    """The base of the bad ones: copies the frame."""

    formats: ClassVar = ("gray",)

    def apply(self, window, out, at):
        out[...] = window[self.halo.before]


def promises(tested, **kwargs):
    return {f.promise for f in check(tested, **kwargs)}


def test_a_good_filter_has_no_findings_in_any_format():
    assert check(Average()) == []


@pytest.mark.parametrize("formats", [YUV, YUV16, ("gray", "gray16"), ("bgr24", "rgb48")])
def test_a_good_function_has_no_findings(formats):
    @frame_filter(formats=formats)
    def flip(frame, *, at):
        flipped = tuple(p[::-1] if at.frame % 2 else p for p in planes_of(frame))
        return flipped if len(flipped) > 1 else flipped[0]

    assert_keeps_promises(flip)


def test_a_halo_longer_than_a_chunk_is_checked_away_from_the_ends():
    assert check(Average(before=9, after=9), formats=("gray",)) == []


def test_buffers_between_calls_are_allowed():
    @dataclass
    class Buffered(Plain):
        def setup(self, spec):
            self.buffer = np.empty((spec.height, spec.width), np.float32)

        def apply(self, window, out, at):
            np.multiply(window[0], 0.5, out=self.buffer)
            out[...] = self.buffer

    assert check(Buffered()) == []


def test_a_kept_picture_is_found():
    """A filter that keeps the previous frame itself, in place of a halo, differs at chunk borders."""

    @dataclass
    class Ghost(Plain):
        previous: Any = field(default=None, init=False)

        def apply(self, window, out, at):
            out[...] = window[0] if self.previous is None else np.maximum(window[0], self.previous)
            self.previous = window[0].copy()

    found = check(Ghost())
    assert {"chunked", "deterministic"} == {f.promise for f in found}
    assert {f.chunk for f in found if f.promise == "chunked"} == {1, 7, 20}
    assert "in place of a halo" in str(next(f for f in found if f.promise == "chunked"))


def test_a_picture_kept_and_forgotten_at_jumps_is_found():
    """One that notices a jump in the numbers and starts anew hides from all but fresh instances."""

    @dataclass
    class Ghost(Plain):
        last: int = field(default=-9, init=False)

        def apply(self, window, out, at):
            out[...] = np.maximum(window[0], self.previous) if at.frame == self.last + 1 else window[0]
            self.previous, self.last = window[0].copy(), at.frame

    found = check(Ghost())
    assert {f.promise for f in found} == {"chunked"}
    assert {f.frame for f in found} == {1, 7, 20}


def test_a_kept_reference_is_found():
    @dataclass
    class Kept(Plain):
        def apply(self, window, out, at):
            out[...] = getattr(self, "first", window[0])
            self.first = window[0]

    assert "chunked" in promises(Kept())


def test_a_call_counter_is_found():
    @dataclass
    class Counter(Plain):
        calls: int = field(default=0, init=False)

        def apply(self, window, out, at):
            self.calls += 1
            out[...] = self.calls

    assert promises(Counter()) == {"chunked", "deterministic"}


def test_state_outside_the_instance_is_found_by_the_order_of_chunks():
    """A module's variable outlives instances; only chunks in falling order show it."""
    kept: dict[str, float] = {}

    @dataclass
    class Module(Plain):
        def apply(self, window, out, at):
            kept["top"] = max(kept["top"] if at.frame else 0, window[0].mean())
            out[...] = int(kept["top"])

    assert promises(Module()) == {"chunked"}


def test_writing_into_the_window_is_found():
    @dataclass
    class Impure(Plain):
        def apply(self, window, out, at):
            window[0][0] = 0
            out[...] = window[0]

    (found,) = check(Impure())
    assert found.promise == "pure"
    assert "copy it first" in found.text
    assert found.frame == 0


def test_writing_into_the_window_through_opencv_is_found():
    cv2 = pytest.importorskip("cv2")

    @frame_filter()
    def boxed(frame):
        return cv2.rectangle(frame, (0, 0), (2, 2), (0, 0, 255))

    assert promises(boxed()) == {"pure"}


def test_forcing_a_frame_writeable_is_found():
    @dataclass
    class Forced(Plain):
        def apply(self, window, out, at):
            out[...] = window[0]
            base = window[0]
            while base.base is not None:
                base = base.base
            base[...] = 0

    assert "pure" in promises(Forced())


@pytest.mark.parametrize(
    "result",
    [
        lambda frame: frame[:-1],
        lambda frame: frame.astype(np.float32),
        lambda frame: frame[..., 0],
        lambda _frame: None,
        lambda frame: (frame, frame),
        lambda _frame: (),
    ],
)
def test_a_wrong_shape_or_dtype_is_found(result):
    @frame_filter()
    def bad(frame):
        return result(frame)

    (found,) = check(bad())
    assert found.promise == "shape"
    assert "must be array (48, 64, 3) uint8" in found.text


def test_a_wrong_shape_in_the_long_form_is_found():
    @dataclass
    class Small(Plain):
        def apply(self, window, out, at):
            out[...] = window[0][:-1]

    assert promises(Small()) == {"shape"}


def test_noise_is_found():
    @frame_filter(formats=("gray",))
    def noise(frame):
        return frame ^ np.random.default_rng().integers(0, 2, frame.shape, np.uint8)

    (found,) = check(noise())
    assert found.promise == "deterministic"


def test_seeded_noise_by_call_order_is_found():
    @dataclass
    class Seeded(Plain):
        def setup(self, spec):
            self.rng = np.random.default_rng(1)

        def apply(self, window, out, at):
            out[...] = window[0] ^ self.rng.integers(0, 2, window[0].shape, np.uint8)

    assert promises(Seeded()) == {"chunked", "deterministic"}


def test_noise_seeded_by_the_frame_is_fine():
    @frame_filter(formats=("gray",))
    def noise(frame, *, at):
        return frame ^ np.random.default_rng(at.frame).integers(0, 2, frame.shape, np.uint8)

    assert check(noise()) == []


@pytest.mark.parametrize("rest", [np.s_[-1], np.s_[:, -1]])
def test_a_picture_that_is_not_written_everywhere_is_found(rest):
    @dataclass
    class Hole(Plain):
        def apply(self, window, out, at):
            keep = out[rest].copy()
            out[...] = window[0]
            out[rest] = keep

    (found,) = check(Hole())
    assert found.promise == "written"


def test_chroma_that_is_not_written_is_found():
    @dataclass
    class LumaOnly(Plain):
        formats: ClassVar = YUV

        def apply(self, window, out, at):
            out.y[...] = window[0].y

    found = check(LumaOnly())
    assert {f.promise for f in found} == {"written"}
    assert {f.format for f in found} == set(YUV)


def test_nan_is_found():
    @frame_filter(formats=("gray",))
    def stretch(frame):
        with np.errstate(divide="ignore"):
            return (frame / frame.max() * 255).astype(np.uint8)  # 0 / 0 on a black frame

    assert "finite" in promises(stretch())


def test_an_exception_is_found_with_its_frame():
    @frame_filter(formats=("gray",))
    def picky(frame):
        if not frame.any():
            raise RuntimeError("black")
        return frame

    (found,) = check(picky())
    assert (found.promise, found.frame, found.format, found.size) == ("runs", 5, "gray", (64, 48))
    assert str(found) == "gray, 64x48, frame 5: raises RuntimeError: black"


def test_short_and_odd_videos_are_tried():
    @frame_filter(formats=("yuv420p",))
    def even_only(frame):
        if frame.y.shape[1] % 2:
            raise RuntimeError("odd")
        return frame

    (found,) = check(even_only())
    assert (found.promise, found.size) == ("runs", (37, 23))


def test_videos_of_one_frame_are_tried():
    """There, all frames of a window are the same one."""

    @dataclass
    class Motion(Plain):
        @property
        def halo(self):
            return Halo(1, 1)

        def apply(self, window, out, at):
            moved = int(np.ptp([f.astype(int) for f in window], axis=0).max())
            out[...] = window[1] // (255 // moved)

    (found,) = check(Motion())
    assert (found.promise, found.frame) == ("runs", 0)
    assert "ZeroDivisionError" in found.text


def test_a_filter_may_refuse_some_sizes_but_not_all():
    @dataclass
    class Big(Plain):
        least: int = param(10)

        def setup(self, spec):
            if spec.height < self.least:
                raise ValueError("too small")

    assert check(Big()) == []
    (found,) = check(Big(least=1000))
    assert (found.promise, found.text) == ("runs", "refuses every size: filter Big: too small")


@pytest.mark.parametrize("halo", [(1, 1), Halo(-1, 0), Halo(0.5, 0), Halo(0, 100_000), None])
def test_an_odd_halo_is_found(halo):
    @dataclass
    class Odd(Plain):
        @property
        def halo(self):
            return halo

    assert promises(Odd()) == {"halo"}


def test_a_halo_that_raises_or_changes_is_found():
    @dataclass
    class Raises(Plain):
        @property
        def halo(self):
            return Halo(self.nothing)

    @dataclass
    class Grows(Plain):
        calls: int = field(default=0, init=False)

        @property
        def halo(self):
            return Halo(0, 1 if self.calls > 100 else 0)

        def apply(self, window, out, at):
            self.calls += 3
            out[...] = window[0]

    assert promises(Raises()) == {"halo"}
    assert promises(Grows()) == {"halo"}


def test_bad_defaults_are_found():
    @dataclass
    class Odd(Plain):
        radius: int = param(99, high=10)
        name: str = param(3)
        amount: float = param(1)

    assert [f.text for f in check(Odd())] == [
        "the default radius=99: must be at most 10",
        "the default name=3: must be of type str",
    ]


def test_the_pytest_helper_tells_what_is_broken(tmp_path):
    (tmp_path / "noise.py").write_text(
        "import numpy as np\nfrom vidcloud.filter import frame_filter\n\n"
        "@frame_filter(formats=('gray',))\ndef noise(frame, *, top=2):\n"
        "    return np.random.randint(0, top, frame.shape).astype('u1')\n"
    )
    with pytest.raises(AssertionError, match=r"noise breaks its promises:\n  the same frames give the same picture"):
        assert_keeps_promises(f"{tmp_path}/noise.py:noise:top=9")
    assert_keeps_promises(f"{tmp_path}/noise.py:top=1")
    assert_keeps_promises(Average, formats=("gray",))


def test_every_finding_is_of_a_known_promise():
    assert {"halo", "runs", "shape", "pure", "written", "finite", "deterministic", "chunked"} < set(PROMISES)


def test_synthetic_frames_repeat_and_move():
    fmt = pixel_format("bgr48")
    frames = synthetic_frames(fmt, 8, 6, 12)
    assert np.array_equal(frames, synthetic_frames(fmt, 8, 6, 12))
    assert frames.dtype == np.uint16
    assert (frames[5].max(), frames[6].min()) == (0, 65535)
    assert all((a != b).any() for a, b in pairwise(frames))

"""Whether a filter keeps the promises that let it run on many machines: see `PROMISES`.

Every filter, a user's too, gets these checks for free: ``vidcloud filters test FILE``, or in pytest::

    from vidcloud.contract import assert_keeps_promises


    def test_my_filter_keeps_its_promises():
        assert_keeps_promises("./mine.py:Sharpen:amount=2")  # or a Filter class, or an instance

The frames are synthetic, small, and the same on every run. That nothing was found is not a proof: a filter that looks
at the clock may pass.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidcloud import plugins
from vidcloud.chain import Chain, Convert, Stage
from vidcloud.errors import FilterError, PluginError
from vidcloud.filter import At, Filter, FrameSpec, Halo, parameters
from vidcloud.pixels import Array, Frame, PixelFormat, pixel_format

PROMISES = {
    "parameters": "the parameters' defaults are of their types and within their bounds",
    "halo": "the halo is two whole numbers, and stays what it is",
    "runs": "every format, odd and tiny sizes, videos of one and two frames work",
    "shape": "a picture has the shape and dtype of the frame",
    "pure": "the frames it is given stay as they were",
    "written": "every sample of the picture is written",
    "finite": "nothing that is not a number becomes a sample",
    "deterministic": "the same frames give the same picture, every time",
    "chunked": "chunked equals unchunked, in whatever order the chunks come",
}
"""What is checked, in this order: a promise's key and what it says."""

MAX_HALO = 240
"""Neighbours on one side that are still taken for meant. Every chunk reads its halo again."""

_LONG = 43  # two chunks of twenty and a rest
_CHUNKS = (1, 7, 20)


@dataclass(frozen=True)
class Finding:
    """A promise that was not kept.

    Attributes:
        promise: a key of `PROMISES`.
        text: what was seen.
        format: name of the pixel format, empty where it does not matter.
        size: of the frames, ``(width, height)``, or None.
        frame: index of the first frame concerned, or None.
        chunk: frames a chunk, or None.
    """

    promise: str
    text: str
    format: str = ""
    size: tuple[int, int] | None = None
    frame: int | None = None
    chunk: int | None = None

    def __str__(self) -> str:
        where = [self.format] if self.format else []
        if self.size:
            where.append(f"{self.size[0]}x{self.size[1]}")
        if self.frame is not None:
            where.append(f"frame {self.frame}")
        if self.chunk is not None:
            where.append(f"chunks of {self.chunk}")
        return f"{', '.join(where)}: {self.text}" if where else self.text


def check(tested: Filter, formats: Sequence[str] = ()) -> list[Finding]:
    """Check a filter's promises.

    Args:
        tested: a filter as configured; only its class and parameters are used, new instances are made of them.
        formats: check in these pixel formats instead of all that it lists.

    Returns:
        What was found: nothing if it keeps them all. Where a filter raises, its other promises can't be judged.
    """
    findings = [*_parameters(tested), *_halo(tested)]
    if any(f.promise == "halo" for f in findings):
        return findings
    before, after = tested.halo
    long = max(_LONG, before + after + _CHUNKS[-1] + 3)  # some chunk must not see an end of the video
    cases = (
        (64, 48, long, _CHUNKS),
        (64, 48, 1, ()),
        (64, 48, 2, (1,)),
        (37, 23, 9, (7,)),
        (5, 3, 3, (1,)),
    )
    for name in formats or tested.formats:
        refused = []
        for width, height, frames, chunks in cases:
            case = _Case(tested, pixel_format(name), width, height, frames)
            try:
                case.new()
            except PluginError as e:
                refused.append(str(e))
                continue
            found = list(case.findings(chunks))
            findings += found
            if found:
                break
        if len(refused) == len(cases):
            findings.append(Finding("runs", f"refuses every size: {refused[0]}", name))
    return findings


def assert_keeps_promises(tested: str | type[Filter] | Filter, formats: Sequence[str] = ()) -> None:
    """For pytest: fail unless a filter keeps all promises.

    Args:
        tested: a filter as ``--filter`` takes it, a class, or an instance.
        formats: as for `check`.

    Raises:
        AssertionError: with one line a finding.
        PluginError: the text names no filter.
    """
    if isinstance(tested, str):
        tested = plugins.resolve(tested).filter
    elif isinstance(tested, type):
        tested = tested()
    findings = check(tested, formats)
    if findings:
        lines = "\n".join(f"  {PROMISES[f.promise]}: {f}" for f in findings)
        raise AssertionError(f"{type(tested).__name__} breaks its promises:\n{lines}")


def _parameters(tested: Filter) -> Iterator[Finding]:
    for p in parameters(type(tested)):
        try:
            if type(p.default) is not p.type and not (p.type is float and type(p.default) is int):
                raise ValueError(f"{p.name}={p.default!r}: must be of type {p.type.__name__}")  # noqa: TRY301
            p.check(p.default)
        except ValueError as e:
            yield Finding("parameters", f"the default {e}")


def _halo(tested: Filter) -> Iterator[Finding]:
    try:
        halo = tested.halo
    except Exception as e:  # noqa: BLE001 - a user's code
        yield Finding("halo", f"reading it raises {type(e).__name__}: {e}")
        return
    if not isinstance(halo, Halo) or any(type(n) is not int or n < 0 for n in halo):
        yield Finding("halo", f"it is {halo!r}; return Halo(before, after) of whole numbers from 0")
    elif max(halo) > MAX_HALO:
        yield Finding("halo", f"it is {tuple(halo)}: every chunk would read so many more frames (at most {MAX_HALO})")


class _InFormat(Filter):
    """The tested filter, confined to one of its formats."""

    def __init__(self, inner: Filter, name: str) -> None:
        self.inner = inner
        self.__dict__["formats"] = (name,)  # a class variable, but of this instance alone

    @property
    def halo(self) -> Halo:
        return self.inner.halo

    def setup(self, spec: FrameSpec) -> None:
        self.inner.setup(spec)

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:
        self.inner.apply(window, out, at)


class _Case:
    """A filter on one synthetic video.

    Args:
        tested: gives class and parameters.
        fmt: the pixel format to work in.
        width: in pixels.
        height: in pixels.
        count: frames.
    """

    def __init__(self, tested: Filter, fmt: PixelFormat, width: int, height: int, count: int) -> None:
        self.tested: Any = tested
        self.spec = FrameSpec(fmt, width, height, full_range=fmt.family != "yuv", matrix="bt709")
        self.frames = synthetic_frames(fmt, width, height, count)
        self.times = [n * 0.04 + 0.001 * (n % 3) for n in range(count)]  # an uneven pace, as phones have it

    def new(self) -> Chain:
        """A fresh instance, set up.

        Raises:
            PluginError: it refuses these frames.
        """
        inner = dataclasses.replace(self.tested)
        return Chain(
            [Stage(type(inner).__name__, _InFormat(inner, self.spec.format.name))],
            self.spec,
            self.spec.format,
            _no_converter,
        )

    def run(self, chain: Chain, part: range, fill: int = 0) -> Array:
        """Filter a part of the video as a processor would: all it gets is the part and its halo.

        Raises:
            FilterError: the filter raised.
        """
        before, after = chain.halo
        have = slice(max(0, part.start - before), min(len(self.frames), part.stop + after))
        out = np.full((len(part), self.frames.shape[1]), fill, self.frames.dtype)
        chain.run(self.frames[have].copy(), have.start, out, part.start, self.times[have])
        return out

    def chunked(self, parts: Iterable[range], chain: Chain | None = None) -> Array:
        """Filter part after part, each by a fresh instance unless one is given; the results in the video's order."""
        out = np.empty_like(self.frames)
        for part in parts:
            out[part.start : part.stop] = self.run(chain or self.new(), part)
        return out

    def finding(self, promise: str, text: str, frame: int | None = None, chunk: int | None = None) -> Finding:
        return Finding(promise, text, self.spec.format.name, (self.spec.width, self.spec.height), frame, chunk)

    def findings(self, chunks: Sequence[int]) -> Iterator[Finding]:
        """All that is wrong on this video."""
        with warnings.catch_warnings(record=True) as told, np.errstate(invalid="warn"):
            warnings.simplefilter("always")
            try:
                found = list(self._compare(chunks))
            except FilterError as e:
                found = [self._failure(e)]
        casts = [w for w in told if issubclass(w.category, RuntimeWarning) and "in cast" in str(w.message)]
        if casts:
            found.append(self.finding("finite", "NaN or infinity, or a number far too large, was cast to a sample"))
        yield from found

    def _failure(self, e: FilterError) -> Finding:
        if "read-only" in e.detail or "readonly" in e.detail:
            return self.finding("pure", f"writes into a frame it is given ({e.detail}); copy it first", e.frame)
        if "; must be array" in e.detail or "could not broadcast" in e.detail:
            return self.finding("shape", e.detail, e.frame)
        return self.finding("runs", f"raises {e.detail}", e.frame)

    def _compare(self, chunks: Sequence[int]) -> Iterator[Finding]:
        whole = range(len(self.frames))
        chain = self.new()
        halo, pristine = chain.halo, self.frames.copy()
        shown = pristine.copy()
        want = np.zeros_like(pristine)
        chain.run(shown, 0, want, 0, self.times)
        if (n := _difference(shown, pristine)) is not None:
            yield self.finding("pure", "changes a frame it is given", n)
        if chain.halo != halo:
            yield self.finding("halo", f"was {tuple(halo)} at first and {tuple(chain.halo)} after some frames")
            return
        if (n := _difference(self.run(self.new(), whole), want)) is not None:
            yield self.finding("deterministic", "a second instance gives another picture", n)
            return  # whatever differs from here on tells nothing
        if (n := _difference(self.run(self.new(), whole, fill=int(np.iinfo(want.dtype).max)), want)) is not None:
            yield self.finding("written", "the picture depends on what was in `out`: a part of it is not written", n)
        if (n := _difference(self.run(chain, whole), want)) is not None:
            yield self.finding("deterministic", "the same instance gives another picture the second time", n)
        for size in chunks:
            parts = [range(start, min(start + size, len(whole))) for start in range(0, len(whole), size)]
            n = _difference(self.chunked(parts), want)
            if n is None:
                n = _difference(self.chunked(reversed(parts), self.new()), want)
            if n is not None:
                text = "differs from the unchunked run: is a picture kept between calls, in place of a halo?"
                yield self.finding("chunked", text, n, size)


def _difference(got: Array, want: Array) -> int | None:
    """The first frame that differs."""
    if np.array_equal(got, want):
        return None
    return int(np.flatnonzero((got != want).any(axis=1))[0])


def _no_converter(src: FrameSpec, dst: FrameSpec) -> Convert:
    raise AssertionError(f"no conversion is needed from {src.format.name} to {dst.format.name}")


def synthetic_frames(fmt: PixelFormat, width: int, height: int, count: int) -> Array:
    """Frames to try filters on: a moving slope with grain, a cut, and a black, a white and an even frame.

    Returns:
        ``(count, samples)``, the same for the same arguments; samples use all values of the format.
    """
    top = 2**fmt.bits - 1
    rng = np.random.default_rng([width, height])
    frames = np.empty((count, fmt.samples(width, height)), fmt.dtype)
    even = {5: 0, 6: top, 7: top // 2}
    for n in range(count):
        at = 0
        for shape in fmt.plane_shapes(width, height):
            y, x = np.ogrid[: shape[0], : shape[1]]
            slope = (x * 5 + y * 3 + n * 11 + (97 if n >= count // 2 else 0)) % 256 / 255
            if len(shape) == 3:
                slope = np.stack([slope, slope[::-1], slope[:, ::-1]], axis=2)
            plane = np.clip(slope + rng.normal(0, 0.1, shape), 0, 1) * top
            frames[n, at : at + plane.size] = even.get(n, plane.ravel())
            at += plane.size
    return frames

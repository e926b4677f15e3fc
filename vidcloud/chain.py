"""A chain of filters over a run of frames: windows, halos, conversions between pixel formats, one set of buffers."""

import itertools
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vidcloud.errors import FilterError, PluginError, one_line
from vidcloud.filter import At, Filter, FrameSpec, Halo, negotiate
from vidcloud.pixels import Array, Frame, FrameBuffer, PixelFormat, planes_of

Convert = Callable[[Array, Array], None]
"""Converts one frame's flat samples into another frame's flat samples."""
ConverterFactory = Callable[[FrameSpec, FrameSpec], Convert]
"""Makes a converter between two formats of the same picture."""


@dataclass(frozen=True)
class Stage:
    """A filter under the name that the user wrote."""

    name: str
    filter: Filter


class Chain:
    """Filters one after the other, ready for the frames of one video.

    Args:
        stages: the filters; none is allowed and passes frames through.
        source: how the frames come.
        target: the pixel format in which they are wanted.
        converter: makes conversions where formats differ.

    Attributes:
        kept: after a run with ``keep``: the frames a filter raised on, and why.

    Raises:
        PluginError: a filter refuses these frames.
    """

    def __init__(
        self, stages: Sequence[Stage], source: FrameSpec, target: PixelFormat, converter: ConverterFactory
    ) -> None:
        self._stages = tuple(stages)
        self.kept: list[tuple[int, str]] = []
        self._source = source
        self._specs: list[FrameSpec] = []
        spec = source
        for stage in self._stages:
            fmt = negotiate(spec.format, stage.filter.formats)
            spec = self._spec(fmt)
            self._specs.append(spec)
            try:
                stage.filter.setup(spec)
            except ValueError as e:
                raise PluginError(f"filter {stage.name}: {e}") from e
        target_spec = self._spec(target)
        steps = [source, *self._specs, target_spec]
        self._converts = [None if a.format == b.format else converter(a, b) for a, b in itertools.pairwise(steps)]
        # A stage's window holds references into the ring of buffers before it, so the ring is one longer.
        self._rings: list[list[FrameBuffer]] = []
        self._inputs: list[list[FrameBuffer]] = []
        for k, stage in enumerate(self._stages):
            size = self._window(stage) + 1
            self._inputs.append(self._buffers(self._specs[k], size if self._converts[k] else 0))
            following = self._window(self._stages[k + 1]) + 1 if k + 1 < len(self._stages) else 1
            self._rings.append(self._buffers(self._specs[k], following))

    def _spec(self, fmt: PixelFormat) -> FrameSpec:
        full = self._source.full_range or fmt.family != "yuv"
        return FrameSpec(fmt, self._source.width, self._source.height, full, self._source.matrix)

    def _buffers(self, spec: FrameSpec, count: int) -> list[FrameBuffer]:
        return [FrameBuffer(spec.format, spec.width, spec.height) for _ in range(count)]

    @staticmethod
    def _window(stage: Stage) -> int:
        before, after = stage.filter.halo
        return before + 1 + after

    @property
    def formats(self) -> tuple[str, ...]:
        """The pixel format that each filter works in."""
        return tuple(s.format.name for s in self._specs)

    @property
    def halo(self) -> Halo:
        """The neighbouring source frames that the whole chain needs."""
        return total_halo(s.filter for s in self._stages)

    def run(
        self,
        frames: Array,
        first: int,
        out: Array,
        out_first: int,
        times: Sequence[float],
        *,
        keep: bool = False,
        step: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Filter a run of frames.

        Args:
            frames: ``(n, samples)``: source frames of indices ``first … first + n - 1``: those wanted, and of the halo
                all that the video has.
            first: index in the video of ``frames[0]``.
            out: ``(m, samples)``, filled with the results for indices ``out_first … out_first + m - 1``.
            out_first: index in the video of ``out[0]``.
            times: presentation times of ``frames`` in seconds.
            keep: where a filter raises, pass the frame through it unchanged instead of failing.
            step: called with the number of finished frames, after each.

        Raises:
            FilterError: a filter raised; names the filter and the frame.
        """
        self.kept.clear()
        ranges = [range(out_first, out_first + len(out))]
        have = range(first, first + len(frames))
        for stage in reversed(self._stages):
            before, after = stage.filter.halo
            wanted = ranges[0]
            ranges.insert(0, range(max(have.start, wanted.start - before), min(have.stop, wanted.stop + after)))

        view = frames.view()
        view.flags.writeable = False
        flow: Iterator[Array] = (view[i - first] for i in ranges[0])
        source = self._source
        shown: Iterator[Frame] = (source.format.view(flat, source.width, source.height) for flat in flow)
        if not self._stages:
            for i, j in enumerate(ranges[0]):
                self._finish(view[j - first], out[i])
                step(i + 1)
            return
        direct = self._converts[-1] is None
        for k in range(len(self._stages)):
            if k == 0 and self._converts[0]:
                shown = self._converted(0, (view[i - first] for i in ranges[0]))
            elif k and self._converts[k]:
                shown = self._converted(k, self._flats(k - 1, shown))
            sink = out if direct and k == len(self._stages) - 1 else None
            shown = self._filtered(k, shown, ranges[k], ranges[k + 1], times, first, sink, ranges[-1], keep=keep)
        last = len(self._stages) - 1
        for i, _ in enumerate(shown):
            if not direct:
                self._finish(self._rings[last][i % len(self._rings[last])].flat, out[i])
            step(i + 1)

    def _flats(self, k: int, shown: Iterator[Frame]) -> Iterator[Array]:
        ring = self._rings[k]
        for i, _ in enumerate(shown):
            yield ring[i % len(ring)].flat

    def _converted(self, k: int, flats: Iterator[Array]) -> Iterator[Frame]:
        convert, ring = self._converts[k], self._inputs[k]
        assert convert is not None  # noqa: S101 - called only where there is one
        for i, flat in enumerate(flats):
            buffer = ring[i % len(ring)]
            convert(flat, buffer.flat)
            yield buffer.shown

    def _filtered(
        self,
        k: int,
        shown: Iterator[Frame],
        have: range,
        wanted: range,
        times: Sequence[float],
        first: int,
        sink: Array | None,
        own: range,
        *,
        keep: bool,
    ) -> Iterator[Frame]:
        stage, spec, ring = self._stages[k], self._specs[k], self._rings[k]
        before, after = stage.filter.halo
        recent: deque[tuple[int, Frame]] = deque(maxlen=before + 1 + after)
        for n, i in enumerate(wanted):
            while (not recent or recent[-1][0] < i + after) and (not recent or recent[-1][0] + 1 < have.stop):
                recent.append((recent[-1][0] + 1 if recent else have.start, next(shown)))
            by_index = dict(recent)
            window = [by_index[min(max(j, have.start), have.stop - 1)] for j in range(i - before, i + after + 1)]
            if sink is not None:
                target, result = spec.format.view(sink[n], spec.width, spec.height), window[before]
            else:
                buffer = ring[n % len(ring)]
                target, result = buffer.frame, buffer.shown
            at = At(i, times[i - first])
            try:
                stage.filter.apply(window, target, at)
            except Exception as e:
                detail = one_line(e)
                if not keep:
                    raise FilterError(stage.name, i, at.time_s, detail, traceback.format_exc()) from e
                if i in own:
                    self.kept.append((i, f"{stage.name}: {detail}"))
                for got, want in zip(planes_of(window[before]), planes_of(target), strict=True):
                    np.copyto(want, got)
            yield result

    def _finish(self, flat: Array, out: Array) -> None:
        convert = self._converts[-1]
        if convert is None:
            np.copyto(out, flat)
        else:
            convert(flat, out)


def total_halo(filters: Iterator[Filter]) -> Halo:
    """The halo of filters in a chain: each needs its neighbours already filtered by the one before, so they add up."""
    total = Halo()
    for f in filters:
        total = total + f.halo
    return total

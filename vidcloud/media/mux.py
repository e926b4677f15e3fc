"""Join parts by copying packets, with the source's other streams, into the output."""

import io
import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Discard

from vidcloud.errors import MediaError
from vidcloud.media.containers import ISO, MATROSKA, Carried, clock_of, container_format, plan
from vidcloud.media.files import open_input, reason, url
from vidcloud.media.parts import Part
from vidcloud.media.probe import VideoInfo, codec_name

_INT32 = (1 << 31) - 1
# What a muxer writes of its own, or what describes the source's file and not its content.
_NOT_CARRIED = frozenset(
    [
        "encoder",
        "major_brand",
        "minor_version",
        "compatible_brands",
        "handler_name",
        "vendor_id",
        "duration",
        "number_of_frames",
        "number_of_bytes",
        "bps",
        "_statistics_tags",
        "_statistics_writing_app",
        "_statistics_writing_date_utc",
        "software",
    ]
)


@dataclass
class MuxReport:
    """What went into an output.

    Attributes:
        frames: video frames written.
        copied: packets written of each other stream, by its index in the source.
        lost: one line for each thing of the source that the output does not have.
        notes: lines on what is there but changed (rounded or shifted timestamps).
    """

    frames: int = 0
    copied: dict[int, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def mux(
    parts: Iterable[Part],
    source: Path | str,
    info: VideoInfo,
    output: Path,
    *,
    container: str | None = None,
    delay: int | None = None,
) -> MuxReport:
    """Write the output: the parts' video, and all else that the source has and the container can hold.

    Memory stays flat whatever the length: parts and the source's packets are read in step.

    Args:
        parts: in order, without gaps; a lazy iterable works where ``delay`` is given.
        source: the input file.
        info: what `probe` told of it.
        output: written as it is named; the caller gives the final name to a whole file.
        container: the muxer's name; by the output's extension if None.
        delay: how many places decoding may run before presentation; by default the most that the parts need.

    Raises:
        MediaError: parts that don't fit together, or an output that can't be written.
    """
    if delay is None:
        parts = list(parts)
        delay = max((p.delay for p in parts), default=0)
    return _Mux(parts, source, info, output, container=container or container_format(output), delay=delay).run()


class _Mux:
    def __init__(
        self, parts: Iterable[Part], source: Path | str, info: VideoInfo, output: Path, *, container: str, delay: int
    ) -> None:
        self._parts = iter(parts)
        self._source = source
        self._info = info
        self._output = output
        self._container = container
        self._delay = delay
        self._report = MuxReport()
        self._shift = Fraction(0)

    def run(self) -> MuxReport:
        first = next(self._parts, None)
        if first is None:
            raise MediaError(f"{self._output}: there are no frames to write")
        with open_input(self._source) as source:
            with ExitStack() as stack:
                template = stack.enter_context(av.open(io.BytesIO(first.template())))
                carried = plan(self._container, source, self._info)
                self._set_shift(first)
                options = self._options(first, source, carried)
                try:
                    out = stack.enter_context(
                        av.open(
                            url(self._output),
                            "w",
                            format=self._container,
                            container_options=options,
                            metadata_errors="surrogateescape",
                        )
                    )
                    self._write(out, source, carried, template.streams.video[0], first)
                except (av.error.FFmpegError, ValueError) as e:
                    raise MediaError(f"{self._output} can't be written: {reason(e)}") from e
            self._compare(source, first.pts[0] * first.time_base + self._shift)
        return self._report

    def _set_shift(self, first: Part) -> None:
        """No container but NUT has times before zero for a video: move everything, so that nothing is cut off."""
        start = first.pts[0] * first.time_base
        if start < 0:
            self._shift = -start
            self._report.notes.append(
                f"all timestamps are {float(-start):.6f} s later: {self._container} can't start before zero"
            )

    def _options(self, first: Part, source: Any, carried: Iterable[Carried]) -> dict[str, str]:
        options: dict[str, str] = {}
        if self._container in MATROSKA:
            options["avoid_negative_ts"] = "disabled"
        elif self._container == "mpegts":
            options["mpegts_copyts"] = "1"
        elif self._container == "avi":
            # Audio that starts before zero would move the video off its grid.
            options["avoid_negative_ts"] = "disabled"
            if self._delay:
                raise MediaError("avi can't hold B-frames: use .mkv or .mp4, or encode with -e bf=0")
        elif self._container in ISO:
            # Start offsets are stored in this unit; by default it is a millisecond.
            bases = [first.time_base, *(source.streams[c.index].time_base for c in carried if c.how == "copy")]
            scale = math.lcm(*(b.denominator for b in bases))
            options["movie_timescale"] = str(scale if scale <= _INT32 // 64 else first.time_base.denominator)
        return options

    def _write(self, out: Any, source: Any, carried: Iterable[Carried], template: Any, first: Part) -> None:
        by_index = {c.index: c for c in carried}
        streams: dict[int, Any] = {}
        video = None
        for stream in source.streams:
            if stream.index == self._info.stream:
                video = self._add_video(out, template, stream, first)
                continue
            c = by_index[stream.index]
            if c.how == "copy":
                made = out.add_stream_from_template(stream, opaque=True)
                made.metadata.update(_carried_tags(stream.metadata))
                made.disposition = stream.disposition
                streams[stream.index] = made
            elif c.how == "attach":
                _attach(out, source, stream)
            else:
                stream.discard = Discard.all
                if c.how == "lost":
                    self._report.lost.append(f"{c.told}: {c.why}")
        assert video is not None  # noqa: S101 - info.stream is one of them
        out.metadata.update(_carried_tags(source.metadata))
        chapters = source.chapters()
        if chapters and self._container in (*ISO, *MATROSKA, "nut"):
            out.set_chapters(chapters)
        elif chapters:
            self._report.lost.append(f"{len(chapters)} chapters: {self._container} holds none")
        source.streams[self._info.stream].discard = Discard.all
        out.start_encoding()
        base = video.time_base
        inexact = False
        for packet, stream in _merged(self._video(first), self._others(source, streams)):
            if stream is None:
                inexact = inexact or (packet.pts * packet.time_base / base).denominator != 1
                packet.stream = video
                self._report.frames += 1
            else:
                packet.stream = stream
            out.mux_one(packet)
        if inexact:
            told = "milliseconds" if base == Fraction(1, 1000) else f"{base} s"
            self._report.notes.append(f"{self._container} rounds video timestamps to {told}")

    def _add_video(self, out: Any, template: Any, source: Any, first: Part) -> Any:
        info = self._info
        made = out.add_stream_from_template(template, opaque=True)
        context = made.codec_context
        if self._container == "avi":
            made.time_base = clock_of("avi", info)
        else:
            made.time_base = first.time_base
        if info.average_rate:
            context.framerate = info.average_rate
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = first.colour
        context.field_order = info.field_order
        tag = first.codec_tag
        if self._container in ISO:
            # Apple's players take no other tag; and MP4 has tags of its own.
            tag = "hvc1" if first.codec == "hevc" else tag if self._container == "mov" else ""
        elif first.codec not in ("rawvideo", "utvideo"):
            tag = ""  # these two are told by it alone
        if tag:
            context.codec_tag = tag
        if info.display_matrix is not None:
            made.set_display_matrix(info.display_matrix)
        made.metadata.update(_carried_tags(source.metadata))
        made.disposition = source.disposition
        self._report.lost.extend(f"{name.replace('_', ' ')} of the video" for name in info.hdr)
        return made

    def _video(self, first: Part) -> Iterator[tuple[Fraction, Any]]:
        """The parts' packets with DTS, which are the sorted timestamps, delayed."""
        step = first.pts[1] - first.pts[0] if len(first.pts) > 1 else self._usual_step()
        start, delay = first.pts[0], self._delay
        # MP4 lets decoding start before time zero. Where that would move all, the first ones are squeezed together
        # between the first two timestamps, in a finer unit.
        fine = 1 if self._container in (*ISO, *MATROSKA) else delay + 1
        ahead = [start - k * step for k in range(delay, 0, -1)]
        dts = deque(t * fine for t in ahead) if fine == 1 else deque(start * fine + k * step for k in range(delay))
        shift, unit = int(self._shift / first.time_base) * fine, first.time_base / fine
        expected = first.first
        for part in chain([first], self._parts):
            if part.first != expected or part.time_base != first.time_base or part.codec != first.codec:
                raise MediaError(f"{part.path} does not follow the part before it: start the job anew")
            if part.parameters != first.parameters:
                raise MediaError(
                    f"{part.path} was encoded with other parameters than the first part: start the job anew,"
                    " with the same vidcloud and PyAV on all nodes, or with --plane frames"
                )
            expected += part.frames
            times = [t * fine for t in part.pts]
            if part is first and fine > 1:
                times[0] += delay * step
            dts.extend(times)
            for coded in part.packets():
                if coded.pts * fine < dts[0]:
                    raise MediaError("the parts need a longer delay than was said")
                packet = av.Packet(coded.data)
                packet.pts, packet.dts = coded.pts * fine + shift, dts.popleft() + shift
                packet.duration = (coded.duration or self._usual_step()) * fine
                packet.time_base = unit
                packet.is_keyframe = coded.key
                yield packet.dts * unit, packet

    def _usual_step(self) -> int:
        rate = self._info.average_rate
        return max(1, round(1 / (rate * self._info.time_base))) if rate else 1

    def _others(self, source: Any, streams: dict[int, Any]) -> Iterator[tuple[Fraction, Any, Any]]:
        if not streams:
            return
        self._report.copied = dict.fromkeys(streams, 0)
        for packet in source.demux([source.streams[i] for i in streams]):
            if not packet.size:
                continue  # the flush packets at the end
            index = packet.stream_index
            if packet.dts is None and packet.pts is None:
                packet.pts = packet.dts = 0  # a cover picture
            elif packet.dts is None:
                packet.dts = packet.pts
            elif packet.pts is None and source.streams[index].type == "audio":
                packet.pts = packet.dts  # not told apart by AVI
            if self._shift:
                ticks = round(self._shift / packet.time_base)
                packet.dts += ticks
                if packet.pts is not None:
                    packet.pts += ticks
            self._report.copied[index] += 1
            yield packet.dts * packet.time_base, packet, streams[index]

    def _compare(self, source: Any, expected: Fraction) -> None:
        """Say what of the source's tags did not get through; the muxers drop silently."""
        with open_input(self._output) as out:
            start = out.streams.video[0].start_time
            late = float(start * out.streams.video[0].time_base - expected) if start is not None else 0.0
            if abs(late) > 0.001:
                # Audio that starts before zero, where a container has no such times.
                self._report.notes.append(f"all timestamps are {late:.6f} s later: {self._container} starts at zero")
            if self._container == "avi":
                early = [s for s in source.streams.audio if _starts_before_zero(self._source, s.index)]
                self._report.notes.extend(
                    f"audio stream {s.index} starts before zero and so a few milliseconds late in avi" for s in early
                )
            aspect = out.streams.video[0].sample_aspect_ratio or 1
            if aspect != self._info.sample_aspect_ratio:
                told = f"{self._info.sample_aspect_ratio}".replace("/", ":")
                codec = codec_name(out.streams.video[0])
                # Matroska has a place for it, which PyAV can't reach.
                self._report.lost.append(f"sample aspect ratio {told}: {codec} in {self._container} does not keep it")
            kept = {k.lower() for k in out.metadata}
            missing = sorted(k for k in _carried_tags(source.metadata) if k.lower() not in kept)
            if missing:
                self._report.lost.append(f"metadata {', '.join(missing)}: {self._container} does not keep it")
            if len(out.chapters()) < len(source.chapters()) and self._container in (*ISO, *MATROSKA, "nut"):
                self._report.lost.append("chapters")


def _merged(
    video: Iterator[tuple[Fraction, Any]], others: Iterator[tuple[Fraction, Any, Any]]
) -> Iterator[tuple[Any, Any]]:
    """Packets of both in order of time; video comes with stream None."""
    coded, other = next(video, None), next(others, None)
    while coded or other:
        if coded and (other is None or coded[0] <= other[0]):
            yield coded[1], None
            coded = next(video, None)
        elif other:
            yield other[1], other[2]
            other = next(others, None)


def _starts_before_zero(path: Path | str, index: int) -> bool:
    with open_input(path) as container:
        first = next((p for p in container.demux(container.streams[index]) if p.size), None)
        return first is not None and first.pts is not None and first.pts < 0


def _carried_tags(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k.lower().split("-")[0] not in _NOT_CARRIED}


def _attach(out: Any, source: Any, stream: Any) -> None:
    if stream.type == "attachment":
        out.add_attachment(
            stream.name or f"attachment-{stream.index}", stream.mimetype or "application/octet-stream", stream.data
        )
        return
    # Matroska keeps covers as attachments.
    packet = next((p for p in source.demux(stream) if p.size), None)
    source.seek(0)
    if packet is not None:
        kind = "png" if stream.codec_context.name == "png" else "jpeg"
        suffix = "png" if kind == "png" else "jpg"
        out.add_attachment(f"cover.{suffix}", f"image/{kind}", bytes(packet))
    stream.discard = Discard.all

"""Decode a video into flat storage frames, in order, with exact timestamps, and tell damage from good ends."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av.error
import av.logging
import numpy as np
from av.stream import Discard

from vidcloud.errors import MediaError
from vidcloud.media.files import open_input, reason
from vidcloud.media.lengths import missing_bytes, missing_samples
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo
from vidcloud.pixels import Array, pixel_format

OnDamage = Literal["fail", "conceal"]


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """One frame.

    Attributes:
        index: its number in the video, from 0.
        pts: presentation timestamp in the video's time base; strictly increasing.
        duration: in the time base; 0 where the file does not tell.
        flat: the samples in the storage format; the same memory for every frame, so copy what you keep.
    """

    index: int
    pts: int
    duration: int
    flat: Array


@dataclass
class DecodeReport:
    """What was met while decoding; complete once the last frame was given.

    Attributes:
        frames: frames given so far.
        damaged: frames shown although parts of them were damaged (concealed by the decoder).
        lost: packets that gave no frame because they could not be decoded.
        repaired: timestamps that were missing or did not increase.
        truncated: what shows that the file ends too early, or empty.
        notes: lines for the user.
    """

    frames: int = 0
    damaged: int = 0
    lost: int = 0
    repaired: int = 0
    truncated: str = ""
    notes: list[str] = field(default_factory=list)


def set_up(context: Any, info: VideoInfo, threads: int, *, strict: bool) -> None:
    """Prepare a codec's context so that damage shows.

    Args:
        context: of the video's stream; nothing was decoded yet.
        info: what `probe` told of the video.
        threads: 0 is one a core.
        strict: whether damage is an error.
    """
    context.thread_count, context.thread_type = threads, "AUTO"
    if info.codec == "ffv1":
        context.thread_type = "SLICE"  # see decode_packet
    elif info.codec in ("hevc", "mjpeg") and strict:
        context.options = {"err_detect": "explode"}  # else damage is only logged


def ignore_others(container: Any, stream: Any) -> None:
    """Read no packets of the file's other streams."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def decode_packet(packet: Any, stream: Any, info: VideoInfo) -> tuple[list[Any], bool]:
    """The frames that come out for a packet, and whether a checksum in it is wrong.

    FFmpeg tells a wrong FFV1 checksum in its log alone; slice threads log before the call ends.
    """
    if info.codec != "ffv1":
        return list(stream.decode(packet)), False
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as logs:
            frames = stream.decode(packet)
    finally:
        av.logging.set_level(before)
    return frames, any(name == "ffv1" and "CRC mismatch" in text for _, name, text in logs)


class Decoder:
    """Iterates over a video's frames once.

    Args:
        path: the file.
        info: what `probe` told of it.
        on_damage: ``fail`` raises at the first sign of damage, ``conceal`` goes on with what can be shown.
        start: index of the first frame to give; those before are decoded and counted, not copied.
        threads: of the decoder; 0 is one a core.

    What is damage, FFmpeg's decoders tell. Some can't: flipped bits in HEVC, VP9, MJPEG or FFV1 without checksums
    mostly decode to a wrong picture without a sign.

    Attributes:
        report: what was met.

    Raises:
        MediaError: from the iterator: damage (with ``fail``), a size or pixel format that changes, an unreadable file.
    """

    def __init__(
        self,
        path: Path | str,
        info: VideoInfo,
        *,
        on_damage: OnDamage = "fail",
        start: int = 0,
        threads: int = 0,
    ) -> None:
        self.report = DecodeReport()
        self._path = path
        self._info = info
        self._conceal = on_damage == "conceal"
        self._start = start
        self._threads = threads
        self._last: int | None = None
        self._shift = 0
        rate = info.average_rate
        self._step = max(1, round(1 / (rate * info.time_base))) if rate else 1

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Give the frames; see the class."""
        info, report = self._info, self.report
        fmt = pixel_format(info.storage)
        flat: Array = np.empty(fmt.samples(info.width, info.height), fmt.dtype)
        read = reader(info.pix_fmt, info.storage)
        with open_input(self._path) as container:
            stream = container.streams[info.stream]
            context = stream.codec_context
            set_up(context, info, self._threads, strict=not self._conceal)
            try:
                report.truncated = missing_bytes(self._path) or missing_samples(container)
                if report.truncated:
                    self._damage(f"the file is truncated: {report.truncated}")
                for frame in self._frames(container, stream):
                    self._check_shape(frame)
                    pts = self._timestamp(frame)
                    if frame.is_corrupt:
                        report.damaged += 1
                        self._damage(f"frame {report.frames}{self._at()} is damaged")
                    if report.frames >= self._start:
                        read(frame, flat)
                        yield DecodedFrame(report.frames, pts, int(frame.duration or 0), flat)
                    report.frames += 1
            finally:
                # Threads still at work would be joined with the interpreter's lock held.
                context.flush_buffers()
        self._finish()

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        packets, incomplete = 0, False
        # Filled from the header alone for these; it grows while others are read.
        indexed = len(stream.index_entries) if "mp4" in container.format.name else 0
        ignore_others(container, stream)
        demuxer = container.demux(stream)
        while True:
            try:
                packet = next(demuxer, None)
            except av.error.FFmpegError as e:
                self._damage(f"the file can't be read on after frame {self.report.frames - 1}: {reason(e)}")
                self.report.truncated = self.report.truncated or reason(e)
                break
            if packet is None:
                break
            if packet.size:
                packets += 1
                incomplete = packet.is_corrupt
                if incomplete:
                    self._damage(f"the data of the frame after frame {self.report.frames - 1} is incomplete")
            yield from self._decode(packet, stream)
        if indexed and packets < indexed:
            self.report.truncated = self.report.truncated or f"{packets} of {indexed} frames are there"
        elif incomplete:
            self.report.truncated = self.report.truncated or "the last packet is incomplete"

    def _decode(self, packet: Any, stream: Any) -> Iterator[Any]:
        try:
            frames, sums_differ = decode_packet(packet, stream, self._info)
            if sums_differ:
                self.report.damaged += 1
                self._damage(f"a frame near frame {self.report.frames}{self._at()} has a wrong checksum")
            yield from frames
        except av.error.FFmpegError as e:
            if isinstance(e, EOFError):
                return
            self.report.lost += 1
            self._damage(f"a frame near frame {self.report.frames}{self._at()} can't be decoded: {reason(e)}")

    def _check_shape(self, frame: Any) -> None:
        info = self._info
        if (frame.width, frame.height) != (info.width, info.height):
            raise MediaError(
                f"{self._path}: the picture's size changes from {info.width}x{info.height} to "
                f"{frame.width}x{frame.height} at frame {self.report.frames}: split the video there first"
            )
        if frame.format.name != info.pix_fmt:
            raise MediaError(
                f"{self._path}: the pixel format changes from {info.pix_fmt} to {frame.format.name} "
                f"at frame {self.report.frames}: split the video there first"
            )

    def _timestamp(self, frame: Any) -> int:
        pts = frame.pts if frame.pts is not None else frame.dts
        last = self._last
        if pts is None:
            self.report.repaired += 1
            pts = self._info.start_pts if last is None else last + self._step
        else:
            pts += self._shift
            if last is not None and pts <= last:
                self.report.repaired += 1
                jump = (last - pts) * self._info.time_base
                pts_wanted = last + 1 if jump < 1 else last + self._step
                if jump >= 1:  # the clock was set back: all that follows moves along
                    self._shift += pts_wanted - pts
                pts = pts_wanted
        self._last = int(pts)
        return self._last

    def _at(self) -> str:
        if self._last is None:
            return ""
        return f" (at about {float(self._last * self._info.time_base):.3f} s)"

    def _damage(self, what: str) -> None:
        if not self._conceal:
            raise MediaError(f"{self._path}: {what}; --on-damage conceal goes on with what can be shown")

    def _finish(self) -> None:
        report = self.report
        if report.truncated:
            self._damage(
                f"the file is truncated: it ends after frame {report.frames - 1}{self._at()}: {report.truncated}"
            )
            report.notes.append(f"the input is truncated ({report.truncated}); {report.frames} frames were shown")
        if report.damaged or report.lost:
            report.notes.append(
                f"the input is damaged: {report.damaged} frames were concealed, {report.lost} packets gave no frame"
            )
        if report.repaired:
            report.notes.append(f"{report.repaired} timestamps were missing or did not increase and were repaired")


def decode(
    path: Path | str, info: VideoInfo, *, on_damage: OnDamage = "fail", start: int = 0, threads: int = 0
) -> Decoder:
    """The frames of a video; see `Decoder`."""
    return Decoder(path, info, on_damage=on_damage, start=start, threads=threads)

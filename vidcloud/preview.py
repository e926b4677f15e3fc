"""A contact sheet: some moments of a video, as they are and as filters show them."""

import os
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidcloud.chain import Chain, Stage, total_halo
from vidcloud.errors import MediaError, UsageError
from vidcloud.filter import Halo
from vidcloud.media.convert import converter
from vidcloud.media.files import open_input, reason
from vidcloud.media.pictures import reader
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.pixels import Array, pixel_format

_GAP = 6
_TEXT = 15
_SAME_S = 1e-6  # timestamps are rounded to the container's time base
_PAPER, _INK = (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Moment:
    """A frame with the neighbours that filters need.

    Attributes:
        frames: ``(n, samples)`` in the storage format.
        times: of each, in seconds.
        first: index in the video of the first one, as the frame rate lets expect.
        at: which of them is meant.
    """

    frames: Array
    times: list[float]
    first: int
    at: int


class Sheet:
    """A contact sheet: a column a moment, a row as the video is, and a row a filter.

    Args:
        video: the file.
        at_s: moments in seconds from the video's start; none: spread evenly.
        count: how many to spread.
        stages: the filters, each on its own.
        width: of one picture, in pixels.

    Attributes:
        times: the moments shown, in seconds.

    Raises:
        InputError: not a video.
        MediaError: a moment can't be decoded.
        UsageError: a moment after the video's end.
        FilterError: a filter raised.
        PluginError: a filter refuses these frames.
    """

    def __init__(self, video: Path, at_s: Sequence[float], count: int, stages: Sequence[Stage], width: int) -> None:
        self._info = info = probe(video)
        if not at_s:
            at_s = [info.duration_s * (n + 0.5) / count for n in range(count)] if info.duration_s else [0.0]
        late = [t for t in at_s if info.duration_s and t > info.duration_s]
        if late:
            raise UsageError(f"{video} has no frame at {late[0]:g} s: it ends at {info.duration_s:.2f} s")
        halos = [total_halo(iter([s.filter])) for s in stages]
        widest = Halo(max((h.before for h in halos), default=0), max((h.after for h in halos), default=0))
        moments = [_moment(video, info, t, widest) for t in at_s]
        self.times = [m.times[m.at] for m in moments]
        rows: list[tuple[str, list[Stage]]] = [("as it is", []), *((s.name, [s]) for s in stages)]
        self._rows = [(name, [self._thumb(m, chain, width) for m in moments]) for name, chain in rows]

    def _thumb(self, moment: Moment, stages: list[Stage], width: int) -> Image.Image:
        info, fmt = self._info, pixel_format("rgb24")
        out = np.empty((1, fmt.samples(info.width, info.height)), fmt.dtype)
        chain = Chain(stages, info.spec, fmt, converter)
        chain.run(moment.frames, moment.first, out, moment.first + moment.at, moment.times)
        picture: Any = out[0].reshape(info.height, info.width, 3)
        shown_width = info.width * float(info.sample_aspect_ratio)
        shown_height = float(info.height)
        if turns := round(info.rotation / 90) % 4:
            picture = np.rot90(picture, turns)
        if turns % 2:
            shown_width, shown_height = shown_height, shown_width
        height = max(1, round(width * shown_height / shown_width))
        return Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.LANCZOS)

    def image(self) -> Image.Image:
        """The sheet."""
        font = ImageFont.load_default(_TEXT)
        across, down = self._rows[0][1][0].size
        line = _TEXT + 2 * _GAP
        across_all = _GAP + len(self.times) * (across + _GAP)
        sheet = Image.new("RGB", (across_all, line + len(self._rows) * (line + down)), _PAPER)
        draw = ImageDraw.Draw(sheet)
        for column, time_s in enumerate(self.times):
            draw.text((_GAP + column * (across + _GAP), _GAP), f"{time_s:.2f} s", _INK, font)
        for row, (name, thumbs) in enumerate(self._rows):
            top = line + row * (line + down)
            draw.text((_GAP, top + _GAP), name, _INK, font)
            for column, thumb in enumerate(thumbs):
                sheet.paste(thumb, (_GAP + column * (across + _GAP), top + line))
        return sheet

    def write(self, output: Path, *, replace: bool = False) -> None:
        """Write the sheet as a PNG file, whole or not at all.

        Raises:
            UsageError: the file exists and is not to be replaced, or the folder does not exist.
        """
        private = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
        try:
            self.image().save(private, "PNG")
            if replace:
                private.replace(output)
            else:
                os.link(private, output)
        except FileExistsError:
            raise UsageError(f"{output} exists: give --force to replace it") from None
        except FileNotFoundError:
            raise UsageError(f"no folder {output.parent}") from None
        finally:
            with suppress(OSError):
                private.unlink(missing_ok=True)


def _moment(video: Path, info: VideoInfo, time_s: float, halo: Halo) -> Moment:
    """The frame shown at a time, with its neighbours; at the video's end, the last frame.

    It seeks, so that a preview of a long video is quick: frame numbers are those that the frame rate lets expect.

    Raises:
        MediaError: no frame can be decoded there.
    """
    rate = float(info.average_rate or 25)
    # One frame more than is needed: the frame shown at a time is the last that begins before it.
    from_s = time_s - (halo.before + 2) / rate
    why = "no frame"
    # Where a container has no index (MPEG-TS), seeking lands too late: then farther back, and at last from the start.
    for seek_s in (from_s, from_s - 2, from_s - 20, 0.0):
        try:
            kept, at = _around(_frames_from(video, info, seek_s), info, time_s, halo)
        except av.error.FFmpegError as e:
            why = reason(e)
            continue
        if kept and (seek_s <= 0 or (at == halo.before and kept[at][0] <= time_s + _SAME_S)):
            times = [t for t, _ in kept]
            frames: Any = np.stack([flat for _, flat in kept])
            return Moment(frames, times, max(0, round(times[0] * rate)), at)
    raise MediaError(f"{video}: the frame at {time_s:.2f} s can't be decoded: {why}")


def _around(
    frames: Iterator[tuple[float, Any]], info: VideoInfo, time_s: float, halo: Halo
) -> tuple[list[tuple[float, Array]], int]:
    """The frame shown at a time and its neighbours, with their times; and which of them it is."""
    read = reader(info.pix_fmt, info.storage)
    fmt = pixel_format(info.storage)
    kept: deque[tuple[float, Array]] = deque()
    chosen: int | None = None
    for now, frame in frames:
        if chosen is None and kept and now > time_s + _SAME_S:
            chosen = len(kept) - 1
        if chosen is not None and len(kept) > chosen + halo.after:
            break
        if chosen is None and len(kept) > halo.before:
            kept.popleft()
        flat: Array = np.empty(fmt.samples(info.width, info.height), fmt.dtype)
        read(frame, flat)
        kept.append((now, flat))
    return list(kept), len(kept) - 1 if chosen is None else chosen


def _frames_from(video: Path, info: VideoInfo, time_s: float) -> Iterator[tuple[float, Any]]:
    """Frames with their times since the video's start, from a time or somewhat before it (or, alas, after it)."""
    start = info.start_pts * info.time_base
    with open_input(video) as container:
        stream = container.streams[info.stream]
        if time_s > 0:
            with suppress(av.error.FFmpegError):  # what can't be sought is read from its start
                container.seek(int(time_s / info.time_base) + info.start_pts, stream=stream, backward=True)
        for n, frame in enumerate(container.decode(stream)):
            pts = frame.pts if frame.pts is not None else frame.dts
            yield (n / float(info.average_rate or 25) if pts is None else float(pts * info.time_base - start)), frame

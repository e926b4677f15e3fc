"""Parts: files that hold a closed run of coded frames each, whole or not there, and join by copying packets.

A part is a magic, a JSON header, a template (a tiny NUT file with the codec's parameters), packets in order of
decoding, and a footer with what readers want to know first. Its hash covers all of it. DTS are not stored:
they depend on the neighbours, so the join makes them.
"""

import io
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import xxhash

from vidcloud.errors import MediaError
from vidcloud.media.encode import EncodedPacket, Encoder

MIN_FRAMES = 48
_MAGIC = b"VCPART1\n"
_RECORD = struct.Struct("<IqqB")
_END = 0xFFFFFFFF
_BLOCK = 1 << 20
_TAIL = struct.Struct("<I16s8s")


class PartPacket(NamedTuple):
    """One coded frame of a part: its bytes, its times in the part's time base, and whether it is a keyframe."""

    data: bytes
    pts: int
    duration: int
    key: bool


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        path: the file.
        first: index in the video of its first frame.
        frames: how many frames it holds: ``first … first + frames - 1``.
        time_base: of its timestamps.
        codec: the codec's name.
        codec_tag: the encoder's tag, or empty.
        colour: primaries, transfer, matrix and range that it was told, FFmpeg's numbers.
        parameters: a hash of what a decoder is told beforehand: parts with the same one join.
        delay: by how many places decoding runs before presentation at most.
        pts: all timestamps, sorted.
        size: bytes of all packets.
        template_at: where the template lies in the file: offset and length.
        packets_at: offset of the first packet.
        told: what else its writer told of it.
    """

    path: Path
    first: int
    frames: int
    time_base: Fraction
    codec: str
    codec_tag: str
    colour: tuple[int, ...]
    parameters: str
    delay: int
    pts: tuple[int, ...]
    size: int
    template_at: tuple[int, int]
    packets_at: int
    told: Mapping[str, Any] = field(default_factory=dict)

    def template(self) -> bytes:
        """The tiny file with the codec's parameters."""
        with self.path.open("rb") as f:
            f.seek(self.template_at[0])
            return f.read(self.template_at[1])

    def check(self) -> None:
        """See whether the file is as it was written.

        Raises:
            MediaError: it is damaged.
        """
        digest = xxhash.xxh3_128()
        with self.path.open("rb") as f:
            left = os.fstat(f.fileno()).st_size - _TAIL.size
            while left > 0 and (block := f.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
            if left or digest.digest() != _TAIL.unpack(f.read(_TAIL.size))[1]:
                raise MediaError(f"{self.path} is damaged: its hash differs")

    def packets(self) -> Iterator[PartPacket]:
        """The packets in order of decoding.

        Raises:
            MediaError: the file is damaged; raised at the end at the latest.
        """
        with self.path.open("rb") as f:
            digest = xxhash.xxh3_128()
            digest.update(f.read(self.packets_at))
            while True:
                head = f.read(_RECORD.size)
                if len(head) < _RECORD.size:
                    raise MediaError(f"{self.path} is damaged: it ends too early")
                size, pts, duration, key = _RECORD.unpack(head)
                digest.update(head)
                if size == _END:
                    break
                data = f.read(size)
                digest.update(data)
                yield PartPacket(data, pts, duration, bool(key))
            rest = f.read()
            digest.update(rest[: -_TAIL.size])
            if digest.digest() != _TAIL.unpack(rest[-_TAIL.size :])[1]:
                raise MediaError(f"{self.path} is damaged: its hash differs")


def read_part(path: Path | str) -> Part:
    """Open a part: its header and footer.

    Raises:
        MediaError: it is not a part, or an incomplete one.
    """
    path = Path(path)
    try:
        with path.open("rb") as f:
            if f.read(len(_MAGIC)) != _MAGIC:
                raise MediaError(f"{path} is not a part")
            (length,) = struct.unpack("<I", f.read(4))
            header = json.loads(f.read(length))
            template_at = f.tell()
            f.seek(-_TAIL.size, os.SEEK_END)
            foot_length, _, magic = _TAIL.unpack(f.read(_TAIL.size))
            if magic != _MAGIC:
                raise MediaError(f"{path} is damaged: it has no end")
            f.seek(-_TAIL.size - foot_length, os.SEEK_END)
            footer = json.loads(f.read(foot_length))
    except (OSError, ValueError, struct.error) as e:
        raise MediaError(f"{path} can't be read as a part: {e}") from e
    template = int(header["template"])
    return Part(
        path=path,
        first=header["first"],
        frames=len(footer["pts"]),
        time_base=Fraction(header["time_base"]),
        codec=header["codec"],
        codec_tag=header["codec_tag"],
        colour=tuple(header["colour"]),
        parameters=header["parameters"],
        delay=footer["delay"],
        pts=tuple(footer["pts"]),
        size=footer["size"],
        template_at=(template_at, template),
        packets_at=template_at + template,
        told=footer["told"],
    )


def decode_part(part: Part) -> Iterator[Any]:
    """The decoded frames (``av.VideoFrame``) of a part alone, for checks."""
    with av.open(io.BytesIO(part.template())) as template:
        context = template.streams.video[0].codec_context
        context.thread_count = 1
        for p in part.packets():
            packet = av.Packet(p.data)
            packet.pts, packet.time_base = p.pts, part.time_base
            yield from context.decode(packet)
        yield from context.decode(None)


class PartWriter:
    """Writes one part: under a private name, until `finish` makes it whole at once.

    Args:
        path: its final name.
        encoder: whose packets come; it has made the first one.
        time_base: of the timestamps.
        first: index in the video of the part's first frame.
    """

    def __init__(self, path: Path, encoder: Encoder, time_base: Fraction, first: int) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._pts: list[int] = []
        self._size = 0
        template = encoder.template
        header = json.dumps(
            {
                "version": 1,
                "codec": encoder.resolved.codec,
                "encoder": encoder.resolved.encoder,
                "codec_tag": encoder.codec_tag,
                "colour": encoder.colour,
                "parameters": encoder.parameters,
                "time_base": f"{time_base.numerator}/{time_base.denominator}",
                "first": first,
                "template": len(template),
            }
        ).encode()
        self._digest = xxhash.xxh3_128()
        self._file: BinaryIO = self._partial.open("wb")
        self._write(_MAGIC, struct.pack("<I", len(header)), header, template)

    @property
    def frames(self) -> int:
        """How many packets it holds."""
        return len(self._pts)

    def _write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._digest.update(piece)

    def add(self, packet: EncodedPacket) -> None:
        """Append a packet, in order of decoding."""
        self._write(_RECORD.pack(len(packet.data), packet.pts, packet.duration, packet.key), packet.data)
        self._pts.append(packet.pts)
        self._size += len(packet.data)

    def finish(self, **told: Any) -> Part:
        """Make the part durable and give it its name.

        Args:
            told: of JSON's types, for `Part.told`.
        """
        ordered = sorted(self._pts)
        place = {pts: k for k, pts in enumerate(ordered)}
        delay = max((k - place[pts] for k, pts in enumerate(self._pts)), default=0)
        footer = json.dumps({"pts": ordered, "delay": delay, "size": self._size, "told": told}).encode()
        self._write(_RECORD.pack(_END, 0, 0, 0), footer)
        self._file.write(_TAIL.pack(len(footer), self._digest.digest(), _MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return read_part(self._path)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


class PartCutter:
    """Cuts one encoder's packets into parts.

    A part ends before a keyframe at which nothing is owed: every frame shown before it is already coded, so a fresh
    encoder can go on there after a crash.

    Args:
        folder: where parts go, as ``part-<first frame, ten digits>``.
        encoder: the packets' encoder.
        time_base: of the timestamps.
        first: index in the video of the encoder's first frame.
        min_frames: no part but the last is shorter.
    """

    def __init__(
        self, folder: Path, encoder: Encoder, time_base: Fraction, first: int = 0, min_frames: int = MIN_FRAMES
    ) -> None:
        self._folder = folder
        self._encoder = encoder
        self._time_base = time_base
        self._first = first
        self._min = min_frames
        self._seen = 0
        self._open: PartWriter | None = None

    def feed(self, packets: Sequence[EncodedPacket]) -> list[Part]:
        """Take packets in order of decoding; give the parts that they finished."""
        done = []
        for packet in packets:
            checkpoint = packet.key and packet.frame == self._seen
            if self._open and checkpoint and self._open.frames >= self._min:
                done.append(self._open.finish())
                self._open = None
            if self._open is None:
                if not checkpoint:
                    raise MediaError("the encoder's first packet is no keyframe to start a part with")
                first = self._first + packet.frame
                self._open = PartWriter(part_path(self._folder, first), self._encoder, self._time_base, first)
            self._open.add(packet)
            self._seen += 1
        return done

    def finish(self) -> list[Part]:
        """The last part, once the encoder's flushed packets were fed; empty where there were none."""
        done = [self._open.finish()] if self._open else []
        self._open = None
        return done

    def abandon(self) -> None:
        """Drop the unfinished part."""
        if self._open:
            self._open.abandon()
            self._open = None


def part_path(folder: Path, first: int) -> Path:
    """The name of the part that starts at a frame."""
    return folder / f"part-{first:010d}"


def whole_parts(folder: Path) -> list[Part]:
    """The parts in a folder that follow each other without a gap from frame 0, for a resume.

    The next frame to encode is the last one's ``first + frames``.
    """
    found: list[Part] = []
    for path in sorted(folder.glob("part-??????????")):
        part = read_part(path)
        if part.first != (found[-1].first + found[-1].frames if found else 0):
            break
        found.append(part)
    return found

"""How long a file says it is, so that a truncated one shows even where the demuxer reports a plain end."""

from pathlib import Path
from typing import Any

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_TS_SYNC = 0x47
_TS_PACKET = 188


def missing_bytes(path: Path | str) -> str:
    """What shows that a file lacks its end, in words; empty where nothing does.

    Looks at the sizes that AVI and Matroska headers state and at the packet size of MPEG-TS. MP4 is judged by its index
    instead. Live recordings, which state no size, pass.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as f:
        head = f.read(4096)
    stated = 0
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        stated = int.from_bytes(head[4:8], "little") + 8
        if stated == 8 or stated > 0xFFFFFFF0:
            stated = 0
    elif head[:4] == _EBML.to_bytes(4, "big"):
        stated = _matroska_size(head)
    elif len(head) > _TS_PACKET and head[0] == _TS_SYNC and head[_TS_PACKET] == _TS_SYNC and size % _TS_PACKET:
        return "the last transport packet is incomplete"
    return f"{stated - size} of {stated} bytes are missing" if stated > size else ""


def missing_samples(container: Any) -> str:
    """What shows that an opened MP4's index points behind the file's end, in words; empty where it does not.

    Looks at the last entries of every stream, so that a cut that hits the audio alone shows too.
    """
    if "mp4" not in container.format.name:
        return ""
    end, size = 0, container.size
    for stream in container.streams:
        entries = stream.index_entries
        for k in range(max(0, len(entries) - 16), len(entries)):
            end = max(end, entries[k].pos + entries[k].size)
    return f"{end - size} of {end} bytes are missing" if 0 < size < end else ""


def _matroska_size(head: bytes) -> int:
    """The end of the segment in bytes, 0 where it states none."""
    if len(head) < 64:
        return 0
    _, at = _element_id(head, 0)
    length, at = _element_size(head, at)
    if length is None:
        return 0
    at += length
    if at + 12 > len(head):
        return 0
    name, at = _element_id(head, at)
    length, at = _element_size(head, at)
    return at + length if name == _SEGMENT and length is not None else 0


def _element_id(data: bytes, at: int) -> tuple[int, int]:
    width = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + width], "big"), at + width


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    unknown = value == (1 << 7 * width) - 1
    return (None if unknown else value), at + width

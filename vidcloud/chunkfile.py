"""A chunk's pixels as a file: written once, read as one numpy array.

Layout: the line ``vidcloud chunk 1 <header bytes>``, a JSON header, zeros up to a multiple of 4,096, then the frames
one after the other as `vidcloud.pixels` lays them out. Frames include the halo; the header tells which are the
chunk's own.
"""

import json
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vidcloud.errors import ShareError
from vidcloud.pixels import Array, pixel_format

_MAGIC = b"vidcloud chunk 1 "
_ALIGN = 4096


@dataclass(frozen=True)
class ChunkHeader:
    """What a chunk file holds.

    Attributes:
        format: name of the pixel format.
        width: in pixels.
        height: in pixels.
        first: index in the video of the first frame in the file.
        start: index in the video of the chunk's own first frame.
        stop: one past the chunk's own last frame.
        pts: timestamps of all frames in the file, in the stream's time base.
        durations: of all frames in the file, in the same unit; 0 where unknown.
        hashes: XXH3-128 of each frame's samples, hexadecimal; in results only.
        notes: what happened to frames, for the report.
    """

    format: str
    width: int
    height: int
    first: int
    start: int
    stop: int
    pts: tuple[int, ...]
    durations: tuple[int, ...]
    hashes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return pixel_format(self.format).frame_bytes(self.width, self.height)


def frame_hash(flat: Array) -> str:
    """XXH3-128 of one frame's samples."""
    return xxhash.xxh3_128_hexdigest(memoryview(flat))  # type: ignore[arg-type] # numpy 2 stubs do not say that arrays are buffers


def write_chunk(path: Path, header: ChunkHeader, frames: Array | Sequence[Array]) -> None:
    """Write a chunk file; the caller gives it its public name afterwards.

    Args:
        path: a private name.
        header: told in the file.
        frames: ``(n, samples)`` or n arrays ``(samples,)``, contiguous.

    Raises:
        OSError: the share is full or unreachable.
    """
    body = json.dumps(header.__dict__, separators=(",", ":")).encode()
    head = _MAGIC + str(len(body)).encode() + b"\n" + body
    head += bytes(-len(head) % _ALIGN)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        # No fsync: on NFS the close carries the bytes to the server, and on a local disk they would be forced out only
        # to be removed a second later. What a crash of the machine loses is found by its hash and made again.
        _write_all(fd, [memoryview(head), *(_bytes(f) for f in frames)])
    finally:
        os.close(fd)


def _bytes(array: Array) -> memoryview:
    return memoryview(array).cast("B")  # type: ignore[arg-type] # as above


def _write_all(fd: int, buffers: Iterable[memoryview]) -> None:
    for buffer in buffers:
        rest = buffer
        while rest:
            rest = rest[os.write(fd, rest) :]


def read_header(path: Path) -> ChunkHeader:
    """Read a chunk file's header alone.

    Raises:
        FileNotFoundError: there is no such file (any more).
        ShareError: it is not a whole chunk file.
    """
    with path.open("rb") as f:
        return _header(f.fileno(), path)[0]


def read_chunk(path: Path) -> tuple[ChunkHeader, Array]:
    """Map a chunk file.

    Returns:
        The header, and the frames ``(n, samples)`` of ``uint8`` or ``uint16``, read-only. The file may be removed
        meanwhile.

    Raises:
        FileNotFoundError: there is no such file (any more).
        ShareError: it is not a whole chunk file.
    """
    with path.open("rb") as f:
        header, offset = _header(f.fileno(), path)
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    dtype = pixel_format(header.format).dtype
    samples = header.frame_bytes // dtype.itemsize
    frames: Any = np.frombuffer(mapped, dtype, count=len(header.pts) * samples, offset=offset)
    return header, frames.reshape(len(header.pts), samples)


def _header(fd: int, path: Path) -> tuple[ChunkHeader, int]:
    head = os.pread(fd, 64, 0)
    line, newline, _ = head.partition(b"\n")
    if not newline or not line.startswith(_MAGIC):
        raise ShareError(f"{path} is not a chunk file")
    length = int(line[len(_MAGIC) :])
    start = len(line) + 1
    try:
        record: dict[str, Any] = json.loads(os.pread(fd, length, start))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        header = ChunkHeader(**fields)
    except (ValueError, TypeError) as e:
        raise ShareError(f"{path} is cut short") from e
    offset = -(-(start + length) // _ALIGN) * _ALIGN
    if os.fstat(fd).st_size < offset + header.frame_bytes * len(header.pts):
        raise ShareError(f"{path} is cut short")
    return header, offset

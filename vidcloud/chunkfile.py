"""A chunk's pixels as a file: written once, read as one numpy array.

Layout: the line ``vidcloud chunk 3 <header bytes>``, a JSON header, zeros up to a multiple of 4,096, then the frames
one after the other as `vidcloud.pixels` lays them out, or each of them packed without loss. Frames include the halo;
the header tells which are the chunk's own, and how they are stored.
"""

import dataclasses
import functools
import json
import mmap
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from vidcloud.errors import ShareError
from vidcloud.pixels import Array, pixel_format

_MAGIC = b"vidcloud chunk 3 "
_ALIGN = 4096
_PACKABLE = 2**31 - _ALIGN
"""Bytes of a frame that blosc2 takes at once; larger ones are stored raw."""

Stored = Literal["raw", "blosc2"]
"""How pixels are stored: as they are, or each frame packed by blosc2 (differences of rows, Zstandard)."""


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
        stored: how the pixels are stored; `write_chunk` says so.
        sizes: bytes of each packed frame; empty where they are raw.
        sums: XXH3-64 of each packed frame, hexadecimal: a decompressor must not be given damaged bytes.
        pace: seconds a byte that the writer's share takes; 0.0 where it does not know yet.
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
    stored: Stored = "raw"
    sizes: tuple[int, ...] = ()
    sums: tuple[str, ...] = ()
    pace: float = 0.0

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return pixel_format(self.format).frame_bytes(self.width, self.height)

    @property
    def payload(self) -> int:
        """Bytes of all frames as they are stored."""
        return sum(self.sizes) if self.stored == "blosc2" else self.frame_bytes * len(self.pts)


@dataclass(frozen=True)
class Written:
    """What a chunk file cost.

    Attributes:
        raw_bytes: of the pixels before packing.
        stored_bytes: of the pixels in the file.
        pack_s: seconds of packing; 0 where nothing was packed.
        write_s: seconds of writing and closing the file.
    """

    raw_bytes: int
    stored_bytes: int
    pack_s: float
    write_s: float


def frame_hash(flat: Array) -> str:
    """XXH3-128 of one frame's samples."""
    return xxhash.xxh3_128_hexdigest(memoryview(flat))  # type: ignore[arg-type] # numpy 2 stubs do not say that arrays are buffers


def write_chunk(path: Path, header: ChunkHeader, frames: Array | Sequence[Array], stored: Stored = "raw") -> Written:
    """Write a chunk file; the caller gives it its public name afterwards.

    Args:
        path: a private name.
        header: told in the file.
        frames: ``(n, samples)`` or n arrays ``(samples,)``, contiguous.
        stored: how. Packed frames are held in memory together until they are written.

    Returns:
        What it cost.

    Raises:
        OSError: the share is full or unreachable.
    """
    began = time.monotonic()
    buffers: Sequence[memoryview] = [_bytes(f) for f in frames]
    raw_bytes = sum(b.nbytes for b in buffers)
    if stored == "blosc2" and header.frame_bytes <= _PACKABLE:
        buffers = [memoryview(p) for p in _pack(frames, _row(header))]
        sums = tuple(xxhash.xxh3_64_hexdigest(b) for b in buffers)
        header = dataclasses.replace(header, stored="blosc2", sizes=tuple(b.nbytes for b in buffers), sums=sums)
    packed = time.monotonic()
    body = json.dumps(header.__dict__, separators=(",", ":")).encode()
    head = _MAGIC + str(len(body)).encode() + b"\n" + body
    head += bytes(-len(head) % _ALIGN)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        # No fsync: on NFS the close carries the bytes to the server, and on a local disk they would be forced out only
        # to be removed a second later. What a crash of the machine loses is found by its hash and made again.
        _write_all(fd, [memoryview(head), *buffers])
    finally:
        os.close(fd)
    pack_s = packed - began if header.stored == "blosc2" else 0.0
    return Written(raw_bytes, sum(b.nbytes for b in buffers), pack_s, time.monotonic() - packed)


def _bytes(array: Array) -> memoryview:
    return memoryview(array).cast("B")  # type: ignore[arg-type] # as above


@functools.cache
def _blosc2() -> Any:
    # Its import costs half a second: only nodes that meet a packed chunk pay for it.
    import blosc2  # noqa: PLC0415

    # A collector decodes and encodes in threads of their own, which must not wait for a frame to be packed.
    blosc2.set_releasegil(True)
    return blosc2


def _row(header: ChunkHeader) -> int:
    return header.width * pixel_format(header.format).channels


def _pack(frames: Array | Sequence[Array], row: int) -> list[bytes]:
    b, packed = _blosc2(), []
    delta: Array | None = None
    for frame in frames:
        if delta is None:
            delta = np.empty_like(frame)
        delta[:row] = frame[:row]
        np.subtract(frame[row:], frame[:-row], out=delta[row:])
        # Differences of neighbours are small, of either sign, and hardly ever repeat: entropy coding is what helps, and
        # Zstandard's lowest level does that (docs/performance.md tells what else was tried). Of 16 bits the upper
        # ones are nearly all alike, if they stand together. One thread: nodes share a machine's cores.
        filters = [b.Filter.BITSHUFFLE if delta.itemsize > 1 else b.Filter.NOFILTER]
        packed.append(
            b.compress2(delta, codec=b.Codec.ZSTD, clevel=1, filters=filters, typesize=delta.itemsize, nthreads=1)
        )
    return packed


def _unpack(packed: memoryview, told: str, row: int, frame: Array) -> None:
    if xxhash.xxh3_64_hexdigest(packed) != told:
        raise ValueError("its sum differs")
    b = _blosc2()
    if b.get_cbuffer_sizes(packed)[0] != frame.nbytes:
        raise ValueError("another number of bytes than a frame has")
    b.decompress2(packed, dst=frame, nthreads=1)
    for at in range(row, len(frame), row):  # the last row may be shorter: odd widths of chroma
        own = frame[at : at + row]
        own += frame[at - row : at - row + len(own)]


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
    """Map a chunk file, or unpack it into memory.

    Returns:
        The header, and the frames ``(n, samples)`` of ``uint8`` or ``uint16``, read-only. The file may be removed
        meanwhile.

    Raises:
        FileNotFoundError: there is no such file (any more).
        ShareError: it is not a whole chunk file, or its packed frames are damaged.
    """
    with path.open("rb") as f:
        header, offset = _header(f.fileno(), path)
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    dtype = pixel_format(header.format).dtype
    samples = header.frame_bytes // dtype.itemsize
    if header.stored == "blosc2":
        unpacked: Array = np.empty((len(header.pts), samples), dtype)
        row = _row(header)
        for i, (frame, size, told) in enumerate(zip(unpacked, header.sizes, header.sums, strict=True)):
            packed = memoryview(mapped)[offset : offset + size]
            offset += size
            try:
                _unpack(packed, told, row, frame)
            except (ValueError, RuntimeError) as e:
                raise ShareError(f"{path} is damaged: frame {header.first + i} can't be unpacked: {e}") from e
        unpacked.flags.writeable = False
        return header, unpacked
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
    if header.stored not in {"raw", "blosc2"}:
        raise ShareError(f"{path} is stored as {header.stored}, which this vidcloud does not know: update it")
    if header.stored == "blosc2" and not len(header.pts) == len(header.sizes) == len(header.sums):
        raise ShareError(f"{path} is damaged: it does not tell the sizes of its frames")
    offset = -(-(start + length) // _ALIGN) * _ALIGN
    if os.fstat(fd).st_size < offset + header.payload:
        raise ShareError(f"{path} is cut short")
    return header, offset

"""A file on an HTTP or S3 server, read where it is needed and not fetched whole.

Blocks of 1 MiB are kept, the last 16 used; whoever reads on gets four at once. Every answer tells which version of the
file it is of, and all must be of one.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vidcloud import storage
from vidcloud.errors import StorageError

_BLOCK = 1 << 20
_KEPT = 16
_AHEAD = 4
"""Blocks that one request asks for when reading goes on where the last request ended."""


@dataclass(frozen=True)
class Version:
    """Which bytes a URL stood for.

    Attributes:
        size: in bytes.
        tag: the server's ETag, or when it was last modified, or "" where it tells neither.
    """

    size: int
    tag: str

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON's types."""
        return asdict(self)


class RangeFile(io.RawIOBase):
    """A seekable binary file, read by range requests; one thread at a time.

    Args:
        url: ``http(s)`` or ``s3``.
        version: what it must be; None takes what the server has now.
        signed: asked before each request for a URL to read by in place of ``url``, which alone is ever told in errors.

    Attributes:
        version: what it is.
        fetched: bytes that were asked of the server so far.

    Raises:
        StorageError: it can't be reached, the server knows no ranges, or the file is another than ``version``; reading
            raises it, too.
    """

    def __init__(self, url: str, version: Version | None = None, signed: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._signed = signed or (lambda: url)
        self._url, self._at, self.fetched = url, 0, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next = 0
        self.version = version
        self._fetch(0, 1)
        assert self.version is not None  # noqa: S101 - told by the first answer

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set where the next read begins; costs nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a block."""
        if self._at >= self._size:
            return 0
        number, skip = divmod(self._at, _BLOCK)
        piece = memoryview(self._block(number))[skip : skip + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    @property
    def _size(self) -> int:
        return self.version.size if self.version else 0

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            last = max(0, self._size - 1) // _BLOCK
            self._fetch(number, min(_AHEAD, last - number + 1) if number == self._next else 1)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, number: int, count: int) -> None:
        first, last = number * _BLOCK, (number + count) * _BLOCK - 1
        data, version = storage.get_range(self._signed(), first, last, self._url)
        self.fetched += len(data)
        if self.version is None:
            self.version = Version(*version)
        elif version != (self.version.size, self.version.tag):
            raise StorageError(f"{self._url} has changed since the job began: start the job anew")
        if len(data) != min(last + 1, self._size) - first:
            raise StorageError(
                f"can't fetch {self._url}: {len(data)} bytes are another number than asked for; try again"
            )
        for k in range(count):
            self._blocks[number + k] = data[k * _BLOCK : (k + 1) * _BLOCK]
        self._next = number + count
        while len(self._blocks) > _KEPT:
            self._blocks.popitem(last=False)


def check_ranges(url: str) -> None:
    """Find out whether a file can be read by ranges.

    Raises:
        StorageError: it can't; tells why and what to do.
    """
    RangeFile(url)

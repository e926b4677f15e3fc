"""The two seams under the queue: a shared directory and a clock. A simulator puts its own in their place.

`ShareDirectory` uses only what holds on NFSv3 with caching clients: exclusive ``link(2)`` proved by the link count,
rename over a file, and listing. It retries what a network file system answers in passing (ESTALE, EIO, ETIMEDOUT).
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from vidcloud.errors import ShareError

T = TypeVar("T")

PASSING = frozenset({errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})
"""What a network file system answers in passing: somebody replaced the file, the server was away."""
_RETRY_S = 30.0
_STALE_S = 0.05


class Clock(Protocol):
    """Time as one node sees it. No promise across nodes."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


class SystemClock:
    """The machine's own monotonic clock."""

    def monotonic(self) -> float:
        """Seconds since some moment before the process."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class Directory(Protocol):
    """A directory that several nodes see. Names are relative, with ``/``."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none if there is no such folder."""
        ...

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def overwrite(self, name: str, data: bytes) -> None:
        """Write a small file in place: a reader may see it half-written, its writer is one node."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Put a whole file under a name at once; readers see the old or the new one."""
        ...

    def link(self, source: str, name: str) -> bool:
        """Give a file a second name, unless the name is taken. True if it was this call that did it.

        Only one node may link a given source: the proof over a lost reply is the source's link count.

        Raises:
            FileNotFoundError: the source is gone.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def make(self, folder: str) -> None:
        """Make a folder and those above it, unless they are there."""
        ...

    def path(self, name: str) -> Path:
        """Where a file lies, for those who read and write pixels."""
        ...


class ShareDirectory:
    """A directory of a local or network file system.

    Args:
        root: the directory; must exist.
        clock: to pace retries.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()
        self._links: dict[str, int] = {}

    def path(self, name: str) -> Path:
        """The absolute path of a name."""
        return self._root / name

    def names(self, folder: str) -> list[str]:
        """Names in a folder; none if there is no such folder."""
        try:
            return self._retry(lambda: os.listdir(self._root / folder), folder)  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self._retry((self._root / name).read_bytes, name)

    def overwrite(self, name: str, data: bytes) -> None:
        """Write in place; on NFS the close carries it to the server."""

        def write() -> None:
            fd = os.open(self._root / name, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, data, 0)
            finally:
                os.close(fd)

        self._retry(write, name)

    def replace(self, name: str, data: bytes) -> None:
        """Write beside it, then rename over it."""

        def write() -> None:
            path = self._root / name
            beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            beside.write_bytes(data)
            beside.replace(path)

        self._retry(write, name)

    def link(self, source: str, name: str) -> bool:
        """Link without replacing; over a lost reply the link count of the source tells who won."""
        before = self._links.get(source, 1)
        try:
            self._retry(lambda: os.link(self._root / source, self._root / name), name)
        except FileExistsError:
            # The server may have made the link and lost its reply: the retransmission then finds the name taken by us.
            now = self._retry(lambda: self._link_count(source), source)
            if now > before:
                self._links[source] = now
                return True
            return False
        except OSError as e:
            if e.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV):
                raise ShareError(
                    f"{self._root} has no hard links, which claims need: put the share on another file system"
                ) from e
            raise
        self._links[source] = before + 1
        return True

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        self._links.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            self._retry((self._root / name).unlink, name)

    def make(self, folder: str) -> None:
        """Make a folder and those above it."""
        self._retry(lambda: (self._root / folder).mkdir(parents=True, exist_ok=True), folder)

    def _link_count(self, name: str) -> int:
        # Opening forces the client to ask the server: a plain stat may answer from its cache.
        fd = os.open(self._root / name, os.O_RDONLY)
        try:
            return os.fstat(fd).st_nlink
        finally:
            os.close(fd)

    def _retry(self, call: Callable[[], T], name: str) -> T:
        wait, deadline = 0.02, self._clock.monotonic() + _RETRY_S
        while True:
            try:
                return call()
            except OSError as e:
                if e.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ShareError(
                        f"the share {self._root} is full: free space there, then `vidcloud resume` the job"
                    ) from e
                if e.errno in (errno.EACCES, errno.EROFS):
                    raise ShareError(f"can't write {self._root / name}: {e.strerror}; use another --share") from e
                if e.errno not in PASSING:
                    raise
                if self._clock.monotonic() > deadline:
                    raise ShareError(
                        f"{self._root / name}: {e.strerror}, for {_RETRY_S:.0f} s; is the share reachable?"
                    ) from e
                self._clock.sleep(wait)
                # Stale: somebody replaced the file while we read, and the server is well. Who waits long between tries
                # may lose every one of them to a collector that replaces the frontier fifty times a second.
                wait = min(wait * 2, _STALE_S if e.errno == errno.ESTALE else 2.0)

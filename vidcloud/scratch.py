"""Folders of one process for what shall not lie on the share. What a killed process leaves, the next one takes away."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "vidcloud-scratch-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this process's own in the system's temporary directory, until the end of the context.

    Each is locked while its process lives, so those that can be locked are left over from a killed one (of this user)
    and are removed.

    Raises:
        OSError: none can be made.
    """
    with contextlib.ExitStack() as stack:
        _sweep()
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if folder.exists():  # nobody swept between the two lines above
                break
            os.close(fd)
        stack.callback(os.close, fd)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)

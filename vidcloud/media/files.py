"""Opening media files: names taken literally, FFmpeg's errors told in one line."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
from av.container.core import Flags

from vidcloud.errors import InputError, MediaError

# Demuxers that read other files than the one named, or that take text and pictures for video.
_REFUSED = {
    "adf": "text",
    "bin": "text",
    "concat": "a playlist",
    "dash": "a playlist",
    "hls": "a playlist",
    "idf": "text",
    "image2": "a still picture",
    "sdp": "a playlist",
    "tty": "text",
    "xbin": "text",
}


# AVFMT_FLAG_GENPTS; the enum's type is told wrongly.
_GENPTS: int = Flags.gen_pts.value  # type: ignore[assignment]


def url(path: Path | str) -> str:
    """The URL under which FFmpeg takes a file's name literally (``%d``, ``:``, leading dashes)."""
    return f"file:{os.fspath(path)}"


def reason(error: BaseException) -> str:
    """What FFmpeg says, without errno and file name."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def open_input(path: Path | str | BinaryIO) -> Any:
    """Open a media file for reading.

    Args:
        path: the file, or an open one: seekable, with a name; read from its beginning.

    Returns:
        An ``av.container.InputContainer``; close it.

    Raises:
        InputError: no such file, not a file, or nothing that FFmpeg takes for video or audio.
        MediaError: it can't be read (permission, I/O).
    """
    if not isinstance(path, (Path, str)):
        path.seek(0)
        return _open(path, path.name)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a video")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty, not a video")
    return _open(url(path), path)


def _open(source: str | BinaryIO, path: Path | str) -> Any:
    try:
        container = av.open(
            source,
            container_options={"protocol_whitelist": "file,data,crypto"},
            metadata_errors="surrogateescape",
        )
    except PermissionError as e:
        raise MediaError(f"{path}: permission denied") from e
    except (av.error.FFmpegError, ValueError, OSError) as e:
        raise InputError(f"{path} is not a video that FFmpeg can read: {reason(e)}") from e
    # PyAV asks for invented PTS, which are wrong for AVI; what is missing shows as missing.
    container.flags &= ~_GENPTS
    name = container.format.name
    kind = _REFUSED.get(name) or ("a still picture" if name.endswith("_pipe") else None)
    if kind:
        container.close()
        raise InputError(f"{path} is {kind}, not a video")
    return container

"""What shows that an output is the serial output: every frame's timestamp and hash, every audio packet's hash.

The proof lies beside the output as ``OUTPUT.proof.json``. Two runs of one job on any number of nodes have the same
``frames``; `verify` holds an output against them.
"""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcloud import __version__
from vidcloud.errors import VerifyError

if TYPE_CHECKING:
    from vidcloud.media.parts import Part

VERSION = 1

Entry = tuple[int, int, str]
"""A frame's timestamp and duration in the stream's time base, and the hash of its filtered pixels."""


class FrameLog:
    """The proof's frames while the job runs: a file beside each whole part, so that a crash loses none.

    Args:
        folder: where the parts are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: list[Entry] = []

    def covered(self, parts: Sequence["Part"]) -> list["Part"]:
        """The leading parts whose frames are in the log; a crash may have left one without."""
        found = []
        for part in parts:
            if not self._path(part.first, part.first + part.frames).exists():
                break
            found.append(part)
        return found

    def append(self, pts: int, duration: int, frame_hash: str) -> None:
        """Note the next frame that goes to the encoder."""
        self._open.append((pts, duration, frame_hash))

    def cut(self, first: int, stop: int) -> None:
        """A part is whole: put its frames on disk."""
        count = stop - first
        path = self._path(first, stop)
        partial = path.with_suffix(".partial")
        with partial.open("w") as f:
            json.dump(self._open[:count], f, separators=(",", ":"))
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
        del self._open[:count]

    def entries(self, parts: Iterable["Part"]) -> Iterator[Entry]:
        """All frames of whole parts, in order."""
        for part in parts:
            yield from json.loads(self._path(part.first, part.first + part.frames).read_text())

    def _path(self, first: int, stop: int) -> Path:
        return self._folder / f"{first:08d}-{stop:08d}.frames.json"


def proof_path(output: str) -> str:
    """Where the proof of an output lies; a path or a URL."""
    return output + ".proof.json"


def versions() -> dict[str, str]:
    """What may make a difference between two runs."""
    found = {"vidcloud": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in ("av", "numpy", "opencv-python-headless", "opencv-python"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, record: dict[str, Any], frames: Iterable[Entry]) -> None:
    """Write a proof, frame by frame: memory does not grow with the video.

    Args:
        path: a private name.
        record: all but the frames.
        frames: in order.
    """
    with path.open("w") as f:
        head = json.dumps({"version": VERSION, **record, "versions": versions()}, indent=1, default=str)
        f.write(head.rstrip().removesuffix("}").rstrip() + ',\n "frames": [')
        for n, entry in enumerate(frames):
            f.write((",\n  " if n else "\n  ") + json.dumps(entry, separators=(",", ":")))
        f.write("\n ]\n}\n")


@dataclass(frozen=True)
class Proof:
    """A proof as read.

    Attributes:
        record: all but the frames.
        frames: timestamps, durations, hashes.
    """

    record: dict[str, Any]
    frames: list[Entry]


def read(path: Path) -> Proof:
    """Read a proof.

    Raises:
        VerifyError: there is none, or it is not one.
    """
    try:
        record = json.loads(path.read_text())
        frames = [(int(p), int(d), str(h)) for p, d, h in record.pop("frames")]
    except FileNotFoundError:
        raise VerifyError(f"no proof {path}: the job was run with --no-proof, or it was moved") from None
    except (ValueError, KeyError, TypeError) as e:
        raise VerifyError(f"{path} is not a proof: {e}") from e
    return Proof(record, frames)

"""The first of two passes: an encoder whose packets are dropped, for the statistics that it leaves.

They lie in ``parts/first-pass/``, whole or not there. A second pass that was broken off begins anew, for the encoder's
rate control knows only whole passes; the first one need not be made again then.
"""

import json
import os
import shutil
from pathlib import Path

import xxhash

from vidcloud.errors import MediaError
from vidcloud.media.encode import Encoder, Statistics
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings
from vidcloud.pixels import Array

_RECORD = "first-pass.json"


class FirstPass:
    """A job's first pass.

    Args:
        parts: the job's folder for what is encoded.
        settings: of the encoder.
        info: the source.
    """

    def __init__(self, parts: Path, settings: EncodeSettings, info: VideoInfo) -> None:
        self._folder = parts / "first-pass"
        self._partial = parts / "first-pass.partial"
        self._settings, self._info = settings, info
        self._encoder: Encoder | None = None
        self._hashes, self._frames = xxhash.xxh3_128(), 0

    @property
    def ended(self) -> bool:
        """Whether the statistics are whole."""
        return (self._folder / _RECORD).exists()

    @property
    def statistics(self) -> Statistics:
        """For the second pass's encoder."""
        return Statistics(self._folder / "statistics", write=False)

    def encode(self, flat: Array, pts: int, duration: int, frame_hash: str) -> None:
        """Show the next frame to the encoder.

        Raises:
            MediaError: the encoder failed.
        """
        if self._encoder is None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
            told = Statistics(self._partial / self.statistics.file.name, write=True)
            self._encoder = Encoder(self._settings, self._info, statistics=told)
        self._encoder.encode(flat, pts, duration)
        self._hashes.update(frame_hash.encode())
        self._frames += 1

    def finish(self) -> None:
        """Make the statistics whole and durable, under their final name.

        Raises:
            MediaError: the encoder left none.
        """
        assert self._encoder is not None  # noqa: S101 - it was given frames
        self._encoder.flush()
        self._encoder.close()
        if not (self._partial / self.statistics.file.name).exists():
            raise MediaError(f"{self._encoder.resolved.encoder} left no statistics of its first pass")
        self._encoder = None
        record = {"version": 1, "frames": self._frames, "hashes": self._hashes.hexdigest()}
        (self._partial / _RECORD).write_text(json.dumps(record))
        for path in (*self._partial.iterdir(), self._partial):
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
        self._partial.rename(self._folder)

    def same(self, frames: int, hashes: str) -> bool:
        """Whether the second pass was shown the same frames: so many, with this hash of their hashes."""
        record = json.loads((self._folder / _RECORD).read_text())
        return (record["frames"], record["hashes"]) == (frames, hashes)

"""Joins encoded parts into the output while later ones are still being made."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from vidcloud.media.mux import MuxReport, mux
from vidcloud.media.parts import Part, read_part
from vidcloud.media.probe import VideoInfo


class Joiner:
    """One thread that copies parts, in order, and all other streams of the input into a file.

    A part that needs a longer decoding delay than the first one can't be appended to what is written already: then all
    is joined once more at the end.

    Args:
        source: the input as a local file.
        info: what `probe` says of it.
        target: the output's private name.
    """

    def __init__(self, source: Path, info: VideoInfo, target: Path) -> None:
        self._source, self._info, self._target = source, info, target
        self._coming: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._paths: list[Path] = []
        self._report: MuxReport | None = None
        self._failure: Exception | None = None
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="join", daemon=True)
        self._thread.start()

    def add(self, part: Part) -> None:
        """Append the next part.

        Raises:
            MediaError: the output can't be written.
        """
        if self._failure is not None:
            raise self._failure
        self._paths.append(part.path)
        self._coming.put(part)

    def finish(self) -> MuxReport:
        """Wait until the output is whole.

        Raises:
            MediaError: it can't be written, or parts don't fit together.
        """
        self._coming.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        if self._report is None:
            self._report = mux([read_part(p) for p in self._paths], self._source, self._info, self._target)
        return self._report

    def abandon(self) -> None:
        """Stop; whoever owns the private name removes it."""
        self._given_up.set()
        self._coming.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            first = self._coming.get()
            if not self._given_up.is_set():
                parts = self._arriving(first)
                self._report = mux(parts, self._source, self._info, self._target, delay=first.delay if first else 0)
        except _AgainError:
            return
        except Exception as e:  # noqa: BLE001 - raised again where somebody hears it
            self._failure = e

    def _arriving(self, first: Part | None) -> Iterator[Part]:
        part = first
        while part is not None:
            if first and part.delay > first.delay:
                raise _AgainError
            yield part
            part = self._coming.get()
            if self._given_up.is_set():
                raise _AgainError


class _AgainError(Exception):
    """What was written so far is of no use."""

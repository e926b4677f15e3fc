"""The seam of the planes: what a unit of work holds, and what each role does with it.

A plane is one file that reads from prepare to process to assemble. It knows pixels and files, and nothing of claims:
the roles tell it when to go on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # it brings libraries of pictures
    from vidcloud.planes.choice import Choice

Gate = Callable[[int], bool]
"""Called with a unit's number before it is prepared; blocks until the window admits it. False: stop."""


@dataclass(frozen=True)
class Prepared:
    """A unit whose input is on the share.

    Attributes:
        unit: its number.
        frames: how many frames are its own.
    """

    unit: int
    frames: int


@dataclass
class Assembly:
    """A whole output that waits for its final name.

    Attributes:
        frames: frames in it.
        report: lines for the user on what could not be carried or had to be changed.
    """

    frames: int
    report: list[str] = field(default_factory=list)


class CollectorPlane(Protocol):
    """What a collector does on a plane."""

    choice: "Choice"
    """The plane, and why."""
    unit_frames: int
    """Frames a unit has; the last may have fewer."""
    encoded: int
    """Frames encoded so far."""
    decoded: int
    """Frames decoded so far."""
    estimate: int
    """About how many frames there will be; 0 where nobody knows."""
    passes: int
    """How often each frame is decoded, filtered and encoded from here on: what `encoded` and the like count."""
    lossless: bool
    """Whether the output's frames are the filtered ones to the last bit."""

    @property
    def durable_units(self) -> int:
        """Units whose results are safe in encoded parts, counted from 0: they are not needed on the share any more."""
        ...

    def first_unit(self, anew: Callable[[], int]) -> int:
        """The unit that work begins with; asked once, before all else. Those below are not needed any more.

        Args:
            anew: gives up all units that were ever offered, and tells a number above them.
        """
        ...

    def describe(self) -> dict[str, object]:
        """What the processors must know of the frames, as a JSON record (``stream.json``)."""
        ...

    def prepare(self, gate: Gate, have: Callable[[int], bool]) -> Iterator[Prepared]:
        """Put units on the share, in order.

        Args:
            gate: asked before each unit.
            have: whether a unit's result is on the share already; its input need not be written again.

        Raises:
            MediaError: the input is damaged.
        """
        ...

    def assemble(self, unit: int, result: Path) -> None:
        """Take the next unit's result; in order, each once.

        Raises:
            ShareError: it is not what its writer said it is.
        """
        ...

    def digest(self, result: Path) -> str:
        """What two results of one unit must have in common.

        Raises:
            ShareError: the file is damaged.
        """
        ...

    def begin(self, target: Path) -> None:
        """Write the output to a private name from now on, while results come."""
        ...

    def finish(self) -> Assembly:
        """Make the output under the private name whole."""
        ...

    def abandon(self) -> None:
        """Stop writing the output; its private name may be removed."""
        ...

    def proof_frames(self) -> Iterator[tuple[int, int, str]]:
        """Timestamp, duration and pixel hash of each frame of the output, after `finish`."""
        ...


class ProcessorPlane(Protocol):
    """What a processor does on a plane."""

    def process(self, source: Path, target: Path, step: Callable[[int], None], *, keep: bool) -> None:
        """Filter a unit.

        Args:
            source: the unit's input.
            target: a private name for the result.
            step: called with the number of finished frames, after each; before the first one, while the way there is
                long, with ever lower numbers below zero.
            keep: where a filter raises, pass the frame through it unchanged.

        Raises:
            FilterError: a filter raised.
            FileNotFoundError: the unit is gone: somebody else has done it.
        """
        ...

    def close(self) -> None:
        """Let go of what is open, before the interpreter ends: threads of a decoder would be joined under its lock."""
        ...

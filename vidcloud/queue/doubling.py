"""Which of the last units gets a second run: at the end of a job nodes are idle while slow ones work on."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SLOWER = 1.5
"""A unit is slow if what is left of it takes this many times what all of it takes elsewhere."""
_WORTH_S = 0.5
"""… and no less than this: a second run must be claimed, read and written."""


@dataclass(frozen=True)
class Running:
    """A unit that one node works on, as its last heartbeat showed it.

    Attributes:
        unit: the unit's number.
        elapsed_s: seconds since it was claimed.
        steps: frames done then; 0 if the heartbeat does not show this unit yet, below on the way to the first one.
        shown_s: seconds since that heartbeat.
    """

    unit: int
    elapsed_s: float
    steps: int = 0
    shown_s: float = 0.0

    def left_s(self, frames: int) -> float | None:
        """Seconds until it ends if it goes on as it did; None where no frame was seen to be done."""
        if self.steps <= 0:
            return None
        return max(0, frames - self.steps) * (self.elapsed_s - self.shown_s) / self.steps - self.shown_s


def slowest(running: Sequence[Running], frames: Mapping[int, int], finished: Sequence[float]) -> int | None:
    """The unit that should have a second run because it would end last; None if none is slow.

    Args:
        running: units that may have one.
        frames: how many frames a unit has.
        finished: seconds a frame that finished units took; without any, nobody can tell who is slow.
    """
    if not finished:
        return None
    usual = statistics.median(finished)
    slow: dict[int, float] = {}
    for r in running:
        left = r.left_s(frames[r.unit])
        # Without a frame done, the time so far is the least that one can expect.
        expected = r.elapsed_s if left is None else left
        if expected > max(_SLOWER * usual * frames[r.unit], _WORTH_S):
            slow[r.unit] = expected
    return max(slow, key=slow.__getitem__, default=None)

"""How often the collector looks at the share: at once while results come, less often the longer none came."""

_FIRST_S, _LONGEST_S = 0.005, 0.1
"""The first and the longest pause of a collector to which nothing happens."""
_QUIET_S, _SHARE = 1.0, 0.1
"""… or longer, while nodes have units to go on with and nothing has happened for long: this part of that time."""
_LOOKS_A_LEASE = 10
"""… but so often at least: a collector that looks too seldom passes for a dead one."""
_GROWTH = 1.5


class Pauses:
    """The pauses between a collector's looks at its ledger.

    Args:
        lease_s: seconds of silence after which somebody is taken for dead.
        now: on the collector's clock, in seconds.
    """

    def __init__(self, lease_s: float, now: float) -> None:
        self._most_s = min(_QUIET_S, lease_s / _LOOKS_A_LEASE)
        self._busy_at, self._pause_s = now, _FIRST_S

    def next_s(self, now: float, *, busy: bool, all_claimed: bool) -> float:
        """How long to look away now.

        Args:
            now: on the collector's clock, in seconds.
            busy: whether the last look showed anything.
            all_claimed: whether nothing is left to claim: then who notices a result late ends the job late.
        """
        if busy:
            self._busy_at, self._pause_s = now, _FIRST_S
            return _FIRST_S
        quiet_s = 0.0 if all_claimed else min(self._most_s, _SHARE * (now - self._busy_at))
        self._pause_s = min(self._pause_s * _GROWTH, max(_LONGEST_S, quiet_s))
        return self._pause_s

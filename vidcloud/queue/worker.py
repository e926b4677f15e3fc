"""The processor's side of the queue: claim a unit, show a sign of life, publish the result.

A claim is the name ``<unit>.<epoch>.lock``, made by linking the worker's ticket: exactly one worker gets it. It names
who works; what keeps a worker that was thought dead from doing harm is the epoch, which the collector checks on
acceptance.
"""

import itertools
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcloud.errors import LeaseLostError, ShareError, TornError
from vidcloud.queue import records
from vidcloud.queue.directory import Clock, Directory
from vidcloud.queue.records import Beat, Frontier, Ticket

BEATS_A_LEASE = 5
"""How often a worker writes its heartbeat in the time after which others take it for dead."""
_LINKS_A_TICKET = 30_000
"""ext4 allows 65,000 links of one file; a new ticket begins long before."""
_IDLE_S = (0.01, 0.25)
"""The first and the longest pause of a worker that finds nothing to do, when there are few."""
_IDLE_A_NODE_S = 0.001
"""… and when there are many: so that all together look a thousand times a second; at first four times as often."""
_LOST_S, _LOST_MAX_S = 0.04, 1.0
"""The first pause after lost races, about as long as the collector takes to tell what is claimed, and the longest."""
_TRIES = 3
"""Races lost in one look; then it is cheaper to wait until the frontier has passed what others took. In a crowd one."""
_CROWD = 16
"""More nodes than this are a crowd, in which races are avoided; fewer lose little by trying."""
_LOAD = 2
"""How many units there are for each node of a crowd that tries for one: with two it loses about one race in five."""
_PART = 16
"""The part of what is ahead that a worker chooses among: the window grows with the nodes, and so with their claims."""
_SPREAD_MAX = 1023
"""Among how many units beyond the lowest a worker chooses at most."""


@dataclass(frozen=True)
class Claim:
    """The exclusive right to a unit.

    Attributes:
        unit: the unit's number.
        epoch: which claim of the unit this is, from 1.
        keep: pass frames through a filter that raises on them.
        life: the worker's life it was made in; one that missed its heartbeats begins another.
    """

    unit: int
    epoch: int
    keep: bool
    life: int


class Worker:
    """A processor in the queue.

    `beat` may be called from another thread; all else from one.

    Args:
        directory: the job's directory.
        clock: this node's clock.
        ticket: who it is; the node's name must be new in the job.
        lease_s: seconds of silence after which the collector gives its claims to others.
        rng: for spreading claims; seeded in simulations.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        ticket: Ticket,
        *,
        lease_s: float,
        rng: random.Random | None = None,
    ) -> None:
        self._dir = directory
        self._clock = clock
        self._lease_s = lease_s
        self._rng = rng or random.Random(ticket.node)  # noqa: S311 - spreads load
        self._lock = threading.Lock()
        self._life = 0
        self._count = 0
        self._at = (-1, 0, 0)
        self._chunks = 0
        self._ticket_name = f"{records.WORKERS}/{ticket.node}.ticket"
        self._beat_name = f"{records.WORKERS}/{ticket.node}.beat"
        self._taken: set[int] = set()
        self._spread = 0
        self._next = -1  # the unit after the last one claimed: a decoder goes on from where it is
        self._idle_s = _IDLE_S[0]
        self._frontier = Frontier()
        self._frontier_changed = self._asked = clock.monotonic()
        self.node = ticket.node
        directory.make(records.WORKERS)  # a processor may be there before the collector
        self._ticket = ticket
        self._links = 0
        directory.replace(self._ticket_name, ticket.to_bytes())
        self._last_beat = clock.monotonic()
        self.beat()

    @property
    def beat_interval_s(self) -> float:
        """Seconds between heartbeats."""
        return self._lease_s / BEATS_A_LEASE

    def beat(self) -> None:
        """Show a sign of life. A worker that was silent for half a lease loses what it held."""
        with self._lock:
            self._count += 1
            unit, epoch, steps = self._at
            data = Beat(self._count, unit, epoch, steps, self._chunks).to_bytes()
        self._dir.overwrite(self._beat_name, data)
        with self._lock:
            now = self._clock.monotonic()
            if now - self._last_beat > self._lease_s / 2:
                self._life += 1
            self._last_beat = now

    def check(self, claim: Claim, steps: int) -> None:
        """Note progress within a unit, and stop if the claim can't be trusted any more.

        Raises:
            LeaseLostError: no heartbeat could be written for half a lease, or the job has ended: then somebody else was
                faster in a second run of the unit.
        """
        with self._lock:
            self._at = (claim.unit, claim.epoch, steps)
            silent = self._clock.monotonic() - self._last_beat
            if claim.life != self._life or silent > self._lease_s / 2:
                raise LeaseLostError(f"{self.node} was silent for half a lease while it held unit {claim.unit}")
        if self._clock.monotonic() - self._asked > self.beat_interval_s:
            self.frontier()
        if self._frontier.ended:
            raise LeaseLostError(f"the job has ended while {self.node} held unit {claim.unit}")

    def frontier(self) -> Frontier:
        """What the collector says now. A zombie collector's words are not heard."""
        self._asked = self._clock.monotonic()
        try:
            read = Frontier.from_bytes(self._dir.read(records.FRONTIER))
        except (FileNotFoundError, TornError):  # not yet there, or not yet whole; a dead collector shows otherwise
            return self._frontier
        old = self._frontier
        if (read.collector, read.beat) > (old.collector, old.beat):
            self._frontier = read
            self._frontier_changed = self._clock.monotonic()
            self._taken = {u for u in self._taken if u >= read.hint}
        return self._frontier

    @property
    def told(self) -> Frontier:
        """What the collector said when it was last asked; costs nothing."""
        return self._frontier

    @property
    def collector_silent_s(self) -> float:
        """Seconds since the frontier last changed, on this node's clock."""
        return self._clock.monotonic() - self._frontier_changed

    def claim(self) -> Claim | None:
        """Claim a unit. None if there is none now or others were faster: ask again after `pause_s`.

        Costs one read of the frontier and, mostly, one link.
        """
        told = self.frontier()
        if told.ended:
            return None
        for unit in sorted(told.retake):
            retake = told.retake[unit]
            if unit >= told.offered:
                break  # after a resume: its input is not on the share again yet
            if self.node not in retake.avoid and (got := self._try(unit, retake.epoch, keep=retake.keep)):
                self._idle_s = _IDLE_S[0]
                return got
        once = self._idle_s > _IDLE_S[0] or told.nodes > _CROWD
        free: list[int] = []
        for lost in range(1 if once else _TRIES):
            on = self._is_free(told, self._next)
            if not (free := [self._next] if on else self._free(told)):
                break
            if not on and told.idle > _CROWD and len(free) < _LOAD * told.idle * self._rng.random():
                return None  # more nodes wait than there are units: few enough try that most of them win
            if got := self._try(self._rng.choice(free), 1, keep=False):
                self._spread = self._spread if lost else self._spread * 7 // 8  # one race in six is lost then
                self._idle_s = _IDLE_S[0]
                return got
            # Others are at the same units: aim wider.
            self._spread = min(2 * self._spread + 1, _SPREAD_MAX)
        if free:
            self._idle_s = min(max(2 * self._idle_s, _LOST_S), _LOST_MAX_S)
        return None

    def pause_s(self) -> float:
        """How many seconds to wait after `claim` gave None. Grows until there is a claim again."""
        told = self._frontier
        most = told.nodes * _IDLE_A_NODE_S
        if told.total is not None and told.hint >= told.total:
            # All is claimed: there is work again only if somebody dies or is slow, and that takes a while to know.
            most *= 4
        pause = max(self._idle_s, told.idle * _IDLE_A_NODE_S / 4)
        self._idle_s = min(pause * 1.5, max(_IDLE_S[1], min(most, self._lease_s / 4)))
        return self._rng.uniform(pause / 2, pause)

    def _free(self, told: Frontier) -> list[int]:
        """The lowest free units, as many as the herd is wide; of a few nodes none takes what follows on another's.

        But for the end: there units become smaller, and are taken in order, so that nodes end together.
        """
        units: Iterable[int] = (u for u in range(told.hint, told.offered) if self._is_free(told, u))
        if told.nodes > _CROWD:
            most = max(self._spread + 1, _LOAD * told.idle, (told.offered - told.hint) // _PART)
            return list(itertools.islice(units, most))
        if told.total is None:
            free = list(units)
            units = [u for u in free if u == told.first or self._is_free(told, u - 1)] or free
        return list(itertools.islice(units, max(self._spread + 1, told.idle)))

    def _is_free(self, told: Frontier, unit: int) -> bool:
        """Whether nobody is known to have claimed a unit."""
        return (
            told.hint <= unit < told.offered
            and not told.claimed >> (unit - told.hint) & 1
            and unit not in self._taken
            and unit not in told.retake
        )

    def _try(self, unit: int, epoch: int, *, keep: bool) -> Claim | None:
        won = self._dir.link(self._ticket_name, records.claim_name(unit, epoch))
        self._taken.add(unit)
        if not won:
            return None
        self._links += 1
        if self._links % _LINKS_A_TICKET == 0:
            self._dir.remove(self._ticket_name)
            self._dir.replace(self._ticket_name, self._ticket.to_bytes())
        self._next = unit + 1
        with self._lock:
            self._at = (unit, epoch, 0)
            return Claim(unit, epoch, keep, self._life)

    def source(self, claim: Claim) -> Path:
        """Where the claimed unit's input lies."""
        return self._dir.path(records.ready_name(claim.unit))

    def private(self, claim: Claim) -> Path:
        """Where to write the result, unseen by others until it is published."""
        return self._dir.path(self._private_name(claim))

    def publish(self, claim: Claim) -> None:
        """Put the private file where the collector accepts it, at once or not at all.

        Raises:
            LeaseLostError: the claim is not this worker's any more.
        """
        self.check(claim, 0)
        private = self._private_name(claim)
        try:
            published = self._dir.link(private, records.done_name(claim.unit, claim.epoch))
        except FileNotFoundError:
            published = False
        if not published:
            raise LeaseLostError(f"the result of unit {claim.unit}, epoch {claim.epoch}, could not be published")
        self._dir.remove(private)
        with self._lock:
            self._chunks += 1
            self._at = (-1, 0, 0)

    def fail(self, claim: Claim, error: dict[str, Any]) -> None:
        """Tell the collector that the unit failed here, and why."""
        self._note(claim, "failed", error)

    def release(self, claim: Claim) -> None:
        """Give the unit back undone."""
        self._note(claim, "released", {})

    def leave(self) -> None:
        """Leave the queue: the heartbeat goes, the ticket stays in the claims."""
        self._dir.remove(self._beat_name)
        self._dir.remove(self._ticket_name)

    def _note(self, claim: Claim, kind: str, content: dict[str, Any]) -> None:
        with self._lock:
            self._at = (-1, 0, 0)
        self._dir.remove(self._private_name(claim))
        name = f"{records.NOTES}/{records.epoch_name(claim.unit, claim.epoch)}.{kind}"
        self._dir.replace(name, records.encode({"node": self.node, "keep": claim.keep, **content}))

    def _private_name(self, claim: Claim) -> str:
        return f"{records.PRIVATE}/{records.epoch_name(claim.unit, claim.epoch)}.{self.node}"


def check_share(directory: Directory) -> None:
    """Find out whether a share can carry a queue.

    Raises:
        ShareError: it is not writable or has no hard links.
    """
    try:
        directory.make(records.PRIVATE)
        directory.replace(f"{records.PRIVATE}/probe", b"x")
        linked = directory.link(f"{records.PRIVATE}/probe", f"{records.PRIVATE}/probe.link")
    except OSError as e:
        raise ShareError(f"can't write to the share {directory.path('')}: {e.strerror}; use another --share") from e
    directory.remove(f"{records.PRIVATE}/probe.link")
    directory.remove(f"{records.PRIVATE}/probe")
    if not linked:
        raise ShareError(f"the share {directory.path('')} does not link files exclusively; use another --share")

"""The collector's side of the queue: offer units, accept one result of each, give away what dead nodes held.

The ledger is the only one that accepts, and it accepts a result only under a claim that counts. A claim counts no more
when its owner shows no sign of life for a lease on the collector's own clock, reports a failure, or gives the unit
back: the unit gets a higher epoch then. A unit that is doubled has two claims that count, and the first result is
taken.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidcloud.errors import JobFailedError, NotTheCollectorError, ShareError
from vidcloud.queue import records
from vidcloud.queue.directory import Clock, Directory
from vidcloud.queue.doubling import Running
from vidcloud.queue.records import Beat, Frontier, Retake, Ticket

_PUBLISH_S = 0.02
"""The frontier is not written more often than this."""
_BEAT_S = 1.0
"""… nor less often."""
_LOOKS_A_LEASE = 20
"""How often heartbeats are read in a lease."""
_LOOKS_AT_LEAST = 4
_LOOK_A_NODE_S = 0.005
"""… less often with many nodes, so that reading them leaves time for the frontier."""
_LOOK_S = 0.5
"""… but at least this often, so that a process that died on this very host is noticed soon."""
_SLICE_S = 0.05
"""Heartbeats are read no longer than this at a time, nor longer than half the time since."""
_TOLD = 2048
"""Units above the hint of which the frontier tells whether they are claimed: more than any worker's choice is wide."""
_RELEASES_MAX = 32
"""How often a unit may be given back: draining nodes does so once each, a missing input for ever."""
_COMING_S = 60.0
"""How long after one came or went another that is asked for is expected; a unit that failed on all others waits."""
_FALSE_DEATH_GROWTH = 2.0
_LEASE_MAX_FACTOR = 16.0


@dataclass(frozen=True)
class Result:
    """A published result.

    Attributes:
        unit: the unit's number.
        epoch: of the claim it was made under.
        path: the file.
        accepted: True for the one that counts; False for one under an old epoch, or of a second run.
        seconds: how long it took from its claim, as far as the collector saw it; None for what was claimed before.
    """

    unit: int
    epoch: int
    path: Path
    accepted: bool
    seconds: float | None = None


@dataclass
class Node:
    """A worker as the collector sees it.

    Attributes:
        ticket: who it is.
        beat: its last heartbeat.
        changed: when that changed, on the collector's clock.
        moved: when its unit or steps changed last.
        alive: False once it is taken for dead or has left.
    """

    ticket: Ticket
    beat: Beat
    changed: float
    moved: float
    alive: bool = True


@dataclass
class _Hold:
    """A claim that counts; its owner is read a little later than its name is seen."""

    claimed_at: float
    owner: str = ""


@dataclass
class _Unit:
    """What the ledger knows of a unit that is not accepted.

    Attributes:
        epoch: the highest that was given away; unclaimed while ``retake`` tells of it.
        holds: the claims that count, by epoch: two while the unit is doubled.
    """

    epoch: int = 1
    holds: dict[int, _Hold] = field(default_factory=dict)
    doubled: bool = False
    failures: list[dict[str, Any]] = field(default_factory=list)
    deaths: int = 0
    releases: int = 0
    retake: Retake | None = None


class Ledger:
    """The queue as the collector keeps it.

    Args:
        directory: the job's directory.
        clock: the collector's clock.
        ticket: who the collector is.
        lease_s: seconds without a change of its heartbeat after which a worker is taken for dead.
        stall_s: seconds without progress within a unit after which the unit is taken from a worker that still beats.
        attempts: failures of one unit, on different nodes where there are several, after which the job fails.
        max_deaths: workers that die over one unit before the job fails: it may be the unit that kills them.
        keep: after the attempts let the unit be done with ``keep`` instead of failing the job.
        wanted: how many workers the user asks for now.
        gone: whether a ticket's process is certainly dead; seen only on the same host.
        event: called with an event's name and fields, for the log.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        ticket: Ticket,
        *,
        lease_s: float,
        stall_s: float = 600.0,
        attempts: int = 2,
        max_deaths: int = 4,
        keep: bool = False,
        wanted: Callable[[], int] = lambda: 0,
        gone: Callable[[Ticket], bool] = records.process_gone,
        event: Callable[..., None] = lambda _name, **_fields: None,
    ) -> None:
        self._dir = directory
        self._clock = clock
        self._ticket = ticket
        self._base_lease_s = self.lease_s = lease_s
        self._stall_s = stall_s
        self._attempts = attempts
        self._max_deaths = max_deaths
        self._keep = keep
        self._wanted = wanted
        self._gone = gone
        self._event = event
        self._units: dict[int, _Unit] = {}
        self._accepted: dict[int, int] = {}
        self._late: set[tuple[int, int]] = set()
        self._noted: set[str] = set()
        self._claims_seen: set[tuple[int, int]] = set()
        self._shards: set[str] = set()
        self._first = self._offered = 0
        self._total: int | None = None
        self._ended = ""
        self._epoch = 0
        self._beat = 0
        self._hint = 0
        self._opened_at = float("inf")
        self._changed_at = float("-inf")  # when a node came or went last
        self._present: set[str] = set()
        self._unread: list[str] = []
        self._unowned: list[tuple[int, int, str]] = []
        self._looked = self._published = self._sliced = self._read_at = float("-inf")
        self._stale = True
        self.nodes: dict[str, Node] = {}
        self.takeovers = 0

    # -- the collector's own claim -------------------------------------------------------------------------------------

    def take(self) -> None:
        """Become the job's collector. Workers see that it lives, and wait; `publish` shows it from time to time.

        Raises:
            NotTheCollectorError: another collector is at work on this job.
        """
        for folder in records.FOLDERS:
            self._dir.make(folder)
        locks = [e[0] for n in self._dir.names(records.COLLECTORS) if (e := records.parse_epoch_name(f"{n}.0"))]
        previous = max(locks, default=0)
        if previous:
            self._await_silence(previous)
        self._dir.replace(f"{records.WORKERS}/{self._ticket.node}.ticket", self._ticket.to_bytes())
        if not self._dir.link(f"{records.WORKERS}/{self._ticket.node}.ticket", self._lock_name(previous + 1)):
            raise NotTheCollectorError("another collector has just taken this job over")
        self._epoch = previous + 1
        self.publish(force=True)

    def start_anew(self, spare: int) -> int:
        """Give up all units of earlier collectors: what was made of them counts for nothing, and is removed.

        Args:
            spare: how many more units an earlier collector that is only thought dead may prepare.

        Returns:
            A number above all units that anybody claimed, to `open` with.
        """
        if self._epoch <= 1:
            return 0
        # Inputs go before claims are listed: who claims a unit after that finds nothing to work on.
        for folder in (records.READY, records.PRIVATE, records.DONE):
            for name in self._dir.names(folder):
                self._dir.remove(f"{folder}/{name}")
        for folder in sorted(self._dir.names(records.CLAIMS), reverse=True):
            claims = self._dir.names(f"{records.CLAIMS}/{folder}")
            if units := [parsed[0] for name in claims if (parsed := records.parse_epoch_name(name))]:
                return max(units) + 1 + spare
        return spare

    def open(self, first: int = 0) -> None:
        """Begin to take results and to give units away, as the job's collector.

        Args:
            first: units below it are accepted for good; those from it on are found from what the share holds.

        Raises:
            NotTheCollectorError: another collector is at work on this job.
        """
        if not self._epoch:
            self.take()
        self._first = self._hint = first
        self._look(force=True)
        # Also claims of units not offered yet: without its epoch a result that counts would pass for a late one. But
        # whose claims are lost is judged only after `poll` has seen the results.
        self._read_claims(sorted(f"{records.CLAIMS}/{name}" for name in self._dir.names(records.CLAIMS)))
        self.publish(force=True)
        self._opened_at = self._clock.monotonic()

    def _lock_name(self, epoch: int) -> str:
        return f"{records.COLLECTORS}/{records.unit_name(epoch)}"

    def _await_silence(self, previous: int) -> None:
        """Return when the collector before is certainly or presumably dead, by change on our own clock."""
        owner = Ticket.from_bytes(self._dir.read(self._lock_name(previous)))
        began, seen = self._clock.monotonic(), b""
        while not self._gone(owner):
            now = b""
            with contextlib.suppress(FileNotFoundError):
                now = self._dir.read(records.FRONTIER)
            with contextlib.suppress(ShareError):
                if Frontier.from_bytes(now).ended:
                    return
            if seen and now != seen:
                raise NotTheCollectorError(
                    f"another collector ({owner.node}, process {owner.pid}) is at work on this job"
                )
            seen = now or seen
            if self._clock.monotonic() - began > self._base_lease_s:
                return
            self._clock.sleep(self._base_lease_s / _LOOKS_A_LEASE)

    def still_mine(self) -> bool:
        """Whether no later collector has taken the job over."""
        return not any(
            e[0] > self._epoch for n in self._dir.names(records.COLLECTORS) if (e := records.parse_epoch_name(f"{n}.0"))
        )

    # -- what the collector tells --------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """All units below are accepted."""
        return self._first

    @property
    def offered(self) -> int:
        """All units below are ready or done."""
        return self._offered

    @property
    def closed(self) -> bool:
        """Whether the number of units is known."""
        return self._total is not None

    @property
    def complete(self) -> bool:
        """Whether all units of the job are accepted."""
        return self._total is not None and self._first >= self._total

    @property
    def all_claimed(self) -> bool:
        """Whether workers have begun all units of the job."""
        return self._total is not None and self._hint >= self._total

    def counts(self, unit: int, epoch: int) -> bool:
        """Whether a result of a unit that is not accepted yet would be, under this epoch."""
        state = self._unit(unit)
        return epoch == state.epoch or epoch in state.holds

    def offer(self, unit: int) -> None:
        """Tell the workers that a unit is ready. Units are offered in order."""
        if (folder := records.shard(unit)) not in self._shards:
            self._dir.make(folder)
            self._shards.add(folder)
        self._offered = unit + 1
        self._stale = True

    def close(self, total: int) -> None:
        """Tell how many units the job has."""
        self._total = total
        self._stale = True

    def end(self, how: Literal["done", "failed", "cancelled"]) -> None:
        """Tell the workers to go home."""
        self._ended = how
        self.publish(force=True)

    def publish(self, *, force: bool = False) -> None:
        """Write the frontier if something changed, or a heartbeat is due."""
        now = self._clock.monotonic()
        if not force and now - self._published < (_PUBLISH_S if self._stale else _BEAT_S):
            return
        self._read_claims()
        self._list_nodes()  # a herd that joins must be known before it is at the units
        present = self.alive + self._joining
        self._beat += 1
        retake = {u: s.retake for u, s in self._units.items() if s.retake}
        frontier = Frontier(
            self._epoch,
            self._beat,
            self._first,
            self._offered,
            self._total,
            self._hint,
            retake,
            self._ended,
            present,
            self._claimed(),
            max(0, present - sum(len(s.holds) for s in self._units.values())),
        )
        self._dir.replace(records.FRONTIER, frontier.to_bytes())
        self._published, self._stale = now, False

    def _claimed(self) -> int:
        """Which units above the hint are claimed: workers who knew the hint alone would try them."""
        stop = min(self._offered, self._hint + _TOLD)
        return sum(1 << (u - self._hint) for u in range(self._hint, stop) if self._is_claimed(u))

    def _is_claimed(self, unit: int) -> bool:
        state = self._units.get(unit)
        given_away = state is not None and state.epoch > 1
        return unit in self._accepted or (unit, 1) in self._claims_seen or given_away

    # -- what the workers did ------------------------------------------------------------------------------------------

    def poll(self) -> list[Result]:
        """Look at what workers published, noted and claimed, and at who is alive.

        Returns:
            New results, each told once. One that is not accepted came under an old epoch: to be compared and removed.

        Raises:
            JobFailedError: a unit failed on as many nodes as allowed.
        """
        results = [r for name in sorted(self._dir.names(records.DONE)) if (r := self._consider(name))]
        self._read_notes()
        self._look()
        if self._hint < self._offered and self._clock.monotonic() - self._read_at >= _PUBLISH_S:
            self._read_claims()  # workers that begin at a stale hint lose races
        self.publish()
        return results

    def _consider(self, name: str) -> Result | None:
        parsed = records.parse_epoch_name(name)
        if parsed is None:
            return None
        unit, epoch = parsed
        path = self._dir.path(f"{records.DONE}/{name}")
        if unit < self._first or unit in self._accepted:
            if self._accepted.get(unit) == epoch or parsed in self._late:
                return None
        elif self.counts(unit, epoch):
            self._accepted[unit] = epoch
            state = self._units.pop(unit)
            if not state.doubled:  # else the other run still reads it: it goes with the job
                self._dir.remove(records.ready_name(unit))
            hold = state.holds.get(epoch)
            # A claim that was not seen yet was made after the last look.
            claimed_at = hold.claimed_at if hold else self._read_at
            seconds = self._clock.monotonic() - claimed_at if claimed_at > self._opened_at else None
            while self._first in self._accepted:
                self._first += 1
            self._stale = True
            return Result(unit, epoch, path, accepted=True, seconds=seconds)
        elif parsed in self._late:
            return None
        self._late.add(parsed)
        self._event("late_result", unit=unit, epoch=epoch)
        return Result(unit, epoch, path, accepted=False)

    def _unit(self, unit: int) -> _Unit:
        return self._units.setdefault(unit, _Unit())

    def _read_notes(self) -> None:
        for name in self._dir.names(records.NOTES):
            parsed = records.parse_epoch_name(name)
            if name in self._noted or parsed is None:
                continue
            self._noted.add(name)
            unit, epoch = parsed
            if unit < self._first or unit in self._accepted or not self.counts(unit, epoch):
                continue
            note = records.decode(self._dir.read(f"{records.NOTES}/{name}"), f"note {name}")
            if name.endswith(".failed"):
                self._failed(unit, epoch, note)
            else:
                self._released(unit, epoch, note)

    def _released(self, unit: int, epoch: int, note: dict[str, Any]) -> None:
        state = self._unit(unit)
        state.releases += 1
        self._event("released", unit=unit, epoch=epoch, node=note["node"])
        if state.releases >= _RELEASES_MAX:
            raise JobFailedError(
                f"unit {unit} was given back {state.releases} times: its input may be missing on the share; see the "
                "logs of the processors, then resume the job"
            )
        self._give_away(unit, epoch)

    def _failed(self, unit: int, epoch: int, note: dict[str, Any]) -> None:
        state = self._unit(unit)
        state.failures.append(note)
        self._event("unit_failed", unit=unit, epoch=epoch, node=note["node"], error=note.get("detail", ""))
        if len(state.failures) < self._attempts:
            self._give_away(unit, epoch)
        elif self._keep and not note["keep"]:
            self._give_away(unit, epoch, keep=True)
        else:
            raise JobFailedError(_told(state.failures))

    def _give_away(self, unit: int, epoch: int, *, keep: bool = False) -> None:
        """A claim counts for nothing from now on. The unit goes to somebody else, unless another claim of it stands."""
        state = self._unit(unit)
        state.holds.pop(epoch, None)
        if epoch == state.epoch:
            state.epoch, state.retake = epoch + 1, None
        if not state.holds and state.retake is None:
            failed = {str(f["node"]) for f in state.failures}
            state.retake = Retake(state.epoch, tuple(sorted(failed)) if self._others(failed) else (), keep)
        self._stale = True

    def _others(self, nodes: set[str]) -> bool:
        """Whether there are nodes besides these, or are to come soon."""
        if any(n.alive for name, n in self.nodes.items() if name not in nodes):
            return True
        return self._clock.monotonic() - self._changed_at < _COMING_S and self._wanted() > self.alive

    # -- second runs ---------------------------------------------------------------------------------------------------

    def running(self) -> list[Running]:
        """Units that may be doubled: none unless all units are claimed and nodes have nothing to do.

        Those that failed or were lost before are left out, and so are those that were doubled.
        """
        busy = {hold.owner for state in self._units.values() for hold in state.holds.values()}
        idle = any(n.alive and n.beat.unit < 0 and name not in busy for name, n in self.nodes.items())
        waits = any(state.retake for state in self._units.values())
        if not idle or waits or not self.all_claimed:
            return []
        now = self._clock.monotonic()
        found = []
        for unit, state in sorted(self._units.items()):
            for epoch, hold in state.holds.items():
                node = self.nodes.get(hold.owner)
                if node is None or state.doubled or state.failures or state.deaths:
                    continue
                shown = (node.beat.unit, node.beat.epoch) == (unit, epoch)
                steps, at = (node.beat.steps, node.changed) if shown else (0, now)
                found.append(Running(unit, now - hold.claimed_at, steps, now - at))
        return found

    def double(self, unit: int) -> None:
        """Let an idle node do a unit of `running` as well: the first result counts, and the other is late."""
        state = self._units[unit]
        owners = tuple(hold.owner for hold in state.holds.values())
        state.epoch += 1
        state.doubled, state.retake = True, Retake(state.epoch, owners)
        self._event("doubled", unit=unit, epoch=state.epoch, node=",".join(owners))
        self._stale = True

    # -- who is alive --------------------------------------------------------------------------------------------------

    def _read_claims(self, folders: Sequence[str] | None = None) -> None:
        """Find new claims, who holds them, and the lowest unit that nobody has claimed."""
        for folder in records.shards(self._first, self._offered) if folders is None else folders:
            for name in self._dir.names(folder):
                parsed = records.parse_epoch_name(name)
                if parsed is None or parsed in self._claims_seen or parsed[0] < self._first:
                    continue
                self._claims_seen.add(parsed)
                self._stale = True
                unit, epoch = parsed
                if unit in self._accepted:
                    continue
                state = self._unit(unit)
                if epoch > state.epoch:
                    state.holds.clear()  # an earlier collector gave it away: only the last of its claims counts
                if epoch >= state.epoch:
                    state.epoch, state.retake = epoch, None
                    state.holds[epoch] = _Hold(self._clock.monotonic())
                    self._unowned.append((unit, epoch, f"{folder}/{name}"))
        before = self._hint
        self._hint = max(self._hint, self._first)
        while self._hint < self._offered and self._is_claimed(self._hint):
            self._hint += 1
        self._stale |= self._hint != before
        self._read_at = self._clock.monotonic()

    def _look(self, *, force: bool = False) -> None:
        """Read heartbeats, as many as there is time for, and when all are read see whose claims are lost."""
        began = self._clock.monotonic()
        if not self._unread:
            if not force and began - self._looked < self._look_s:
                return
            self._looked = began
            self._list_nodes()
            self._unread = sorted(self._present, reverse=True)
        slice_s = min(_SLICE_S, (began - self._sliced) / 2)
        while self._unread:
            self._read_beat(self._unread.pop())
            self._sliced = self._clock.monotonic()
            if not force and self._unread and self._sliced - began > slice_s:
                return  # the frontier must not wait until a thousand nodes are read
        self._read_claims()
        while self._unowned:
            self._read_owner(*self._unowned.pop(0))
            self._sliced = self._clock.monotonic()
            if not force and self._unowned and self._sliced - began > slice_s:
                return
        now = self._looked  # what was read is no older, however long the reading took
        for unit, state in sorted(self._units.items()):
            if state.retake and not state.holds:
                if state.retake.avoid and not self._others(set(state.retake.avoid)):
                    # The nodes that were to do it instead are gone, or don't come: whoever is left may try again.
                    state.retake = Retake(state.epoch, (), state.retake.keep)
                    self._stale = True
                continue
            for epoch, hold in sorted(state.holds.items()):
                if hold.owner and (why := self._lost(unit, epoch, hold, now)):
                    self._take_over(unit, epoch, hold.owner, why)

    @property
    def _look_s(self) -> float:
        """How often heartbeats are read: of many nodes less often, for each costs an operation."""
        often = min(_LOOK_S, self.lease_s / _LOOKS_A_LEASE)
        return max(often, min(_LOOK_A_NODE_S * len(self.nodes), self.lease_s / _LOOKS_AT_LEAST))

    def _lost(self, unit: int, epoch: int, hold: _Hold, now: float) -> str:
        """Why a claim's owner will not bring it, or ""."""
        node = self.nodes.get(hold.owner)
        held_s = now - hold.claimed_at
        if node is None:
            return "its node is gone" if held_s > min(1.0, self.lease_s) else ""
        if not node.alive:
            return "its node is dead"
        if (node.beat.unit, node.beat.epoch) != (unit, epoch):
            # The worker beats but holds something else: it lost this claim without a word.
            return (
                "its node works on another unit"
                if held_s > self.lease_s and node.changed > hold.claimed_at + self.lease_s / 2
                else ""
            )
        if now - max(node.moved, hold.claimed_at) > self._stall_s:
            return f"no progress for {self._stall_s:.0f} s"
        return ""

    def _take_over(self, unit: int, epoch: int, owner: str, why: str) -> None:
        state = self._units[unit]
        state.deaths += 1
        self.takeovers += 1
        self._event("takeover", unit=unit, epoch=epoch, node=owner, why=why)
        if state.deaths >= self._max_deaths:
            raise JobFailedError(
                f"unit {unit} was lost {state.deaths} times (last on {owner}: {why}): "
                "it may be what kills the processors; see their logs"
            )
        self._give_away(unit, epoch)
        self._dir.remove(f"{records.PRIVATE}/{records.epoch_name(unit, epoch)}.{owner}")

    def _list_nodes(self) -> None:
        self._present = {n.removesuffix(".beat") for n in self._dir.names(records.WORKERS) if n.endswith(".beat")}
        for name, node in self.nodes.items():
            if node.alive and name not in self._present:
                node.alive, self._changed_at = False, self._clock.monotonic()
                self._event("node_left", node=name)

    def _read_owner(self, unit: int, epoch: int, name: str) -> None:
        """Find who holds a claim, unless it is over already."""
        state = self._units.get(unit)
        if state is not None and epoch in state.holds:
            state.holds[epoch].owner = Ticket.from_bytes(self._dir.read(name)).node

    def _read_beat(self, name: str) -> None:
        now = self._clock.monotonic()
        with contextlib.suppress(FileNotFoundError, ShareError):
            beat = Beat.from_bytes(self._dir.read(f"{records.WORKERS}/{name}.beat"))
            node = self.nodes.get(name)
            if node is None:
                ticket = Ticket.from_bytes(self._dir.read(f"{records.WORKERS}/{name}.ticket"))
                self.nodes[name], self._changed_at = Node(ticket, beat, now, now), now
                self._event("node_joined", node=name, address=ticket.address)
            elif beat != node.beat:
                if not node.alive:
                    self._false_death(name)
                if (beat.unit, beat.epoch, beat.steps) != (node.beat.unit, node.beat.epoch, node.beat.steps):
                    node.moved = now
                node.beat, node.changed, node.alive = beat, now, True
        node = self.nodes.get(name)
        if node is not None and node.alive and (now - node.changed > self.lease_s or self._gone(node.ticket)):
            node.alive, self._changed_at = False, now
            self._event("node_dead", node=name, silent_s=round(now - node.changed, 2))

    def _false_death(self, name: str) -> None:
        """A node thought dead is back: the lease is too short for this share, so give all more time."""
        longer = min(self.lease_s * _FALSE_DEATH_GROWTH, self._base_lease_s * _LEASE_MAX_FACTOR)
        self._event("node_back", node=name, lease_s=longer)
        self.lease_s = longer

    @property
    def _joining(self) -> int:
        """Workers of which no heartbeat was read yet: they want a unit as the others do."""
        return len(self._present - self.nodes.keys())

    @property
    def alive(self) -> int:
        """Workers that show signs of life."""
        return sum(n.alive for n in self.nodes.values())

    # -- what is over --------------------------------------------------------------------------------------------------

    def retire(self, unit: int) -> None:
        """Remove an accepted unit's result: it is safe elsewhere. Its claims stay."""
        epoch = self._accepted.pop(unit, 0)
        self._dir.remove(records.done_name(unit, epoch))
        if unit % 64 == 0:
            self._claims_seen = {c for c in self._claims_seen if c[0] >= self._first}
            self._late = {c for c in self._late if c[0] >= self._first}


def _told(failures: list[dict[str, Any]]) -> str:
    last = failures[-1]
    nodes = sorted({str(f["node"]) for f in failures})
    times = f"{len(failures)} times"
    return f"{last.get('detail', 'a unit failed')} ({times}, on {', '.join(nodes)})"

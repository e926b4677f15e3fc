"""Many nodes at one job: the queue's real code, `Worker`, `Ledger` and `Cutter`, over a simulated share and simulated time.

A discrete-event simulation of the segments plane for 1080p at 25 frames a second. Roles step in the order of their local times; each
call on the share costs its node a latency and the file server a slot. Pictures and processes' starts are not simulated.
"""

import heapq
import itertools
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from vidcloud.planes.cuts import Cutter
from vidcloud.queue import records
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.pauses import Pauses
from vidcloud.queue.records import Ticket
from vidcloud.queue.worker import Worker

CHUNK, CHUNKS = 20, 12
TENTHS = 10


@dataclass(frozen=True)
class Costs:
    """What things cost. Milliseconds a frame on a node of its own, seconds elsewhere."""

    decode_ms: float = 25.0
    filter_ms: float = 1.0
    encode_ms: float = 70.0
    collector_ms: float = 0.07
    jitter: float = 0.1
    latency_s: float = 0.001
    server_ops: float = 10_000.0
    lost_link_ops: int = 3  # the link, and opening the ticket to see whose it is
    lease_s: float = 10.0
    join_s: float = 1.0
    gop: int = 250

    @property
    def frame_s(self):
        return (self.decode_ms + self.filter_ms + self.encode_ms) / 1000


class NodeClock:
    """A node's own time: `sleep` only moves it on."""

    def __init__(self, now):
        self.now = now

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Server:
    """The file server: its files with the times from which they can be seen, and a bounded number of operations a second."""

    _SLOT_S = 0.01

    def __init__(self, ops_per_s):
        self._capacity = max(1, int(ops_per_s * self._SLOT_S))
        self._used = Counter()
        self.folders = defaultdict(dict)
        self.frontiers = []

    def serve(self, now, ops):
        """When operations that arrive at ``now`` are let in: slots of 10 ms, each with room for so many."""
        slot = int(now / self._SLOT_S)
        while self._used[slot] + ops > self._capacity and self._used[slot]:
            slot += 1
        self._used[slot] += ops
        if len(self._used) > 50_000:  # no role lags so far behind another
            self._used = Counter({s: n for s, n in self._used.items() if s > slot - 5_000})
        return max(now, slot * self._SLOT_S)


class SimulatedDirectory:
    """A `Directory` as one node sees it. Counts its operations by what they are for."""

    def __init__(self, server, clock, costs, tally):
        self._server, self._clock, self._costs, self._tally = server, clock, costs, tally
        self.purpose = "start"
        self.ops = 0

    def _cost(self, ops=1, name=""):
        purpose = "beat" if name.endswith(".beat") or name == records.WORKERS else self.purpose
        self._tally[purpose] += ops
        self.ops += ops
        self._clock.now = self._server.serve(self._clock.now, ops) + ops * self._costs.latency_s

    def names(self, folder):
        self._cost(name=folder)
        now = self._clock.now
        return [n for n, (_, since) in self._server.folders[folder].items() if since <= now]

    def read(self, name):
        if self.purpose == "poll" and name.startswith(records.CLAIMS):
            self._tally.subtract(poll=1)  # who holds a new claim: once a unit
            self._tally["unit"] += 1
        self._cost(name=name)
        if name == records.FRONTIER:
            # A collector's step may be ahead of this node's time: see what was there by now.
            found = next((d for t, d in reversed(self._server.frontiers) if t <= self._clock.now), None)
        else:
            folder, _, last = name.rpartition("/")
            found, _ = self._server.folders[folder].get(last, (None, 0))
        if found is None:
            raise FileNotFoundError(name)
        return found

    def overwrite(self, name, data):
        self._cost(name=name)
        self._put(name, data)

    replace = overwrite

    def _put(self, name, data):
        if name == records.FRONTIER:
            self._server.frontiers.append((self._clock.now, data))
            del self._server.frontiers[:-400]
            return
        folder, _, last = name.rpartition("/")
        since = self._server.folders[folder].get(last, (b"", self._clock.now))[1]
        self._server.folders[folder][last] = (data, since)

    def link(self, source, name):
        folder, _, last = name.rpartition("/")
        if last in self._server.folders[folder]:
            self._cost(self._costs.lost_link_ops)
            self._tally["lost"] += 1
            return False
        self._cost()
        source_folder, _, source_last = source.rpartition("/")
        self._server.folders[folder][last] = (self._server.folders[source_folder][source_last][0], self._clock.now)
        return True

    def remove(self, name):
        if self.purpose == "poll":
            self._tally.subtract(poll=1)
            self._tally["unit"] += 1
        self._cost(name=name)
        folder, _, last = name.rpartition("/")
        self._server.folders[folder].pop(last, None)

    def make(self, _folder):
        self._cost()

    def path(self, name):
        return Path(name)


@dataclass
class Outcome:
    """What a simulated job came to.

    Attributes:
        seconds: from the first node's start to the last part's joining.
        units: in all; ``accepted`` tells how often each was.
        ops: share operations by what they were for.
        claim_ops: a claim's operations by workers, those of lost races since their claim before included, by unit.
        preroll: frames that nodes decoded before their units' first.
        last_claim_s: when the last unit was claimed.
        late: results that came under an old epoch.
        takeovers: units taken from living nodes: none dies here.
    """

    seconds: float = 0.0
    units: int = 0
    accepted: Counter = field(default_factory=Counter)
    ops: Counter = field(default_factory=Counter)
    claim_ops: dict = field(default_factory=dict)
    preroll: int = 0
    last_claim_s: float = 0.0
    late: int = 0
    takeovers: int = 0

    def tenth(self, number):
        """Workers' operations a claim among the units of a tenth of the job, from 0."""
        size = self.units / TENTHS
        found = [o for u, o in self.claim_ops.items() if number * size <= u < (number + 1) * size]
        return sum(found) / max(1, len(found)) + self.ops["publish"] / self.units

    @property
    def worker_ops(self):
        """Workers' operations a claim: claiming, lost races, publishing; not idle looks, pixels, heartbeats."""
        return (self.ops["claim"] + self.ops["publish"]) / self.units


class Simulation:
    """One job.

    Args:
        nodes: processors.
        frames: of the input.
        costs: what things cost.
        seed: of all chance.
    """

    def __init__(self, nodes, frames, *, costs=None, seed=1):
        self._nodes, self._frames = nodes, frames
        self._costs = costs or Costs()
        self._keys = range(0, frames, self._costs.gop)
        self._cutter = Cutter(
            frames, self._keys, chunk=CHUNK, chunks=CHUNKS, preroll=self._costs.decode_ms / 1000 / self._costs.frame_s
        )
        self._seed = seed
        self._server = Server(self._costs.server_ops)
        self._heap, self._order, self._parked = [], itertools.count(), {}
        self._cuts = []
        self._prepared, self._results = [], []
        self._assembled = 0
        self._accepted_next = 0
        self._ledger = None
        self._total = None
        self.outcome = Outcome()

    def run(self):
        """Let the job run to its end."""
        rng = random.Random(self._seed)
        self._push(0.0, "collector", self._collector())
        for n in range(self._nodes):
            self._push(rng.uniform(0, self._costs.join_s), f"n{n}", self._node(f"n{n}", rng.random()))
        while self._heap:
            now, _, name, role = heapq.heappop(self._heap)
            self._now = now
            when = next(role, False)
            if when is None:
                self._parked[name] = role
            elif when is not False:
                self._push(when, name, role)
        self.outcome.units = len(self._cuts)
        self.outcome.takeovers = self._ledger.takeovers
        return self.outcome

    def _push(self, when, name, role):
        heapq.heappush(self._heap, (when, next(self._order), name, role))

    def _wake(self, name, when):
        if (role := self._parked.pop(name, None)) is not None:
            self._push(when, name, role)

    def _view(self, now):
        clock = NodeClock(now)
        return clock, SimulatedDirectory(self._server, clock, self._costs, self.outcome.ops)

    # -- a processor -----------------------------------------------------------------------------------------------

    def _node(self, name, seed):
        rng, costs, told = random.Random(seed), self._costs, self.outcome
        clock, share = self._view(self._now)
        worker = Worker(share, clock, Ticket(name), lease_s=costs.lease_s, rng=random.Random(rng.random()))
        next_beat = clock.now + worker.beat_interval_s
        since, decoded = 0, -1

        def until(when):
            """Let time pass, with heartbeats; they are another thread's and take no time of this one."""
            nonlocal next_beat
            while next_beat < when:
                clock.now = next_beat
                yield next_beat
                worker.beat()
                next_beat += worker.beat_interval_s
            clock.now = when
            yield when

        while True:
            share.purpose, before = "claim", share.ops
            claim = worker.claim()
            frontier = worker.told
            idle = claim is None and share.ops - before == 1
            since += share.ops - before - idle
            if claim is None:
                told.ops.subtract(claim=int(idle))
                told.ops["idle"] += idle
                if frontier.ended:
                    return
                yield from until(clock.now + worker.pause_s())
                continue
            told.claim_ops[claim.unit], since = since, 0
            told.last_claim_s = max(told.last_claim_s, clock.now)
            share.purpose = "data"
            share.read(records.ready_name(claim.unit))
            start, stop = self._cuts[claim.unit]
            key = self._keys[bisect_right(self._keys, start) - 1]
            preroll = start - (decoded if key <= decoded <= start else key)  # as RunReader: on from where it was
            decoded = stop
            told.preroll += preroll
            seconds = (stop - start) * costs.frame_s + preroll * costs.decode_ms / 1000
            seconds *= rng.uniform(1 - costs.jitter, 1 + costs.jitter)
            worker.check(claim, 1)
            yield from until(clock.now + seconds)
            private = f"{records.PRIVATE}/{records.epoch_name(claim.unit, claim.epoch)}.{name}"
            share.overwrite(private, b"part")
            share.purpose = "publish"
            worker.publish(claim)
            yield clock.now

    # -- the collector's three threads -----------------------------------------------------------------------------

    def _window(self):
        return max(8, 4 * self._nodes)

    def _prepare(self):
        clock, share = self._view(self._now)
        share.purpose = "unit"
        stop = 0
        while stop < self._frames:
            clock.now = max(clock.now, self._now)
            if len(self._cuts) >= self._assembled + self._window():
                yield None
                continue
            start, stop = stop, self._cutter.stop(stop, self._nodes)
            self._cuts.append((start, stop))
            share.replace(records.ready_name(len(self._cuts) - 1), b"unit")
            self._prepared.append((clock.now, len(self._cuts) - 1))
            yield clock.now
        self._total = len(self._cuts)

    def _assemble(self):
        clock, share = self._view(self._now)
        share.purpose = "data"
        while self._total is None or self._assembled < self._total:
            clock.now = max(clock.now, self._now)
            if self._assembled >= self._accepted_next:
                yield None
                continue
            share.read(f"{records.DONE}/{self._results[self._assembled]}")
            start, stop = self._cuts[self._assembled]
            clock.now += (stop - start) * self._costs.collector_ms / 1000
            yield clock.now
            self._assembled += 1
            self._wake("prepare", clock.now)

    def _collector(self):
        clock, share = self._view(self._now)
        ledger = self._ledger = Ledger(
            share, clock, Ticket("collector"), lease_s=self._costs.lease_s, gone=lambda _ticket: False
        )
        ledger.open()
        share.purpose = "poll"
        self._push(clock.now, "prepare", self._prepare())
        self._push(clock.now, "assemble", self._assemble())
        pauses, retired, waiting = Pauses(self._costs.lease_s, clock.now), 0, {}
        while True:
            busy = False
            while self._prepared and self._prepared[0][0] <= clock.now:
                ledger.offer(self._prepared.pop(0)[1])
                busy = True
            if self._total is not None and not ledger.closed and ledger.offered == self._total:
                ledger.close(self._total)
            alive = ledger.alive
            for result in ledger.poll():
                busy = True
                if not result.accepted:
                    self.outcome.late += 1
                    share.remove(f"{records.DONE}/{result.path.name}")
                    continue
                self.outcome.accepted[result.unit] += 1
                waiting[result.unit] = result.path.name
            while self._accepted_next in waiting:
                self._results.append(waiting.pop(self._accepted_next))
                self._accepted_next += 1
            self._wake("assemble", clock.now)
            if ledger.alive != alive:
                self._wake("prepare", clock.now)
            while retired < min(self._assembled, ledger.offered - 1):
                ledger.retire(retired)
                retired += 1
            if ledger.complete and self._assembled >= self._accepted_next:
                break
            clock.sleep(pauses.next_s(clock.now, busy=busy, all_claimed=ledger.all_claimed))
            yield clock.now
        self.outcome.seconds = clock.now
        ledger.end("done")

"""The collector's role: prepare units, accept results in order, assemble, store, end.

It knows the life of a job and nothing of pixels. Three threads, so that decoding, filtering and encoding overlap: one
prepares units as far as the window allows, one assembles results in order, and this one keeps the ledger.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from vidcloud import log, planes, proof, storage
from vidcloud.errors import JobCancelledError, NotTheCollectorError, ShareError, VidcloudError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.audio import audio_hashes
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.planes.base import Assembly, CollectorPlane, Prepared
from vidcloud.queue import records
from vidcloud.queue.directory import SystemClock
from vidcloud.queue.doubling import slowest
from vidcloud.queue.ledger import Ledger, Result
from vidcloud.queue.pauses import Pauses
from vidcloud.queue.records import this_process
from vidcloud.scratch import scratch_folder

_GROWN_S = 1.0
"""How often a decoder that waits for the window looks whether nodes have joined."""
_PROGRESS_S = 0.5
_BEAT_S = 1.0
_WINDOW_MIN, _WINDOW_A_NODE = 8, 4
"""The automatic window, in chunks: enough that no node waits, and little enough for a laptop's disk."""
_NO_NODES_S = 300.0
"""A job without a living processor for this long fails: nobody will come."""

_FINISHED = 200
"""The last finished units, by whose times the collector knows a slow one."""

event = log.events("collector")


class _Stopped(BaseException):
    """SIGTERM arrived: stop, and leave the job to be resumed."""


class Collector:
    """One run of the collector's role.

    Args:
        job: the job's directory.
        node: the instance's id.
    """

    def __init__(self, job: JobDirectory, node: str, told: Callable[[], None] = lambda: None) -> None:
        self._job, self._spec, self._node, self._told = job, job.spec(), node, told
        self._clock = SystemClock()
        self._directory = job.directory
        self._ledger = Ledger(
            self._directory,
            self._clock,
            this_process(node, "127.0.0.1"),
            lease_s=self._spec.lease_s,
            stall_s=self._spec.stall_s,
            keep=self._spec.on_error == "keep",
            wanted=self._job.nodes,
            event=event,
        )
        self._prepared: queue.SimpleQueue[Prepared | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, Path] | None] = queue.SimpleQueue()
        self._waiting: dict[int, Path] = {}
        self._next = 0
        self._paths: dict[int, Path] = {}
        self._late: dict[int, str] = {}
        self._doubled: set[int] = set()
        self._digests: dict[int, str] = {}
        self._seconds_a_frame: deque[float] = deque(maxlen=_FINISHED)
        self._retired = 0
        self._have: set[int] = set()
        self._plane = self._spec.plane
        self._own = contextlib.ExitStack()
        self._assembled = 0
        self._frames_of: dict[int, int] = {}
        self._frames = self._filtered = 0
        self._differ: list[str] = []
        self._moved = threading.Condition()
        self._news = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._began = time.time()
        self._mine = False

    def run(self) -> dict[str, Any]:
        """Bring the job to its end.

        Returns:
            The job's result as written to the share.

        Raises:
            NotTheCollectorError: another collector is at work on the job.
        """
        signal.signal(signal.SIGTERM, _stop)
        if (result := self._job.result()) is not None:
            return result
        staged: Path | None = None
        plane: CollectorPlane | None = None
        how: Literal["done", "failed", "cancelled"] = "failed"
        try:
            self._ledger.take()
            self._mine = True
            with self._beating():
                source = self._fetch()
                plane = planes.open_collector(self._spec, self._job, source, info := probe(str(source)))
            self._open(plane)
            staged = storage.staging(self._spec.output, self._job.scratch, self._spec.id)
            plane.begin(staged)
            assembly = self._collect(plane)
            self._store(plane, info, source, staged, assembly)
            report = [*assembly.report, *self._differ]
            result, how = self._result("done", frames=assembly.frames, report=report), "done"
        except NotTheCollectorError:
            raise  # the job is another's to end
        except JobCancelledError as e:
            result, how = self._result("cancelled", error=str(e)), "cancelled"
        except VidcloudError as e:
            result = self._result("failed", error=str(e), exit_code=e.exit_code)
            event("failed", error=str(e), level=logging.ERROR)
            logging.getLogger("vidcloud.collector").debug("traceback", exc_info=e)
        except (OSError, MemoryError) as e:
            result = self._result("failed", error=f"{type(e).__name__}: {e}")
            logging.getLogger("vidcloud.collector").exception("failed")
        finally:
            self._halt()
            if plane is not None and how != "done":
                plane.abandon()
            self._own.close()
            if staged is not None:
                with contextlib.suppress(OSError):
                    staged.unlink(missing_ok=True)
        if how == "failed" and self._mine and not self._ledger.still_mine():
            raise NotTheCollectorError("another collector has taken this job over")
        self._job.write_result(result)
        try:
            self._told()
        finally:
            if self._mine:
                with contextlib.suppress(OSError, VidcloudError):
                    self._ledger.end(how)
        event("ended", state=result["state"], cpu_s=round(time.process_time(), 2))
        return result

    def _fetch(self) -> Path:
        folder = self._job.scratch
        if self._spec.source == "ranges":  # processors need no copy; this node does, for packets and sound
            folder = self._own.enter_context(scratch_folder())
        path = storage.get(self._spec.input, folder / storage.name_of(self._spec.input))
        event("input", url=self._spec.input)
        return path

    @contextlib.contextmanager
    def _beating(self) -> Iterator[None]:
        """Show that the collector lives while it does nothing with the ledger: fetching or measuring may take long."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(_BEAT_S):
                with contextlib.suppress(OSError, VidcloudError):  # the share's trouble shows where results are taken
                    self._ledger.publish()

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _open(self, plane: CollectorPlane) -> None:
        first = plane.first_unit(lambda: self._ledger.start_anew(self._window()))
        self._next = self._retired = self._assembled = first
        self._filtered = plane.encoded
        self._ledger.open(first=first)
        self._have = self._results_that_count(plane)
        self._job.write_stream(plane.describe())
        self._plane = plane.choice.plane
        event("plane", name=plane.choice.plane, why=plane.choice.why)
        event("opened", job=self._job.id, plane=plane.choice.plane, resumed_at=plane.encoded, units=first)

    def _results_that_count(self, plane: CollectorPlane) -> set[int]:
        """Units left done by a collector before. What a crash of the machine cut short counts as not made."""
        found = set()
        for name in self._directory.names(records.DONE):
            path = self._directory.path(f"{records.DONE}/{name}")
            try:
                plane.digest(path)
            except (ShareError, ValueError):
                event("damaged_result", name=name)
                path.unlink(missing_ok=True)
                continue
            if (parsed := records.parse_epoch_name(name)) and self._ledger.counts(*parsed):
                found.add(parsed[0])
        return found

    # -- the three threads ---------------------------------------------------------------------------------------------

    def _collect(self, plane: CollectorPlane) -> Assembly:
        for target in (self._prepare, self._assemble):
            threading.Thread(target=self._guard, args=(target, plane), name=target.__name__, daemon=True).start()
        last_progress, alive_at = 0.0, self._clock.monotonic()
        pauses = Pauses(self._spec.lease_s, alive_at)
        done = False
        while not done:
            busy = self._take_prepared()
            for result in self._ledger.poll():
                busy = True
                self._take_result(plane, result)
            done = self._ledger.complete and self._assembled >= self._next
            self._retire(plane)
            self._raise_failure()
            now = self._clock.monotonic()
            if now - last_progress > _PROGRESS_S:
                last_progress = now
                self._tell(plane)
                self._double()
                if self._job.cancelled:
                    raise JobCancelledError("cancelled")
                if not self._ledger.still_mine():
                    raise NotTheCollectorError("another collector has taken this job over")
            if self._ledger.alive:
                alive_at = now
            elif now - alive_at > _NO_NODES_S:
                raise ShareError(
                    f"no processor was alive for {_NO_NODES_S:.0f} s: see `vidcloud logs {self._job.id}`, "
                    f"then `vidcloud resume {self._job.id}`"
                )
            if not done:
                self._news.wait(pauses.next_s(now, busy=busy, all_claimed=self._ledger.all_claimed))
                self._news.clear()
        return self._join(plane)

    def _join(self, plane: CollectorPlane) -> Assembly:
        """Finish the output in a thread of its own, while the ledger goes on telling that the collector lives."""
        outcome: list[Assembly] = []
        thread = threading.Thread(
            target=self._guard, args=(lambda p: outcome.append(p.finish()), plane), name="join", daemon=True
        )
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            for result in self._ledger.poll():
                self._take_result(plane, result)  # of second runs: only to be compared
            if self._job.cancelled:
                raise JobCancelledError("cancelled")
        self._raise_failure()
        self._tell(plane)
        return outcome[0]

    def _guard(self, target: Any, plane: CollectorPlane) -> None:
        try:
            target(plane)
        except BaseException as e:
            if not isinstance(e, VidcloudError):
                logging.getLogger("vidcloud.collector").exception("thread failed")
            self._failure = self._failure or e
            self._news.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if isinstance(self._failure, (VidcloudError, OSError, MemoryError)):
                raise self._failure
            raise VidcloudError(f"{type(self._failure).__name__}: {self._failure}") from self._failure

    def _prepare(self, plane: CollectorPlane) -> None:
        resumed, have = self._retired, self._have
        for prepared in plane.prepare(self._gate, lambda unit: unit < resumed or unit in have):
            self._prepared.put(prepared)
            self._news.set()
        self._prepared.put(None)
        self._news.set()

    def _gate(self, unit: int) -> bool:
        """Let the decoder go no further than the window ahead of the encoder: that bounds the pixels on the share."""
        with self._moved:
            # The time-out is for the automatic window, which grows when nodes join.
            while not (self._stopping or unit < self._assembled + self._window()):
                self._moved.wait(_GROWN_S)
            return not self._stopping

    def _window(self) -> int:
        return self._spec.window or max(_WINDOW_MIN, _WINDOW_A_NODE * max(self._ledger.alive, self._job.nodes()))

    def _assemble(self, plane: CollectorPlane) -> None:
        while (item := self._results.get()) is not None:
            unit, path = item
            plane.assemble(unit, path)
            with self._moved:
                self._assembled = unit + 1
                self._moved.notify_all()
            self._news.set()

    # -- the ledger's thread -------------------------------------------------------------------------------------------

    def _take_prepared(self) -> bool:
        busy = False
        with contextlib.suppress(queue.Empty):
            while True:
                prepared = self._prepared.get_nowait()
                busy = True
                if prepared is None:
                    self._ledger.close(self._ledger.offered)
                    return True
                self._frames_of[prepared.unit] = prepared.frames
                self._frames += prepared.frames
                self._ledger.offer(prepared.unit)
        return busy

    def _take_result(self, plane: CollectorPlane, result: Result) -> None:
        if not result.accepted:
            self._take_late(plane, result)
            return
        event("accepted", unit=result.unit, epoch=result.epoch, level=logging.DEBUG)
        frames = self._frames_of.pop(result.unit, plane.unit_frames)
        self._filtered += frames
        if result.seconds is not None:
            self._seconds_a_frame.append(result.seconds / frames)
        self._waiting[result.unit] = self._paths[result.unit] = result.path
        if result.unit in self._late:
            self._compare(result.unit, self._late.pop(result.unit), plane)
        while self._next in self._waiting:
            self._results.put((self._next, self._waiting.pop(self._next)))
            self._next += 1

    def _double(self) -> None:
        """Let a node with nothing to do run the slowest of the last units as well."""
        if (unit := slowest(self._ledger.running(), self._frames_of, self._seconds_a_frame)) is not None:
            self._ledger.double(unit)
            self._doubled.add(unit)

    def _take_late(self, plane: CollectorPlane, result: Result) -> None:
        """A late result counts for nothing; but it must be like the one that counts."""
        with contextlib.suppress(FileNotFoundError, ShareError):
            digest = plane.digest(result.path)
            if result.unit in self._paths or result.unit in self._digests:
                self._compare(result.unit, digest, plane)
            else:
                self._late[result.unit] = digest
        result.path.unlink(missing_ok=True)

    def _compare(self, unit: int, late: str, plane: CollectorPlane) -> None:
        if late != (self._digests.get(unit) or plane.digest(self._paths[unit])):
            self._differ.append(
                f"unit {unit}: two nodes made different pixels; the filter is not deterministic or a node is bad"
            )
            event("results_differ", unit=unit, level=logging.WARNING)

    def _retire(self, plane: CollectorPlane) -> None:
        """Remove what is safe in the encoded parts. The last unit stays: it tells a resumed collector the end."""
        last = self._ledger.offered - 1
        while self._retired < min(plane.durable_units, self._assembled, last):
            path = self._paths.pop(self._retired, None)
            if path is not None and self._retired in self._doubled:
                with contextlib.suppress(FileNotFoundError, ShareError):
                    self._digests[self._retired] = plane.digest(path)  # the other run's result may be still to come
            self._ledger.retire(self._retired)
            self._retired += 1

    def _tell(self, plane: CollectorPlane) -> None:
        frames = {
            "total": self._frames if self._ledger.closed else max(plane.estimate, self._frames),
            "exact": self._ledger.closed,
            "decoded": plane.decoded,
            "filtered": self._filtered,
            "working": self._working(),
            "encoded": plane.encoded,
        }
        nodes = [
            {"id": name, "address": n.ticket.address, "pid": n.ticket.pid, "alive": n.alive, "chunks": n.beat.chunks}
            for name, n in sorted(self._ledger.nodes.items())
        ]
        self._job.write_progress(
            {
                "version": 1,
                "plane": plane.choice.plane,
                "why": plane.choice.why,
                "frames": frames,
                "passes": plane.passes,
                "takeovers": self._ledger.takeovers,
                "nodes": nodes,
                "began": self._began,
                "told": time.time(),
                "collector": {"id": self._node, "pid": os.getpid(), "address": "127.0.0.1"},
            }
        )

    def _working(self) -> int:
        """Frames done in units that are not finished; of two runs of a unit the faster one's."""
        done: dict[int, int] = {}
        for node in self._ledger.nodes.values():
            frames = self._frames_of.get(node.beat.unit, 0) if node.alive else 0
            done[node.beat.unit] = max(done.get(node.beat.unit, 0), min(node.beat.steps, frames))
        return sum(done.values())

    # -- the end -------------------------------------------------------------------------------------------------------

    def _store(self, plane: CollectorPlane, info: VideoInfo, source: Path, staged: Path, assembly: Assembly) -> None:
        """Put the proof and the output under their final names; the output last, for it says that all is there."""
        if self._spec.proof:
            proof_url = proof.proof_path(self._spec.output)
            staged_proof = storage.staging(proof_url, self._job.scratch, self._spec.id)
            record = {
                "job": _public(self._spec) | {"plane": plane.choice.plane},
                "stream": plane.describe(),
                "lossless": plane.lossless,
                "audio": audio_hashes(staged),
                "input_audio": audio_hashes(source),
                "report": assembly.report,
                "time_base": str(info.time_base),
            }
            try:
                proof.write(staged_proof, record, self._proof_frames(plane))
                storage.put(staged_proof, proof_url, force=True)
            finally:
                staged_proof.unlink(missing_ok=True)
        storage.put(staged, self._spec.output, force=self._spec.force)

    def _proof_frames(self, plane: CollectorPlane) -> Iterator[proof.Entry]:
        return plane.proof_frames()

    def _result(self, state: str, **fields: Any) -> dict[str, Any]:
        return {
            "version": 1,
            "state": state,
            "output": self._spec.output,
            "seconds": round(time.time() - self._began, 3),
            "takeovers": self._ledger.takeovers,
            "plane": self._plane,
            **fields,
        }

    def _halt(self) -> None:
        with self._moved:
            self._stopping = True
            self._moved.notify_all()
        self._results.put(None)


def _public(spec: JobSpec) -> dict[str, Any]:
    """The spec as the proof shows it: what makes the picture, and nothing of where it was made."""
    record = spec.to_json()
    return {k: record[k] for k in ("id", "input", "filters", "encode", "plane", "chunk", "on_error", "on_damage")}


def run_collector(job: JobDirectory, node: str, told: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Be a job's collector until it ends, or SIGTERM asks to leave it to another.

    Args:
        job: its directory on the share.
        node: this instance's id.
        told: called when the result is on the share, before processors hear that they may go: a launcher that saw them
            go without a result would replace them.

    Raises:
        ShareError: another collector is at work, or the share failed.
    """
    try:
        return Collector(job, node, told).run()
    except _Stopped:
        event("stopped", level=logging.WARNING)
        return {"state": "stopped"}


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped

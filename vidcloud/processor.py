"""The processor's role: claim a unit, process it, publish it, until there is no more; then leave.

It knows the life of a job and nothing of pixels.
"""

import contextlib
import errno
import logging
import signal
import threading
import time
import traceback
from types import FrameType

from vidcloud import log, planes
from vidcloud.errors import FilterError, LeaseLostError, MediaError, PluginError, StorageError, VidcloudError
from vidcloud.job import JobDirectory
from vidcloud.queue.directory import PASSING, SystemClock
from vidcloud.queue.records import this_process
from vidcloud.queue.worker import Claim, Worker

event = log.events("processor")


class _Drained(BaseException):
    """SIGTERM arrived: leave now. Not an Exception, so that no handler of a filter's errors swallows it."""


def run_processor(job: JobDirectory, node: str) -> None:
    """Work on a job until it ends, the collector is gone, or SIGTERM asks to leave.

    Raises:
        ShareError: the share is unusable.
    """
    clock, spec = SystemClock(), job.spec()
    _single_thread()
    worker = Worker(job.directory, clock, this_process(node, "127.0.0.1"), lease_s=spec.lease_s)
    stop = threading.Event()
    threading.Thread(target=_beat, args=(worker, stop), name="heartbeat", daemon=True).start()
    signal.signal(signal.SIGTERM, _drain)
    event("started", job=job.id, node=node)
    claim: Claim | None = None
    plane: planes.ProcessorPlane | None = None
    try:
        planes.load_processors()
        while True:
            claim = worker.claim()
            told = worker.told
            if claim is None:
                if told.ended:
                    event("ended", how=told.ended, cpu_s=round(time.process_time(), 2))
                    return
                if worker.collector_silent_s > spec.dead_man_s:
                    event("dead_man", silent_s=round(worker.collector_silent_s), level=logging.WARNING)
                    return
                clock.sleep(worker.pause_s())
                continue
            try:
                if plane is None:
                    plane = planes.open_processor(spec, job)
                _do(worker, claim, plane)
            except (FilterError, PluginError, MediaError, StorageError) as e:
                _report(worker, claim, e)
            except (OSError, LeaseLostError) as e:
                if isinstance(e, OSError) and e.errno not in {*PASSING, errno.ENOENT}:
                    raise
                # The unit was done by somebody else meanwhile, or must be: whatever was made here counts for nothing.
                # (A file that another node removes while it is being read is stale on NFS.)
                if not worker.told.ended:
                    event("lost", unit=claim.unit, epoch=claim.epoch, why=str(e), level=logging.WARNING)
                    worker.release(claim)
            claim = None
    except _Drained:
        # A second SIGTERM must not interrupt the giving back.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        event("drained")
    finally:
        if claim is not None:
            with contextlib.suppress(OSError, VidcloudError):
                worker.release(claim)
        stop.set()
        with contextlib.suppress(OSError, VidcloudError):
            worker.leave()
        if plane is not None:
            plane.close()


def _do(worker: Worker, claim: Claim, plane: planes.ProcessorPlane) -> None:
    event("claimed", unit=claim.unit, epoch=claim.epoch, level=logging.DEBUG)

    def step(frames: int) -> None:
        worker.check(claim, frames)

    plane.process(worker.source(claim), worker.private(claim), step, keep=claim.keep)
    worker.publish(claim)
    event("published", unit=claim.unit, epoch=claim.epoch, level=logging.DEBUG)


def _report(worker: Worker, claim: Claim, error: VidcloudError) -> None:
    detail = error.traceback if isinstance(error, FilterError) else traceback.format_exc()
    event("failed", unit=claim.unit, epoch=claim.epoch, error=str(error), level=logging.ERROR)
    for line in detail.rstrip().splitlines():
        logging.getLogger("vidcloud.processor").error("  %s", line)
    worker.fail(claim, {"detail": str(error), "traceback": detail})


def _beat(worker: Worker, stop: threading.Event) -> None:
    while not stop.wait(worker.beat_interval_s):
        try:
            worker.beat()
        except (OSError, VidcloudError) as e:
            event("no_heartbeat", error=str(e), level=logging.WARNING)


def _drain(_number: int, _frame: FrameType | None) -> None:
    raise _Drained


def _single_thread() -> None:
    """One thread a processor inside OpenCV: parallelism is over chunks."""
    import cv2  # noqa: PLC0415 - a third of a second, only for those who filter

    cv2.setNumThreads(1)

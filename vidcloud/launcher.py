"""Start, scale, supervise, cancel and resume jobs over a cloud."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from vidcloud import boot, storage
from vidcloud.clouds.base import Cloud, Instance, open_cloud
from vidcloud.errors import JobCancelledError, JobFailedError, StorageError, UsageError
from vidcloud.job import JobDirectory
from vidcloud.status import Status, snapshot

_POLL_S = 0.1
_COLLECTOR_RESTARTS = 3
_PROCESSOR_RESTARTS_A_NODE = 5
_END_S = 10.0
"""How long the collector may take to go home by itself after the end."""
_HOME_S = 1.0
"""… and then the processors: one may be in the middle of a unit that another has done meanwhile."""


class Launcher:
    """Starts, watches and ends the instances of one job.

    Args:
        job: the job's directory.
        cloud: where instances come from; by default the cloud of that job.
    """

    def __init__(self, job: JobDirectory, cloud: Cloud | None = None) -> None:
        self._job = job
        self._cloud = cloud or open_cloud("local", str(job.root))
        self._collectors = self._processors = 0

    @property
    def job(self) -> JobDirectory:
        """The job."""
        return self._job

    def status(self) -> Status:
        """How the job stands."""
        return snapshot(self._job, self._cloud.describe_instances())

    def start(self, nodes: int) -> None:
        """Start the collector and the processors.

        Raises:
            CloudError: not all could be started; none is left running.
        """
        self._job.write_nodes(nodes)
        try:
            self._run("collector", 1)
            self._run("processor", nodes)
        except BaseException:
            self.terminate()
            raise

    def _run(self, role: str, count: int) -> list[Instance]:
        if count < 1:
            return []
        arguments = ("--job", str(self._job.root), "--node", "{instance}")
        line = boot.UserData(role, boot.local_server(), arguments).compose()
        return self._cloud.run_instances(role, line, count)  # type: ignore[arg-type]

    def scale(self, nodes: int) -> int:
        """Set how many processors there should be, and start or drain what differs; the youngest drain first.

        Returns:
            By how many there should be more than before.

        Raises:
            UsageError: the job has ended, or fewer than one.
        """
        if nodes < 1:
            raise UsageError(f"{nodes} nodes: at least one; `vidcloud cancel {self._job.id}` ends a job")
        if (state := self._job.state()) not in ("starting", "running"):
            raise UsageError(f"job {self._job.id} is {state}: there is nothing to scale")
        before = self._job.nodes()
        self._job.write_nodes(nodes)
        self._reconcile()  # unless a supervisor was faster
        return nodes - before

    def _reconcile(self) -> int:
        # A supervisor and `scale` may both see that nodes are missing: one looks and starts at a time.
        with self._job.locked("nodes"):
            alive = self._alive("processor")
            wanted = self._job.nodes()
            if len(alive) > wanted:
                self._cloud.terminate_instances([i.id for i in alive[wanted:]], drain=True)
            else:
                self._run("processor", wanted - len(alive))
            return wanted - len(alive)

    def _alive(self, role: str) -> list[Instance]:
        return [i for i in self._cloud.describe_instances() if i.role == role and i.alive]

    def supervise(self, show: Callable[[Status], None] = lambda _status: None) -> dict[str, Any]:
        """Watch the job until it ends; replace nodes that die, and resume a collector that dies.

        Args:
            show: called with each snapshot.

        Returns:
            The job's result.

        Raises:
            JobFailedError: it failed, or nodes die as fast as they start.
            JobCancelledError: it was cancelled.
        """
        while True:
            status = self.status()
            show(status)
            if status.ended:
                return self._end(status)
            if not any(i.role == "collector" and i.alive for i in self._cloud.describe_instances()):
                self._replace_collector()
            self._replace_processors()
            time.sleep(_POLL_S)

    def attach(self, show: Callable[[Status], None] = lambda _status: None) -> dict[str, Any]:
        """Watch only."""
        while not (status := self.status()).ended:
            show(status)
            time.sleep(_POLL_S)
        show(status)
        return self._job.result() or {}

    def _replace_collector(self) -> None:
        if self._job.result() is not None:
            return
        self._collectors += 1
        if self._collectors > _COLLECTOR_RESTARTS:
            words = self._last_words("collector")
            self.terminate()
            raise JobFailedError(
                f"the collector ended {self._collectors} times without a result, the last with: {words}"
            )
        self._run("collector", 1)

    def _last_words(self, role: str) -> str:
        ended = [i for i in self._cloud.describe_instances() if i.role == role]
        printed = self._cloud.console_output(ended[-1].id).strip().splitlines() if ended else []
        return printed[-1] if printed else "nothing"

    def _replace_processors(self) -> None:
        alive = len(self._alive("processor"))
        missing = self._job.nodes() - alive
        if missing <= 0 or self._job.result() is not None:
            return
        if self._processors + missing <= _PROCESSOR_RESTARTS_A_NODE * self._job.nodes():
            self._processors += max(0, self._reconcile())
        elif not alive:
            words = self._last_words("processor")
            self.terminate()
            raise JobFailedError(
                f"processors end as fast as they start, the last with: {words}; "
                f"`vidcloud resume {self._job.id}` once that is mended"
            )

    def _end(self, status: Status) -> dict[str, Any]:
        deadline = time.monotonic() + (_END_S if status.state == "done" else 0)
        while (alive := [i for i in self._cloud.describe_instances() if i.alive]) and time.monotonic() < deadline:
            if not any(i.role == "collector" for i in alive):
                deadline = min(deadline, time.monotonic() + _HOME_S)
            time.sleep(_POLL_S / 2)
        self.terminate()
        result = self._job.result() or {}
        if status.state == "done":
            self._job.sweep()
            return result
        if status.state == "cancelled":
            self._job.sweep()
            raise JobCancelledError(f"job {self._job.id} was cancelled")
        error = JobFailedError(str(result.get("error", "failed")))
        error.exit_code = int(result.get("exit_code", error.exit_code))
        raise error

    def cancel(self) -> None:
        """End a job: its nodes, its pixels, its half-made output. Its record stays.

        Raises:
            UsageError: it has ended already.
        """
        if (state := self._job.state()) in ("done", "cancelled"):
            raise UsageError(f"job {self._job.id} is {state} already")
        self._job.cancel()
        deadline = time.monotonic() + _END_S
        while self._alive("collector") and self._job.result() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S / 2)
        self.terminate()
        if (result := self._job.result()) is None or result["state"] == "failed":
            spec = self._job.spec()
            with contextlib.suppress(StorageError, OSError):
                storage.staging(spec.output, self._job.scratch, spec.id).unlink(missing_ok=True)
            self._job.write_result(
                {
                    "version": 1,
                    "state": "cancelled",
                    "output": spec.output,
                    "seconds": 0.0,
                    "takeovers": 0,
                    "error": "cancelled",
                }
            )
        self._job.sweep()

    def resume(self) -> bool:
        """Let a job go on whose collector was killed, or which failed.

        Returns:
            False if it is running anyway, so that there is nothing to do but watch.

        Raises:
            UsageError: it is done or cancelled.
        """
        if (state := self._job.state()) in ("done", "cancelled"):
            raise UsageError(f"job {self._job.id} is {state}: there is nothing to resume")
        if self._alive("collector") and state != "failed":
            return False
        self.terminate()
        self._job.reopen()
        self._run("collector", 1)
        self._run("processor", self._job.nodes())
        return True

    def terminate(self) -> None:
        """End all instances of the job."""
        alive = [i.id for i in self._cloud.describe_instances() if i.state != "terminated"]
        if alive:
            self._cloud.terminate_instances(alive)

    def logs(self, node: str | None) -> list[tuple[str, str]]:
        """What nodes printed, each with its id.

        Raises:
            UsageError: no such node.
        """
        ids = [i.id for i in self._cloud.describe_instances()]
        if node is not None and node not in ids:
            raise UsageError(f"job {self._job.id} has no node {node}: it has {', '.join(ids) or 'none'}")
        return [(i, self._cloud.console_output(i)) for i in ids if node in (None, i)]

"""Start, scale, supervise, cancel and resume jobs over a cloud."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vidcloud import log
from vidcloud.clouds.base import Instance, Noting, Previewing, Reachable, Role
from vidcloud.errors import CloudError, JobCancelledError, JobFailedError, StorageError, UsageError, VidcloudError
from vidcloud.job import JobRecords
from vidcloud.sites import NewLines, Site
from vidcloud.status import Status, snapshot

if TYPE_CHECKING:
    from vidcloud.remote import Target

_COLLECTOR_RESTARTS = 3
_PROCESSOR_RESTARTS_A_NODE = 5
_END_S = 10.0
"""How long the collector may take to go home by itself after the end."""
_HOME_S = 1.0
"""… and then the processors: one may be in the middle of a unit that another has done meanwhile."""


_AGAIN_S = 5.0
"""After a cloud could not replace a node, it is asked again so much later."""
_AWAY_S = 300.0
"""How long the cloud or the job's home may be out of a launcher's reach."""
_ALONE_S = 30.0
"""Without a living node for so long a job that is only watched has broken off: a launcher would have replaced them."""
_FOLLOW_S = 0.2
_QUIET_S = 5.0
"""When nobody has lived for so long, nobody prints anything more, unless the job is resumed."""

_event = log.events("launcher")


class Launcher:
    """Starts, watches and ends the instances of one job.

    Args:
        site: where the job is.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._job: JobRecords = site.records
        self._cloud = site.cloud
        self._collectors = self._processors = 0
        self._not_before = 0.0
        self._first_seen: dict[str, float] = {}
        self._heard: set[str] = set()

    @property
    def site(self) -> Site:
        """Where the job is."""
        return self._site

    @property
    def job(self) -> JobRecords:
        """The job."""
        return self._job

    @property
    def notes(self) -> list[str]:
        """What the cloud turned out not to do, in sentences."""
        return list(self._cloud.notes) if isinstance(self._cloud, Noting) else []

    def status(self) -> Status:
        """How the job stands."""
        return snapshot(self._job, self._cloud.describe_instances())

    def start(self, nodes: int, tell: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Start the collector and the processors.

        Args:
            nodes: processors.
            tell: hears how many bytes of how many of the input went up, where it must.

        Raises:
            UsageError: the job would cost more than it may, or the cloud lacks what was named.
            CloudError: not all could be started; none is left running.
            StorageError: the input can't be put where the nodes are.
        """
        if isinstance(self._cloud, Previewing):
            self._cloud.preview(nodes)  # what is refused is refused before the input goes up
        try:
            self._site.prepare(tell)
            self._want(nodes)
        except BaseException:
            self._forget()
            raise
        try:
            self._run("collector", 1)
            self._run("processor", nodes)
        except BaseException as e:
            try:
                self.terminate()
            except CloudError as after:
                left = ", ".join(after.left_running) or "what was started"
                told = f"{e or type(e).__name__}; {left} may still run ({after}): `vidcloud reap` ends it"
                raise CloudError(told, after.left_running) from e
            finally:
                self._forget()
            raise

    def _want(self, nodes: int) -> None:
        self._job.write_nodes(nodes, self._cloud.machines(nodes))

    def _forget(self) -> None:
        with contextlib.suppress(VidcloudError, OSError):  # what went wrong is what is told
            self._site.sweep()

    def _run(self, role: Role, count: int, line: str = "") -> list[Instance]:
        if count < 1:
            return []
        started = self._cloud.run_instances(role, line or self._site.user_data(role), count)
        self._site.settle(self._cloud.describe_instances())
        return started

    def scale(self, nodes: int) -> int:
        """Set how many processors there should be, and start or drain what differs; the youngest drain first.

        Returns:
            By how many there should be more than before.

        Raises:
            UsageError: the job has ended, fewer than one, or more than the cloud has room for.
        """
        if nodes < 1:
            raise UsageError(f"{nodes} nodes: at least one; `vidcloud cancel {self._job.id}` ends a job")
        if (state := self._job.state()) not in ("starting", "running"):
            raise UsageError(f"job {self._job.id} is {state}: there is nothing to scale")
        before = self._job.nodes()
        self._reconcile(nodes)  # unless a supervisor was faster
        return nodes - before

    def _reconcile(self, asked: int | None = None) -> int:
        # A supervisor and `scale` may both see that nodes are missing: one looks and starts at a time.
        with self._site.locked():
            before = self._job.nodes()
            if asked is not None:
                self._want(asked)
            # Before the look that decides: there must be none between that and the start (`EC2Cloud.run_instances`).
            line = self._site.user_data("processor")
            alive = self._alive("processor")
            # After it: who asks for more writes that down first, and of what he starts nothing is to be drained.
            wanted = self._job.nodes() if asked is None else asked
            if len(alive) > wanted:
                self._site.drain([i.id for i in alive[wanted:]])
            else:
                try:
                    self._run("processor", wanted - len(alive), line)
                except UsageError:
                    if asked is not None:  # more than there is room for: the supervisor must not try it as well
                        self._want(before)
                    raise
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
            CloudError: the cloud has been out of reach for minutes, or has refused all that time what the job needs.
            StorageError: the job's records have been.
        """
        away_since: float | None = None
        while True:
            try:
                status = self._step(show)
            except (CloudError, StorageError) as e:
                # The job goes on without this network; only looking after it stops meanwhile.
                away_since = away_since or time.monotonic()
                if time.monotonic() > away_since + _AWAY_S:
                    raise
                _event("out_of_reach", level=logging.WARNING, why=str(e))
                time.sleep(max(1.0, self._site.poll_s))
                continue
            if status.ended:
                return self._end(status)
            away_since = None
            time.sleep(self._site.poll_s)

    def _step(self, show: Callable[[Status], None]) -> Status:
        """Look at the job, and see to its nodes; at its end see that they go."""
        instances = self._cloud.describe_instances()
        status = snapshot(self._job, instances)
        show(status)
        if status.ended:
            self._send_home(status)
            return status
        self._end_unheard([i for i in instances if i.alive])
        collectors = [i.id for i in instances if i.role == "collector" and i.alive]
        if not collectors:
            self._replace_collector()
        elif len(collectors) > 1 and not self._site.share_outlives:
            # A cloud without tokens may start a node twice. The last is who `HomeSite` sends processors to.
            self._cloud.terminate_instances(collectors[:-1])
        self._replace_processors(sum(i.role == "processor" and i.alive for i in instances))
        return status

    def attach(self, show: Callable[[Status], None] = lambda _status: None) -> dict[str, Any]:
        """Watch only; at the end see to what a launcher does that may be no more: deliver and sweep.

        Raises:
            JobFailedError: no node has been alive for half a minute, so nobody looks after the job.
        """
        lived = time.monotonic()
        while not (status := self.status()).ended:
            show(status)
            if status.state == "starting" or any(n.state != "terminated" for n in status.nodes):
                lived = time.monotonic()
            elif time.monotonic() > lived + _ALONE_S:
                told = f"job {self._job.id} broke off: none of its nodes is alive"
                raise JobFailedError(f"{told}; `vidcloud resume {self._job.id}` lets it go on")
            time.sleep(self._site.poll_s)
        show(status)
        result = self._site.deliver(self._job.result() or {})
        if status.state == "done" and (self._until_gone() or not self._site.share_outlives):
            self._site.sweep()
        return result

    def _end_unheard(self, alive: Sequence[Instance]) -> None:
        """End machines that were started long ago and never said a word: others will do what they do not."""
        now = time.monotonic()
        late = [i for i in alive if now - self._first_seen.setdefault(i.id, now) > self._site.boot_timeout_s]
        if not any(i.id not in self._heard for i in late):
            return
        self._heard = self._site.heard()
        unheard = [i for i in late if i.id not in self._heard]
        # Processors can say nothing before there is a collector.
        unheard = [i for i in unheard if i.role == "collector"] or unheard
        for i in unheard:
            _event("never_heard_of", level=logging.WARNING, node=i.id, role=i.role, seconds=self._site.boot_timeout_s)
        self._cloud.terminate_instances([i.id for i in unheard])

    def _replace_collector(self) -> None:
        if self._job.result() is not None:
            return
        if self._collectors >= _COLLECTOR_RESTARTS:
            words = self._last_words("collector")
            self.terminate()
            raise JobFailedError(
                f"the collector ended {self._collectors + 1} times without a result, the last with: {words}"
            )
        if not self._site.share_outlives:
            self.terminate()  # what processors have mounted is gone
        self._run("collector", 1)
        self._collectors += 1  # not before: a cloud that can't be asked is no collector that ended
        if not self._site.share_outlives:
            self._run("processor", self._job.nodes())

    def _last_words(self, role: str) -> str:
        ended = [i for i in self._cloud.describe_instances() if i.role == role]
        printed = self._site.log(ended[-1].id).text.strip().splitlines() if ended else []
        return printed[-1] if printed else "nothing"

    def _replace_processors(self, alive: int) -> None:
        missing = self._job.nodes() - alive
        if missing == 0 or self._job.result() is not None or time.monotonic() < self._not_before:
            return
        if missing < 0:
            self._reconcile()  # some were started twice
        elif self._processors + missing <= _PROCESSOR_RESTARTS_A_NODE * self._job.nodes():
            try:
                self._processors += max(0, self._reconcile())
            except CloudError as e:
                if not alive:
                    raise
                self._not_before = time.monotonic() + _AGAIN_S
                _event("not_replaced", level=logging.WARNING, nodes=missing, why=str(e))  # the others go on
        elif not alive:
            words = self._last_words("processor")
            self.terminate()
            raise JobFailedError(
                f"processors end as fast as they start, the last with: {words}; "
                f"`vidcloud resume {self._job.id}` once that is mended"
            )

    def _until_gone(self) -> bool:
        """Wait for nodes that go by themselves, as all do when a job is done; whether they are gone."""
        deadline = time.monotonic() + _END_S
        while (alive := [i for i in self._cloud.describe_instances() if i.alive]) and time.monotonic() < deadline:
            if not any(i.role == "collector" for i in alive):
                deadline = min(deadline, time.monotonic() + _HOME_S)
            time.sleep(self._site.poll_s / 2)
        return not alive

    def _send_home(self, status: Status) -> None:
        if status.state == "done":
            self._until_gone()
        self.terminate()

    def _end(self, status: Status) -> dict[str, Any]:
        result = self._job.result() or {}
        if status.state == "done":
            result = self._site.deliver(result)
            self._site.sweep()
            return result
        if status.state == "cancelled":
            self._site.sweep()
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
            time.sleep(self._site.poll_s / 2)
        self.terminate()
        if (result := self._job.result()) is None or result["state"] == "failed":
            self._site.discard()
            self._job.write_result(
                {
                    "version": 1,
                    "state": "cancelled",
                    "output": self._job.spec().output,
                    "seconds": 0.0,
                    "takeovers": 0,
                    "error": "cancelled",
                }
            )
        self._site.sweep()

    def broken_off(self) -> bool:
        """Whether `resume` would start nodes.

        Raises:
            UsageError: the job is done or cancelled.
        """
        if (state := self._job.state()) in ("done", "cancelled"):
            raise UsageError(f"job {self._job.id} is {state}: there is nothing to resume")
        return state == "failed" or not self._alive("collector")

    def resume(self) -> bool:
        """Let a job go on whose collector was killed, or which failed.

        Returns:
            False if it is running anyway, so that there is nothing to do but watch.

        Raises:
            UsageError: it is done or cancelled.
        """
        if not self.broken_off():
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
        return [(i, self._site.log(i).text) for i in self._ids(node)]

    def _ids(self, node: str | None) -> list[str]:
        ids = [i.id for i in self._cloud.describe_instances()]
        if node is not None and node not in ids:
            raise UsageError(f"job {self._job.id} has no node {node}: it has {', '.join(ids) or 'none'}")
        return [i for i in ids if node in (None, i)]

    def follow(self, node: str | None) -> Iterator[tuple[str, str]]:
        """What nodes print, line by line, as it comes; ends with the node, or with the last one.

        Raises:
            UsageError: no such node.
        """
        self._ids(node)
        new = NewLines(self._site)
        seen_alive = time.monotonic()
        while True:
            instances = [i for i in self._cloud.describe_instances() if node in (None, i.id)]
            if any(i.state != "terminated" for i in instances):
                seen_alive = time.monotonic()
                last = False
            else:
                # Before what is read now: whoever is gone has printed all.
                last = node is not None or self._job.result() is not None or time.monotonic() > seen_alive + _QUIET_S
            for i in instances:
                for line in new(i.id, last=last):
                    yield i.id, line
            if last:
                return
            time.sleep(max(_FOLLOW_S, self._site.poll_s / 2))

    def login(self, node: str) -> "Target":
        """Where to log in for a node, and how to know its host.

        Raises:
            UsageError: no such node, or it is a process of this machine.
        """
        if not isinstance(self._cloud, Reachable):
            raise UsageError(
                f"the nodes of job {self._job.id} are processes of this machine: there is no other to log in to"
            )
        return self._cloud.login(node)

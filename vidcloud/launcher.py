"""Run, scale, supervise, cancel and resume jobs over a cloud."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcloud import boot, planes, plugins, storage
from vidcloud import job as jobs
from vidcloud.chain import Chain
from vidcloud.clouds.base import Cloud, Instance, open_cloud
from vidcloud.errors import InputError, JobCancelledError, JobFailedError, StorageError, UsageError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.status import Status, snapshot

if TYPE_CHECKING:
    from vidcloud.media.probe import VideoInfo
    from vidcloud.media.settings import EncodeSettings

_POLL_S = 0.1
_USUAL = {"ffv1": ".mkv", "png": ".mkv", "prores": ".mov", "utvideo": ".avi"}
"""Codecs that MP4 holds by FFmpeg's word alone, or not at all, and where players look for them."""
_CRF_CODECS = ("libx264", "libx264rgb", "libx265")
"""Encoders whose quality is asked for as CRF 20, preset medium, unless told otherwise."""
_COLLECTOR_RESTARTS = 3
_PROCESSOR_RESTARTS_A_NODE = 5
_END_S = 10.0
"""How long processors may take to go home by themselves after the end."""


@dataclass(frozen=True)
class Request:
    """What a user asks for; see `vidcloud run --help`."""

    input: str
    filters: tuple[str, ...]
    output: str | None = None
    nodes: int = 1
    chunk: int = 20
    segment_chunks: int = 12
    plane: str = "auto"
    codec: str = "libx264"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    cloud: str = "local"
    share: Path | None = None
    job_id: str | None = None
    window: int = 0
    lease_s: float = 10.0
    stall_s: float = 600.0
    dead_man_s: float = 120.0
    on_error: str = "fail"
    on_damage: str = "fail"
    force: bool = False
    proof: bool = True


def create(request: Request) -> JobDirectory:
    """Check all that can be checked before a node is started, and write the job.

    Raises:
        UsageError: something is asked for that can't be done; one line says what and what to do.
        InputError: the input is not a video.
        ShareError: the share can't be used.
    """
    for name, value, low in (
        ("--nodes", request.nodes, 1),
        ("--chunk", request.chunk, 1),
        ("--segment-chunks", request.segment_chunks, 1),
        ("--window", request.window, 0),
    ):
        if value < low:
            raise UsageError(f"{name} {value}: must be at least {low}")
    if request.lease_s < 1:
        raise UsageError(f"--lease {request.lease_s:g}: must be at least 1 second")
    open_cloud(request.cloud, "")
    plane = planes.choose(request.plane)
    stages = [plugins.resolve(text) for text in request.filters]
    source = storage.normalise(request.input)

    # The libraries of pictures cost half a second: only after the cheap checks.
    from vidcloud.media.containers import check_container, container_format  # noqa: PLC0415
    from vidcloud.media.convert import converter  # noqa: PLC0415
    from vidcloud.media.encode import check_settings  # noqa: PLC0415
    from vidcloud.media.probe import probe  # noqa: PLC0415
    from vidcloud.media.settings import fit_settings  # noqa: PLC0415
    from vidcloud.pixels import pixel_format  # noqa: PLC0415

    settings = _settings(request)
    codec, info, path = "h264", None, storage.local_path(source)
    if path is not None:
        info = probe(path)
        resolved = check_settings(settings, info)
        codec = resolved.codec
        Chain([s.stage for s in stages], info.spec, pixel_format(resolved.storage), converter)
    elif not storage.exists(source):
        raise InputError(f"no {request.input}: check the URL")
    names = [s.ref.member.lower() for s in stages]
    output = storage.normalise(request.output) if request.output else _default_output(source, names, codec, info)
    _check_output(output, source, force=request.force)
    if info is not None:
        check_container(storage.name_of(output), codec, info, path)
    settings = fit_settings(settings, container_format(storage.name_of(output)))

    spec = JobSpec(
        id=request.job_id or jobs.new_id(),
        created=time.time(),
        input=source,
        output=output,
        filters=tuple(s.ref.to_json() for s in stages),
        encode=settings.to_json(),
        plane=plane,
        **{
            f.name: getattr(request, f.name)
            for f in dataclasses.fields(Request)
            if f.name
            in (
                "chunk",
                "segment_chunks",
                "window",
                "lease_s",
                "stall_s",
                "dead_man_s",
                "on_error",
                "on_damage",
                "force",
                "proof",
            )
        },
    )
    job = jobs.create(request.share or jobs.default_share(), spec)
    from vidcloud.queue.worker import check_share  # noqa: PLC0415

    check_share(job.directory)
    for stage in stages:
        plugins.bundle(stage, job.plugins)
    return job


def _settings(request: Request) -> "EncodeSettings":
    from vidcloud.media.settings import EncodeSettings  # noqa: PLC0415

    crf, preset = request.crf, request.preset
    if request.codec in _CRF_CODECS and not {"qp", "b", "crf", "bitrate"} & request.options.keys():
        crf = 20.0 if crf is None else crf
    if request.codec in _CRF_CODECS and "preset" not in request.options:
        preset = preset or "medium"
    return EncodeSettings(request.codec, crf, preset, request.pix_fmt, dict(request.options))


def _default_output(source: str, names: Sequence[str], codec: str, info: "VideoInfo | None") -> str:
    """``cat.avi`` and ``neon`` give ``cat.neon.mp4`` beside the input.

    Matroska and QuickTime inputs keep their container, which holds more. Where it can't hold the video, or the sound,
    the next one that can is taken.
    """
    from vidcloud.media.containers import container_format, holds  # noqa: PLC0415

    name = Path(storage.name_of(source))
    same = {".mkv": ".mkv", ".webm": ".mkv", ".mov": ".mov"}.get(name.suffix.lower())
    extension = _USUAL.get(codec) or same or ".mp4"
    if info is not None:
        sound = [s.codec for s in info.others if s.kind == "audio"]
        candidates = (extension, ".mp4", ".mkv", ".mov", ".avi", ".nut")
        able = [c for c in candidates if holds(container_format(f"x{c}"), codec)]
        able.sort(key=lambda c: not all(holds(container_format(f"x{c}"), s) for s in sound))
        extension = able[0] if able else extension
    made = ".".join([name.stem, *(names or ["copy"])]) + extension
    if path := storage.local_path(source):
        return f"file://{path.with_name(made)}"
    if source.startswith("s3://"):
        return source.rpartition("/")[0] + "/" + made
    return storage.normalise(made)


def _check_output(output: str, source: str, *, force: bool) -> None:
    if output == source:
        raise UsageError("the output would replace the input: choose another with -o")
    path = storage.local_path(output)
    if path is not None:
        if path.is_dir():
            raise UsageError(f"the output {path} is a folder: give a file name")
        if not path.parent.is_dir():
            raise UsageError(f"the output's folder {path.parent} does not exist: make it first")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"can't write into {path.parent}: choose another place with -o")
        source_path = storage.local_path(source)
        if source_path and path.exists() and path.samefile(source_path):
            raise UsageError("the output would replace the input: choose another with -o")
    if not force and (path is not None or output.startswith("s3:")) and storage.exists(output):
        raise UsageError(f"the output {path or output} exists: --force replaces it")


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
            By how many the number of processors changed.

        Raises:
            UsageError: the job has ended, or fewer than one.
        """
        if nodes < 1:
            raise UsageError(f"{nodes} nodes: at least one; `vidcloud cancel {self._job.id}` ends a job")
        if (state := self._job.state()) not in ("starting", "running"):
            raise UsageError(f"job {self._job.id} is {state}: there is nothing to scale")
        self._job.write_nodes(nodes)
        return self._reconcile()

    def _reconcile(self) -> int:
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
            self._processors += missing
            self._reconcile()
        elif not alive:
            words = self._last_words("processor")
            self.terminate()
            raise JobFailedError(
                f"processors end as fast as they start, the last with: {words}; "
                f"`vidcloud resume {self._job.id}` once that is mended"
            )

    def _end(self, status: Status) -> dict[str, Any]:
        deadline = time.monotonic() + (_END_S if status.state == "done" else 0)
        while any(i.alive for i in self._cloud.describe_instances()) and time.monotonic() < deadline:
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

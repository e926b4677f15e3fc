"""What a user asks for: checked as far as can be before a node is started, and written down as a job."""

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcloud import job as jobs
from vidcloud import planes, plugins, storage
from vidcloud.chain import Chain
from vidcloud.clouds.base import REMOTE, check_options
from vidcloud.errors import InputError, UsageError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.ranges import check_ranges

if TYPE_CHECKING:
    from vidcloud.media.probe import VideoInfo
    from vidcloud.media.settings import EncodeSettings

_USUAL = {"ffv1": ".mkv", "png": ".mkv", "prores": ".mov", "utvideo": ".avi"}
"""Codecs that MP4 holds by FFmpeg's word alone, or not at all, and where players look for them."""
_CRF_CODECS = ("libx264", "libx264rgb", "libx265")
"""Encoders whose quality is asked for as CRF 20, preset medium, unless told otherwise."""


@dataclass(frozen=True)
class Request:
    """What a user asks for; see `vidcloud run --help`."""

    input: str
    filters: tuple[str, ...]
    output: str | None = None
    nodes: int = 1
    chunk: int = 20
    pack: str = "auto"
    segment_chunks: int = 12
    source: str = "share"
    plane: str = "auto"
    codec: str = "libx264"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    passes: int = 1
    options: dict[str, str] = field(default_factory=dict)
    cloud: str = "local"
    cloud_options: dict[str, str] = field(default_factory=dict)
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


@dataclass(frozen=True)
class Checked:
    """A request that can be met.

    Attributes:
        spec: the job's.
        stages: its filters.
        site: where its nodes and records will be (`vidcloud.sites`); empty on this machine.
    """

    spec: JobSpec
    stages: tuple[plugins.Resolved, ...]
    site: dict[str, Any]


def create(request: Request) -> JobDirectory:
    """Check all that can be checked before a node is started, and write the job.

    Raises:
        UsageError: something is asked for that can't be done; one line says what and what to do.
        InputError: the input is not a video.
        ShareError: the share can't be used.
    """
    checked = check(request)
    job = jobs.create(request.share or jobs.default_share(), checked.spec)
    from vidcloud.queue.worker import check_share  # noqa: PLC0415

    check_share(job.directory)
    for stage in checked.stages:
        plugins.bundle(stage, job.plugins)
    if checked.site:
        job.write_site(checked.site)
    return job


def check(request: Request) -> Checked:
    """Check all that can be checked before a node is started; nothing is written.

    Raises:
        UsageError: something is asked for that can't be done; one line says what and what to do.
        InputError: the input is not a video.
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
    options = check_options(request.cloud, request.cloud_options)
    if request.cloud == "ec2" and not options.get("instance_profile"):
        raise UsageError(
            "--cloud ec2 needs -o instance_profile=NAME: by it the collector reaches the job's home "
            "(docs/iam-policy.json); none, if the image brings keys of its own"
        )
    if request.plane not in ("auto", *planes.NAMES):
        raise UsageError(f"no plane {request.plane!r}: there is auto, {', '.join(planes.NAMES)}")
    stages = [plugins.resolve(text) for text in request.filters]
    source = storage.normalise(request.input)
    if request.source == "ranges":
        if storage.local_path(source) and request.cloud not in REMOTE:
            raise UsageError("--source ranges is for http(s):// and s3:// inputs: leave it out for a file")
        if request.plane != "segments":
            raise UsageError("--source ranges is for processors that decode: add --plane segments")
        if not storage.local_path(source):  # a file here will be at the job's home
            check_ranges(source)

    # The libraries of pictures cost half a second: only after the cheap checks.
    from vidcloud.media.containers import check_container, container_format  # noqa: PLC0415
    from vidcloud.media.convert import converter  # noqa: PLC0415
    from vidcloud.media.encode import check_settings  # noqa: PLC0415
    from vidcloud.media.probe import probe  # noqa: PLC0415
    from vidcloud.media.settings import fit_settings  # noqa: PLC0415
    from vidcloud.pixels import pixel_format  # noqa: PLC0415
    from vidcloud.planes.choice import check_asked  # noqa: PLC0415

    settings = encoder_settings(request)
    check_asked(request.plane, request.pack, settings, request.on_damage)
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

    job_id = request.job_id or jobs.new_id()
    site: dict[str, Any] = {}
    if request.cloud != "local":
        site = {"version": 1, "cloud": request.cloud, "options": options}
    if request.cloud in REMOTE:
        site["home"] = home = f"{options['bucket'].rstrip('/')}/{job_id}"
        source, output = _by_way_of(home, source, output, site)
    spec = JobSpec(
        id=job_id,
        created=time.time(),
        input=source,
        output=output,
        filters=tuple(s.ref.to_json() for s in stages),
        encode=settings.to_json(),
        plane=request.plane,
        **{
            f.name: getattr(request, f.name)
            for f in dataclasses.fields(Request)
            if f.name
            in (
                "chunk",
                "pack",
                "source",
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
    return Checked(spec, tuple(stages), site)


def _by_way_of(home: str, source: str, output: str, site: dict[str, Any]) -> tuple[str, str]:
    """Where nodes far away find an input that is a file here, and leave an output that is to be one."""
    if path := storage.local_path(source):
        site["input"] = str(path)
        source = f"{home}/input/{path.name}"
    if path := storage.local_path(output):
        site["output"] = output
        output = f"{home}/output/{path.name}"
    return source, output


def encoder_settings(request: Request) -> "EncodeSettings":
    """What is asked of the encoder, with our defaults where nothing is."""
    from vidcloud.media.settings import EncodeSettings  # noqa: PLC0415

    crf, preset = request.crf, request.preset
    rated = request.passes > 1 or {"qp", "b", "crf", "bitrate"} & request.options.keys()
    if request.codec in _CRF_CODECS and not rated:
        crf = 20.0 if crf is None else crf
    if request.codec in _CRF_CODECS and "preset" not in request.options:
        preset = preset or "medium"
    return EncodeSettings(request.codec, crf, preset, request.pix_fmt, dict(request.options), request.passes)


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

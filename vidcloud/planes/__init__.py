"""How pictures travel: one file a plane. Planes are opened by name, for each brings its own libraries."""

from pathlib import Path
from typing import TYPE_CHECKING

from vidcloud.errors import ShareError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.planes.base import CollectorPlane, ProcessorPlane

if TYPE_CHECKING:
    from vidcloud.media.probe import VideoInfo

NAMES = ("frames", "segments")


def open_collector(spec: JobSpec, job: JobDirectory, source: Path, info: "VideoInfo") -> CollectorPlane:
    """What the collector does for a job; on the plane that the job names, or on the one that is chosen for it here.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder or the plane refuses them.
        MediaError: the input's packets don't tell its frames, and the segments plane was asked for by name.
    """
    from vidcloud.planes.choice import choose  # noqa: PLC0415

    choice = choose(spec, job, source, info)
    if choice.plane == "segments":
        from vidcloud.planes.segments import SegmentsCollector  # noqa: PLC0415

        return SegmentsCollector(spec, job, source, info, choice)
    from vidcloud.planes.frames import FramesCollector  # noqa: PLC0415

    return FramesCollector(spec, job, source, info, choice)


def load_processors() -> None:
    """Import what processors need of any plane, while they wait for the collector."""
    import vidcloud.planes.frames  # noqa: PLC0415
    import vidcloud.planes.segments  # noqa: F401, PLC0415


def open_processor(spec: JobSpec, job: JobDirectory) -> ProcessorPlane:
    """What a processor does for a job.

    Raises:
        ShareError: the collector has not said yet what the frames are.
    """
    stream = job.stream()
    if stream is None:
        raise ShareError(f"{job.root}/stream.json is missing")
    if stream["plane"] == "segments":
        from vidcloud.planes.segments import SegmentsProcessor  # noqa: PLC0415

        return SegmentsProcessor(spec, job, stream)
    from vidcloud.planes.frames import FramesProcessor  # noqa: PLC0415

    return FramesProcessor(spec, job, stream)


__all__ = ["NAMES", "CollectorPlane", "ProcessorPlane", "load_processors", "open_collector", "open_processor"]

"""How pictures travel: one file a plane. Planes are opened by name, for each brings its own libraries."""

from pathlib import Path
from typing import TYPE_CHECKING

from vidcloud.errors import ShareError, UsageError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.planes.base import CollectorPlane, ProcessorPlane

if TYPE_CHECKING:
    from vidcloud.media.probe import VideoInfo

NAMES = ("frames", "segments")


def choose(asked: str) -> str:
    """The plane for a job.

    Raises:
        UsageError: there is none of that name.
    """
    if asked == "auto":
        return "frames"
    if asked not in NAMES:
        raise UsageError(f"no plane {asked!r} in this version: there is {', '.join(NAMES)}")
    return asked


def open_collector(spec: JobSpec, job: JobDirectory, source: Path, info: "VideoInfo") -> CollectorPlane:
    """What the collector does for a job."""
    if spec.plane == "segments":
        from vidcloud.planes.segments import SegmentsCollector  # noqa: PLC0415

        return SegmentsCollector(spec, job, source, info)
    from vidcloud.planes.frames import FramesCollector  # noqa: PLC0415

    return FramesCollector(spec, job, source, info)


def open_processor(spec: JobSpec, job: JobDirectory) -> ProcessorPlane:
    """What a processor does for a job.

    Raises:
        ShareError: the collector has not said yet what the frames are.
    """
    from vidcloud.planes.frames import FramesProcessor  # noqa: PLC0415

    stream = job.stream()
    if stream is None:
        raise ShareError(f"{job.root}/stream.json is missing")
    if spec.plane == "segments":
        from vidcloud.planes.segments import SegmentsProcessor  # noqa: PLC0415

        return SegmentsProcessor(spec, job, stream)
    return FramesProcessor(spec, job, stream)


__all__ = ["NAMES", "CollectorPlane", "ProcessorPlane", "choose", "open_collector", "open_processor"]

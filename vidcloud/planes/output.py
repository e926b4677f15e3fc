"""What becomes of filtered frames on every plane: encoded parts that are safe, their proof, the joined output."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vidcloud import plugins, proof
from vidcloud.chain import Chain, Stage
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.convert import converter
from vidcloud.media.lossless import is_lossless
from vidcloud.media.parts import Part, read_part, whole_parts
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import EncodeSettings, resolve
from vidcloud.pixels import pixel_format
from vidcloud.planes.base import Assembly
from vidcloud.planes.choice import Choice
from vidcloud.planes.joiner import Joiner


def load_stages(spec: JobSpec, plugin_dir: Path) -> list[Stage]:
    """The job's filters.

    Raises:
        PluginError: one can't be loaded here, or differs from what the job pinned.
    """
    return [plugins.load(plugins.FilterRef.from_json(r), plugin_dir) for r in spec.filters]


class Output:
    """A job's output while it grows.

    Args:
        spec: the job.
        job: its directory; what is in ``parts/`` already counts as made.
        source: the input as a local file.
        info: what `probe` says of it.
        choice: of the plane, for the processors and a later collector.

    Attributes:
        settings: what was asked of the encoder.
        resolved: the encoder that serves.
        halo: the neighbouring frames that the filter chain needs.
        parts: whole parts, in order, without their timestamps: memory must not grow with the video.
        report: lines for the user.
        lossless: whether the output's frames are the filtered ones to the last bit.

    Raises:
        PluginError: a filter refuses the frames.
        UsageError: the encoder refuses them.
    """

    def __init__(self, spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo, choice: Choice) -> None:
        self._source, self._info, self._choice = source, info, choice
        self.settings = EncodeSettings.from_json(spec.encode)
        self.resolved = resolve(self.settings, info)
        chain = Chain(load_stages(spec, job.plugins), info.spec, pixel_format(self.resolved.storage), converter)
        self.halo = chain.halo
        self.report = [*info.losses, *self.resolved.notes]
        depth = pixel_format(info.storage).bits
        if any(pixel_format(f).bits < depth for f in chain.formats):
            self.report.append(f"depth: a filter of the chain takes 8 bits only, the input has {depth}")
        self.lossless = is_lossless(self.settings, self.resolved)
        self._log = proof.FrameLog(job.parts)
        self.parts = [_light(p) for p in self._log.covered(whole_parts(job.parts))]
        self._joiner: Joiner | None = None

    @property
    def safe_frames(self) -> int:
        """Frames in whole parts."""
        return self.parts[-1].first + self.parts[-1].frames if self.parts else 0

    def describe(self) -> dict[str, object]:
        """What processors must know of the frames (``stream.json``)."""
        return {
            "version": 1,
            "info": self._info.to_json(),
            "target": self.resolved.storage,
            "pix_fmt": self.resolved.pix_fmt,
            **self._choice.to_json(),
        }

    def note(self, lines: Iterator[str] | list[str] | tuple[str, ...]) -> None:
        """Add lines to the report, each once."""
        self.report.extend(line for line in lines if line not in self.report)

    def frame(self, pts: int, duration: int, frame_hash: str) -> None:
        """Note the next frame that was given to an encoder."""
        self._log.append(pts, duration, frame_hash)

    def safe(self, parts: list[Part]) -> None:
        """Parts are whole: from here on a crash does not lose their frames."""
        for part in parts:
            self._log.cut(part.first, part.first + part.frames)
            self.parts.append(_light(part))
            if self._joiner:
                self._joiner.add(part)

    def begin(self, target: Path) -> None:
        """Join the parts with all other streams of the input under a private name, as they come."""
        self._joiner = Joiner(self._source, self._info, target)
        for part in self.parts:
            self._joiner.add(read_part(part.path))

    def abandon(self) -> None:
        """Stop joining."""
        if self._joiner:
            self._joiner.abandon()

    def finish(self) -> Assembly:
        """Wait for the joined output."""
        assert self._joiner is not None  # noqa: S101 - begun before
        made = self._joiner.finish()
        self.note([*(f"not carried: {line}" for line in made.lost), *made.notes])
        return Assembly(self.safe_frames, self.report)

    def proof_frames(self) -> Iterator[proof.Entry]:
        """Timestamp, duration and hash of each frame."""
        return self._log.entries(self.parts)


def _light(part: Part) -> Part:
    return replace(part, pts=(), told={})

"""Which plane a job takes, and why: what the encoder allows, then what a short measurement predicts."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vidcloud import plugins
from vidcloud.errors import MediaError, UsageError
from vidcloud.job import JobDirectory, JobSpec
from vidcloud.media.index import FrameIndex, tried_index
from vidcloud.media.probe import VideoInfo
from vidcloud.media.settings import X26X, EncodeSettings, encoder_codec
from vidcloud.planes.costs import measure
from vidcloud.planes.cuts import Cutter
from vidcloud.planes.prediction import Machine, Prediction, predict

_SHORT = 300
"""Frames of a video that is not worth measuring."""
_JOIN = (
    "h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "ffv1", "prores", "dnxhd", "cfhd",
    "jpeg2000", "mjpeg", "png", "utvideo", "ffvhuff", "huffyuv", "magicyuv", "rawvideo",
)  # fmt: skip
"""Codecs whose parts are known to join: each has a test (``test_encoders_join``)."""
_RATES = ("b", "bitrate", "ab", "maxrate", "minrate", "bufsize", "rc_init_occupancy", "target-bitrate", "tbr")
_RATE_PARAMS = ("bitrate", "vbv-maxrate", "vbv-bufsize", "vbv-init", "tbr", "rc")
_PRIVATE_PARAMS = ("x264-params", "x264opts", "x265-params", "svtav1-params")
_BETTER = 0.95
"""Of the other plane's time before segments are taken: near a tie the output of one encoder is smaller."""


@dataclass(frozen=True)
class Choice:
    """A job's plane.

    Attributes:
        plane: its name.
        why: for the user, in a few words.
        preroll: cost of decoding a frame, in parts of decoding, filtering and encoding it.
        index: of the input, where it had to be read to choose.
    """

    plane: str
    why: str
    preroll: float = 0.25
    index: FrameIndex | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, object]:
        """What ``stream.json`` tells."""
        return {"plane": self.plane, "why": self.why, "preroll": self.preroll}


def one_encoder(settings: EncodeSettings) -> str:
    """Why one encoder must see the whole video, or ""."""
    if settings.passes > 1:
        return "two passes: one encoder must see the whole video twice"
    options: Mapping[str, str] = settings.options
    for name in _RATES:
        if str(options.get(name, "0")) not in ("", "0"):
            return f"-e {name}={options[name]} spreads bits over the whole video"
    for name, key, value in _private(settings):
        if key in _RATE_PARAMS and value not in ("", "0"):
            return f"{key}={value} in {name} spreads bits over the whole video"
    return ""


def _private(settings: EncodeSettings) -> Iterator[tuple[str, str, str]]:
    """What stands in options that hold options: name of the option, key, value."""
    for name in _PRIVATE_PARAMS:
        for param in settings.options.get(name, "").split(":"):
            key, _, value = param.partition("=")
            yield name, key, value


def _pass_by_hand(settings: EncodeSettings) -> str:
    """The option that asks for one of several passes, or says where their statistics are; or ""."""
    flags = settings.options.get("flags", "")
    if "pass1" in flags or "pass2" in flags:
        return f"-e flags={flags}"
    for name in ("passlogfile", "stats"):
        if name in settings.options:
            return f"-e {name}={settings.options[name]}"
    found = sorted((k, f"{k}={v} in {name}") for name, k, v in _private(settings) if v not in ("", "0"))
    return next((told for k, told in found if k in ("pass", "stats")), "")


def _check_passes(settings: EncodeSettings) -> None:
    if (codec := encoder_codec(settings.codec).name) not in X26X:
        raise UsageError(
            f"--passes 2: {codec} does not keep its statistics in a file: use --codec libx264 or libx265, or make a"
            " lossless output (--codec ffv1) and encode that in two passes"
        )
    private = {key: value for _, key, value in _private(settings)}
    if settings.crf is not None or {"crf", "qp"} & {*settings.options, *private}:
        raise UsageError("--passes 2 spreads a rate, and constant quality has none: give -e b=4M instead")
    if settings.options.get("b", "0") in ("", "0") and private.get("bitrate", "0") in ("", "0"):
        raise UsageError("--passes 2 needs a rate to spread over the video: add one, like -e b=4M")


def must_be_frames(settings: EncodeSettings, on_damage: str, frames: int = 0) -> str:
    """Why a job must have, or is better off with, the frames plane whatever things cost; or "".

    Args:
        settings: of the encoder.
        on_damage: what to do about damage.
        frames: of the video, 0 where unknown.
    """
    codec = _codec(settings)
    if why := one_encoder(settings):
        return why
    if on_damage == "conceal":
        return "damage is to be concealed"
    if codec not in _JOIN:
        return f"parts of {codec} are not known to join"
    return f"short: under {_SHORT} frames one encoder makes the smaller file" if 0 < frames < _SHORT else ""


def _codec(settings: EncodeSettings) -> str:
    return str(encoder_codec(settings.codec).canonical_name)


def better(frames: Prediction, segments: Prediction) -> Prediction:
    """The one to take."""
    return segments if segments.seconds < _BETTER * frames.seconds else frames


def check_asked(asked: str, pack: str, settings: EncodeSettings, on_damage: str) -> None:
    """Refuse two passes, the segments plane, or inputs that stay coded, where that can't give what was asked for.

    Raises:
        UsageError: tells what to do.
    """
    if why := _pass_by_hand(settings):
        raise UsageError(f"{why}: a job sees to its passes itself: use --passes 2 (with libx264, libx264rgb, libx265)")
    if settings.passes > 1:
        _check_passes(settings)
    if pack == "coded" and on_damage == "conceal":
        raise UsageError("--pack coded can't conceal damage, for it finds frames by timestamp: use --pack auto")
    if asked != "segments":
        return
    if why := one_encoder(settings):
        raise UsageError(f"--plane segments: {why}, and each segment has an encoder of its own: use --plane frames")
    if on_damage == "conceal":
        raise UsageError("--plane segments can't conceal damage, for it finds frames by timestamp: use --plane frames")
    if (codec := _codec(settings)) not in _JOIN:
        raise UsageError(f"--plane segments: parts of {codec} are not known to join: use --plane frames")


def choose(spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo) -> Choice:
    """The plane of a job: the one that was chosen before, the one asked for, or the one that will be faster.

    Args:
        spec: the job.
        job: its directory.
        source: the input as a local file.
        info: what `probe` says of it.
    """
    if told := job.stream():
        return Choice(told["plane"], told.get("why", ""), told.get("preroll", Choice.preroll))
    if spec.plane != "auto":
        return Choice(spec.plane, "asked for")
    settings = EncodeSettings.from_json(spec.encode)
    if why := must_be_frames(settings, spec.on_damage, info.frames):
        return Choice("frames", why)
    try:
        index = tried_index(source, info)
    except MediaError:
        return Choice("frames", "the input's packets don't tell when each frame is shown")
    return _faster(spec, job, source, info, index)


def _faster(spec: JobSpec, job: JobDirectory, source: Path, info: VideoInfo, index: FrameIndex) -> Choice:
    stages = [plugins.load(plugins.FilterRef.from_json(r), job.plugins) for r in spec.filters]
    costs = measure(source, info, EncodeSettings.from_json(spec.encode), stages, job.scratch)
    preroll = costs.decode / costs.whole
    frames, nodes = len(index.pts), max(1, job.nodes())
    cutter = Cutter(frames, index.key_frames, chunk=spec.chunk, chunks=spec.segment_chunks, preroll=preroll)
    machines = job.machines()
    # The others are taken to be like this one, and their cores to be shared by the processors on them.
    cores = max(1, len(os.sched_getaffinity(0)) // (1 if machines == 1 else -(-nodes // machines)))
    machine = Machine(cores, shared=machines == 1)
    both = [predict(p, costs, cutter, frames, nodes, machine) for p in ("frames", "segments")]
    best = better(*both)
    other = both[both[0] is best]
    each = f"{machine.cores} cores" + (" each" if machines > 1 else "")
    on = f"{nodes} node{'s' if nodes > 1 else ''} on {each}"
    why = f"{best.fps:.1f} fps expected against {other.fps:.1f}; {costs}; {on}"
    return Choice(best.plane, why, round(preroll, 3), index)

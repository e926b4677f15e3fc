"""Holds an output against its proof, and a proof against a serial run."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vidcloud import plugins, storage
from vidcloud.chain import Chain
from vidcloud.chunkfile import frame_hash
from vidcloud.errors import PluginError, VerifyError
from vidcloud.filter import FrameSpec
from vidcloud.media.audio import audio_hashes
from vidcloud.media.convert import converter
from vidcloud.media.decode import Decoder
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.pixels import Array, pixel_format
from vidcloud.plugins import FilterRef
from vidcloud.proof import Proof


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    what: str
    ok: bool
    detail: str


def check_output(output: Path, told: Proof) -> list[Finding]:
    """Read an output again, all of it.

    Args:
        output: the file.
        told: its proof.

    Raises:
        MediaError: it can't be read.
    """
    info = probe(output)
    base = Fraction(told.record["time_base"])
    # A decoder may give the samples in another order than the encoder took (gbrp for bgr24).
    target = FrameSpec(
        pixel_format(told.record["stream"]["target"]), info.width, info.height, info.full_range, info.matrix
    )
    reordered = np.empty(target.format.samples(info.width, info.height), target.format.dtype)
    reorder = converter(info.spec, target) if told.record["lossless"] else None
    times: list[int] = []
    equal = compared = 0
    for frame in Decoder(output, info):
        if reorder is not None and frame.index < len(told.frames):
            reorder(frame.flat, reordered)
            compared += 1
            equal += frame_hash(reordered) == told.frames[frame.index][2]
        times.append(frame.pts)
    moved = any(line.startswith("all timestamps are ") for line in told.record["report"])
    findings = [
        Finding("frames", len(times) == len(told.frames), f"{len(times)} of {len(told.frames)}"),
        _times(times, info.time_base, [f[0] for f in told.frames], base, moved=moved),
    ]
    if told.record["lossless"]:
        findings.append(
            Finding("pixels", compared == equal == len(told.frames), f"{equal} of {len(told.frames)} are identical")
        )
    return [*findings, _audio(audio_hashes(output), told.record)]


def _audio(got: list[dict[str, Any]], record: dict[str, Any]) -> Finding:
    """Audio is the told one, and the input's, but for streams of which the report says that they are not carried."""
    lost = [line for line in record["report"] if line.startswith("not carried: ")]
    kept = [a for a in record["input_audio"] if not any(f" audio stream {a['index']} " in line for line in lost)]
    packets = sum(a["packets"] for a in got)
    if len(got) != len(kept):
        return Finding("audio", ok=False, detail=f"{len(got)} of {len(kept)} streams")
    # Packets are not counted: containers cut PCM as they like.
    other = [b["index"] for a, b in zip(kept, got, strict=True) if a["xxh3_128"] != b["xxh3_128"]]
    if other:
        return Finding("audio", ok=False, detail=f"stream {other[0]} is not the input's")
    return Finding("audio", ok=got == record["audio"], detail=f"{len(got)} streams, {packets} packets")


def _times(got: list[int], got_base: Fraction, told: list[int], told_base: Fraction, *, moved: bool) -> Finding:
    """Timestamps are the told ones in the container's own clock; all moved alike where the report says so."""
    if len(got) != len(told) or not got:
        return Finding("timestamps", ok=False, detail=f"{len(got)} of {len(told)}")
    late = got[0] * got_base - told[0] * told_base if moved else 0
    exact = got_base if moved else got_base / 2  # the first one is rounded, too
    off = [
        i for i, (g, t) in enumerate(zip(got, told, strict=True)) if abs(g * got_base - t * told_base - late) > exact
    ]
    if not off:
        return Finding("timestamps", ok=True, detail=f"{len(got)} are equal")
    i = off[0]
    got_s, told_s = float(got[i] * got_base), float(told[i] * told_base)
    detail = f"{len(off)} differ, the first is frame {i}: {got_s:.6f} s for {told_s:.6f} s"
    return Finding("timestamps", ok=False, detail=detail)


def recompute(told: Proof, source: Path | None = None) -> Finding:
    """Filter the input again as one thread does it, and compare every frame with the proof.

    Args:
        told: the proof.
        source: the input; by default where the job found it.

    Raises:
        VerifyError: the input or a filter's file is not there any more.
    """
    job = told.record["job"]
    path = source or storage.local_path(job["input"])
    if path is None:
        raise VerifyError(f"the input was {job['input']}: fetch it, and give it with --input")
    info = VideoInfo.from_json(told.record["stream"]["info"])
    stages = []
    for ref in (FilterRef.from_json(r) for r in job["filters"]):
        resolved = plugins.resolve(ref.name)
        if (resolved.ref.sha256, resolved.ref.version) != (ref.sha256, ref.version):
            raise PluginError(f"filter {ref.name} is not the one of the job: its SHA-256 or version differs")
        stages.append(resolved.stage)
    target = pixel_format(told.record["stream"]["target"])
    chain = Chain(stages, info.spec, target, converter)
    before, after = chain.halo
    out = np.empty((1, target.samples(info.width, info.height)), target.dtype)
    keep = job["on_error"] == "keep"
    recent: list[tuple[int, Array]] = []
    equal = done = 0

    def one(index: int, stop: int) -> bool:
        window = [(p, f) for i, (p, f) in enumerate(recent, stop - len(recent)) if index - before <= i <= index + after]
        first = max(0, index - before)
        times = [float(p * info.time_base) for p, _ in window]
        frames: Any = np.stack([f for _, f in window])
        chain.run(frames, first, out, index, times, keep=keep)
        return index < len(told.frames) and frame_hash(out[0]) == told.frames[index][2]

    stop = 0
    for frame in Decoder(path, info, on_damage=job["on_damage"], threads=1):
        recent.append((frame.pts, frame.flat.copy()))
        stop = frame.index + 1
        recent = recent[-(before + 1 + after) :]
        if stop > after:
            equal += one(done, stop)
            done += 1
    while done < stop:
        equal += one(done, stop)
        done += 1
    ok = equal == done == len(told.frames)
    return Finding("serial run", ok, f"{equal} of {len(told.frames)} frames are identical")

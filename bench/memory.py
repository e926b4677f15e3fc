"""Is memory flat, and the share bounded, however long the video is? ``python bench/memory.py [--hours 0.5 8] [--plot FILE] [--write]``.

A job of two processors over a synthetic video (one short closed GOP, encoded once and joined by stream copy), 25 frames a second,
160x90 unless ``--size`` says otherwise. While it runs, the collector's resident memory, the files of the job's directory by
folder (a file with many links counts once) and the output that is being joined are sampled. The table shows the first sample, the
one in the middle of the video, the last, the largest, and how much an hour of video adds between first and last. ``--write`` puts
it into docs/performance.md; ``--plot`` draws it (matplotlib, the ``bench`` extra).
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
from main_job import ROOT, VIDCLOUD, environment, write_section

RATE, GOP = 25, 120
MB = 1e6
FILTER, PRESET, NODES = "invert", "ultrafast", 2


@dataclass
class Sample:
    """What was seen at one moment. Bytes.

    Attributes:
        hours: of video that are in the output's parts.
        rss: resident memory of the collector.
        peak: the largest that the system saw so far.
        folders: bytes of each folder of the job's directory.
        files: number of names in each of them.
        output: the output while it is joined.
    """

    hours: float
    rss: int
    peak: int
    folders: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    output: int = 0


def make_input(path, frames, size):
    """The example at ``size``, encoded as one closed GOP, which is copied until there are ``frames``."""
    width, height = size
    with av.open(str(ROOT / "examples/bigbuckbunny.mp4")) as inp:
        shown = [cv2.resize(f.to_ndarray(format="bgr24"), size) for f in inp.decode(video=0)]
    clip = path.with_name("clip.mp4")
    with av.open(str(clip), "w") as out:
        options = {
            "preset": "veryfast",
            "crf": "23",
            "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0",
        }
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(GOP):
            made = av.VideoFrame.from_ndarray(shown[n % len(shown)], format="bgr24")
            made.pts, made.time_base = n, Fraction(1, RATE)
            out.mux(stream.encode(made))
        out.mux(stream.encode())
    with av.open(str(clip)) as inp, av.open(str(path), "w") as out:
        template = inp.streams.video[0]
        stream = out.add_stream_from_template(template)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in inp.demux(template) if p.size]
        step = int(1 / (RATE * template.time_base))
        for n in range(0, frames, GOP):
            for data, pts, dts, key in packets[: frames - n]:  # the last copy may lack frames that others show earlier
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + n * step, dts + n * step, step
                packet.time_base, packet.is_keyframe, packet.stream = template.time_base, key, stream
                out.mux_one(packet)
    clip.unlink()


def footprint(root):
    """Bytes and names below each folder of a directory; what goes meanwhile does not count, what is linked twice counts once."""
    sizes, names, seen = {}, {}, set()
    for where, _, files in os.walk(root):
        parts = Path(where).relative_to(root).parts
        folder = "/".join(parts[:2] if parts[:1] == ("chunks",) else parts[:1]) or "records"
        for name in files:
            with contextlib.suppress(OSError):
                told = Path(where, name).stat()
                names[folder] = names.get(folder, 0) + 1
                if told.st_ino not in seen:
                    seen.add(told.st_ino)
                    sizes[folder] = sizes.get(folder, 0) + told.st_size
    return sizes, names


def sample(job, staged):
    """One look at a job; None before it runs and after it ended."""
    try:
        progress = json.loads((job / "progress.json").read_text())
        lines = Path(f"/proc/{progress['collector']['pid']}/status").read_text().splitlines()
        told = dict(line.split(":", 1) for line in lines)
        rss, peak = (int(told[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError, ValueError):
        return None
    folders, files = footprint(job)
    output = staged.stat().st_size if staged.exists() else 0
    if (job / "result.json").exists():
        return None  # all but the records is being removed
    return Sample(progress["frames"]["encoded"] / RATE / 3600, rss, peak, folders, files, output)


def watch(source, plane, every):
    """Run a job over a video; give the samples and how long it took in seconds."""
    folder = source.parent
    job, staged = folder / "share/jobs/j", folder / f".out.j.partial{source.suffix}"
    command = [*VIDCLOUD, "run", source.name, "-o", f"out{source.suffix}", "--filter", FILTER, "--nodes", str(NODES)]
    command += ["--preset", PRESET, "--plane", plane, "--job-id", "j", "--json"]
    env = environment(folder / "share")
    with (folder / "told").open("w+") as told:
        running = subprocess.Popen(command, cwd=folder, env=env, stdout=told, stderr=subprocess.STDOUT)
        samples = []
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(every)
            if running.returncode is not None:
                break
            if seen := sample(job, staged):
                samples.append(seen)
        told.seek(0)
        text = told.read()
    if running.returncode or not samples:
        raise SystemExit(f"the job failed, or was too short to be seen: {text}")
    return samples, json.loads(text.splitlines()[-1])["seconds"]


def index_cost(source):
    """Bytes a frame that the index of packets holds, and that making it takes at most."""
    from vidcloud.media.index import build_index
    from vidcloud.media.probe import probe

    info = probe(str(source))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    index = build_index(source, info)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (now - before) / len(index.pts), (peak - before) / len(index.pts)


def rows(samples):
    """What is shown: a name, its unit, its values by sample."""
    folders = sorted({name for s in samples for name in s.folders})
    yield "collector's memory", "MB", [s.rss / MB for s in samples]
    yield "job's directory, all of it", "MB", [sum(s.folders.values()) / MB for s in samples]
    for name in folders:
        if max(s.folders.get(name, 0) for s in samples) >= 1000:
            yield f"`{name}`", "MB", [s.folders.get(name, 0) / MB for s in samples]
    yield "output while it is joined", "MB", [s.output / MB for s in samples]
    for name in folders:
        if name in {"claims", "chunks/ready", "chunks/done", "parts"}:
            yield f"`{name}`", "files", [float(s.files.get(name, 0)) for s in samples]


def table(told, frames, source, samples, seconds):
    first, last = samples[0], samples[-1]
    middle = min(range(len(samples)), key=lambda n: abs(samples[n].hours - last.hours / 2))
    hours = last.hours - first.hours
    video = f"{frames} frames ({frames / RATE / 3600:.2f} hours) of {'x'.join(map(str, told.size))}"
    size = f"{source.stat().st_size / MB:.1f} MB of {source.suffix[1:]}"
    lines = [
        f"{video}, {size}, {told.plane} plane: {seconds:.0f} s, {len(samples)} samples.",
        "",
        "| what | unit | first | middle | last | largest | an hour of video adds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what, unit, values in rows(samples):
        numbers = (
            values[0],
            values[middle],
            values[-1],
            max(values),
            (values[-1] - values[0]) / hours if hours else 0.0,
        )
        lines.append(
            f"| {what} | {unit} | {' | '.join(f'{x:,.2f}' if unit == 'MB' else f'{x:,.0f}' for x in numbers)} |"
        )
    lines += ["", f"The collector's peak, which the system noted: {max(s.peak for s in samples) / MB:.1f} MB.", ""]
    if told.plane == "segments":
        held, most = index_cost(source)
        lines += [f"The index of packets: {held:.0f} bytes a frame, {most:.0f} while it is made.", ""]
    return lines


def plot(path, samples):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, share) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
    hours = [s.hours for s in samples]
    for what, unit, values in rows(samples):
        if unit == "MB":
            axes = memory if what.startswith("collector") else share
            axes.plot(hours, values, label=what.replace("`", ""))
    for axes in (memory, share):
        axes.set(ylabel="MB", ylim=(0, None))
        axes.legend(fontsize="small")
    share.set(xlabel="hours of video that are done")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def picture_size(told):
    width, height = (int(x) for x in told.split("x"))
    return width, height


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, nargs="+", default=[0.5, 8.0], help="of video, one job each")
    parser.add_argument("--frames", type=int, nargs="+", help="instead of --hours")
    parser.add_argument("--plane", choices=["segments", "frames"], default="segments")
    parser.add_argument("--size", type=picture_size, default=(160, 90), metavar="WIDTHxHEIGHT")
    parser.add_argument("--suffix", default=".mp4", help="of input and output")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="between samples")
    parser.add_argument("--plot", type=Path, help="draw the longest job")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    lines, longest = [], None
    for frames in sorted(told.frames or [round(h * 3600 * RATE) for h in told.hours]):
        with tempfile.TemporaryDirectory() as name:
            source = Path(name) / f"in{told.suffix}"
            make_input(source, frames, told.size)
            longest, seconds = watch(source, told.plane, told.every)
            made = table(told, frames, source, longest, seconds)
        print("\n".join(made), flush=True)
        lines += made
    if told.plot:
        plot(told.plot, longest)
    if told.write:
        command = f"`python bench/memory.py {' '.join(sys.argv[1:])}`:"
        write_section("memory", [command, "", *lines])


if __name__ == "__main__":
    main()

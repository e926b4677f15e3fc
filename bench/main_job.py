"""The main job against every way a user would do it today: CPU seconds and wall time a frame, medians, ratios.

``python bench/main_job.py [--rounds 5] [--frames 480] [--filters invert neon] [--ways ffmpeg loop] [--write]``. Ways are run in turn (A B C A B C …), so that a machine whose
speed drifts treats all alike. ``--write`` puts the tables into docs/performance.md.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "bench" / "peers.py"
VIDCLOUD = [sys.executable, "-P", "-m", "vidcloud"]


def make_input(path, frames):
    """1080p: the example scaled up, with grain (sigma 6, fixed seed), H.264 of about 25 Mbit/s."""
    import av
    import cv2
    import numpy as np

    rng = np.random.default_rng(1)
    with av.open(str(ROOT / "examples/bigbuckbunny.mp4")) as inp:
        shown = [frame.to_ndarray(format="bgr24") for frame in inp.decode(video=0)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for n in range(frames):
            picture = shown[n % len(shown)]
            large = cv2.resize(picture, (1920, 1080), interpolation=cv2.INTER_CUBIC).astype(np.float32)
            large += rng.normal(0, 6, (1080, 1920, 1)).astype(np.float32)
            made = av.VideoFrame.from_ndarray(np.clip(large, 0, 255).astype(np.uint8), format="bgr24")
            made.pts, made.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(made))
        out.mux(stream.encode())


def write_section(name, lines):
    """Put lines between the marks ``<!-- name -->`` and ``<!-- /name -->`` of docs/performance.md."""
    page = ROOT / "docs" / "performance.md"
    head, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise SystemExit(f"{page} has no section {name}")
    page.write_text(head + begin + "\n".join(lines).rstrip() + "\n" + end + tail)


def measured(command, env):
    """Wall and CPU seconds of a command and all its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def collector_cpu(share):
    """CPU seconds of a job's collector from its first import to its last word, from its log."""
    text = "".join(p.read_text() for p in share.glob("jobs/*/logs/collector*.log"))
    return [float(x) for x in re.findall(r" ended .*cpu_s=([0-9.]+)", text)]


def bench(what, ways, source, folder, frames, rounds):
    env = {**os.environ, "VIDCLOUD_SHARE": str(folder / "share")}
    seen = {way: [] for way in ways}
    collectors = {}
    for n in range(rounds + 1):
        for way in ways:
            target = folder / "out.mp4"
            if way.startswith("vidcloud"):
                plane = way.split()[1]
                command = [*VIDCLOUD, "run", source, "-o", target, "--filter", what, "--nodes", "2", "--force"]
                command += ["--preset", "veryfast", "--crf", "20", "--no-proof", "--plane", plane]
            else:
                command = [sys.executable, PEERS, way, source, target, what]
            wall, cpu, _ = measured([str(c) for c in command], env)
            if n:  # the first round warms the caches
                seen[way].append((wall, cpu))
                collectors[way] = collectors.get(way, []) + collector_cpu(folder / "share")
            shutil.rmtree(folder / "share", ignore_errors=True)
    rows, (base_wall, base_cpu) = [], [statistics.median(x) for x in zip(*seen[ways[0]], strict=True)]
    for way in ways:
        walls, cpus = zip(*seen[way], strict=True)
        ratios = [seen[ways[0]][i][0] / walls[i] for i in range(rounds)]
        rows.append(
            (
                way, statistics.median(walls) / frames * 1000, statistics.median(cpus) / frames * 1000,
                base_wall / statistics.median(walls), min(ratios), max(ratios), base_cpu / statistics.median(cpus),
                statistics.median(collectors[way]) / frames * 1000 if collectors[way] else None,
            )
        )  # fmt: skip
    return rows


def stages(what, source, rounds):
    env = dict(os.environ)
    found = {}
    for stage in ("decode", "filter", "encode"):
        values = []
        for _ in range(rounds):
            _, _, out = measured([sys.executable, str(PEERS), f"stage_{stage}", str(source), "-", what], env)
            values.append(float(out))
        found[stage] = statistics.median(values)
    return found


def table(what, rows, parts):
    lines = [
        f"### {what}",
        "",
        "| way | wall ms/frame | CPU ms/frame | segments' wall ÷ its (min–max) | segments' CPU ÷ its | collector's CPU ms/frame |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way, wall, cpu, ratio, low, high, cpu_ratio, collector in rows:
        told = f"{collector:.2f}" if collector else ""
        lines.append(
            f"| {way} | {wall:.1f} | {cpu:.1f} | {ratio:.2f} ({low:.2f}–{high:.2f}) | {cpu_ratio:.2f} | {told} |"
        )
    total = sum(parts.values())
    told = ", ".join(f"{k} {v:.1f}" for k, v in parts.items())
    ratios = ", ".join(
        f"{row[0].split()[1]} plane {row[2] / total:.2f}" for row in rows if row[0].startswith("vidcloud")
    )
    lines += ["", f"Stages alone, CPU ms/frame: {told}; sum {total:.1f}. The whole job's CPU ÷ that sum: {ratios}.", ""]
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--filters", nargs="+", default=["invert", "edge", "neon"])
    parser.add_argument("--ways", nargs="+", help="only these peers and no frames plane")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    lines = [
        f"{told.frames} frames 1080p, {told.rounds} rounds, medians; {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.mp4"
        make_input(source, told.frames)
        for what, peers in (
            ("invert", ["ffmpeg", "loop", "moviepy", "jpeg"]),
            ("edge", ["ffmpeg", "loop"]),
            ("neon", ["loop", "moviepy", "jpeg"]),
        ):
            if what not in told.filters:
                continue
            rows = bench(
                what,
                ["vidcloud segments", *([] if told.short else ["vidcloud frames"]), *peers],
                source,
                folder,
                told.frames,
                told.rounds,
            )
            made = table(what, rows, stages(what, source, told.rounds))
            print("\n".join(made), flush=True)
            lines += made
        cpu = [measured([*VIDCLOUD, "--help"], dict(os.environ))[1] for _ in range(11)]
        lines += [f"`vidcloud --help`: {statistics.median(cpu):.3f} s of CPU (median of 11).", ""]
        print(lines[-2])
    if told.write:
        write_section("main_job", lines)
    print(json.dumps({"rounds": told.rounds}))


if __name__ == "__main__":
    main()

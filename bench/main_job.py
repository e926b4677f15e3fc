"""The main job against every way a user would do it today: CPU and wall time a frame, medians, ratios, the project's goals.

``python bench/main_job.py [--rounds 5] [--frames 480] [--filters invert neon] [--ways ffmpeg loop] [--json FILE] [--write]``. Ways are
run in turn (A B C A B C …), so that a machine whose speed drifts treats all alike; a ratio is of two times of one round.
``--ways`` takes only these peers and leaves the frames plane out, ``--no-stages`` the stages alone. ``--write`` puts the tables into docs/performance.md;
``--json`` leaves every round's numbers, which ``bench/plots.py`` draws.
"""

import argparse
import contextlib
import ctypes
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
SEGMENTS, FRAMES = "vidcloud segments", "vidcloud frames"
STAGES = ("decode", "filter", "encode")
WAYS = {
    "invert": ["ffmpeg", "loop", "moviepy", "jpeg"],
    "edge": ["ffmpeg", "loop"],
    "neon": ["loop", "moviepy", "ray", "jpeg"],
}
"""The peers of each filter."""
WALL_GOALS = {
    ("invert", "ffmpeg"): 1.00,
    ("neon", "loop"): 0.75,
    ("neon", "moviepy"): 0.60,
    ("neon", "ray"): 0.40,
    ("neon", "jpeg"): 0.40,
}
"""What the segments plane's wall time ÷ a peer's should be at most."""
REPEAT = 480
REUSE = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""What the role scripts set, so that memory is used again: the stages alone have it, too, and peers don't."""
_WARM = 20
"""Frames of an input that is only there to warm the caches."""
CPU_GOAL, COLLECTOR_GOAL = 1.10, 1.00
"""The most that the whole job's CPU ÷ the sum of its stages, and the collector's CPU in ms a frame, should be."""


def make_input(path, frames):
    """1080p: the example scaled up, with grain (sigma 6, fixed seed), H.264 of about 60 Mbit/s; again from its start after 480 frames."""
    import av
    import cv2
    import numpy as np

    rng = np.random.default_rng(1)
    with av.open(str(ROOT / "examples/bigbuckbunny.mp4")) as inp:
        shown = [frame.to_ndarray(format="bgr24") for frame in inp.decode(video=0)]
    once = min(frames, REPEAT)
    if frames % once:
        raise SystemExit(f"--frames {frames}: up to {REPEAT}, or a multiple of it")
    packets = []
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for n in range(once):
            picture = shown[n % len(shown)]
            large = cv2.resize(picture, (1920, 1080), interpolation=cv2.INTER_CUBIC).astype(np.float32)
            large += rng.normal(0, 6, (1080, 1920, 1)).astype(np.float32)
            made = av.VideoFrame.from_ndarray(np.clip(large, 0, 255).astype(np.uint8), format="bgr24")
            made.pts, made.time_base = n, Fraction(1, 25)
            packets += stream.encode(made)
        packets += stream.encode()
        kept = [(bytes(packet), packet.pts, packet.dts, packet.duration, packet.is_keyframe) for packet in packets]
        for n in range(0, frames, once):
            for data, pts, dts, duration, key in kept:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts, packet.dts, packet.duration, packet.is_keyframe = pts + n, dts + n, duration, key
                out.mux(packet)


def write_section(name, lines):
    """Put lines between the marks ``<!-- name -->`` and ``<!-- /name -->`` of docs/performance.md."""
    page = ROOT / "docs" / "performance.md"
    head, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise SystemExit(f"{page} has no section {name}")
    page.write_text(head + begin + "\n".join(lines).rstrip() + "\n" + end + tail)


def adopt_orphans():
    """Make this process the parent of its descendants' orphans, so that CPU of peers that fork daemons is counted too."""
    pr_set_child_subreaper = 36
    if platform.system() == "Linux" and ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0):
        raise SystemExit(f"prctl: {os.strerror(ctypes.get_errno())}")


def environment(share=None):
    """For a command as a user has it: modules compiled, as pip leaves them."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return env | ({"VIDCLOUD_SHARE": str(share)} if share else {})


def measured(command, env):
    """Wall and CPU seconds of a command and all its descendants, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # a pipe would wait for daemons
        done = subprocess.run(command, env=env, stdout=out, stderr=err, check=False)
        wall = time.monotonic() - began
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        out.seek(0)
        err.seek(0)
        if done.returncode:
            raise SystemExit(f"{command}: {err.read()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out.read()


def collector_cpu(share):
    """CPU seconds of a job's collector from its first import to its last word, from its log."""
    text = "".join(p.read_text() for p in share.glob("jobs/*/logs/collector*.log"))
    return sum(float(x) for x in re.findall(r" ended .*cpu_s=([0-9.]+)", text))


def bench(what, ways, source, short, folder, frames, rounds, alone):
    """All ways once with the short input, that caches be warm; then all ways and the stages ``alone`` in turn, round by round.

    Returns:
        ``ways``: for each its ``wall``, ``cpu`` and (of vidcloud) ``collector``; ``stages``: the CPU of each. Lists with one number a
        round, milliseconds a frame.
    """
    env = environment(folder / "share")
    seen = {way: {"wall": [], "cpu": []} for way in ways}
    stages = {stage: [] for stage in alone}
    for n in range(rounds + 1):
        for way in ways:
            target, given = folder / "out.mp4", source if n else short
            if way.startswith("vidcloud"):
                plane = way.split()[1]
                command = [*VIDCLOUD, "run", given, "-o", target, "--filter", what, "--nodes", "2", "--force"]
                command += ["--preset", "veryfast", "--crf", "20", "--no-proof", "--plane", plane]
            else:
                command = [sys.executable, PEERS, way, given, target, what]
            wall, cpu, told = measured([str(c) for c in command], env)
            if not way.startswith("vidcloud"):
                cpu += float((told.split() or [0])[-1])
            if n:
                seen[way]["wall"].append(wall / frames * 1000)
                seen[way]["cpu"].append(cpu / frames * 1000)
                if way.startswith("vidcloud"):
                    seen[way].setdefault("collector", []).append(collector_cpu(folder / "share") / frames * 1000)
            shutil.rmtree(folder / "share", ignore_errors=True)
        for stage, values in stages.items() if n else ():
            _, _, told = measured([sys.executable, str(PEERS), f"stage_{stage}", str(source), "-", what], env | REUSE)
            values.append(float(told))
    return {"ways": seen, "stages": stages}


def of_rounds(values):
    """Median and range of a list with one number a round."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def ratios(ones, others):
    return [a / b for a, b in zip(ones, others, strict=True)]


def judged(values, most):
    """A goal, and whether the median of the rounds meets it."""
    return f"≤ {most:.2f}: {'met' if statistics.median(values) <= most else 'missed'}"


def table(what, found):
    lines = [
        f"### {what}",
        "",
        "| way | wall ms/frame | CPU ms/frame | segments' wall ÷ its (min–max) | goal | segments' CPU ÷ its (min–max) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    ways = found["ways"]
    base = ways[SEGMENTS]
    for way, seen in ways.items():
        wall, cpu = ratios(base["wall"], seen["wall"]), ratios(base["cpu"], seen["cpu"])
        goal = judged(wall, WALL_GOALS[what, way]) if (what, way) in WALL_GOALS else ""
        lines.append(
            f"| {way} | {statistics.median(seen['wall']):.1f} | {statistics.median(seen['cpu']):.1f} | {of_rounds(wall)} "
            f"| {goal} | {of_rounds(cpu)} |"
        )
    sums, lines = [sum(values) for values in zip(*found["stages"].values(), strict=True)], [*lines, ""]
    if sums:
        told = ", ".join(f"{stage} {statistics.median(values):.1f}" for stage, values in found["stages"].items())
        lines += [f"Stages alone, CPU ms/frame: {told}; sum {statistics.median(sums):.1f}.", ""]
    lines += [
        "| plane | CPU of the whole job ÷ that sum (min–max) | goal | collector's CPU ms/frame (min–max) | goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way in (w for w in ways if w.startswith("vidcloud")):
        whole, collector = ratios(ways[way]["cpu"], sums) if sums else [], ways[way]["collector"]
        cells = [of_rounds(whole) if sums else "not measured", "", of_rounds(collector), ""]
        if way == SEGMENTS:
            cells[1], cells[3] = judged(whole, CPU_GOAL) if sums else "", judged(collector, COLLECTOR_GOAL)
        lines.append(f"| {way.split()[1]} | {' | '.join(cells)} |")
    return [*lines, ""]


def tables(record):
    """A whole run as lines of Markdown."""
    run = f"{record['frames']} frames 1080p, {record['rounds']} rounds, medians; {record['machine']}"
    lines = [f"`{record['command']}`: {run}.", ""]
    for what, found in record["filters"].items():
        lines += table(what, found)
    if "help" in record:
        lines += [f"`vidcloud --help`: {statistics.median(record['help']):.3f} s of CPU (median of 11).", ""]
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--input", type=Path, help="of so many frames; made, and kept, unless it is there")
    parser.add_argument("--filters", nargs="+", choices=list(WAYS), default=list(WAYS))
    peers = sorted({peer for some in WAYS.values() for peer in some})
    parser.add_argument("--ways", nargs="+", choices=peers, help="only these peers, and no frames plane")
    parser.add_argument(
        "--no-stages", dest="stages", action="store_const", const=(), default=STAGES, help="save their time"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--json", type=Path, help="leave every round's numbers here, for bench/plots.py")
    parser.add_argument("--tables", nargs="+", type=Path, metavar="FILE.json", help="run nothing: write these records")
    told = parser.parse_args()
    if told.tables:
        write_section("main_job", [line for path in told.tables for line in tables(json.loads(path.read_text()))])
        return
    adopt_orphans()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    record = {"frames": told.frames, "rounds": told.rounds, "machine": machine, "filters": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = told.input or folder / "in.mp4"
        if not source.exists():
            make_input(source, told.frames)
        make_input(short := folder / "short.mp4", _WARM)
        for what in told.filters:
            chosen = [peer for peer in WAYS[what] if told.ways is None or peer in told.ways]
            ways = [SEGMENTS, *([] if told.ways else [FRAMES]), *chosen]
            record["filters"][what] = found = bench(
                what, ways, source, short, folder, told.frames, told.rounds, told.stages
            )
            print("\n".join(table(what, found)), flush=True)
    record["help"] = [measured([*VIDCLOUD, "--help"], environment())[1] for _ in range(11)]
    record["command"] = " ".join(["python bench/main_job.py", *sys.argv[1:]])
    print(tables(record)[-2])
    if told.write:
        write_section("main_job", tables(record))
    if told.json:
        told.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

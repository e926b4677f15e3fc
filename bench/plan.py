"""Does ``vidcloud plan`` tell the truth? ``python bench/plan.py [--rounds 3] [--frames 480] [--write]``.

For several filters, presets, planes and numbers of nodes on this machine: the frames a second that a plan predicts ÷ those of a
real job, one after the other. A prediction of both planes comes from one measurement.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from main_job import VIDCLOUD, environment, make_input, measured, write_section

CASES = [
    ("invert", "veryfast", "segments"),
    ("invert", "veryfast", "frames"),
    ("invert", "medium", "segments"),
    ("edge", "veryfast", "segments"),
    ("neon", "veryfast", "segments"),
    ("neon", "veryfast", "frames"),
]
NODES = (1, 2)


def predicted(source, what, preset, env):
    nodes = ",".join(map(str, NODES))
    command = [*VIDCLOUD, "plan", str(source), "--filter", what, "--preset", preset, "--nodes", nodes, "--json"]
    told = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    return {(r["plane"], r["nodes"]): r["fps"] for r in told["rows"] + told["others"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    seen = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, env = folder / "in.mp4", environment(folder / "share")
        make_input(source, told.frames)
        for _ in range(told.rounds):
            for what, preset, plane in CASES:
                for nodes in NODES:
                    guess = predicted(source, what, preset, env)[plane, nodes]
                    command = [*VIDCLOUD, "run", source, "-o", folder / "out.mp4", "--filter", what, "--nodes", nodes]
                    command += ["--force", "--no-proof", "--preset", preset, "--plane", plane]
                    wall, _, _ = measured([str(c) for c in command], env)
                    shutil.rmtree(folder / "share")
                    seen.setdefault((what, preset, plane, nodes), []).append((guess, told.frames / wall))
                    print(
                        what, preset, plane, nodes, f"{guess:.1f} {told.frames / wall:.1f}", file=sys.stderr, flush=True
                    )
    lines = [
        f"{told.frames} frames 1080p, {told.rounds} rounds, medians; {os.cpu_count()} cores.",
        "",
        "| filter | preset | plane | nodes | predicted fps | real fps | predicted ÷ real (min–max) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (what, preset, plane, nodes), pairs in seen.items():
        ratios = [a / b for a, b in pairs]
        guess, real = (statistics.median(x) for x in zip(*pairs, strict=True))
        told_ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {what} | {preset} | {plane} | {nodes} | {guess:.1f} | {real:.1f} | {told_ratio} |")
    print("\n".join(lines))
    if told.write:
        write_section("plan", [f"`python bench/plan.py {' '.join(sys.argv[1:])}`:", "", *lines])


if __name__ == "__main__":
    main()

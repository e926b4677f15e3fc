"""Bars of wall and CPU time a frame for each way: ``python bench/plots.py FILE.json … [--output docs/plots/main_job.png]``.

A FILE is what ``bench/main_job.py --json`` leaves; several are of as many frames and rounds. Bars are medians, whiskers
the range over the rounds.
"""

import argparse
import json
import statistics
from pathlib import Path

from main_job import ROOT
from matplotlib.figure import Figure

MOST = 100_000
"""Bytes of a picture that belongs into the repository."""


def draw(record, path):
    filters = record["filters"]
    figure = Figure(figsize=(1.5 + 3.2 * len(filters), 4), layout="constrained")
    axes = figure.subplots(1, len(filters), squeeze=False)
    for axis, (what, found) in zip(axes[0], filters.items(), strict=True):
        ways = found["ways"]
        for shift, (kind, told) in zip((-0.2, 0.2), (("wall", "wall"), ("cpu", "CPU")), strict=True):
            values = [seen[kind] for seen in ways.values()]
            medians = [statistics.median(v) for v in values]
            below = [m - min(v) for m, v in zip(medians, values, strict=True)]
            above = [max(v) - m for m, v in zip(medians, values, strict=True)]
            places = [n + shift for n in range(len(ways))]
            axis.bar(places, medians, width=0.4, yerr=(below, above), capsize=2, label=told, error_kw={"elinewidth": 1})
        axis.set_xticks(
            range(len(ways)), [way.replace("vidcloud ", "vidcloud\n") for way in ways], rotation=60, fontsize="small"
        )
        axis.set_title(what)
    axes[0][0].set_ylabel("ms a frame")
    axes[0][0].legend(fontsize="small")
    figure.suptitle(
        f"{record['frames']} frames 1080p, {record['rounds']} rounds; {record['machine']}", fontsize="small"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    if path.stat().st_size >= MOST:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MOST}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("json", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "plots" / "main_job.png")
    told = parser.parse_args()
    record = {}
    for path in told.json:
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError) as e:
            raise SystemExit(f"{path} can't be read: {e}") from e
        if record and any(read[key] != record[key] for key in ("frames", "rounds", "machine")):
            raise SystemExit(f"{path} is of other frames, rounds or another machine than {told.json[0]}")
        record = record or read
        record["filters"] |= read["filters"]
    draw(record, told.output)
    print(f"{told.output}: {told.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()

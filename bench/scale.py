"""How the queue scales, by `simulation.py`: speed-up, claims, operations on the share, by nodes and hours of video.

``python bench/scale.py [--nodes 1 5 20 64 100 1000] [--hours 1 10] [--collector-ms 0.05 0.2 1] [--plot FILE.png]``. ``--plot``
needs matplotlib (the `bench` extra).
"""

import argparse
import itertools
from pathlib import Path

from simulation import TENTHS, Costs, Simulation


def measured(nodes, hours, costs, seed):
    """One row of the table."""
    frames = int(hours * 3600 * 25)
    out = Simulation(nodes, frames, costs=costs, seed=seed).run()
    if set(out.accepted.values()) != {1} or len(out.accepted) != out.units:
        raise SystemExit(f"{nodes} nodes: units were not accepted once each")
    serial = frames * costs.frame_s
    return {
        "nodes": nodes, "hours": hours, "collector": costs.collector_ms, "out": out, "preroll": out.preroll / frames,
        "speedup": serial / out.seconds, "efficiency": serial / out.seconds / nodes,
    }  # fmt: skip


def table(rows):
    lines = [
        "| collector ms/frame | hours | nodes | units | preroll | wall s | speed-up | efficiency | claims/s | workers' ops/claim (first, last tenth) | idle looks/claim | lost races | collector's ops/unit + ops/s | heartbeats' ops/s | last claim at |",
        "| --- " * 15 + "|",
    ]
    for r in rows:
        o = r["out"]
        lines.append(
            f"| {r['collector']:g} | {r['hours']:g} | {r['nodes']:,} | {o.units:,} | {r['preroll']:.1%} | {o.seconds:,.0f} | {r['speedup']:,.1f} "
            f"| {r['efficiency']:.0%} | {o.units / o.seconds:.1f} | {o.worker_ops:.1f} ({o.tenth(0):.1f}, {o.tenth(TENTHS - 1):.1f}) "
            f"| {o.ops['idle'] / o.units:.1f} | {o.ops['lost']:,} | {o.ops['unit'] / o.units:.1f} + {o.ops['poll'] / o.seconds:.0f} "
            f"| {o.ops['beat'] / o.seconds:,.0f} | {o.last_claim_s / o.seconds:.0%} |"
        )
    return lines


def plot(rows, path):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(figsize=(7, 5))
    for key in dict.fromkeys((r["hours"], r["collector"]) for r in rows):
        points = [(r["nodes"], r["speedup"]) for r in rows if (r["hours"], r["collector"]) == key]
        axes.plot(*zip(*points, strict=True), marker="o", label="{:g} h, collector {:g} ms/frame".format(*key))
    axes.plot(sorted({r["nodes"] for r in rows}), sorted({r["nodes"] for r in rows}), "k:", label="ideal")
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="speed-up")
    axes.legend()
    plt.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 5, 20, 64, 100, 1000])
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--collector-ms", type=float, nargs="+", default=[Costs.collector_ms])
    for name in ("decode-ms", "filter-ms", "encode-ms", "jitter", "latency-s", "server-ops", "lease-s", "join-s"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Costs, name.replace("-", "_")))
    parser.add_argument("--gop", type=int, default=Costs.gop, help="frames from keyframe to keyframe")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    rows = []
    for hours, collector_ms, nodes in itertools.product(told.hours, told.collector_ms, told.nodes):
        costs = Costs(
            told.decode_ms, told.filter_ms, told.encode_ms, collector_ms, told.jitter, told.latency_s, told.server_ops,
            lease_s=told.lease_s, join_s=told.join_s, gop=told.gop,
        )  # fmt: skip
        rows.append(measured(nodes, hours, costs, told.seed))
        print("\n".join(table(rows) if len(rows) == 1 else table(rows)[-1:]), flush=True)
    if told.plot:
        plot(rows, told.plot)


if __name__ == "__main__":
    main()

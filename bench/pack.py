"""How pictures should travel on shares of several bandwidths: raw, packed without loss, as JPEG files, or inputs as they came.

``python bench/pack.py [--rounds 5] [--chunk 20] [--write]``. Decoding, packing, unpacking and sizes are measured on the
bench input and on what `neon` makes of it; the share is simulated: a write and a read take bytes / bandwidth each. ``--write`` puts
the tables into docs/performance.md.
"""

import argparse
import statistics
import tempfile
import time
from array import array
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
from main_job import make_input, write_section

from vidcloud import plugins
from vidcloud.chain import Chain
from vidcloud.chunkfile import ChunkHeader, Written, read_chunk, write_chunk
from vidcloud.media.convert import converter
from vidcloud.media.decode import decode
from vidcloud.media.index import FrameIndex
from vidcloud.media.probe import probe
from vidcloud.packing import Packing
from vidcloud.pixels import pixel_format
from vidcloud.planes.coded import coded_pays, stretch

SHARES = (1000, 100, 50, 25, 12)
NODES = (1, 2, 5)
GOP = 250
"""x264's default distance of keyframes."""


def clock(work):
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def chunkfile(folder, header, frames):
    cost = write_chunk(folder / "packed", header, frames, "blosc2")
    unpack_s, (_, got) = clock(lambda: read_chunk(folder / "packed"))
    if not np.array_equal(got, frames):
        raise SystemExit("what was packed is not what was read")
    return cost, unpack_s


def jpeg(images):
    pack_s, files = clock(lambda: [cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for i in images])
    unpack_s, _ = clock(lambda: [cv2.imdecode(f, cv2.IMREAD_COLOR) for f in files])
    return Written(sum(i.nbytes for i in images), sum(f.nbytes for f in files), pack_s, 0.0), unpack_s


def median(seen):
    return (
        replace(seen[0][0], pack_s=statistics.median(c.pack_s for c, _ in seen)),
        statistics.median(u for _, u in seen),
    )


def settled(raw, packed, mb_s):
    """A writer's `--pack auto` after 30 chunks at that bandwidth."""
    packing = Packing()
    for _ in range(30):
        cost = packed if packing.choose(raw.raw_bytes) == "blosc2" else raw
        packing.learn(replace(cost, write_s=cost.stored_bytes / mb_s / 1e6))
    return packing


def bgr(frames):
    return [cv2.cvtColor(f.reshape(1620, 1920), cv2.COLOR_YUV2BGR_I420) for f in frames]


def rows(name, measured, n):
    for way, (cost, unpack_s) in measured.items():
        ratio = f"{unpack_s / cost.pack_s:.2f}" if cost.pack_s else ""
        size, pack, unpack = cost.stored_bytes / n / 1e6, cost.pack_s / n * 1e3, unpack_s / n * 1e3
        yield f"| {name}, {way} | {size:.2f} | {pack:.1f} | {unpack:.1f} | {ratio} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    n = told.chunk
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.mp4"
        make_input(source, n)
        info = probe(source)
        with av.open(str(source)) as video:
            coded_bytes = sum(p.size for p in video.demux(video=0))
        inputs = np.stack([f.flat.copy() for f in decode(source, info)])
        results = np.empty_like(inputs)
        chain = Chain([plugins.resolve("neon")], info.spec, pixel_format("yuv420p"), converter)
        chain.run(inputs, 0, results, 0, [k / 25 for k in range(n)], keep=False, step=lambda _: None)
        header = ChunkHeader("yuv420p", 1920, 1080, 0, 0, n, tuple(range(n)), (1,) * n)
        seen = {"inputs": {"blosc2": [], "JPEG q95": []}, "results": {"blosc2": [], "JPEG q95": []}}
        decoding = []
        for _ in range(told.rounds + 1):  # in turn; the first round warms the caches
            decoding.append(clock(lambda: sum(1 for _ in decode(source, info, threads=1)))[0])
            for what, frames in (("inputs", inputs), ("results", results)):
                seen[what]["blosc2"].append(chunkfile(folder, header, frames))
                seen[what]["JPEG q95"].append(jpeg(bgr(frames)))
    raw = Written(inputs.nbytes, inputs.nbytes, 0.0, 0.0)
    ways = {w: {"raw": (raw, 0.0), **{k: median(v[1:]) for k, v in kinds.items()}} for w, kinds in seen.items()}
    decode_s = statistics.median(decoding[1:])
    keys = array("q", range(0, 10_000, GOP))
    index = FrameIndex(array("q", range(10_000)), keys, keys)
    times = {nodes: stretch(index, n, nodes)[0] for nodes in NODES}
    again = ", ".join(f"{t:.1f} times with {nodes}" for nodes, t in times.items())
    heads = ["share, MB/s", "raw", "blosc2", *(f"coded, {k}" for k in NODES), "JPEG q95"]
    heads += [f"`auto` with {k}, its time ÷ JPEG's" for k in NODES]
    lines = [
        (
            f"{n} frames 1080p 4:2:0 a chunk, {told.rounds} rounds, medians, one thread. Decoding takes "
            f"{decode_s / n * 1e3:.1f} ms a frame; the input has {coded_bytes / n / 1e6:.2f} MB a frame as it came."
        ),
        "",
        "| what and how | MB/frame | packing, ms/frame | unpacking, ms/frame | unpacking ÷ packing |",
        "| --- | --- | --- | --- | --- |",
        *rows("inputs", ways["inputs"], n),
        *rows("results", ways["results"], n),
        "",
        (
            "Seconds a chunk: decoded; input and result each packed, written, read and unpacked. *Coded, n*: inputs stay "
            f"coded, n nodes, a keyframe each {GOP} frames, so that each frame is decoded (and read) {again}."
        ),
        "",
        "| " + " | ".join(heads) + " |",
        "| --- " * len(heads) + "|",
    ]
    for mb_s in SHARES:
        auto = {what: settled(raw, ways[what]["blosc2"][0], mb_s) for what in ways}
        taken = {what: auto[what].choose(raw.raw_bytes) for what in ways}

        def way(what, how, mb_s=mb_s):
            cost, unpack_s = ways[what][how]
            return cost.pack_s + unpack_s + 2 * cost.stored_bytes / mb_s / 1e6

        pixels = {how: decode_s + way("inputs", how) + way("results", how) for how in ("raw", "blosc2", "JPEG q95")}
        coded = {
            k: t * (decode_s + coded_bytes / mb_s / 1e6) + way("results", taken["results"]) for k, t in times.items()
        }
        pixels_s = auto["inputs"].cost(raw.raw_bytes)
        autos = []
        for k in NODES:
            how, its = taken["inputs"], decode_s + way("inputs", taken["inputs"]) + way("results", taken["results"])
            read_s = coded_bytes / n / mb_s / 1e6
            if coded_pays(index, n, k, decode_s=decode_s / n, pixels_s=pixels_s, read_s=read_s):
                how, its = "coded", coded[k]
            autos.append(f"{how}, {its / pixels['JPEG q95']:.2f}")
        seconds = [pixels["raw"], pixels["blosc2"], *coded.values(), pixels["JPEG q95"]]
        lines.append(f"| {mb_s} | " + " | ".join([*(f"{t:.2f}" for t in seconds), *autos]) + " |")
    print("\n".join(lines))
    if told.write:
        write_section("pack", lines)


if __name__ == "__main__":
    main()

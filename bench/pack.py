"""How a chunk's pixels should be stored on shares of several bandwidths: raw, packed without loss, or as JPEG files.

``python bench/pack.py [--rounds 5] [--chunk 20] [--write]``. Packing, unpacking and sizes are measured on the bench input; the
share is simulated: a write and a read take bytes / bandwidth each. ``--write`` puts the tables into docs/performance.md.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
from main_job import make_input, write_section

from vidcloud.chunkfile import ChunkHeader, Written, read_chunk, write_chunk
from vidcloud.packing import Packing

SHARES = (1000, 100, 50, 12)


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


def chosen(raw, packed, mb_s):
    """What `--pack auto` has settled on after 30 chunks at that bandwidth."""
    packing = Packing()
    for _ in range(30):
        cost = packed if packing.choose(raw.raw_bytes) == "blosc2" else raw
        packing.learn(replace(cost, write_s=cost.stored_bytes / mb_s / 1e6))
    return packing.choose(raw.raw_bytes)


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
        make_input(folder / "in.mp4", n)
        with av.open(str(folder / "in.mp4")) as video:
            decoded = list(video.decode(video=0))
        frames = np.stack([f.to_ndarray(format="yuv420p").reshape(-1) for f in decoded])
        images = [f.to_ndarray(format="bgr24") for f in decoded]
        header = ChunkHeader("yuv420p", 1920, 1080, 0, 0, n, tuple(range(n)), (1,) * n)
        packed, jpegs = [], []
        for _ in range(told.rounds + 1):  # in turn; the first round warms the caches
            packed.append(chunkfile(folder, header, frames))
            jpegs.append(jpeg(images))
    raw = Written(frames.nbytes, frames.nbytes, 0.0, 0.0)
    ways = {"raw": (raw, 0.0), "blosc2": median(packed[1:]), "JPEG q95": median(jpegs[1:])}
    lines = [
        f"{n} frames 1080p 4:2:0 a chunk, {told.rounds} rounds, medians, one thread.",
        "",
        "| way | MB/frame | packing, ms/frame | unpacking, ms/frame | unpacking ÷ packing |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, (cost, unpack_s) in ways.items():
        ratio = f"{unpack_s / cost.pack_s:.2f}" if cost.pack_s else ""
        size, pack, unpack = cost.stored_bytes / n / 1e6, cost.pack_s / n * 1e3, unpack_s / n * 1e3
        lines.append(f"| {way} | {size:.2f} | {pack:.1f} | {unpack:.1f} | {ratio} |")
    lines += [
        "",
        "Seconds a chunk: packed, written, read and unpacked once.",
        "",
        "| share, MB/s | " + " | ".join(ways) + " | `auto` takes | its time ÷ JPEG's |",
        "| --- " * (len(ways) + 3) + "|",
    ]
    for mb_s in SHARES:
        times = {w: c.pack_s + u + 2 * c.stored_bytes / mb_s / 1e6 for w, (c, u) in ways.items()}
        auto = chosen(raw, ways["blosc2"][0], mb_s)
        seconds = " | ".join(f"{t:.2f}" for t in times.values())
        lines.append(f"| {mb_s} | {seconds} | {auto} | {times[auto] / times['JPEG q95']:.2f} |")
    print("\n".join(lines))
    if told.write:
        write_section("pack", lines)


if __name__ == "__main__":
    main()

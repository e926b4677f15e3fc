"""Is memory flat, and the share bounded? ``python bench/memory.py [--frames 2000 20000]``.

The collector's peak memory and the most bytes on the share, for a short and a long video of the same (small) size.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path


def make_input(path, frames):
    import av
    import numpy as np

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((270, 320), n % 200, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def measure(frames):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_input(folder / "in.mp4", frames)
        env = {**os.environ, "VIDCLOUD_SHARE": str(folder / "share")}
        command = [
            sys.executable,
            "-P",
            "-m",
            "vidcloud",
            "run",
            "in.mp4",
            "-o",
            "out.mp4",
            "--filter",
            "invert",
            "--nodes",
            "2",
        ]
        job = subprocess.Popen(
            [*command, "--preset", "ultrafast", "--job-id", "j"], cwd=folder, env=env, stderr=subprocess.DEVNULL
        )
        pixels, peak, chunks = 0, 0, folder / "share/jobs/j/chunks"
        while job.poll() is None:
            total = 0
            for root, _, names in os.walk(chunks):
                for n in names:
                    try:
                        total += Path(root, n).stat().st_size
                    except OSError:
                        continue
            pixels = max(pixels, total)
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if b"\0collector\0--job" in (entry / "cmdline").read_bytes():
                        line = next(x for x in (entry / "status").read_text().splitlines() if x.startswith("VmHWM"))
                        peak = max(peak, int(line.split()[1]))
                except (OSError, StopIteration):
                    continue
            time.sleep(0.05)
        if job.returncode:
            raise SystemExit("the job failed")
    return peak / 1024, pixels / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, nargs="+", default=[2000, 20000])
    for frames in parser.parse_args().frames:
        peak, pixels = measure(frames)
        print(f"| {frames} | {peak:.0f} | {pixels:.1f} |", flush=True)


if __name__ == "__main__":
    main()

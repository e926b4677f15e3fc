"""Print the tables of ``docs/filters.md``: likeness to GIMP, and CPU time at 1080p on one thread.

Run ``python tests/integration/gimp/measure.py``.
"""

import statistics
import time

import cv2
import numpy as np
from test_gimp import REFERENCES, filtered, psnr, read, ssim

from vidcloud.filter import At, FrameSpec
from vidcloud.pixels import pixel_format
from vidcloud.plugins import available, resolve

WIDTH, HEIGHT = 1920, 1080


def likeness() -> None:
    """One line a filter text: SSIM and PSNR against GIMP, for each picture."""
    lines = {}
    for reference, (source, text) in REFERENCES.items():
        want, got = read(reference), filtered(read(source), text)
        lines.setdefault(text, {})[source.removesuffix(".png")] = f"{ssim(got, want):.4f} / {psnr(got, want):.1f}"
    print("| filter | bunny1 | bunny2 | drawn |\n| --- | --- | --- | --- |")
    for text, found in lines.items():
        cells = [found.get(name, "–").replace("inf", "same") for name in ("bunny1", "bunny2", "drawn")]
        print(f"| `{text}` | {' | '.join(cells)} |")


def cpu_ms(text: str, fmt: str) -> float | None:
    """Median of 5 frames after a first; None if the filter does not take the format."""
    made = resolve(text).filter
    if fmt not in made.formats:
        return None
    spec = FrameSpec(pixel_format(fmt), WIDTH, HEIGHT, full_range=False, matrix="bt709")
    made.setup(spec)
    top, samples = np.iinfo(spec.format.dtype).max, spec.format.samples(WIDTH, HEIGHT)
    rng = np.random.default_rng(0)
    even = cv2.GaussianBlur(rng.random((HEIGHT, WIDTH, 3)), (0, 0), 9)  # shapes, and grain of 1% below
    even = np.resize((even - even.min()) / (even.max() - even.min()), samples)
    window = []
    for _ in range(sum(made.halo) + 1):
        flat = (np.clip(even + rng.normal(0, 0.01, samples), 0, 1) * top).astype(spec.format.dtype)
        window.append(spec.format.view(flat, WIDTH, HEIGHT))
    out = spec.format.view(np.zeros(samples, spec.format.dtype), WIDTH, HEIGHT)
    taken = []
    for n in range(6):
        start = time.process_time()
        made.apply(window, out, At(n, n / 25))
        taken.append((time.process_time() - start) * 1000)
    return statistics.median(taken[1:])


def speed() -> None:
    """One line a filter with its defaults."""
    cv2.setNumThreads(1)
    formats = ("yuv420p", "bgr24", "yuv420p16", "bgr48")
    print(f"| filter | {' | '.join(formats)} |\n| --- |{' --- |' * len(formats)}")
    texts = [a.name for a in available() if a.filter and a.distribution.startswith("vidcloud ")]
    texts += [f"motion-blur:type={kind}" for kind in ("linear", "zoom") if "motion-blur" in texts]
    for text in sorted(texts):
        found = [cpu_ms(text, fmt) for fmt in formats]
        print(f"| `{text}` | {' | '.join('–' if ms is None else f'{ms:.1f}' for ms in found)} |")


if __name__ == "__main__":
    likeness()
    print()
    speed()

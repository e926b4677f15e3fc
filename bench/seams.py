"""What cutting into segments costs: size, PSNR, and the frames beside a seam, against one whole encode.

``python bench/seams.py [--frames 1200] [--segment 240] [--write]``. 480p, the example with fresh grain in every frame, forwards and
backwards without end; libx264, CRF 20, presets veryfast and medium. PSNR is of luma, against what the encoder was given.
"""

import argparse
import io
from dataclasses import replace

import av
import cv2
import numpy as np
from main_job import ROOT, write_section

from vidcloud.media.encode import Encoder, EncodeSettings
from vidcloud.media.probe import probe

WIDTH, HEIGHT = 854, 480


def frames(count):
    """Luma and chroma as flat yuv420p arrays, the same at every call."""
    with av.open(str(ROOT / "examples/bigbuckbunny.mp4")) as inp:
        clean = [
            cv2.resize(f.to_ndarray(format="bgr24"), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            for f in inp.decode(video=0)
        ]
    there_and_back = [*clean, *clean[-2:0:-1]]
    for n in range(count):
        grain = np.random.default_rng(n).normal(0, 4, (HEIGHT, WIDTH, 1))
        noisy = np.clip(there_and_back[n % len(there_and_back)] + grain, 0, 255).astype(np.uint8)
        yield cv2.cvtColor(noisy, cv2.COLOR_BGR2YUV_I420).reshape(-1)


def encode(info, preset, count, cuts):
    """Coded packets as one raw H.264 stream, and their bytes."""
    settings, source = EncodeSettings("libx264", 20.0, preset), frames(count)
    packets, out = [], None
    for n, flat in enumerate(source):
        if n in cuts:
            packets += out.flush() if out else []
            out = Encoder(settings, info, threads=1)
        packets += out.encode(flat, n, 1)
    packets += out.flush()
    return packets, out.template


def psnrs(packets, template, count):
    """PSNR of each frame, in order of presentation."""
    with av.open(io.BytesIO(template)) as made:
        extradata = made.streams.video[0].codec_context.extradata
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata, decoder.thread_count = extradata, 2
    found = {}
    source = enumerate(frames(count))

    def take(shown):
        for frame in shown:
            luma = frame.to_ndarray(format="gray" if frame.format.name == "gray" else None)[:HEIGHT].astype(np.int32)
            n, flat = next(source)
            error = np.mean((luma - flat[: WIDTH * HEIGHT].reshape(HEIGHT, WIDTH)) ** 2)
            found[n] = 10 * np.log10(255**2 / max(error, 1e-9))

    for coded in packets:
        packet = av.Packet(coded.data)
        packet.pts, packet.is_keyframe = coded.pts, coded.key
        take(decoder.decode(packet))
    take(decoder.decode(None))
    if sorted(found) != list(range(count)):
        raise SystemExit("a frame is missing")
    return np.array([found[n] for n in range(count)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=1200)
    parser.add_argument("--segment", type=int, default=240)
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    info = probe(ROOT / "examples/bigbuckbunny.mp4")
    info = replace(info, width=WIDTH, height=HEIGHT)
    cuts = set(range(0, told.frames, told.segment))
    seams = sorted({n for c in cuts - {0} for n in (c - 2, c - 1, c, c + 1)})
    lines = [
        f"{told.frames} frames 480p, {len(cuts)} segments of {told.segment} frames.",
        "",
        "| preset | size ÷ whole | mean PSNR − whole's, dB | worst frame at a seam, dB | 1st percentile of the others, dB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for preset in ("veryfast", "medium"):
        whole, cut_up = (encode(info, preset, told.frames, c) for c in ({0}, cuts))
        sizes = [sum(len(p.data) for p in packets) for packets, _ in (whole, cut_up)]
        quality = [psnrs(packets, template, told.frames) for packets, template in (whole, cut_up)]
        others = np.delete(quality[1], seams)
        lines.append(
            f"| {preset} | {sizes[1] / sizes[0]:.4f} | {quality[1].mean() - quality[0].mean():+.3f} | "
            f"{quality[1][seams].min():.2f} | {np.percentile(others, 1):.2f} |"
        )
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if told.write:
        write_section("seams", lines)


if __name__ == "__main__":
    main()

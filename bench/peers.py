"""The ways a user would filter a video today, each as a process of its own: ``python bench/peers.py WAY INPUT OUTPUT FILTER``.

All encode with libx264, preset veryfast, CRF 20, as many threads as it wants, and none touches audio. A way prints the CPU seconds
of processes that its parent can't see, if any. The stages of vidcloud alone are here too: they print the CPU of their loop, in
milliseconds a frame.
"""

import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

PRESET, CRF = "veryfast", "20"


def ffmpeg(source, target, what):
    import imageio_ffmpeg

    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        "-i",
        source,
        "-vf",
        {"invert": "negate", "edge": "edgedetect"}[what],
    ]
    subprocess.run([*command, "-c:v", "libx264", "-preset", PRESET, "-crf", CRF, target], check=True)


def loop(source, target, what):
    """The shortest PyAV loop a user would write, in BGR."""
    import av

    apply = _bgr_function(what)
    with av.open(source) as inp, av.open(target, "w") as out:
        video = inp.streams.video[0]
        video.thread_type = "AUTO"
        stream = out.add_stream("libx264", rate=video.average_rate, options={"preset": PRESET, "crf": CRF})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for frame in inp.decode(video):
            made = av.VideoFrame.from_ndarray(apply(frame.to_ndarray(format="bgr24")), format="bgr24")
            made.pts = frame.pts
            made.time_base = frame.time_base
            out.mux(stream.encode(made))
        out.mux(stream.encode())


def moviepy(source, target, what):
    from moviepy import VideoFileClip

    apply = _bgr_function(what)
    with VideoFileClip(source, audio=False) as clip:
        made = clip.image_transform(lambda picture: apply(picture[..., ::-1].copy())[..., ::-1])
        made.write_videofile(target, codec="libx264", preset=PRESET, ffmpeg_params=["-crf", CRF], logger=None)


def jpeg(source, target, what):
    """The prototype's way: every frame a JPEG file, filtered one by one, encoded from files."""
    import cv2
    import imageio_ffmpeg

    exe, apply = imageio_ffmpeg.get_ffmpeg_exe(), _bgr_function(what)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([exe, "-v", "error", "-i", source, "-q:v", "2", f"{folder}/image%d.jpg"], check=True)
        for path in Path(folder).glob("image*.jpg"):
            cv2.imwrite(str(path), apply(cv2.imread(str(path))), [cv2.IMWRITE_JPEG_QUALITY, 95])
        subprocess.run(
            [
                exe,
                "-v",
                "error",
                "-y",
                "-i",
                f"{folder}/image%d.jpg",
                "-c:v",
                "libx264",
                "-preset",
                PRESET,
                "-crf",
                CRF,
                target,
            ],
            check=True,
        )


def ray(source, target, what):
    """Two Ray actors that filter chunks of 20 frames; the driver decodes, and encodes results in order."""
    from collections import deque

    import av
    import numpy as np
    import ray as cluster

    cluster.init(num_cpus=2, include_dashboard=False)

    @cluster.remote
    class Filter:
        def __init__(self):
            self._apply = _bgr_function(what)

        def run(self, chunk):
            out = np.empty_like(chunk)
            for i, picture in enumerate(chunk):
                out[i] = self._apply(picture)
            return out

        def cpu(self):
            return time.process_time()

    actors = [Filter.remote() for _ in range(2)]
    in_flight = deque()
    with av.open(source) as inp, av.open(target, "w") as out:
        video = inp.streams.video[0]
        video.thread_type = "AUTO"
        stream = out.add_stream("libx264", rate=video.average_rate, options={"preset": PRESET, "crf": CRF})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"

        def encode():
            times, result = in_flight.popleft()
            for (pts, time_base), picture in zip(times, cluster.get(result), strict=True):
                made = av.VideoFrame.from_ndarray(picture, format="bgr24")
                made.pts, made.time_base = pts, time_base
                out.mux(stream.encode(made))

        frames = inp.decode(video)
        for n, chunk in enumerate(iter(lambda: list(islice(frames, 20)), [])):
            if len(in_flight) == 2 * len(actors):
                encode()
            pictures = cluster.put(np.stack([frame.to_ndarray(format="bgr24") for frame in chunk]))
            times = [(frame.pts, frame.time_base) for frame in chunk]
            in_flight.append((times, actors[n % len(actors)].run.remote(pictures)))
        while in_flight:
            encode()
        out.mux(stream.encode())
    # Ray's daemon ignores SIGCHLD, so the system does not add its workers' CPU to anybody's.
    print(sum(cluster.get([actor.cpu.remote() for actor in actors])))
    cluster.shutdown()


def _bgr_function(what):
    """The very filter that vidcloud runs, on one BGR picture."""
    import cv2
    import numpy as np

    from vidcloud import plugins
    from vidcloud.filter import At, FrameSpec
    from vidcloud.pixels import pixel_format

    cv2.setNumThreads(1)
    if what == "invert":
        return cv2.bitwise_not
    made = plugins.resolve(what).filter
    ready = []

    def apply(picture):
        if not ready:
            height, width = picture.shape[:2]
            made.setup(FrameSpec(pixel_format("bgr24"), width, height, True, "bt709"))
            ready.append(np.empty_like(picture))
        made.apply([picture], ready[0], At(0, 0.0))
        return ready[0]

    return apply


def stage_decode(source, _target, _what):
    from vidcloud.media.decode import Decoder
    from vidcloud.media.probe import probe

    info = probe(source)
    _timed(lambda: sum(1 for _ in Decoder(source, info)))


def stage_filter(source, _target, what):
    import cv2
    import numpy as np

    from vidcloud import plugins
    from vidcloud.chain import Chain
    from vidcloud.media.convert import converter
    from vidcloud.media.decode import Decoder
    from vidcloud.media.probe import probe

    cv2.setNumThreads(1)
    info = probe(source)
    frames = np.stack([f.flat.copy() for f in Decoder(source, info)][:20])
    chain = Chain([plugins.resolve(what).stage], info.spec, info.spec.format, converter)
    out = np.empty_like(frames)
    times = [0.0] * len(frames)
    chain.run(frames, 0, out, 0, times)
    _timed(lambda: chain.run(frames, 0, out, 0, times) or len(frames))


def stage_encode(source, _target, _what):
    from vidcloud.media.decode import Decoder
    from vidcloud.media.encode import Encoder, EncodeSettings
    from vidcloud.media.probe import probe

    info = probe(source)
    frames = [(f.flat.copy(), f.pts) for f in Decoder(source, info)]
    encoder = Encoder(EncodeSettings("libx264", float(CRF), PRESET), info)

    def encode():
        for flat, pts in frames:
            encoder.encode(flat, pts)
        encoder.flush()
        return len(frames)

    _timed(encode)


def _timed(work):
    before = time.process_time()
    count = work()
    print((time.process_time() - before) / count * 1000)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:5])

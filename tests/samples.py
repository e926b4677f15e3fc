"""Small videos, one for each thing that can go wrong, made by PyAV alone (nothing here uses vidcloud.media).

``sample("vfr.mkv", folder)`` makes the file once in a folder and gives its path; `SAMPLES` names them all. Every frame's
picture tells its number (`picture`), so that an off-by-one shows. They are at most two seconds of 96x64 or so.
"""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition

from vidcloud.media.scheduling import scheduling_kept
from vidcloud.pixels import Array, PixelFormat, pixel_format, planes_of

WIDTH, HEIGHT, RATE = 96, 64, 25


def picture(n: int, fmt: PixelFormat | str, width: int = WIDTH, height: int = HEIGHT) -> Array:
    """Frame ``n`` as a flat storage array: gradients that move, and the number's bits as blocks in each plane."""
    fmt = pixel_format(fmt) if isinstance(fmt, str) else fmt
    flat = np.empty(fmt.samples(width, height), fmt.dtype)
    low, span = (16, 200) if fmt.family == "yuv" else (0, 256)
    scale = 1 << (fmt.bits - 8)
    for k, plane in enumerate(planes_of(fmt.view(flat, width, height))):
        h, w = plane.shape[:2]
        y, x = np.mgrid[0:h, 0:w]
        for c in range(plane.shape[2] if plane.ndim == 3 else 1):
            values = (x * 2 + y * 3 + n * 7 + (k + c) * 50) % span + low
            for bit in range(8):
                on = 200 if n >> bit & 1 else 40
                values[: h // 4, bit * w // 8 : (bit + 1) * w // 8] = on
            deep = values * scale + ((x + y + n) % scale if scale > 1 else 0)
            if plane.ndim == 3:
                plane[..., c] = deep
            else:
                plane[...] = deep
    return flat


def frame_of(flat: Array, pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    """An FFmpeg frame of a flat array in the same format."""
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, rows in zip(frame.planes, planes_of(pixel_format(pix_fmt).view(flat, width, height)), strict=True):
        flat_rows = rows.reshape(rows.shape[0], -1)
        view = np.frombuffer(plane, rows.dtype).reshape(plane.height, -1)
        view[:, : flat_rows.shape[1]] = flat_rows
    return frame


def write(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    via: str | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    frames: int = 30,
    rate: Fraction | int = RATE,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    audio: str | None = None,
    audio_s: float | None = None,
    audio_start: int = 0,
    setup: Callable[[Any, Any], None] | None = None,
    extra: Callable[[Any], list[Any]] | None = None,
    container_options: dict[str, str] | None = None,
    fields: str = "",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a video of `picture` frames.

    Args:
        path: its extension names the container.
        codec: video encoder.
        pix_fmt: what the encoder is given.
        via: storage format in which pictures are drawn where ``pix_fmt`` is none; converted by swscale.
        size: width and height.
        frames: how many.
        rate: frames a second.
        pts: timestamps in ``time_base``; 0, 1, 2, … in units of 1/rate if None.
        time_base: of ``pts``; 1/rate if None.
        options: of the encoder.
        audio: audio encoder, None for no audio.
        audio_s: its length; that of the video if None.
        audio_start: first timestamp in samples.
        setup: called with the container and video stream before the header is written.
        extra: makes packets of more streams, called after the header is written.
        container_options: of the muxer.
        fields: ``tff`` or ``bff`` for interlaced frames.
        metadata: of the file.
    """
    time_base = time_base or 1 / Fraction(rate)
    pts = list(range(frames)) if pts is None else list(pts)
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        video = out.add_stream(codec, rate=Fraction(rate), options=options or {})
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.time_base = video.codec_context.time_base = time_base
        sound = _add_audio(out, audio) if audio else None
        if fields:
            video.codec_context.flags |= Flags.interlaced_dct.value | Flags.interlaced_me.value
            video.codec_context.field_order = 2 if fields == "tff" else 3
        if setup:
            setup(out, video)
        out.metadata.update(metadata or {})
        with scheduling_kept():
            out.start_encoding()
        mark = _fields(fields, size, pix_fmt, time_base) if fields else None
        packets = []
        for n, at in enumerate(pts):
            frame = frame_of(picture(n, via or pix_fmt, *size), via or pix_fmt, *size)
            if via:
                frame = frame.reformat(format=pix_fmt, src_color_range=2, dst_color_range=2)
            frame.pts, frame.time_base = at, time_base
            if mark:
                frame = mark(frame)
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound:
            length = audio_s if audio_s is not None else float((pts[-1] + 1) * time_base)
            packets += _audio(sound, length, audio_start)
        if extra:
            packets += extra(out)
        packets.sort(key=lambda p: p.dts * p.time_base)
        for packet in packets:
            out.mux(packet)
    return path


def _add_audio(out: Any, codec: str) -> Any:
    sound = out.add_stream(codec, rate=48000)
    sound.layout = "mono"
    if codec not in ("pcm_s16le", "flac"):
        sound.bit_rate = 64000
    sound.metadata["language"] = "deu"
    sound.metadata["title"] = "Ton"
    return sound


def _audio(sound: Any, length: float, start: int) -> list[Any]:
    packets: list[Any] = []
    step = sound.codec_context.frame_size or 1024
    for at in range(0, int(length * 48000), step):
        t = np.arange(at, at + step) / 48000
        wave = np.sin(2 * np.pi * (300 + 100 * t) * t) * 0.5
        kind = sound.format.name
        whole = {"s16": (np.int16, 2**15), "s32": (np.int32, 2**31)}.get(kind.rstrip("p"))
        data = (wave * whole[1]).astype(whole[0]) if whole else wave.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(data.reshape(1, -1), format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, at + start, Fraction(1, 48000)
        packets += sound.encode(frame)
    return packets + sound.encode(None)


def _fields(order: str, size: tuple[int, int], pix_fmt: str, time_base: Fraction) -> Callable[[Any], Any]:
    graph: Any = av.filter.Graph()
    source = graph.add_buffer(width=size[0], height=size[1], format=pix_fmt, time_base=time_base)
    mark, sink = graph.add("setfield", order), graph.add("buffersink")
    source.link_to(mark)
    mark.link_to(sink)
    graph.configure()

    def through(frame: Any) -> Any:
        at = frame.pts
        graph.push(frame)
        out = graph.pull()
        out.pts, out.time_base = at, time_base
        return out

    return through


def _text_packet(stream: Any, text: bytes, start_ms: int, length_ms: int) -> Any:
    packet = av.Packet(text)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = start_ms
    packet.duration = length_ms
    packet.is_keyframe = True
    return packet


def _rich(path: Path) -> Path:
    """Matroska with everything: audio, two kinds of subtitles, chapters, a font, metadata, a language on the video."""
    streams: dict[str, Any] = {}

    def setup(out: Any, video: Any) -> None:
        video.metadata["title"] = "Bild"
        streams["srt"] = out.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        streams["srt"].metadata.update({"language": "fra", "title": "sous-titres"})
        streams["srt"].disposition = Disposition.forced
        out.add_attachment("font.ttf", "application/x-truetype-font", b"\0\1\0\0" + bytes(range(256)))
        tick = Fraction(1, 1000)
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 500, "time_base": tick, "metadata": {"title": "One"}},
                {"id": 2, "start": 500, "end": 1200, "time_base": tick, "metadata": {"title": "Zwei"}},
            ]
        )

    def extra(_out: Any) -> list[Any]:
        return [_text_packet(streams["srt"], t, s, 300) for t, s in ((b"Bonjour", 100), (b"<i>au revoir</i>", 700))]

    meta = {"title": "Ein Titel, ünï", "artist": "somebody", "comment": "a comment", "MY_TAG": "mine"}
    return write(path, audio="aac", setup=setup, extra=extra, metadata=meta, options={"bf": "2"})


def _ass(path: Path) -> Path:
    """ASS subtitles; their header is the codec's extradata, so they come through a file that FFmpeg reads."""
    script = (
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:00.10,0:00:00.60,Default,,0,0,0,,Hello\nDialogue: 0,0:00:00.70,0:00:01.00,Default,,0,0,0,,Bye\n"
    )
    source = av.open(io.BytesIO(script.encode()), format="ass")
    made: list[Any] = []

    def setup(out: Any, _video: Any) -> None:
        made.append(out.add_stream_from_template(source.streams[0], opaque=True))

    def extra(_out: Any) -> list[Any]:
        packets = [p for p in source.demux() if p.size]
        for packet in packets:
            packet.stream = made[0]
        return packets

    write(path, setup=setup, extra=extra)
    source.close()
    return path


def _cover(path: Path) -> Path:
    """MP4 with chapters, metadata and a cover picture."""
    cover: list[Any] = []

    def setup(out: Any, _video: Any) -> None:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.disposition = Disposition.attached_pic
        cover.append(stream)
        tick = Fraction(1, 1000)
        out.set_chapters([{"id": 0, "start": 0, "end": 600, "time_base": tick, "metadata": {"title": "Kapitel"}}])

    def extra(_out: Any) -> list[Any]:
        frame = frame_of(picture(3, "yuv420p", 32, 32), "yuv420p", 32, 32).reformat(format="yuvj420p")
        frame.pts = 0
        packets = cover[0].encode(frame) + cover[0].encode(None)
        for packet in packets:
            packet.pts = packet.dts = 0
        return packets

    return write(path, audio="aac", setup=setup, extra=extra, metadata={"title": "With cover", "artist": "me"})


def _rotated(path: Path) -> Path:
    return write(path, setup=lambda _out, video: video.set_display_rotation(90))


def _coloured(primaries: int, trc: int, space: int, rng: int, **more: Any) -> Callable[[Path], Path]:
    def setup(_out: Any, video: Any) -> None:
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = primaries, trc, space, rng

    return lambda path: write(path, setup=setup, **more)


def _sar(path: Path) -> Path:
    def setup(_out: Any, video: Any) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)

    return write(path, setup=setup)


def _vfr(frames: int = 30) -> list[int]:
    """Timestamps in milliseconds with gaps of 7 to 140 ms, and one pause."""
    gaps = np.random.default_rng(5).integers(7, 140, frames)
    gaps[frames // 2] = 700
    return [int(t) for t in np.cumsum(gaps) - gaps[0]]


def _cut(name: str, keep: float) -> Callable[[Path], Path]:
    """The first part of another sample's bytes."""

    def make(path: Path) -> Path:
        whole = sample(name, path.parent).read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        return path

    return make


def _hurt(name: str, at: float, length: int = 400) -> Callable[[Path], Path]:
    """Another sample with bytes in the middle overwritten."""

    def make(path: Path) -> Path:
        data = bytearray(sample(name, path.parent).read_bytes())
        start = int(len(data) * at)
        noise = np.random.default_rng(1).integers(0, 256, length, dtype=np.uint8).tobytes()
        data[start : start + len(noise)] = noise[: len(data) - start]
        path.write_bytes(data)
        return path

    return make


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def _audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        sound = _add_audio(out, "aac")
        for packet in _audio(sound, 1, 0):
            out.mux(packet)
    return path


def _no_frames(path: Path) -> Path:
    """A video stream with a header and no frame."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        out.start_encoding()
    return path


def _plain(**how: Any) -> Callable[[Path], Path]:
    return lambda path: write(path, **how)


_LOSSLESS_264 = {"qp": "0", "preset": "ultrafast"}
_INTRA_4 = {"g": "12", "bf": "2", "sc_threshold": "1000000000"}

GOOD: dict[str, Callable[[Path], Path]] = {
    "cfr.mp4": _plain(audio="aac", options={"bf": "0"}),
    "bframes.mp4": _plain(audio="aac", options={"bf": "3", "b_strategy": "0"}),
    "open-gop.mp4": _plain(frames=50, options={"x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0"}),
    "open-gop-hevc.mp4": _plain(
        codec="libx265", frames=50, options={"x265-params": "log-level=none:open-gop=1:keyint=10:bframes=3:pools=1"}
    ),
    "long-gop.mkv": _plain(frames=60, options={"g": "600", "bf": "2"}),
    "ntsc.mp4": _plain(rate=Fraction(30000, 1001), audio="aac"),
    "vfr.mp4": _plain(pts=_vfr(), time_base=Fraction(1, 1000), audio="aac"),
    "vfr.mkv": _plain(pts=_vfr(), time_base=Fraction(1, 1000), audio="libopus"),
    "vfr-90k.mp4": _plain(pts=[t * 90 + t % 7 for t in _vfr()], time_base=Fraction(1, 90000)),
    "10bit.mp4": _plain(codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none:pools=1"}),
    "10bit-264.mkv": _plain(pix_fmt="yuv420p10le", options={"bf": "2"}),
    "cfr.ts": _plain(audio="aac", options={"bf": "2"}),
    "mpeg2.ts": _plain(codec="mpeg2video", audio="mp2", options=_INTRA_4),
    "mpeg4.avi": _plain(codec="mpeg4", audio="libmp3lame"),
    "pcm.avi": _plain(codec="mpeg4", audio="pcm_s16le"),
    "h264.avi": _plain(options={"bf": "0"}),
    "rich.mkv": _rich,
    "ass.mkv": _ass,
    "cover.mp4": _cover,
    "interlaced.mp4": _plain(fields="tff", options={"x264-params": "tff=1"}),
    "interlaced-bff.ts": _plain(codec="mpeg2video", fields="bff", options={"g": "12"}),
    "interlaced-bff.mkv": _plain(fields="bff", options={"x264-params": "bff=1"}),
    "odd-420.mkv": _plain(codec="ffv1", size=(65, 49), audio="pcm_s16le"),
    "odd-444.mp4": _plain(pix_fmt="yuv444p", size=(65, 49)),
    "odd-vp9.webm": _plain(codec="libvpx-vp9", size=(65, 49), frames=12, options={"cpu-used": "8", "crf": "30"}),
    "av1.mkv": _plain(codec="libsvtav1", frames=20, options={"preset": "12", "svtav1-params": "lp=1"}),
    "no-audio.mp4": _plain(),
    "long-audio.mp4": _plain(audio="aac", audio_s=2.6),
    "short-audio.mkv": _plain(audio="libopus", audio_s=0.5),
    "edit-list.mp4": _plain(pts=range(-7, 23), audio="aac", options={"bf": "2", "g": "10"}),
    "late-start.mp4": _plain(pts=range(13, 43), audio="aac", options={"bf": "2"}),
    "late-start.mkv": _plain(pts=range(50, 80), audio="aac", audio_start=96000, options={"bf": "2"}),
    "late-audio.mp4": _plain(audio="aac", audio_start=24000),
    "one.mp4": _plain(frames=1),
    "n19.mp4": _plain(frames=19),
    "n20.mp4": _plain(frames=20),
    "n21.mp4": _plain(frames=21),
    "full-range.mp4": _coloured(1, 1, 1, 2),
    "bt601.mp4": _coloured(6, 6, 6, 1),
    "bt709.mp4": _coloured(1, 1, 1, 1),
    "bt2020.mp4": _coloured(9, 16, 9, 1, pix_fmt="yuv420p10le"),
    "mjpeg.avi": _coloured(1, 1, 5, 2, codec="mjpeg", pix_fmt="yuvj420p"),
    "rotated.mp4": _rotated,
    "sar.mp4": _sar,
    "ffv1-bgr0.mkv": _plain(codec="ffv1", pix_fmt="bgr0", via="bgr24"),
    "utvideo-gbrp.avi": _plain(codec="utvideo", pix_fmt="gbrp"),
    "ffv1-gbrp10.mkv": _plain(codec="ffv1", pix_fmt="gbrp10le"),
    "ffv1-gray.mkv": _plain(codec="ffv1", pix_fmt="gray"),
    "ffv1-gray10.mkv": _plain(codec="ffv1", pix_fmt="gray10le"),
    "ffv1-yuv422p.mkv": _plain(codec="ffv1", pix_fmt="yuv422p"),
    "ffv1-crc.mkv": _plain(codec="ffv1", options={"level": "3", "slicecrc": "1"}),
    "ffv1-yuv444p.mkv": _plain(codec="ffv1", pix_fmt="yuv444p"),
    "ffv1-yuv410p.mkv": _plain(codec="ffv1", pix_fmt="yuv410p"),
    "ffv1-yuv411p.mkv": _plain(codec="ffv1", pix_fmt="yuv411p"),
    "ffv1-yuv440p.mkv": _plain(codec="ffv1", pix_fmt="yuv440p"),
    "ffv1-yuv420p10.mkv": _plain(codec="ffv1", pix_fmt="yuv420p10le"),
    "ffv1-yuv422p12.mkv": _plain(codec="ffv1", pix_fmt="yuv422p12le"),
    "ffv1-yuv444p16.mkv": _plain(codec="ffv1", pix_fmt="yuv444p16le"),
    "ffv1-yuva420p.mkv": _plain(codec="ffv1", pix_fmt="yuva420p", via="yuv420p"),
    "x264rgb.mp4": _plain(codec="libx264rgb", pix_fmt="bgr24", options=_LOSSLESS_264),
    "rawvideo-nv12.nut": _plain(codec="rawvideo", pix_fmt="nv12", via="yuv420p"),
    "rawvideo-yuyv.nut": _plain(codec="rawvideo", pix_fmt="yuyv422", via="yuv422p"),
    "prores.mov": _plain(codec="prores_ks", pix_fmt="yuv422p10le", audio="pcm_s16le"),
    "x264-lossless.mp4": _plain(options={**_LOSSLESS_264, "bf": "0"}, audio="aac"),
}
"""Whole files that decode without a complaint."""

TRUNCATED: dict[str, Callable[[Path], Path]] = {
    "cut.mkv": _cut("rich.mkv", 0.7),
    "cut.ts": _cut("cfr.ts", 0.701),
    "cut.avi": _cut("mpeg4.avi", 0.7),
    "cut-fast.mp4": _cut("fast.mp4", 0.7),
}
"""Files that lack their end but show frames."""

HURT: dict[str, Callable[[Path], Path]] = {
    "hurt-264.mp4": _hurt("no-audio.mp4", 0.4),
    "hurt-hevc.mp4": _hurt("10bit.mp4", 0.25),
    "hurt-mpeg2.ts": _hurt("interlaced-bff.ts", 0.5),
    "hurt-ffv1.mkv": _hurt("ffv1-crc.mkv", 0.5, 20),
}
"""Files with damage in the middle."""

BAD: dict[str, Callable[[Path], Path]] = {
    "text.mp4": _bytes(b"This is not a video.\n" * 200),
    "notes.txt": _bytes(b"just notes\n" * 50),
    "empty.mp4": _bytes(b""),
    "zeros.mkv": _bytes(bytes(5000)),
    "cut-index.mp4": _cut("cfr.mp4", 0.5),
    "audio.m4a": _audio_only,
    "no-frames.mkv": _no_frames,
    "picture.png": _plain(codec="png", pix_fmt="rgb24", frames=1),
}
"""Files that are refused."""

OTHER: dict[str, Callable[[Path], Path]] = {
    "fast.mp4": _plain(audio="aac", container_options={"movflags": "+faststart"}),
}

SAMPLES = {**GOOD, **TRUNCATED, **HURT, **BAD, **OTHER}


def sample(name: str, folder: Path) -> Path:
    """The sample of that name in a folder, made if it is not there."""
    path = folder / name
    if not path.exists():
        partial = folder / f"new-{name}"
        made = SAMPLES[name](partial)
        made.rename(path)
    return path

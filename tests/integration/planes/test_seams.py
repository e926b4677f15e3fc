"""Every kind of source and of output at the seams of segments, as nodes make them, without roles between.

600 small frames, so that segments of 240 have seams, too. Nodes take units in turn, each with a decoder that goes on.
"""

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
from samples import write
from users import frames_of, same_frames

from vidcloud import job as jobs
from vidcloud import planes, plugins
from vidcloud.job import JobSpec
from vidcloud.media.probe import probe
from vidcloud.media.settings import EncodeSettings
from vidcloud.planes.choice import check_asked
from vidcloud.queue.directory import SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import Ticket

FRAMES = 600
SMALL = {"size": (64, 48), "frames": FRAMES}
_B = "keyint=40:bframes=3:b-adapt=0:scenecut=0"


def vfr():
    return [n * 3600 + (n * n * 37) % 3000 for n in range(FRAMES)]


def several_edits(path: Path, **how) -> Path:
    """An MP4 that shows frames 0 to 199, nothing for 10 frames' time, then 250 to 599, by its edit list."""
    data = bytearray(write(path, **how).read_bytes())
    at = data.index(b"elst") - 4
    size, count, length, media = *struct.unpack_from(">I", data, at), *struct.unpack_from(">III", data, at + 12)
    assert (count, length) == (1, FRAMES * 40)
    edits = [(8000, media), (400, -1), (14000, media + 250 * 512)]
    made = b"elst" + struct.pack(">II", 0, 3) + b"".join(struct.pack(">IiI", d, m, 1 << 16) for d, m in edits)
    made = struct.pack(">I", len(made) + 4) + made
    for name in (b"moov", b"trak", b"edts"):  # the boxes around it; the media's data lie before them
        box = data.rindex(name, 0, at) - 4
        struct.pack_into(">I", data, box, struct.unpack_from(">I", data, box)[0] + len(made) - size)
    data[at : at + size] = made
    path.write_bytes(data)
    return path


SOURCES = {
    "b-frames.mp4": {"options": {"x264-params": _B}, "audio": "aac"},
    "open-gop.mkv": {"options": {"x264-params": f"open-gop=1:{_B}"}},
    "open-gop-hevc.mp4": {
        "codec": "libx265", "audio": "aac",
        "options": {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:open-gop=1:{_B}"},
    },
    "one-keyframe.mkv": {"options": {"g": "9999", "bf": "2", "sc_threshold": "0"}},
    "intra.mkv": {"codec": "ffv1"},
    "vfr.mp4": {"pts": vfr(), "time_base": Fraction(1, 90000), "audio": "aac"},
    "edit-list.mp4": {"pts": range(-7, FRAMES - 7), "options": {"x264-params": _B}, "audio": "aac"},
    "edits.mp4": {"options": {"x264-params": _B}},
    "late-start.mp4": {"pts": range(13, FRAMES + 13), "options": {"bf": "2", "g": "50"}, "audio": "aac"},
    "late-start.mkv": {
        "pts": range(50, FRAMES + 50), "options": {"bf": "2", "g": "50"}, "audio": "aac", "audio_start": 96000,
    },
    "stream.ts": {"options": {"x264-params": _B}, "audio": "aac"},
    "plain.avi": {"options": {"bf": "0", "g": "50"}, "audio": "mp3"},
    "plain.mkv": {"options": {"x264-params": _B}, "audio": "flac"},
}  # fmt: skip
CODECS = {
    "libx264": ("o.mp4", EncodeSettings("libx264", preset="veryfast")),
    "libx265": ("o.mp4", EncodeSettings("libx265", preset="ultrafast")),
    "libx265 lossless": ("o.mkv", EncodeSettings("libx265", preset="ultrafast", options={"x265-params": "lossless=1"})),
    "libsvtav1": ("o.mp4", EncodeSettings("libsvtav1", 40, "12")),
    "libvpx-vp9": ("o.mkv", EncodeSettings("libvpx-vp9", 40, options={"cpu-used": "8", "deadline": "realtime"})),
    "libvpx-vp9 lossless": ("o.mkv", EncodeSettings("libvpx-vp9", options={"lossless": "1", "cpu-used": "8"})),
    "prores_ks": ("o.mov", EncodeSettings("prores_ks")),
}
WAYS = list(itertools.product((1, 3), (1, 3, 12)))
CHAIN = ("invert", "temporal-denoise:radius=1")


def run(folder, source, plane, settings, nodes=1, chunks=12, output="o.mkv", chunk=20):
    """A job: its output, what its proof says of each frame, and how many units it had."""
    spec = JobSpec(
        id="j", created=0.0, input=f"file://{source}", output=f"file://{folder}/{output}",
        filters=tuple(plugins.resolve(f).ref.to_json() for f in CHAIN), encode=settings.to_json(), plane=plane,
        chunk=chunk, segment_chunks=chunks,
    )  # fmt: skip
    job = jobs.create(folder / "share", spec)
    Ledger(job.directory, SystemClock(), Ticket("c"), lease_s=1).open()
    job.write_nodes(nodes)
    collector = planes.open_collector(spec, job, source, probe(source))
    job.write_stream(collector.describe())
    processors = [planes.open_processor(spec, job) for _ in range(nodes)]
    units = list(collector.prepare(lambda _unit: True, lambda _unit: False))
    collector.begin(folder / output)
    for unit in range(len(units)):
        result = job.root / f"chunks/done/{unit:08d}.1"
        ready = job.root / f"chunks/ready/{unit:08d}"
        processors[unit % nodes].process(ready, result, lambda _frames: None, keep=False)
        collector.assemble(unit, result)
        result.unlink()
    collector.finish()
    for processor in processors:
        processor.close()
    return folder / output, list(collector.proof_frames()), len(units)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A source, and what one node makes of it on the frames plane, without loss; once."""
    folder, made = tmp_path_factory.mktemp("serial"), {}

    def get(name):
        if name not in made:
            maker = several_edits if name == "edits.mp4" else write
            source = maker(folder / name, **{**SMALL, **SOURCES[name]})
            made[name] = source, *run(folder / f"of-{name}", source, "frames", EncodeSettings("ffv1"))[:2]
        return made[name]

    return get


def sounds(path):
    """Each audio packet and when it is heard; without the headers that AAC has in MPEG-TS alone."""
    with av.open(str(path)) as c:
        packets = [p for p in c.demux(c.streams.audio) if p.size] if c.streams.audio else []
        return [(bytes(p)[7 if path.suffix == ".ts" else 0 :], float(p.pts * p.time_base)) for p in packets]


def same_sound(source, output):
    one, other = sounds(source), sounds(output)
    assert [payload for payload, _ in one] == [payload for payload, _ in other]
    assert [at for _, at in other] == pytest.approx([at for _, at in one], abs=0.0011), "Matroska counts milliseconds"


@pytest.mark.parametrize(("nodes", "chunks"), WAYS)
@pytest.mark.parametrize("name", SOURCES)
def test_segments_are_the_serial_run(tmp_path, serial, name, nodes, chunks):
    source, whole, proof = serial(name)
    output, made, units = run(tmp_path, source, "segments", EncodeSettings("ffv1"), nodes, chunks)
    assert units > 1, "there was no seam"
    with av.open(str(source)) as c:
        assert len(made) == sum(1 for _ in c.decode(video=0)), "FFmpeg shows a few more around an edit"
    assert made == proof
    same_frames(output, whole)
    same_sound(source, output)


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_source_through_b_frames(tmp_path, serial, name):
    source, whole, proof = serial(name)
    settings = EncodeSettings("libx264", 0, "veryfast")
    output, made, units = run(tmp_path, source, "segments", settings, 1, 12)
    assert units > 1
    assert made == proof
    same_frames(output, whole)
    same_sound(source, output)


@pytest.mark.parametrize(("name", "nodes", "chunks"), [("b-frames.mp4", 1, 12), ("vfr.mp4", 3, 3), ("stream.ts", 3, 1)])
@pytest.mark.parametrize("codec", CODECS)
def test_every_encoder_keeps_number_times_and_sound(tmp_path, serial, codec, name, nodes, chunks):
    """And pixels, where it is lossless."""
    source, whole, proof = serial(name)
    output, settings = CODECS[codec]
    path, made, units = run(tmp_path, source, "segments", settings, nodes, chunks, output)
    assert units > 1
    assert [entry[:2] for entry in made] == [entry[:2] for entry in proof]
    if codec != "prores_ks":  # it takes 4:2:2, the lossless run kept 4:2:0
        assert made == proof, "what was given to the encoder is what the serial run gave"
    if codec.endswith("lossless"):
        same_frames(path, whole)
    with av.open(str(path)) as c:
        clock = float(c.streams.video[0].time_base)
        times = [f.pts * clock for f in c.decode(video=0)]
    base = float(probe(source).time_base)
    assert times == pytest.approx(
        [pts * base for pts, _, _ in proof], abs=max(0.0006 if path.suffix == ".mkv" else 0, 1e-6)
    )
    same_sound(source, path)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """Forty frames, as large as the pickiest encoder wants them."""
    return write(
        tmp_path_factory.mktemp("steady") / "in.mkv", size=(256, 128), frames=40, options={"bf": "0"}, audio="mp3"
    )


@pytest.mark.parametrize(
    ("codec", "output", "pix_fmt", "options"),
    [
        ("mpeg4", "o.mp4", None, {"bf": "2"}),
        ("mpeg2video", "o.mkv", None, {"bf": "2"}),
        ("mpeg1video", "o.mkv", None, {"bf": "2"}),
        ("mjpeg", "o.avi", None, {}),
        ("dnxhd", "o.mov", "yuv422p", {"profile": "dnxhr_sq"}),
        ("cfhd", "o.mov", "yuv422p10", {}),
        ("jpeg2000", "o.mkv", None, {}),
        ("png", "o.mov", None, {}),
        ("utvideo", "o.avi", None, {}),
        ("ffvhuff", "o.avi", None, {}),
        ("huffyuv", "o.avi", "yuv422p", {}),
        ("magicyuv", "o.avi", None, {}),
        ("rawvideo", "o.avi", None, {}),
    ],
)
def test_encoders_join(tmp_path, steady, codec, output, pix_fmt, options):
    """Each frame is the one that one encoder makes, but for what coding loses."""
    settings = EncodeSettings(codec, pix_fmt=pix_fmt, options=options)
    check_asked("segments", "auto", settings, "fail")
    path, made, units = run(tmp_path / "s", steady, "segments", settings, 2, 2, output, chunk=5)
    whole, proof, _ = run(tmp_path / "f", steady, "frames", settings, output=output)
    assert units == 4
    assert made == proof
    assert [payload for payload, _ in sounds(path)] == [payload for payload, _ in sounds(steady)]
    (a, at), (b, bt) = frames_of(path), frames_of(whole)
    assert at == bt
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        assert abs(x.astype(int) - y).mean() < 5, f"frame {n} is another"

"""What the input carried, the output carries, or the report says so."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_tools import encode_frames, packet_times, read
from samples import GOOD, write

from vidcloud.errors import MediaError, UsageError
from vidcloud.media.audio import audio_hashes
from vidcloud.media.containers import check_container, container_format, holds
from vidcloud.media.convert import converter
from vidcloud.media.encode import EncodeSettings
from vidcloud.media.mux import mux
from vidcloud.media.probe import probe

X264 = EncodeSettings("libx264", options={"qp": "0", "g": "10", "bf": "2"}, preset="ultrafast")
FFV1 = EncodeSettings("ffv1")
CLOCKS = {"mkv": Fraction(1, 1000), "webm": Fraction(1, 1000), "ts": Fraction(1, 90000)}
EXACT_264 = [n for n in GOOD if not n.startswith(("ffv1", "odd-420", "odd-vp9", "utvideo", "x264rgb"))]
TIMED = [
    "bframes.mp4", "ntsc.mp4", "vfr.mp4", "vfr.mkv", "vfr-90k.mp4", "cfr.ts", "mpeg2.ts", "mpeg4.avi", "h264.avi", "rich.mkv",
    "edit-list.mp4", "late-start.mp4", "late-start.mkv", "late-audio.mp4", "long-audio.mp4", "short-audio.mkv", "one.mp4",
    "n21.mp4", "rawvideo-nv12.nut",
]  # fmt: skip


def rounded(times, clock):
    return [Fraction(round(t / clock)) * clock for t in times] if clock else times


def near(one, other, clock):
    assert len(one) == len(other)
    assert all(abs(a - b) <= (clock or 0) / 2 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [n for n in GOOD if n not in ("av1.mkv", "10bit.mp4")])
def test_a_do_nothing_job_gives_the_input_back_bit_for_bit(samples, remake, name):
    """FFV1 in Matroska: every storage format, odd sizes, and every way in."""
    made = remake(samples(name), "out.mkv", FFV1)
    got = made.read()
    if made.source.info.storage == "gbrp":
        # FFV1 has 8-bit RGB as bgr0 alone: the same samples in another order.
        back = converter(got.info.spec, made.source.info.spec)
        for n, frame in enumerate(got.frames):
            got.frames[n] = np.empty_like(frame)
            back(frame, got.frames[n])
    else:
        assert got.info.storage == made.source.info.storage
    assert got.hashes == made.source.hashes
    near(got.times, made.source.times, CLOCKS["mkv"])
    assert made.report.frames == len(made.source.frames)


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
def test_timestamps_are_the_inputs(samples, remake, name, suffix):
    """Exactly, or to the nearest tick of a container whose clock is coarser; then the report says so."""
    source = samples(name)
    made = remake(source, f"out.{suffix}", X264)
    got = made.read()
    assert got.hashes == made.source.hashes
    shift = Fraction(0)
    if any("later" in n for n in made.report.notes):
        # MPEG-TS starts at zero, and so does AAC's priming.
        assert suffix == "ts"
        shift = -min(packet_times(source, "audio"))
    clock = CLOCKS.get(suffix)
    if shift:
        near(got.times, [t + shift for t in made.source.times], clock * 2)
    else:
        near(got.times, made.source.times, clock)
        if clock and any(t % clock for t in made.source.times):
            assert any("rounds video timestamps" in n for n in made.report.notes) or suffix == "ts"

    with av.open(str(source)) as c:
        sounds = len(c.streams.audio)
    carried = sum(1 for s in made.source.info.others if s.kind == "audio") - sum("audio" in x for x in made.report.lost)
    assert len(audio_hashes(made.output)) == carried
    for k in range(sounds if carried else 0):
        before, after = audio_hashes(source)[k], audio_hashes(made.output)[k]
        assert before["packets"] == after["packets"]
        assert before["codec"] == after["codec"] or (suffix, before["codec"]) == ("mp4", "mp2")  # read back as mp3
        if not (suffix == "ts" or name.endswith(".ts")) or before["codec"] == "mp2":
            assert before["xxh3_128"] == after["xxh3_128"]  # else ADTS headers come or go
        times = [t + shift for t in packet_times(source, "audio", k)]
        near(packet_times(made.output, "audio", k), times, max(clock or 0, Fraction(1, 10000)) * (2 if shift else 1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("name", ["bframes.mp4", "late-audio.mp4", "long-audio.mp4", "mpeg2.ts", "pcm.avi"])
def test_sound_decodes_to_the_same_samples(samples, remake, name, suffix):
    """Skipped priming samples too: no click and no delay. In Matroska they lie before time zero instead."""
    if (name, suffix) == ("mpeg2.ts", "mp4"):
        return  # FFmpeg reads layer 2 in MP4 with its other MP3 decoder, so the samples differ

    def decoded(path):
        with av.open(str(path)) as c:
            return np.concatenate(
                [f.to_ndarray().ravel() for f in c.decode(audio=0) if f.time is None or f.time > -0.01]
            )

    made = remake(samples(name), f"out.{suffix}", X264)
    one, two = decoded(samples(name)), decoded(made.output)
    np.testing.assert_array_equal(one[: len(two)], two[: len(one)])
    assert abs(len(one) - len(two)) <= (48 if suffix == "mkv" else 0) or name.endswith(".ts")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("name", ["rotated.mp4", "sar.mp4", "bt601.mp4", "bt709.mp4", "bt2020.mp4", "full-range.mp4", "interlaced.mp4", "interlaced-bff.mkv", "interlaced-bff.ts"])  # fmt: skip
def test_tags_are_carried(samples, remake, name, suffix):
    made = remake(samples(name), f"out.{suffix}", X264)
    a, b = made.source.info, made.read().info
    for tag in ("primaries", "trc", "colorspace", "full_range", "matrix", "sample_aspect_ratio", "field_order"):
        assert getattr(a, tag) == getattr(b, tag), tag
    assert (a.rotation, a.display_matrix) == (b.rotation, b.display_matrix)
    assert b.chroma_location == a.chroma_location
    assert abs(a.average_rate - b.average_rate) < Fraction(1, 100)


@pytest.mark.parametrize("codec", ["libx265", "ffv1", "libvpx-vp9", "libsvtav1"])
def test_tags_are_carried_by_every_codec(samples, remake, codec):
    settings = EncodeSettings(codec, preset={"libx265": "ultrafast", "libsvtav1": "12"}.get(codec))
    for name in ("bt2020.mp4", "sar.mp4", "rotated.mp4", "full-range.mp4"):
        made = remake(samples(name), f"{codec}-{name[:3]}.mkv", settings)
        a, b = made.source.info, probe(made.output)
        for tag in ("primaries", "trc", "colorspace", "full_range", "rotation"):
            assert getattr(a, tag) == getattr(b, tag), (name, tag)
        if any("aspect" in x for x in made.report.lost):
            assert codec != "libx265"
            assert any("aspect" in n for n in made.notes)
            made = remake(samples(name), f"{codec}-{name[:3]}.mp4", settings)
            assert made.report.lost == []
            b = probe(made.output)
        assert a.sample_aspect_ratio == b.sample_aspect_ratio


def test_matroska_keeps_all(samples, remake):
    made = remake(samples("rich.mkv"), "out.mkv", X264)
    assert made.report.lost == []
    with av.open(str(samples("rich.mkv"))) as a, av.open(str(made.output)) as b:
        assert [s.type for s in a.streams] == [s.type for s in b.streams]
        for key in ("title", "ARTIST", "COMMENT", "MY_TAG"):
            assert b.metadata[key] == a.metadata[key]
        for one, two in zip(a.streams, b.streams, strict=True):
            assert one.disposition == two.disposition
            for key in ("language", "title"):
                assert one.metadata.get(key) == two.metadata.get(key)
        assert [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in a.chapters()] == [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in b.chapters()
        ]
        assert b.streams.attachments[0].data == a.streams.attachments[0].data
        assert b.streams.attachments[0].name == "font.ttf"
    with av.open(str(samples("rich.mkv"))) as a, av.open(str(made.output)) as b:
        texts = [[(bytes(p), p.pts * p.time_base) for p in c.demux(subtitles=0) if p.size] for c in (a, b)]
        assert texts[0] == texts[1]
        assert len(texts[0]) == 2


def test_ass_subtitles_keep_their_styles(samples, remake):
    made = remake(samples("ass.mkv"), "out.mkv", X264)
    with av.open(str(samples("ass.mkv"))) as a, av.open(str(made.output)) as b:
        assert a.streams.subtitles[0].codec_context.extradata == b.streams.subtitles[0].codec_context.extradata


def test_mp4_says_what_it_can_not_hold(samples, remake):
    made = remake(samples("rich.mkv"), "out.mp4", X264)
    told = "\n".join(made.report.lost)
    assert "subtitle stream 2 (subrip): mp4 can't hold subrip" in told
    assert "attachment" in told
    assert "MY_TAG" in told
    assert any("subrip" in n for n in made.notes)
    with av.open(str(made.output)) as c:
        assert c.metadata["title"] == "Ein Titel, ünï"
        assert [x["metadata"]["title"] for x in c.chapters()] == ["One", "Zwei"]
        assert c.streams.audio[0].metadata["language"] in ("deu", "ger")


def test_a_cover_stays_a_cover(samples, remake):
    for name in ("out.mp4", "out.mkv"):
        made = remake(samples("cover.mp4"), name, X264)
        assert made.report.lost == []
        info = probe(made.output)
        assert [s.kind for s in info.others if s.kind not in ("audio", "data")] == ["cover"]
        with av.open(str(made.output)) as c:
            assert [x["metadata"]["title"] for x in c.chapters()] == ["Kapitel"]


def test_hevc_in_mp4_has_apples_tag(samples, remake):
    made = remake(samples("10bit.mp4"), "out.mp4", EncodeSettings("libx265", preset="ultrafast"))
    with av.open(str(made.output)) as c:
        assert c.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("codec", ["ffv1", "mpeg4", "libx264", "mjpeg", "rawvideo", "ffvhuff"])
def test_avi_holds_constant_rate(samples, remake, codec):
    made = remake(samples("n21.mp4"), "out.avi", EncodeSettings(codec))
    assert made.read().times == made.source.times


def test_avi_with_sound_keeps_the_video_on_its_grid(samples, remake):
    made = remake(samples("bframes.mp4"), "out.avi", FFV1)
    assert made.read().times == made.source.times
    assert any("milliseconds late" in n for n in made.report.notes)


def test_refused_early(samples):
    info = probe(samples("vfr.mkv"))
    with pytest.raises(UsageError, match="constant frame rate"):
        check_container("out.avi", "ffv1", info, samples("vfr.mkv"))
    with pytest.raises(UsageError, match=r"\.mp4, \.mts"):
        check_container("out.xyz", "h264", info)
    with pytest.raises(UsageError, match="name a container"):
        check_container("out", "h264", info)
    with pytest.raises(UsageError, match=r"\.webm can't hold h264"):
        check_container("out.webm", "h264", info)
    with pytest.raises(UsageError, match=r"\.mov can't hold av1"):
        check_container("out.mov", "av1", info)
    assert container_format("A.MKV") == "matroska"
    assert check_container("o.mkv", "h264", probe(samples("ntsc.mp4"))) == [".mkv rounds timestamps to milliseconds"]


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx", "ffv1", "prores_ks", "mpeg4", "mpeg2video", "mjpeg", "utvideo", "rawvideo", "png", "ffvhuff"])  # fmt: skip
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "ts", "nut"])
def test_what_is_said_to_fit_fits(samples, tmp_path, encoder, suffix):
    """A container that `holds` a codec can be written and read back with all frames at their times."""
    settings = EncodeSettings(encoder, options={"bf": "0"} if encoder in ("libx264", "mpeg4", "mpeg2video") else {})
    video = read(samples("n19.mp4"))
    parts = list(encode_frames(video, settings, tmp_path))
    output = tmp_path / f"out.{suffix}"
    if not holds(container_format(output), parts[0].codec):
        with pytest.raises(UsageError):
            check_container(output, parts[0].codec, video.info)
        return
    mux(parts, video.path, video.info, output)
    assert read(output).times == video.times


def test_video_before_zero_moves_everything(samples, tmp_path):
    """Nothing is cut off, sound and picture stay together, and the report says it."""
    video = read(samples("cfr.mp4"))
    tick = video.info.time_base
    video.times = [t - 2048 * tick for t in video.times]
    parts = list(encode_frames(video, X264, tmp_path))
    for suffix in ("mp4", "mkv"):
        output = tmp_path / f"out.{suffix}"
        report = mux(parts, video.path, video.info, output)
        assert any("0.160000 s later" in n for n in report.notes)
        got = read(output)
        near(got.times, [t + 2048 * tick for t in video.times], CLOCKS.get(suffix))
        before, after = packet_times(video.path, "audio"), packet_times(output, "audio")
        near(after, [t + Fraction(16, 100) for t in before], Fraction(1, 1000))


def test_no_parts_is_an_error(samples, tmp_path):
    with pytest.raises(MediaError, match="no frames"):
        mux([], samples("cfr.mp4"), probe(samples("cfr.mp4")), tmp_path / "o.mp4")


def test_parts_may_come_while_the_output_is_written(samples, tmp_path):
    """With a known delay the join needs only one part at a time."""
    video = read(samples("long-gop.mkv"))
    taken = []

    def lazily():
        for part in encode_frames(video, FFV1, tmp_path, min_frames=10):
            taken.append(part.first)
            yield part

    mux(lazily(), video.path, video.info, tmp_path / "o.mkv", delay=0)
    assert taken == [0, 12, 24, 36, 48]
    assert read(tmp_path / "o.mkv").hashes == video.hashes


def test_a_delay_that_is_too_short_is_an_error(samples, tmp_path):
    video = read(samples("long-gop.mkv"))
    settings = EncodeSettings("libx264", options={"x264-params": "bframes=3:b-adapt=0"})
    parts = list(encode_frames(video, settings, tmp_path))
    assert parts[0].delay > 0
    with pytest.raises(MediaError, match="longer delay"):
        mux(parts, video.path, video.info, tmp_path / "o.mkv", delay=0)


def test_odd_names_of_outputs(samples, tmp_path):
    video = read(samples("n19.mp4"))
    parts = list(encode_frames(video, FFV1, tmp_path))
    output = tmp_path / "concat:50%d -x.mkv"
    mux(parts, video.path, video.info, output)
    assert read(output).hashes == video.hashes


def test_audio_hashes_see_a_changed_packet(samples, tmp_path):
    one = write(tmp_path / "a.mkv", audio="pcm_s16le", audio_s=0.5)
    data = bytearray(one.read_bytes())
    first = audio_hashes(one)
    assert first[0]["codec"] == "pcm_s16le"
    with av.open(str(one)) as c:
        packet = next(p for p in c.demux(audio=0) if p.size > 100)
        at = data.find(bytes(packet)[:100])
    data[at + 50] ^= 1
    one.write_bytes(data)
    assert audio_hashes(one)[0]["xxh3_128"] != first[0]["xxh3_128"]
    assert audio_hashes(samples("no-audio.mp4")) == []

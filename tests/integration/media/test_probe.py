"""What a file is, is told exactly; what is no video is refused in one line."""

import shutil
from fractions import Fraction

import pytest
from samples import BAD, GOOD

from vidcloud.errors import InputError
from vidcloud.media.colour import storage_of
from vidcloud.media.decode import decode
from vidcloud.media.probe import VideoInfo, probe
from vidcloud.pixels import pixel_format


@pytest.mark.parametrize("name", GOOD)
def test_survives_json(samples, name):
    """What the collector probes, every processor reads from the job's record."""
    import json

    info = probe(samples(name))
    assert VideoInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert pixel_format(info.storage) == info.spec.format


def test_unknown_keys_of_a_newer_record_are_ignored(samples):
    info = probe(samples("cfr.mp4"))
    assert VideoInfo.from_json({**info.to_json(), "later": 1}) == info


@pytest.mark.parametrize("name", BAD)
def test_refuses_what_is_no_video(samples, name):
    with pytest.raises(InputError) as e:
        probe(samples(name))
    assert name in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("audio.m4a", "no video stream (it is audio)"),
        ("notes.txt", "is text"),
        ("empty.mp4", "is empty"),
        ("picture.png", "a still picture"),
    ],
)
def test_says_why(samples, name, says):
    with pytest.raises(InputError) as e:
        probe(samples(name))
    assert says in str(e.value)


def test_refuses_nothing_and_a_directory(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="is a directory"):
        probe(tmp_path)


@pytest.mark.parametrize(
    "name", ["-dash.mp4", "a:b.mp4", "50%d.mp4", "with space.mp4", "concat:x.mp4", "ünï.mp4", "%03d.mp4"]
)
def test_names_are_taken_literally(samples, tmp_path, monkeypatch, name):
    shutil.copy(samples("one.mp4"), tmp_path / name)
    assert probe(tmp_path / name).width == 96
    monkeypatch.chdir(tmp_path)
    info = probe(name)
    assert [f.index for f in decode(name, info)] == [0]


def test_a_playlist_reads_no_other_file(samples, tmp_path):
    """An input that names other files would read what the user never named."""
    shutil.copy(samples("cfr.ts"), tmp_path / "a.ts")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.ts\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\na.ts\n#EXT-X-ENDLIST\n")
    for name in ("list.ffconcat", "list.m3u8"):
        with pytest.raises(InputError):
            probe(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ntsc.mp4", {"average_rate": Fraction(30000, 1001), "frames": 30}),
        ("late-start.mkv", {"start_pts": 2000, "time_base": Fraction(1, 1000)}),
        ("sar.mp4", {"sample_aspect_ratio": Fraction(4, 3)}),
        ("rotated.mp4", {"rotation": 90}),
        ("interlaced.mp4", {"interlaced": True, "top_field_first": True}),
        ("interlaced-bff.ts", {"interlaced": True, "top_field_first": False}),
        ("cfr.mp4", {"interlaced": False, "rotation": 0, "chroma_location": "left", "codec": "h264"}),
        ("full-range.mp4", {"full_range": True, "storage": "yuv420p", "matrix": "bt709"}),
        ("bt601.mp4", {"matrix": "smpte170m", "primaries": 6, "trc": 6, "colorspace": 6, "full_range": False}),
        ("bt709.mp4", {"matrix": "bt709", "primaries": 1, "trc": 1, "colorspace": 1}),
        ("bt2020.mp4", {"matrix": "bt2020nc", "primaries": 9, "trc": 16, "storage": "yuv420p10"}),
        ("mjpeg.avi", {"full_range": True, "pix_fmt": "yuvj420p", "storage": "yuv420p"}),
        ("ffv1-bgr0.mkv", {"storage": "bgr24", "matrix": "rgb", "full_range": True, "losses": ()}),
        ("ffv1-gray10.mkv", {"storage": "gray10", "full_range": True}),
        ("ffv1-yuva420p.mkv", {"storage": "yuv420p", "losses": ("yuva420p: the alpha channel is dropped",)}),
        ("rawvideo-nv12.nut", {"storage": "yuv420p", "losses": ()}),
        ("av1.mkv", {"codec": "av1"}),
        ("one.mp4", {"frames": 1}),
    ],
)
def test_tells(samples, name, expected):
    info = probe(samples(name))
    assert {k: getattr(info, k) for k in expected} == expected


def test_lists_other_streams(samples):
    others = probe(samples("rich.mkv")).others
    assert [(s.kind, s.codec, s.language, s.title) for s in others] == [
        ("audio", "aac", "ger" if others[0].language == "ger" else "deu", "Ton"),
        ("subtitle", "subrip", others[1].language, "sous-titres"),
        ("attachment", "", "", "font.ttf"),
    ]
    assert [s.kind for s in probe(samples("cover.mp4")).others if s.kind != "data"] == ["audio", "cover"]


def test_untagged_matrix_follows_the_height(tmp_path):
    """As players do: HD is BT.709, less is BT.601."""
    from samples import write

    assert probe(write(tmp_path / "hd.mp4", size=(64, 720), frames=1)).matrix == "bt709"
    assert probe(write(tmp_path / "sd.mp4", size=(64, 576), frames=1)).matrix == "smpte170m"


@pytest.mark.parametrize(
    ("pix_fmt", "storage"),
    [
        ("yuyv422", "yuv422p"),
        ("uyvy422", "yuv422p"),
        ("p010le", "yuv420p10"),
        ("nv12", "yuv420p"),
        ("pal8", "bgr24"),
        ("rgba64le", "bgr48"),
        ("monob", "gray"),
        ("gbrap10le", "gbrp10"),
        ("yuvj422p", "yuv422p"),
        ("yuv420p10be", "yuv420p10"),
        ("x2rgb10le", "gbrp10"),
        ("rgb565le", "bgr24"),
        ("ya8", "gray"),
    ],
)
def test_storage(pix_fmt, storage):
    assert storage_of(pix_fmt)[0] == storage

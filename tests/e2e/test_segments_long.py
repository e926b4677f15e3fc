"""Ten seconds of every kind of source and every kind of output, on one and three nodes, in segments of three sizes."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
from samples import write
from users import User, same_frames

FRAMES = 250
SMALL = {"size": (64, 48), "frames": FRAMES}
_B = "keyint=40:bframes=3:b-adapt=0:scenecut=0"


def vfr():
    return [n * 3600 + (n * n * 37) % 3000 for n in range(FRAMES)]


SOURCES = {
    "b-frames.mp4": {"options": {"x264-params": _B}, "audio": "aac"},
    "open-gop.mkv": {"options": {"x264-params": f"open-gop=1:{_B}"}},
    "one-keyframe.mkv": {"options": {"g": "9999", "bf": "2", "sc_threshold": "0"}},
    "intra.mkv": {"codec": "ffv1"},
    "vfr.mp4": {"pts": vfr(), "time_base": Fraction(1, 90000), "audio": "aac"},
    "edit-list.mp4": {"pts": range(-7, FRAMES - 7), "options": {"x264-params": _B}, "audio": "aac"},
    "stream.ts": {"options": {"x264-params": _B}, "audio": "aac"},
    "plain.avi": {"options": {"bf": "0", "g": "50"}, "audio": "mp3"},
    "plain.mkv": {"options": {"x264-params": _B}, "audio": "flac"},
}
CODECS = {
    "libx264": ("o.mp4", ["--preset", "veryfast"]),
    "libx265": ("o.mp4", ["--preset", "ultrafast"]),
    "libsvtav1": ("o.mp4", ["--preset", "12", "--crf", "40"]),
    "libvpx-vp9": ("o.webm", ["--crf", "40", "-e", "cpu-used=8", "-e", "deadline=realtime"]),
    "prores_ks": ("o.mov", []),
}
WAYS = list(itertools.product((1, 3), (1, 3, 12)))
CHAIN = ("--filter", "invert", "--filter", "temporal-denoise:radius=1")


@pytest.fixture(scope="session")
def serial(tmp_path_factory):
    """A source, and what one node makes of it on the frames plane, without loss; once a session."""
    folder, made = tmp_path_factory.mktemp("serial"), {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            source = write(folder / name, **{**SMALL, **SOURCES[name]})
            user = User(folder)
            user.run(source, "-o", folder / f"{name}.serial.mkv", "--codec", "ffv1", *CHAIN, "--plane", "frames")
            made[name] = source, folder / f"{name}.serial.mkv"
        return made[name]

    return get


def proof(path):
    return json.loads(Path(f"{path}.proof.json").read_text())["frames"]


@pytest.mark.parametrize(("nodes", "chunks"), WAYS)
@pytest.mark.parametrize("name", SOURCES)
def test_segments_are_the_serial_run(user, serial, name, nodes, chunks):
    source, whole = serial(name)
    told = user.run(source, "-o", "out.mkv", "--codec", "ffv1", *CHAIN, "--plane", "segments", "--nodes", nodes,
                    "--segment-chunks", chunks)  # fmt: skip
    assert told["frames"] == len(proof(whole)), "no frame more or less"
    assert proof(user.folder / "out.mkv") == proof(whole)
    same_frames(user.folder / "out.mkv", whole)
    assert user("verify", "out.mkv").code == 0


@pytest.mark.parametrize(("nodes", "chunks"), WAYS)
@pytest.mark.parametrize("codec", CODECS)
def test_every_encoder_keeps_number_times_and_sound(user, serial, codec, nodes, chunks):
    source, whole = serial("vfr.mp4")
    output, more = CODECS[codec]
    if output.endswith("webm"):
        source, whole = serial("one-keyframe.mkv")  # its sound, AAC, has no place there
    user.run(source, "-o", output, "--codec", codec, *CHAIN, *more, "--plane", "segments", "--nodes", nodes,
             "--segment-chunks", chunks)  # fmt: skip
    made, wanted = proof(user.folder / output), proof(whole)
    assert [entry[:2] for entry in made] == [entry[:2] for entry in wanted]
    if codec != "prores_ks":  # it takes 4:2:2, the lossless run kept 4:2:0
        assert made == wanted, "what was given to the encoder is what the serial run gave"
    checked = user("verify", output)
    assert checked.code == 0, checked.out

"""24 seconds through the command line, on one and three nodes, in segments of three sizes; there is a seam in each.

Kinds of sources and encoders are in ``tests/integration/planes/test_seams.py``.
"""

import itertools
import json
from pathlib import Path

import pytest
from samples import write
from users import User, same_frames

FRAMES = 600
CHAIN = ("--filter", "invert", "--filter", "temporal-denoise:radius=1")


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A source, and what one node makes of it on the frames plane, without loss."""
    user = User(tmp_path_factory.mktemp("serial"))
    options = {"x264-params": "keyint=40:bframes=3:b-adapt=0:scenecut=0"}
    source = write(user.folder / "in.mp4", size=(64, 48), frames=FRAMES, options=options, audio="aac")
    user.run(source, "-o", "serial.mkv", "--codec", "ffv1", *CHAIN, "--plane", "frames")
    return source, user.folder / "serial.mkv"


def proof(path):
    return json.loads(Path(f"{path}.proof.json").read_text())["frames"]


@pytest.mark.parametrize(("nodes", "chunks"), itertools.product((1, 3), (1, 3, 12)))
def test_segments_are_the_serial_run(user, serial, nodes, chunks):
    source, whole = serial
    told = user.run(source, "-o", "out.mkv", "--codec", "ffv1", *CHAIN, "--plane", "segments", "--nodes", nodes,
                    "--segment-chunks", chunks, "--job-id", "j", env={"VIDCLOUD_VERBOSE": "1"})  # fmt: skip
    published = [line for line in user("logs", "j").out.splitlines() if " published unit=" in line]
    assert len(published) >= 2, "there was no seam"
    assert told["frames"] == FRAMES, "no frame more or less"
    assert proof(user.folder / "out.mkv") == proof(whole)
    same_frames(user.folder / "out.mkv", whole)
    assert user("verify", "out.mkv").code == 0

"""The last units get a second run where their node is slow; the output stays as it was."""

import json

import pytest
from users import same_frames


@pytest.fixture
def clip(samples):
    return samples("long-gop.mkv")


@pytest.mark.parametrize("plane", ["frames", "segments"])
def test_a_job_ends_without_its_slow_node(user, clip, uneven, plane):
    """The slow node holds its unit until the job has ended, so that it can only end without it."""
    args = ("--codec", "ffv1", "--chunk", 1 if plane == "segments" else 3, "--window", 60, "--plane", plane)
    told = user.run(
        clip, "--filter", f"{uneven}:until= ended state=done", *args, "--nodes", 2, "-o", "out.mkv", "--job-id", "j",
        "--lease", 10,
    )  # fmt: skip
    assert told["takeovers"] == 0
    assert " doubled unit=0 epoch=2 " in user("logs", "j").out
    assert (user.folder / "first").exists()
    assert not (user.folder / "waited").exists()
    assert user.processes() == []
    user.run(clip, "--filter", uneven, *args, "--nodes", 1, "-o", "quiet.mkv", "--job-id", "quiet")
    assert " doubled " not in user("logs", "quiet").out
    same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")
    assert user("verify", "out.mkv").code == 0


@pytest.mark.parametrize("plane", ["frames", "segments"])
def test_results_of_two_runs_that_differ_are_reported(user, clip, uneven, plane):
    """The last frame holds the job until both runs of unit 0 are there.

    The unit with the last frame may look slow before that one does, and be run twice as well: two nodes must be idle.
    """
    told = user.run(
        clip, "--filter",
        f"{uneven}:until=accepted unit=0 epoch=2,differs=1,last=59,then=late_result unit=0 epoch=1",
        "--codec", "ffv1", "--chunk", 1 if plane == "segments" else 3, "--window", 60, "--plane", plane,
        "--nodes", 4, "-o", "out.mkv", "--job-id", "j", "--lease", 10,
        env={"VIDCLOUD_VERBOSE": "1"},
    )  # fmt: skip
    assert not (user.folder / "waited").exists()
    assert any("unit 0: two nodes made different pixels" in line for line in told["report"]), json.dumps(told)
    assert "results_differ unit=0" in user("logs", "j").out

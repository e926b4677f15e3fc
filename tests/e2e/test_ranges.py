"""An input by URL whose processors read it by ranges."""

import pytest
from servers import serving
from users import same_frames

from vidcloud.queue.records import Frontier

SEGMENTS = ("--plane", "segments", "--chunk", 4, "--segment-chunks", 2, "--nodes", 2, "--codec", "ffv1")


@pytest.fixture
def web(samples):
    with serving() as handler:
        handler.files["/cat.mp4"] = samples("bframes.mp4").read_bytes()
        yield handler


def test_a_url_by_ranges_gives_what_the_file_gives(user, web, samples, gates):
    child = user.start("run", f"{web.url}/cat.mp4", "--filter", f"{gates.filter}:hold=8", "-o", "url.mkv", "--source", "ranges",
                       *SEGMENTS, "--job-id", "j")  # fmt: skip
    gates.held(1)
    assert not list((user.share / "jobs/j").rglob("cat.mp4*")), "no copy lies on the share"
    gates.open()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert web.asked
    user.run(samples("bframes.mp4"), "--filter", gates.filter, "-o", "file.mkv", *SEGMENTS)
    same_frames(user.folder / "url.mkv", user.folder / "file.mkv")
    assert user("verify", "url.mkv").code == 0
    assert user.processes() == []


def test_an_input_that_takes_longer_than_the_dead_man_time(user, web):
    """Regression: a collector showed no sign of life while it fetched or measured, and processors went home."""
    web.wait.clear()
    child = user.start(
        "run", f"{web.url}/cat.mp4", "--filter", "invert", "-o", "url.mkv", "--dead-man", 2, "--job-id", "j"
    )
    frontier = user.share / "jobs/j/frontier"
    user.when("j", lambda _: frontier.exists() and Frontier.from_bytes(frontier.read_bytes()).beat > 4)
    web.wait.set()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "dead_man" not in user("logs", "j").out


def test_a_url_that_changes_fails_the_job_with_a_line(user, web):
    web.changes_after = 2  # the launcher asks for one range, the collector for another, then processors do
    made = user("run", f"{web.url}/cat.mp4", "--filter", "invert", "-o", "url.mkv", "--source", "ranges", *SEGMENTS)
    assert made.code == 1
    assert "has changed since the job began" in made.err
    assert "Traceback" not in made.err
    assert not (user.folder / "url.mkv").exists()
    assert user.processes() == []


def test_a_resumed_job_reads_the_version_it_began_with(user, web, gates):
    """And the collector's own copy goes, also that of the killed one."""
    user.env["TMPDIR"] = str(user.folder / "tmp")
    (user.folder / "tmp").mkdir()
    run = ("run", f"{web.url}/cat.mp4", "--filter", f"{gates.filter}:hold=8", "-o", "url.mkv", "--source", "ranges")
    child = user.start(*run, *SEGMENTS, "--job-id", "j")
    gates.held(1)
    now = user.status("j")
    user.kill_all(child, now["nodes"])
    gates.open()
    copies = list((user.folder / "tmp").rglob("cat.mp4"))
    assert len(copies) == 1
    web.tag = '"another"'
    made = user("resume", "j")
    assert made.code == 1
    assert "has changed since the job began" in made.err
    web.tag = '"one"'
    made = user("resume", "j")
    assert made.code == 0, made.err
    assert not list((user.folder / "tmp").rglob("cat.mp4"))
    assert user("verify", "url.mkv").code == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("URL", "--plane", "frames"), "add --plane segments"),
        (("URL",), "add --plane segments"),
        (("FILE", "--plane", "segments"), "leave it out for a file"),
    ],
)
def test_bad_ranges(user, web, samples, args, told):
    source = f"{web.url}/cat.mp4" if args[0] == "URL" else samples("bframes.mp4")
    made = user("run", source, "--filter", "invert", "-o", "x.mp4", "--source", "ranges", *args[1:])
    assert made.code == 2
    assert told in made.err


def test_a_server_without_ranges(user, web):
    web.ranges = False
    made = user(
        "run", f"{web.url}/cat.mp4", "--filter", "invert", "-o", "x.mp4", "--source", "ranges", "--plane", "segments"
    )
    assert made.code == 1
    assert "leave --source at share" in made.err

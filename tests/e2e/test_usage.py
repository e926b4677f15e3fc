"""Bad input gets one clear line, exit code 2 or 1, no traceback, and leaves nothing behind; and what users see else."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from users import VIDCLOUD


@pytest.fixture
def clip(samples):
    return samples("cfr.mp4")


def refused(user, outcome, code=2):
    assert outcome.code == code, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("vidcloud: ")
    assert user.processes() == []
    assert not list(user.share.glob("jobs/*")), "refused before a job was made"
    return lines[0]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nope.mp4", "--filter", "invert"], "no such file"),
        ([".", "--filter", "invert"], "is a directory"),
        (["CLIP", "--filter", "inverr"], "did you mean invert"),
        (["CLIP", "--filter", "./nope.py"], "no filter file"),
        (["CLIP", "--filter", "threshold:low=x"], "must be"),
        (["CLIP", "--filter", "threshold:wrong=1"], "has no parameter wrong"),
        (["CLIP", "--filter", "threshold:low=999"], "must be at most"),
        (["CLIP", "--filter", "invert", "--nodes", "0"], "at least 1"),
        (["CLIP", "--filter", "invert", "--chunk", "0"], "at least 1"),
        (["CLIP", "--filter", "invert", "--codec", "nope"], "no encoder is called nope"),
        (["CLIP", "--filter", "invert", "--codec", "aac"], "encodes audio"),
        (["CLIP", "--filter", "invert", "--pix-fmt", "nope"], "does not take the pixel format nope"),
        (["CLIP", "--filter", "invert", "-e", "nope=1"], "has no option nope"),
        (["CLIP", "--filter", "invert", "-e", "nope"], "must be key=value"),
        (["CLIP", "--filter", "invert", "-o", "no/where.mp4"], "does not exist"),
        (["CLIP", "--filter", "invert", "-o", "out.xyz"], "extension"),
        (["CLIP", "--filter", "invert", "-o", "out.webm"], "can't hold h264"),
        (["CLIP", "--filter", "invert", "-o", "CLIP", "--force"], "would replace the input"),
        (["CLIP", "--filter", "invert", "-o", "."], "is a folder"),
        (["CLIP", "--filter", "invert", "--plane", "nope"], "--plane"),
        (["CLIP", "--filter", "invert", "--plane", "segments", "-e", "b=1M"], "use --plane frames"),
        (["CLIP", "--filter", "invert", "--plane", "segments", "--on-damage", "conceal"], "use --plane frames"),
        (["CLIP", "--filter", "invert", "--pack", "coded", "--on-damage", "conceal"], "use --pack auto"),
        (["CLIP", "--filter", "invert", "--cloud", "nope"], "no cloud"),
        (["CLIP", "--filter", "invert", "--job-id", "../x"], "job id"),
        (["CLIP", "--filter", "invert", "--nodes", "x"], "not a valid integer"),
        (["ftp://host/x.mp4", "--filter", "invert"], "can't use ftp://"),
        (["CLIP"], "Missing option '--filter'"),
    ],
)
def test_what_is_refused(user, clip, args, told):
    assert told in refused(user, user("run", *[str(clip) if a == "CLIP" else a for a in args]))


@pytest.mark.parametrize(
    "name", ["text.mp4", "notes.txt", "empty.mp4", "zeros.mkv", "cut-index.mp4", "audio.m4a", "no-frames.mkv"]
)
def test_what_is_no_video(user, samples, name):
    assert name in refused(user, user("run", samples(name), "--filter", "invert", "-o", "out.mkv"))


def test_an_output_that_exists(user, clip):
    (user.folder / "out.mp4").write_text("mine")
    assert "--force" in refused(user, user("run", clip, "--filter", "invert", "-o", "out.mp4"))
    assert (user.folder / "out.mp4").read_text() == "mine"
    assert user("run", clip, "--filter", "invert", "-o", "out.mp4", "--force").code == 0
    assert (user.folder / "out.mp4").read_bytes()[4:8] == b"ftyp"


def test_an_output_that_appears_meanwhile_is_not_replaced(user, clip, gates):
    child = user.start("run", clip, "--filter", f"{gates.filter}:hold=3", "-o", "out.mp4", "--job-id", "j")
    user.when("j", lambda s: s["state"] == "running")
    (user.folder / "out.mp4").write_text("mine")
    gates.open()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "has appeared meanwhile" in err
    assert (user.folder / "out.mp4").read_text() == "mine"


def test_no_server_and_no_credentials(user, clip):
    assert "can't reach" in refused(user, user("run", "http://127.0.0.1:9/x.mp4", "--filter", "invert"), code=1)
    env = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_CONFIG_FILE": "/none"}
    assert "no credentials" in refused(
        user, user("run", clip, "--filter", "invert", "-o", "s3://b/k.mp4", env=env), code=1
    )


def test_truncated_input_fails_or_is_concealed(user, samples):
    cut = samples("cut.ts")
    failed = user("run", cut, "--filter", "invert", "-o", "out.mp4")
    assert failed.code == 1
    assert "--on-damage conceal" in failed.err
    assert not (user.folder / "out.mp4").exists()
    told = user.run(cut, "--filter", "invert", "-o", "out.mp4", "--on-damage", "conceal")
    assert told["frames"] > 5
    assert told["report"]


def test_a_full_share_is_told_and_the_job_resumed(user, clip):
    """A disk of 2 MB that fills up; needs root to mount one."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", _made(user.share)], check=False).returncode:
        told = "can't mount a tmpfs here: needs root"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(told)
    try:
        failed = user("run", clip, "--filter", "invert", "-o", "out.mkv", "--window", 100, "--chunk", 5,
                      "--job-id", "j", "--codec", "ffv1")  # fmt: skip
        assert failed.code in (0, 1)
        if failed.code:
            assert "is full" in failed.err
            assert "Traceback" not in failed.err
            subprocess.run(["mount", "-o", "remount,size=200m", user.share], check=True)
            assert user("resume", "j").code == 0
        assert user("verify", "out.mkv").code == 0
        assert user.processes() == []
    finally:
        user.when_no_processes()
        subprocess.run(["umount", "-l", user.share], check=True)


def _made(path):
    path.mkdir()
    return path


def test_commands_on_jobs_that_are_not_there(user):
    for args in (
        ["status"],
        ["status", "x"],
        ["logs", "x"],
        ["cancel", "x"],
        ["resume", "x"],
        ["scale", "x", "--nodes", 2],
    ):
        refused(user, user(*args))
    assert user("jobs", "--json").json == []


def test_the_default_output_and_json(user, clip):
    import shutil

    shutil.copy(clip, user.folder / "cat.mp4")
    told = user.run("cat.mp4", "--filter", "invert", "--nodes", 2)
    assert set(told) == {"job", "output", "frames", "seconds", "fps", "plane", "takeovers", "report"}
    assert told["output"] == str(user.folder / "cat.invert.mp4")
    status = user.status(told["job"])
    assert status["state"] == "done"
    frames = dict.fromkeys(["total", "decoded", "filtered", "encoded"], told["frames"]) | {"working": 0}
    assert status["frames"] == frames
    assert {"id", "role", "state", "address", "pid", "chunks"} == set(status["nodes"][0])
    assert [j["job"] for j in user("jobs", "--json").json] == [told["job"]]
    assert user("logs", told["job"], "processor-1").out.splitlines()[0].endswith("node=processor-1")
    assert user("jobs", "--clear").out == "removed 1 records\n"
    assert sorted(p.name for p in user.folder.iterdir()) == [
        "cat.invert.mp4",
        "cat.invert.mp4.proof.json",
        "cat.mp4",
        "share",
    ]


def test_odd_names(user, clip):
    """Names that a shell, a URL, FFmpeg or the user-data line might misread."""
    import shutil

    folder = user.folder / "my films [1] 'quoted' & ü"
    folder.mkdir()
    name = "-cat %d: 100% #1?.mp4"
    shutil.copy(clip, folder / name)
    share = folder / "the share"
    told = user.run(folder / name, "--filter", "invert", "--nodes", 2, "--share", share)
    assert Path(told["output"]).parent == folder
    assert user("verify", told["output"], "--recompute").code == 0


def test_a_folder_called_vidcloud_is_not_the_program(user, clip):
    """As in a checkout into which vidcloud was not installed in place."""
    (user.folder / "vidcloud").mkdir()
    (user.folder / "vidcloud/__init__.py").write_text("raise ImportError('the wrong one')")
    user.run(clip, "--filter", "invert", "-o", "out.mp4")


def test_s3_to_s3(user, clip):
    """With moto's S3 on loopback: the input is fetched, the output and its proof are stored."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        s3 = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
        )
        s3.create_bucket(Bucket="films")
        s3.upload_file(str(clip), "films", "cat.mp4")
        told = user.run("s3://films/cat.mp4", "--filter", "invert", env={**keys, "AWS_ENDPOINT_URL_S3": url})
        assert told["output"] == "s3://films/cat.invert.mp4"
        s3.download_file("films", "cat.invert.mp4", str(user.folder / "got.mp4"))
        s3.download_file("films", "cat.invert.mp4.proof.json", str(user.folder / "got.mp4.proof.json"))
        assert user("verify", "got.mp4").code == 0
        for path in user.share.rglob("*"):
            assert path.is_dir() or "secret" not in path.read_text(errors="replace"), f"a secret in {path}"
    finally:
        server.stop()


def test_help_is_fast():
    """No picture library is imported for it: under 0.15 s of CPU, which is measured in bench/; here by module."""
    code = (
        "import sys, vidcloud.cli.main; print([m for m in ('av', 'cv2', 'numpy', 'boto3', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert subprocess.run([*VIDCLOUD, "--help"], capture_output=True, check=True).stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime >= 0


def test_debug_shows_the_traceback(user):
    failed = user("--debug", "run", "nope.mp4", "--filter", "invert")
    assert "Traceback" in failed.err
    failed = user("run", "nope.mp4", "--filter", "invert", "--debug")
    assert "Traceback" in failed.err

import fcntl
import os
import subprocess
import sys

import pytest

from vidcloud.scratch import scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_it_is_one_s_own_and_goes(temporary):
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "input").write_bytes(b"frames")
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_is_taken_away_and_nothing_else(temporary):
    code = (
        "import os, signal, vidcloud.scratch as s\n"
        "with s.scratch_folder() as folder:\n"
        "    (folder / 'input').write_bytes(b'frames')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}, check=False)
    [left] = temporary.iterdir()
    (temporary / "other").mkdir()
    with scratch_folder() as mine, scratch_folder() as another:
        assert sorted(temporary.iterdir()) == sorted([mine, another, temporary / "other"])
    assert not left.exists()


def test_one_that_is_swept_before_it_is_locked_is_made_again(temporary, monkeypatch):
    lock, swept = fcntl.flock, []

    def overtaken(fd, how):
        if not swept:
            [folder] = temporary.iterdir()
            folder.rmdir()
            swept.append(folder)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert folder != swept[0]

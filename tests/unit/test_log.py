import logging
from pathlib import Path

import pytest

from vidcloud.log import events, setup


@pytest.fixture(autouse=True)
def as_before():
    root = logging.getLogger("vidcloud")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


def test_what_is_logged_goes_to_standard_error_and_to_the_copy(tmp_path, capsys):
    setup(copy=tmp_path / "log")
    events("test")("takeover", unit=3, why="its node is dead")
    told = (tmp_path / "log").read_text()
    assert told.endswith('Z INFO takeover unit=3 why="its node is dead"\n')
    assert capsys.readouterr().err == told


def test_a_copy_that_cannot_be_written_is_no_event(capsys):
    """The share is full, or the collector took the job's files away while a processor spoke its last words."""
    setup(copy=Path("/dev/full"))
    events("test")("lost", unit=3)
    told = capsys.readouterr().err
    assert told.endswith("Z INFO lost unit=3\n")
    assert len(told.splitlines()) == 1

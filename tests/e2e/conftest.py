"""Whole jobs through the command line, as a user runs them; each test has a share of its own and leaves no process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from users import User


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.leave()


@pytest.fixture
def slow(user: User) -> str:
    """A filter that takes its time, so that something can happen meanwhile; the picture is inverted."""
    (user.folder / "slow.py").write_text(
        "import time\n"
        "from vidcloud.filter import YUV, frame_filter, param\n"
        "@frame_filter(formats=YUV)\n"
        "def slow(frame, *, seconds: float = param(0.02, low=0)):\n"
        "    time.sleep(seconds)\n"
        "    return type(frame)(*(255 - plane for plane in frame))\n"
    )
    return "./slow.py:slow"

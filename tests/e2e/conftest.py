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
def uneven(user: User) -> str:
    """A filter that, in the first process to come to frame 0, waits there for a line of the collector's log.

    ``differs`` is added to that frame there. With ``last`` every process waits for another line at the frame of that
    number. Whoever waits for a minute in vain leaves the file ``waited``.
    """
    (user.folder / "uneven.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from vidcloud.filter import YUV, frame_filter, param\n"
        "SHARE = Path(os.environ['VIDCLOUD_SHARE'])\n"
        "def told(line):\n"
        "    for _ in range(1200):\n"
        "        if line in (SHARE / 'jobs/j/logs/collector-1.log').read_text():\n"
        "            return\n"
        "        time.sleep(0.05)\n"
        "    (SHARE.parent / 'waited').touch()\n"
        "def first():\n"
        "    try:\n"
        "        os.close(os.open(SHARE.parent / 'first', os.O_CREAT | os.O_EXCL))\n"
        "    except FileExistsError:\n"
        "        return False\n"
        "    return True\n"
        "@frame_filter(formats=YUV)\n"
        "def uneven(frame, *, at, until: str = '', last: int = param(-1), then: str = '', differs: int = param(0)):\n"
        "    add = 0\n"
        "    if until and at.frame == 0 and first():\n"
        "        told(until)\n"
        "        add = differs\n"
        "    if at.frame == last:\n"
        "        told(then)\n"
        "    return type(frame)(*(255 - plane + add for plane in frame))\n"
    )
    return "./uneven.py:uneven"


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

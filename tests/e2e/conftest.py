"""Whole jobs through the command line, as a user runs them; each test has a share of its own and leaves no process."""

import time
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


class Gates:
    """Where a job's frames wait for a test: whatever the machine's load, a job is no further than the test lets it.

    The filter inverts. Frames from number ``hold`` on wait until `open`; frame ``last`` waits until `finish`.
    """

    def __init__(self, user: User) -> None:
        self._user, self._folder = user, user.share / "gates"
        self._folder.mkdir(parents=True)
        (user.folder / "gated.py").write_text(
            "import os, time\n"
            "from pathlib import Path\n"
            "from vidcloud.filter import YUV, frame_filter, param\n"
            "GATES = Path(os.environ['VIDCLOUD_SHARE'], 'gates')\n"
            "@frame_filter(formats=YUV)\n"
            "def gated(frame, *, at, hold: int = param(1 << 30), last: int = param(-1), seconds: float = param(0.0)):\n"
            "    time.sleep(seconds)\n"
            "    if at.frame >= hold:\n"
            "        (GATES / f'held.{os.getpid()}').touch()\n"
            "    while at.frame >= hold and not (GATES / 'open').exists():\n"
            "        time.sleep(0.02)\n"
            "    while at.frame == last and not (GATES / 'finish').exists():\n"
            "        time.sleep(0.02)\n"
            "    return type(frame)(*(255 - plane for plane in frame))\n"
        )
        self.filter = "./gated.py:gated"

    def held(self, count: int, timeout: float = 120) -> list[int]:
        """Processes that wait at the first gate with a unit in their hands, once there are so many."""
        deadline = time.monotonic() + timeout
        while len(found := sorted(self._folder.glob("held.*"))) < count:
            assert time.monotonic() < deadline, f"only {len(found)} at the gate\n{self._user('logs', 'j').out}"
            time.sleep(0.02)
        return [int(p.suffix[1:]) for p in found]

    def open(self) -> None:
        (self._folder / "open").touch()

    def finish(self) -> None:
        (self._folder / "finish").touch()


@pytest.fixture
def gates(user: User) -> Gates:
    return Gates(user)

"""A share in a folder, a clock of the test's own, a collector's ledger."""

import pytest
from queues import FakeClock, make_ledger

from vidcloud.queue.directory import ShareDirectory


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def share(tmp_path, clock):
    return ShareDirectory(tmp_path, clock)


@pytest.fixture
def ledger(share, clock):
    made = make_ledger(share, clock)
    made.open()
    return made

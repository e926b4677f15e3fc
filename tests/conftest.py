"""What all tests share: `samples` can be imported, and makes files once a session."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).parent / "images.json")  # read when moto is imported

# A shell has what it runs in the background ignore ^C, and so have all below it; tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``samples("vfr.mkv")`` is the path of that sample video (see ``samples.py``)."""
    from samples import sample

    folder = tmp_path_factory.mktemp("samples")
    return lambda name: sample(name, folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Virtual machines take minutes: first, so that nobody waits for them alone at the end."""
    items.sort(key=lambda item: "/tests/vm/" not in str(item.path))

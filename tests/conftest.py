"""What all tests share: `samples` can be imported, and makes files once a session."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``samples("vfr.mkv")`` is the path of that sample video (see ``samples.py``)."""
    from samples import sample

    folder = tmp_path_factory.mktemp("samples")
    return lambda name: sample(name, folder)

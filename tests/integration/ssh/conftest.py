"""Hosts on loopback."""

import pytest
from sshd import lab


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two hosts that answer."""
    with lab(tmp_path_factory.mktemp("lab") / "lab") as made:
        yield made

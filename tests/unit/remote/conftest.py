"""The job that tests of homes begin with."""

import pytest
from homes import site


@pytest.fixture
def begun(tmp_path):
    """A job from a file here to a file here, its site, and where the collector would leave the output."""
    return site(tmp_path)

"""A machine with the share that a mount would bring."""

import pytest
from machines import Machine


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    # What a mount would bring.
    made.stub("mount", f"mkdir -p {made.share}/jobs/j; touch {made.share}/jobs/j/spec.json")
    yield made
    made.leave()

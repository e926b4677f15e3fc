"""Programs that pip installs with the tests: a test is often run by its interpreter alone, without the environment's PATH."""

import sys
from pathlib import Path


def installed(name: str) -> str:
    """Where the environment that runs the tests has a program."""
    return str(Path(sys.executable).with_name(name))

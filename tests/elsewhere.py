"""Programs that can't live in the tests' own environment, each in one of its own."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(name: str, *installs: Sequence[str]) -> Path:
    """The Python of a virtual environment; made once, and kept in the user's cache.

    Args:
        name: of the environment; another one when what it holds changes.
        installs: arguments of ``pip install``, one call each.

    Raises:
        subprocess.CalledProcessError: there is no package index to be reached.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vidcloud-tests"
    base.mkdir(parents=True, exist_ok=True)
    folder = base / name
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may start at once
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
            for arguments in installs:
                pip = [folder / "venv/bin/pip", "install", "-q", "--disable-pip-version-check"]
                subprocess.run([*pip, *arguments], check=True)
            (folder / "whole").touch()
    return folder / "venv/bin/python"

"""What every command finds set up."""

import os
import subprocess
import sys

CODE = """
import os
from vidcloud.cli.main import main
try:
    main(["--version"])
except SystemExit:
    import numpy
    print(len(os.listdir("/proc/self/task")), os.environ["OPENBLAS_NUM_THREADS"])
"""


def told(**given):
    """How many threads a command has once it has imported numpy, and how many its linear algebra may have."""
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | given
    made = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True)
    return made.stdout.splitlines()[-1].split()


def test_numpy_starts_no_threads():
    """They would spin: a tenth of a second of CPU in each of a job's processes."""
    assert told() == ["1", "1"]


def test_who_asks_for_threads_gets_them():
    assert told(OPENBLAS_NUM_THREADS="2")[1] == "2"

"""What every command finds set up."""

import os
import subprocess
import sys

import pytest

CODE = """
import os
from vidcloud.cli.main import main
try:
    main(["--version"])
except SystemExit:
    import numpy
    print(len(os.listdir("/proc/self/task")), os.environ["OPENBLAS_NUM_THREADS"])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")  # noqa: PTH112
@pytest.mark.parametrize(("given", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")])
def test_numpy_has_one_thread_for_linear_algebra_unless_somebody_asks_for_more(given, threads):
    """They spin as numpy is imported: a tenth of a second of CPU in each of a job's processes."""
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | given
    made = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True)
    count, told = made.stdout.splitlines()[-1].split()
    assert told == threads
    if not given:
        assert count == "1"

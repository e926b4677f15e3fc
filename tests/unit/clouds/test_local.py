"""The local cloud, where the launcher is interrupted."""

import signal
import subprocess

import pytest

from vidcloud.clouds import local
from vidcloud.clouds.local import LocalCloud


def test_an_interrupt_while_a_process_starts_leaves_none_that_nobody_knows(tmp_path, monkeypatch):
    """Regression: ^C between the start of a process and its record left it running."""
    for folder in ("instances", "logs"):
        (tmp_path / folder).mkdir()

    def start(log, line):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        signal.raise_signal(signal.SIGINT)
        return child

    monkeypatch.setattr(local, "start_process", start)
    cloud = LocalCloud(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cloud.run_instances("processor", "line", 2)
    [known] = cloud.describe_instances()
    assert known.alive
    cloud.terminate_instances([known.id])
    assert not cloud.describe_instances()[0].alive

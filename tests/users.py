"""A user of the command line, for tests of whole jobs; and what a video holds, read without vidcloud."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

VIDCLOUD = [sys.executable, "-P", "-m", "vidcloud"]


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


class User:
    """Someone at a terminal, with a share and a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.share = folder / "share"
        self.env = {**os.environ, "VIDCLOUD_SHARE": str(self.share), "PYTHONDONTWRITEBYTECODE": "1"}
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *args: Any, env: dict[str, str] | None = None, timeout: float = 120) -> Outcome:
        done = subprocess.run(
            [*VIDCLOUD, *map(str, args)],
            cwd=self.folder, env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *args: Any) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*VIDCLOUD, *map(str, args)],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # A shell that runs the tests in the background lets them ignore ^C; a terminal does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.started.append(child)
        return child

    def run(self, source: Path | str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A job that must succeed; what ``--json`` says."""
        outcome = self("run", source, "--json", *args, **kwargs)
        assert outcome.code == 0, outcome.err
        return outcome.json

    def status(self, job: str) -> dict[str, Any]:
        outcome = self("status", job, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.json

    def when(self, job: str, condition: Callable[[dict[str, Any]], bool], timeout: float = 60) -> dict[str, Any]:
        """The job's status once a condition holds. Reads the share, which is what there is to wait for."""
        from vidcloud.errors import VidcloudError
        from vidcloud.job import find
        from vidcloud.launcher import Launcher
        from vidcloud.sites import open_site

        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            now = None
            with contextlib.suppress(VidcloudError, OSError, ValueError):  # the job is only just being made
                now = Launcher(open_site(find(job, self.share))).status().to_json()
            if now is not None:
                if condition(now):
                    return now
                assert now["state"] not in ("done", "failed", "cancelled"), f"too soon: {now}\n{self('logs', job).out}"
            time.sleep(0.02)
        raise AssertionError(f"never came: {self.status(job)}\n{self('logs', job).out}")

    def when_logged(self, job: str, text: str, count: int = 1, timeout: float = 120) -> None:
        """Return once a job's logs have a text so many times: what was logged stays, what status shows passes by."""
        folder, deadline = self.share / "jobs" / job / "logs", time.monotonic() + timeout
        while sum(p.read_text().count(text) for p in folder.glob("*.log")) < count:
            assert time.monotonic() < deadline, f"never logged: {text!r}\n{self('logs', job).out}"
            time.sleep(0.02)

    def when_no_processes(self, timeout: float = 30) -> None:
        """Return when nothing of this user's runs any more."""
        deadline = time.monotonic() + timeout
        while left := self.processes():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)

    def kill_all(self, child: subprocess.Popen[str], nodes: list[dict[str, Any]]) -> None:
        """Kill a launcher, and after it the nodes that a status told of; return when all are gone."""
        child.kill()
        child.wait()
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node["pid"], signal.SIGKILL)
        self.when_no_processes()

    def processes(self) -> list[int]:
        """Processes that work on this user's share."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if str(self.share) in line and state != "Z":
                        found.append(int(entry.name))
        return found

    def leave(self) -> None:
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def frames_of(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Every frame's samples and time, read by PyAV alone."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pictures.append(_samples(frame))
            times.append(float(frame.pts * frame.time_base))
    return pictures, times


def _samples(frame: av.VideoFrame) -> np.ndarray:
    """All samples of a frame, plane after plane, without the padding of lines; an unused fourth byte is left out."""
    if frame.format.name == "bgr0":
        frame = frame.reformat(format="bgr24")
    deep = frame.format.components[0].bits > 8
    rows = []
    for plane in frame.planes:
        line = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        size = frame.format.padded_bits_per_pixel // 8 if len(frame.planes) == 1 else 1 + deep
        rows.append(line[:, : plane.width * size].reshape(-1))
    flat = np.concatenate(rows)
    return flat.view(np.uint16) if deep else flat


def same_frames(one: Path, other: Path) -> None:
    """Assert that two files have the same frames: number, order, pixels, timestamps."""
    (a, at), (b, bt) = frames_of(one), frames_of(other)
    assert len(a) == len(b)
    assert at == bt
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        assert np.array_equal(x, y), f"frame {n} differs"

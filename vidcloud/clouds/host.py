"""The ssh cloud's part on a host: starts, asks after and ends processes, as told on standard input.

``python -m vidcloud.clouds.host`` is started over ssh by `vidcloud.clouds.ssh`. First it says its version, in one line
of JSON; then it answers each line with one line, until its input ends. What it started goes on.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidcloud import __version__
from vidcloud.clouds.local import start_process
from vidcloud.errors import UsageError
from vidcloud.queue.records import process_start

_GRACE_S = 5.0
_KILLED_S = 5.0

_children: list["subprocess.Popen[bytes]"] = []


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the connection's end is the input's end
    _say({"vidcloud": __version__})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = _VERBS[asked.pop("do")](**asked)
        except OSError as e:
            answer = {"error": f"{e.filename or ''}: {e.strerror}".removeprefix(": ")}
        except UsageError as e:
            answer = {"error": str(e)}
        _say(answer)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _start(job: str, name: str, line: str) -> dict[str, Any]:
    logs = Path(job) / "logs"
    if not logs.is_dir():
        return {"error": f"doesn't see {job}: the share must be mounted there, at that path"}
    child = start_process(logs / f"{name}.log", line)
    _children.append(child)
    # Gone already: any number that no process has had since.
    return {"pid": child.pid, "started": process_start(child.pid) or 0}


def _alive(processes: list[list[int]]) -> dict[str, Any]:
    for child in _children:
        child.poll()
    return {"alive": [process_start(pid) == started for pid, started in processes]}


def _end(processes: list[list[int]], *, drain: bool) -> dict[str, Any]:
    """Ask with SIGTERM; unless draining, insist with SIGKILL, and tell who is left."""
    living = [p for p, alive in zip(processes, _alive(processes)["alive"], strict=True) if alive]
    for pid, _ in living:
        _signal(pid, signal.SIGTERM)
        _signal(pid, signal.SIGCONT)  # a stopped process hears nothing until it goes on
    if drain:
        return {"left": []}
    _gone(living, _GRACE_S)
    for pid, _ in living:
        _signal(pid, signal.SIGKILL)  # also what the first of the group left behind
    return {"left": _gone(living, _KILLED_S)}


def _gone(processes: list[list[int]], within_s: float) -> list[list[int]]:
    deadline = time.monotonic() + within_s
    while (left := [p for p, alive in zip(processes, _alive(processes)["alive"], strict=True) if alive]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    return left


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


_VERBS: dict[str, Callable[..., dict[str, Any]]] = {"start": _start, "alive": _alive, "end": _end}


if __name__ == "__main__":
    main()

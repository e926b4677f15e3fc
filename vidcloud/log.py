"""Log lines: a time, a level, an event's name, its fields. `ARCHITECTURE.md` lists the events."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Copy(logging.FileHandler):
    """A file on the share. What can't be written there is on standard error, without a word more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):  # the share is full, or the job's files were taken away
            super().handleError(record)


def setup(*, verbose: bool = False, copy: Path | None = None) -> None:
    """Send this process's log to standard error, one line an event, times in UTC.

    Args:
        verbose: also what is of interest for debugging only.
        copy: a file that gets every line, too.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if copy is not None:
        handlers.append(_Copy(copy))
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = __import__("time").gmtime
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger("vidcloud")
    root.handlers[:] = handlers
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def events(name: str) -> Callable[..., None]:
    """A function that logs an event with fields: ``event("takeover", unit=3)`` gives ``takeover unit=3``."""
    logger = logging.getLogger(f"vidcloud.{name}")

    def event(kind: str, *, level: int = logging.INFO, **fields: Any) -> None:
        told = " ".join(f"{k}={v if _bare(v) else json.dumps(v, default=str)}" for k, v in fields.items())
        logger.log(level, "%s", f"{kind} {told}".strip())

    return event


def _bare(value: object) -> bool:
    return isinstance(value, (int, float)) or (
        isinstance(value, str) and value != "" and value.isprintable() and " " not in value
    )

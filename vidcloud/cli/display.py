"""What a user sees of a running job: live bars in a terminal, one plain line at intervals elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from vidcloud.sites import NewLines
from vidcloud.status import Status

_LINE_S = 5.0


@contextlib.contextmanager
def open_display(launcher: Any, *, quiet: bool = False, verbose: bool = False) -> Iterator[Callable[[Status], None]]:
    """Something to call with each snapshot of a job.

    Args:
        launcher: the job's launcher, for the nodes' logs.
        quiet: show nothing.
        verbose: print what the nodes log, too.
    """
    logs = _Logs(launcher) if verbose else None
    if quiet:
        yield lambda status: logs.show(status) if logs else None
        return
    with _bars() if sys.stderr.isatty() else contextlib.nullcontext((_plain(), _say)) as (display, say):
        told = False

        def show(status: Status) -> None:
            nonlocal told
            if logs:
                logs.show(status)
            if not told and status.why:
                told = True
                if status.why != "asked for":
                    say(f"{status.job} plane {status.plane}: {status.why}")
            display(status)

        yield show


@contextlib.contextmanager
def upload_bar(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Something to call with the number of bytes that went up, and of all; nothing is shown before the first call."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("input"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("input", visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


def _say(text: str) -> None:
    click.echo(text, err=True)


def line(status: Status, fps: float = 0.0) -> str:
    """A job in one line."""
    total = f"{status.total}" if status.exact else f"about {status.total}" if status.total else "?"
    nodes = sum(n.alive for n in status.nodes if n.role == "processor")
    told = (
        f"{status.job} {status.state}: decoded {_decoded(status)}, filtered {status.filtered + status.working}, "
        f"encoded {status.encoded} of {total}{_in_passes(status)}, {nodes} nodes"
    )
    if fps:
        told += f", {fps:.1f} fps"
    if status.takeovers:
        told += f", {status.takeovers} takeovers"
    return told


def _in_passes(status: Status) -> str:
    return f" in {status.passes} passes" if status.passes > 1 else ""


def _decoded(status: Status) -> int:
    """On the segments plane those who filter decode, and tell how far they are."""
    return max(status.decoded, status.filtered + status.working)


def _moving(status: Status) -> int:
    """What the rate is of: frames are encoded one by one on the frames plane, and a segment at once on the other."""
    return status.filtered + status.working if status.plane == "segments" else status.encoded


class _Rate:
    """Frames a second over the last seconds, smoothed."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def __call__(self, frames: int) -> float:
        now = time.monotonic()
        self._seen = [(t, f) for t, f in self._seen if now - t < 10.0] + [(now, frames)]
        (t0, f0), (t1, f1) = self._seen[0], self._seen[-1]
        return max(0.0, f1 - f0) / (t1 - t0) if t1 > t0 else 0.0  # at the end two passes count as one


def _plain() -> Callable[[Status], None]:
    last, rate = 0.0, _Rate()
    said = ""

    def show(status: Status) -> None:
        nonlocal last, said
        fps, now = rate(_moving(status)), time.monotonic()
        if now - last < _LINE_S and not (status.ended and said):
            return
        last = now
        text = line(status, fps)
        if text != said:
            click.echo(text, err=True)
            said = text

    return show


@contextlib.contextmanager
def _bars() -> Iterator[tuple[Callable[[Status], None], Callable[[str], None]]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.fields[told]}"),
        console=console,
        expand=True,
    )
    tasks = {name: progress.add_task(name, total=None, told="?") for name in ("decoded", "filtered", "encoded")}
    foot, rate = Text(), _Rate()

    with Live(Group(progress, foot), console=console, refresh_per_second=8, transient=False) as live:

        def show(status: Status) -> None:
            total = f"{status.total}" if status.exact else f"~{status.total}"
            done_of = {
                "decoded": _decoded(status),
                "filtered": status.filtered + status.working,
                "encoded": status.encoded,
            }
            for name, task in tasks.items():
                done = done_of[name]
                progress.update(task, completed=done, total=max(status.total, 1), told=total if status.total else "?")
            fps = rate(_moving(status))
            alive = sum(n.alive for n in status.nodes if n.role == "processor")
            parts = [status.job, status.state, f"{fps:.1f} fps", f"{alive} nodes", f"{status.takeovers} takeovers"]
            parts[1] += _in_passes(status)
            if fps > 0 and status.total and not status.ended:
                left = max(0, status.total - _moving(status)) / fps
                parts.insert(3, f"ETA {int(left) // 60}:{int(left) % 60:02d}")
            foot.plain = "  ".join(parts)
            if status.ended:
                live.refresh()

        yield show, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Logs:
    """Prints what nodes log, each line once."""

    def __init__(self, launcher: Any) -> None:
        self._new = NewLines(launcher.site)

    def show(self, status: Status) -> None:
        for node in status.nodes:
            for logged in self._new(node.id):
                click.echo(f"{node.id}: {logged}", err=True)

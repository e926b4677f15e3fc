"""``vidcloud filters``: list, ``new``, ``test`` and ``preview``."""

import json
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidcloud.cli.options import json_option
from vidcloud.errors import EXIT_FAILURE, UsageError

if TYPE_CHECKING:
    from vidcloud.contract import Finding
    from vidcloud.filter import Filter, Parameter


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def filters(ctx: click.Context, as_json: bool) -> None:
    """List, start, test and preview filters. Without a command: list them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_filters, as_json=as_json)


@filters.command("list")
@json_option
def list_filters(as_json: bool) -> None:
    """List the filters of installed packages, with parameters and defaults."""
    from vidcloud import plugins

    found = plugins.available()
    if as_json:
        records = [
            {"name": a.name, "distribution": a.distribution} | (_record(a.filter) if a.filter else {"error": a.error})
            for a in found
        ]
        click.echo(json.dumps(records, indent=1))
        return
    width = max((len(a.name) for a in found), default=0)
    for a in found:
        name = click.style(a.name.ljust(width), bold=True)
        if a.filter is None:
            click.echo(f"{name}  {click.style('can not be used', fg='red')}: {a.error}")
            continue
        click.echo(f"{name}  {summary(a.filter)}")
        for line in _details(a.filter):
            click.echo(f"{' ' * width}  {line}")
    click.echo("\nUse: vidcloud run VIDEO --filter NAME[:key=value,…]; a filter of your own: vidcloud filters new NAME")


@filters.command()
@click.argument("name")
@click.option("--class", "as_class", is_flag=True, help="The long form alone: neighbouring frames, own buffers.")
def new(name: str, as_class: bool) -> None:
    """Write NAME.py, a filter to start from."""
    path = Path(name.removesuffix(".py") + ".py")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", path.stem):
        raise UsageError(f"{path.stem!r} is no name for a filter: use letters, digits, - and _, a letter first")
    text = template(path.stem, as_class=as_class)
    try:
        with path.open("x", encoding="utf-8") as f:
            f.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists: choose another name") from None
    except FileNotFoundError:
        raise UsageError(f"no folder {path.parent}") from None
    shown = path if path.is_absolute() or path.parent != Path() else f"./{path}"
    click.echo(f"{path} written. Next: vidcloud filters test {shown}")


@filters.command()
@click.argument("reference", metavar="FILE|NAME[:key=value,…]")
@json_option
@click.pass_context
def test(ctx: click.Context, reference: str, as_json: bool) -> None:
    """Check that a filter keeps its promises. A FILE without :CLASS has all its filters checked."""
    from vidcloud import plugins
    from vidcloud.contract import PROMISES, check

    records = []
    for resolved in plugins.resolve_each(reference):
        findings = check(resolved.filter)
        records.append(
            {
                "filter": f"{resolved.ref.file}:{resolved.ref.member}" if resolved.ref.file else resolved.ref.member,
                "ok": not findings,
                "promises": [
                    {
                        "promise": key,
                        "ok": _verdict(key, findings),
                        "says": says,
                        "findings": [str(f) for f in findings if f.promise == key],
                    }
                    for key, says in PROMISES.items()
                ],
            }
        )
    if as_json:
        click.echo(json.dumps(records, indent=1))
    else:
        for record in records:
            _print_report(record)
    if not all(record["ok"] for record in records):
        ctx.exit(EXIT_FAILURE)


@filters.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--filter", "texts", multiple=True, metavar="NAME[:k=v,…]", help="A row each.  [default: all filters]")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="sheet.png", show_default=True)
@click.option("--at", "at_s", type=click.FloatRange(min=0), multiple=True, metavar="SECONDS", help="Show this moment.")
@click.option("--frames", type=click.IntRange(1, 20), default=4, show_default=True, help="Moments, evenly spread.")
@click.option("--width", type=click.IntRange(32, 4096), default=320, show_default=True, help="Of one picture.")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
def preview(
    *, video: Path, texts: Sequence[str], output: Path, at_s: Sequence[float], frames: int, width: int, force: bool
) -> None:
    """Draw a contact sheet of VIDEO: a row as it is, and a row as each filter shows it."""
    from vidcloud import plugins
    from vidcloud.chain import Stage
    from vidcloud.preview import Sheet

    stages = [plugins.resolve(text).stage for text in texts]
    if not texts:
        found = plugins.available()
        stages = [Stage(a.name, a.filter) for a in found if a.filter]
        for a in found:
            if a.error:
                click.echo(f"left out: {a.error}", err=True)
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: a contact sheet is a .png file")
    if output.exists() and not force:
        raise UsageError(f"{output} exists: give --force to replace it")
    sheet = Sheet(video, at_s, frames, stages, width)
    sheet.write(output, replace=force)
    click.echo(f"{output}: {len(stages)} filters at {', '.join(f'{t:.2f} s' for t in sheet.times)}")


# -- how filters are shown ---------------------------------------------------------------------------------------------


def summary(shown: "Filter") -> str:
    """The first line of a filter's docstring; empty if it has none of its own."""
    cls = type(shown)
    lines = (cls.__doc__ or "").strip().splitlines()
    # dataclasses write a signature where there is no docstring
    return lines[0].rstrip(".") if lines and not lines[0].startswith(f"{cls.__name__}(") else ""


def _details(shown: "Filter") -> list[str]:
    from vidcloud.filter import parameters

    rows = [(f"{_key(p)}={_value(p.default)}", _bounds(p), p.help) for p in parameters(type(shown))]
    first, second = (max((len(row[k]) for row in rows), default=0) for k in (0, 1))
    lines = [f"{a.ljust(first)}  {b.ljust(second)}  {c}".rstrip() for a, b, c in rows]
    before, after = shown.halo
    halo = f"; needs {before} frames before and {after} after" if before or after else ""
    return [*lines, click.style(f"works in {_formats(shown.formats)}{halo}", dim=True)]


def _formats(formats: Sequence[str]) -> str:
    from vidcloud.filter import YUV, YUV16

    left = list(formats)
    names = []
    for known, name in ((YUV, "planar YUV"), (YUV16, "16-bit planar YUV")):
        if set(known) <= set(left):
            names.append((left.index(known[0]), name))
            left = [None if f in known else f for f in left]  # type: ignore[misc]
    names += [(k, f) for k, f in enumerate(left) if f]
    return ", ".join(name for _, name in sorted(names))


def _key(p: "Parameter") -> str:
    return p.name.replace("_", "-")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(p: "Parameter") -> str:
    if p.choices:
        return "|".join(p.choices)
    low, high = (None if v is None else f"{v:g}" for v in (p.low, p.high))
    if low and high:
        return f"{low}…{high}"
    return f"from {low}" if low else f"to {high}" if high else ""


def _record(shown: "Filter") -> dict[str, Any]:
    from vidcloud.filter import parameters

    return {
        "summary": summary(shown),
        "formats": list(shown.formats),
        "halo": shown.halo._asdict(),
        "parameters": [
            {
                "name": _key(p),
                "type": p.type.__name__,
                "default": p.default,
                "low": p.low,
                "high": p.high,
                "choices": list(p.choices),
                "help": p.help,
            }
            for p in parameters(type(shown))
        ],
    }


def _verdict(promise: str, findings: Sequence["Finding"]) -> bool | None:
    """Whether a promise is kept; None where other findings hid it."""
    from vidcloud.contract import PROMISES

    broken = {f.promise for f in findings}
    if promise in broken:
        return False
    order = list(PROMISES)
    hiding = broken & {"halo", "runs", "shape", "pure"}
    return None if hiding and order.index(promise) > min(order.index(h) for h in hiding) else True


def _print_report(record: dict[str, Any]) -> None:
    click.echo(click.style(record["filter"], bold=True))
    marks = {True: click.style("ok    ", fg="green"), False: click.style("FAILED", fg="red"), None: "unseen"}
    for promise in record["promises"]:
        click.echo(f"  {marks[promise['ok']]}  {promise['says']}")
        for finding in promise["findings"]:
            click.echo(f"            {finding}")


# -- what `filters new` writes -----------------------------------------------------------------------------------------

_HEAD = '''"""{title}: a filter for vidcloud.

    vidcloud filters test ./{stem}.py
    vidcloud filters preview VIDEO --filter ./{stem}.py -o sheet.png
    vidcloud run VIDEO --filter ./{stem}.py:{example} --nodes 4

This one file travels to the nodes: it may import installed packages, but no files that lie beside it.
"""
'''

_SHORT = '''
from vidcloud.filter import frame_filter, param


@frame_filter(formats=("bgr24", "bgr48"))
def {function}(frame, *, amount: float = param(0.5, low=0, high=1, help="how gray it gets")):
    """Take the colour out of the picture."""
    # frame is an array (height, width, 3) in the order blue, green, red, of uint8 (bgr24) or uint16 (bgr48).
    # It can't be written into; return a new one of the same shape and dtype.
    gray = frame.mean(axis=2, keepdims=True)
    return (frame + (gray - frame) * amount).round().astype(frame.dtype)
'''

_LONG = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vidcloud.filter import Filter, Halo, param


@dataclass
class {cls}(Filter):
    """Blend each frame with its neighbours."""

    formats: ClassVar = ("bgr24", "bgr48")
    radius: int = param(1, low=0, high=8, help="frames before and after")

    @property
    def halo(self):
        return Halo(self.radius, self.radius)

    def setup(self, spec):
        # Called once: buffers may be kept between frames, pictures may not.
        self.total = np.empty((spec.height, spec.width, 3), np.float32)

    def apply(self, window, out, at):
        # window holds the frames before, the frame at index self.radius, and those after; all of out must be written.
        self.total[...] = 0
        for frame in window:
            self.total += frame
        np.divide(self.total, len(window), out=self.total)
        np.rint(self.total, out=self.total)
        out[...] = self.total
'''

_MORE = """

# The long form is a class: for neighbouring frames (a halo), own buffers, or speed. To use it, take away the function
# and the marks before these lines.
#
"""


def template(stem: str, *, as_class: bool) -> str:
    """The text of a filter to start from.

    Args:
        stem: the file's name without ``.py``.
        as_class: give the long form alone, not the short form with the long one as a comment.

    Raises:
        UsageError: the name means something in Python or in the text itself.
    """
    words = [w for w in re.split(r"[-_]+", stem) if w]
    function, cls = "_".join(words).lower(), "".join(w[:1].upper() + w[1:] for w in words)
    if keyword.iskeyword(function) or {function, cls} & {"np", "param", "frame_filter", "Filter", "Halo", "ClassVar"}:
        raise UsageError(f"{stem} means something else in Python: choose another name")
    head = _HEAD.format(title=" ".join(words), stem=stem, example="radius=2" if as_class else "amount=0.8")
    long = _LONG.format(cls=cls)
    if as_class:
        return head + long
    marked = "".join(f"# {line}".rstrip() + "\n" for line in long.strip("\n").split("\n"))
    return head + _SHORT.format(function=function) + _MORE + marked

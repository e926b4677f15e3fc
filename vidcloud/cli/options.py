"""Options that several commands share."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vidcloud.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def share_option(command: F) -> F:
    """``--share``."""
    return click.option(
        "--share",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory that all nodes see.  [default: $VIDCLOUD_SHARE or ~/.local/state/vidcloud]",
    )(command)


def cloud_options(command: F) -> F:
    """``--cloud``, ``-o`` and ``--eucarc``, for jobs that were begun on another machine."""
    command = eucarc_option(command)
    for option in reversed(
        [
            click.option("--cloud", help="Where JOB is, if it was begun on another machine."),
            click.option("-o", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of that cloud."),
        ]
    ):
        command = option(command)
    return command


def eucarc_option(command: F) -> F:
    """``--eucarc FILE``, which means ``-o eucarc=FILE``; for commands that take ``pairs``."""

    @functools.wraps(command)
    def with_eucarc(*args: Any, eucarc: str | None, **kwargs: Any) -> Any:
        if eucarc:
            kwargs["pairs"] = (*kwargs["pairs"], f"eucarc={eucarc}")
        return command(*args, **kwargs)

    return eucarc_only(with_eucarc)  # type: ignore[return-value]


def eucarc_only(command: F) -> F:
    """``--eucarc``, as it is."""
    return click.option("--eucarc", metavar="FILE", help="Endpoints and keys of a Eucalyptus; as -o eucarc=FILE.")(
        command
    )


def encoder_options(command: F) -> F:
    """``--codec``, ``--crf``, ``--preset``, ``--pix-fmt``, ``--passes`` and ``-e``."""
    for option in reversed(
        [
            click.option("--codec", default="libx264", show_default=True, help="Encoder, by FFmpeg's name."),
            click.option("--crf", type=float, help="Constant quality.  [default: 20 where the encoder has it]"),
            click.option("--preset", help="Encoder's preset.  [default: medium where the encoder has it]"),
            click.option("--pix-fmt", help="Pixel format of the output.  [default: as the input]"),
            click.option(
                "--passes",
                type=click.IntRange(1, 2),
                default=1,
                show_default=True,
                help="Passes of the encoder; two spread a rate (-e b=4M) better, and take twice the time.",
            ),
            click.option("-e", "encoder", multiple=True, metavar="K=V", help="Any other option of the encoder."),
        ]
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def yes_option(command: F) -> F:
    """``--yes``, for what `confirm_overwriting` asks."""
    return click.option(
        "-y", "--yes", is_flag=True, help="Don't ask whether machines may be overwritten (--cloud metal)."
    )(command)


def confirm_overwriting(cloud: object, count: int, *, yes: bool) -> None:
    """Ask before a cloud that overwrites machines takes ``count`` of them; of other clouds nothing is asked.

    Raises:
        UsageError: there is nobody to ask.
    """
    from vidcloud.clouds.base import Destructive

    if yes or count < 1 or not isinstance(cloud, Destructive):
        return
    machines = cloud.overwrites()
    told = f"{count} of {len(machines)} free machines will be installed anew, their disks overwritten"
    if not sys.stdin.isatty():
        raise UsageError(f"{told}: confirm with --yes (`vidcloud run --dry-run` names them)")
    for line in machines:
        click.echo(f"  {line}", err=True)
    click.confirm(f"{told}, and more if some fail. Go on?", abort=True, err=True)


def key_values(pairs: tuple[str, ...], option: str) -> dict[str, str]:
    """``k=v`` pairs as a dictionary.

    Raises:
        UsageError: one has no ``=``.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {pair}: must be key=value")
        found[key] = value
    return found


def seconds(option: str, age: str) -> float:
    """An age like 30d, in seconds.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", age)
    if not match:
        raise UsageError(f"{option} {age}: must be a number and s, m, h or d, like 30d")
    return float(match[1]) * _UNITS[match[2]]

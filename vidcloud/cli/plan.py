"""``vidcloud plan``."""

import json
from pathlib import Path
from typing import Any

import click

from vidcloud.cli.options import encoder_options, json_option, key_values, share_option
from vidcloud.errors import UsageError


@click.command()
@click.argument("input", metavar="INPUT")
@click.option("--filter", "filters", multiple=True, required=True, metavar="NAME[:k=v,…]",
              help="Filter by name, or FILE.py:NAME; several make a chain.")  # fmt: skip
@click.option("--nodes", default="1,5,20,100", show_default=True, metavar="N,N,…", help="Numbers of processors.")
@click.option(
    "--chunk", default=20, show_default=True, metavar="FRAMES", type=click.IntRange(1), help="Frames a chunk."
)
@click.option("--segment-chunks", default=12, show_default=True, metavar="CHUNKS", type=click.IntRange(1),
              help="Chunks a processor takes at once on the segments plane.")  # fmt: skip
@encoder_options
@click.option("--cloud", type=click.Choice(["local", "machines", "ssh", "ec2", "metal"]), default="local",
              show_default=True, help="All nodes on this machine, or each on one with cores as fast as here; "
              "nobody is asked.")  # fmt: skip
@click.option("-o", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of the cloud, over vidcloud.toml's.")
@click.option("--cores", type=click.IntRange(1), metavar="K",
              help="Cores of a machine.  [default: those of its type where that is known, else as here]")  # fmt: skip
@click.option("--share-speed", type=click.FloatRange(min=0, min_open=True), metavar="MB/S",
              help="What the share carries in all.  [default: as measured on --share]")  # fmt: skip
@click.option("--price", type=click.FloatRange(min=0), metavar="PER-HOUR",
              help="Price of a machine, for the cost.  [default: of EC2's usual types, on demand]")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png",
              help="Draw it (needs vidcloud[plot]).")  # fmt: skip
@share_option
@json_option
def plan(
    input: str,
    filters: tuple[str, ...],
    nodes: str,
    encoder: tuple[str, ...],
    cloud: str,
    pairs: tuple[str, ...],
    cores: int | None,
    share_speed: float | None,
    price: float | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell how long INPUT would take with how many nodes, from a few frames measured here."""
    from vidcloud.planner import machines_of
    from vidcloud.planner import plan as make_plan
    from vidcloud.request import Request

    if plot:
        _pyplot()
    speed = share_speed * 1e6 if share_speed else None
    machines = machines_of(cloud, key_values(pairs, "-o"), cores, speed, price)
    request = Request(input=input, filters=filters, options=key_values(encoder, "-e"), **options)
    made = make_plan(request, _numbers(nodes), machines)
    if as_json:
        click.echo(json.dumps(made.to_json()))
    else:
        _show(made)
    if plot:
        _draw(made, plot)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(n) for n in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise UsageError(f"--nodes {text}: must be numbers from 1 on, such as 1,5,20")
    return found


def _show(made: Any) -> None:
    info, costs = made.info, made.costs
    rate = f", {float(info.average_rate):g} fps" if info.average_rate else ""
    keys = f", {made.keyframes} keyframes" if made.keyframes else ""
    click.echo(f"{info.width}x{info.height} {info.codec}, {made.frames} frames{rate}{keys}")
    click.echo(f"{costs} ({costs.frames} frames measured on one core in {costs.seconds:.1f} s)")
    if made.why:
        click.echo(f"plane frames: {made.why}")
    head = ["nodes", "plane", "fps", "time", "speed-up", "share traffic", "bottleneck"]
    priced = made.machines.prices is not None
    head += ["cost"] if priced else []
    rows = []
    for row in made.rows:
        cells = [str(row.nodes), row.plane, f"{row.fps:.1f}", _time(row.seconds), f"{made.speed_up(row):.1f}"]
        cells += [f"{row.traffic / row.seconds / 1e6:.1f} MB/s", row.bottleneck]
        rows.append(cells + ([f"{made.machines.cost(row):.2f}"] if priced else []))
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    click.echo(f"nodes {made.machines.told}:")
    left = (head.index("plane"), head.index("bottleneck"))
    for cells in [head, *rows]:
        padded = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        click.echo("  " + "  ".join(padded).rstrip())


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{seconds / 60:.1f} min"


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'vidcloud[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _draw(made: Any, path: Path) -> None:
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for plane in ("segments", "frames"):
        rows = sorted((r for r in (*made.rows, *made.others) if r.plane == plane), key=lambda r: r.nodes)
        if rows:
            axes.plot([r.nodes for r in rows], [r.fps for r in rows], marker="o", label=f"{plane} plane")
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="frames a second")
    axes.set_title(f"{made.frames} frames {made.info.width}x{made.info.height}, predicted")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as e:
        raise UsageError(f"can't write the plot {path}: {e}") from e

"""Several values after one flag, as Metaleuca's hands write them."""

import click
import pytest

from vidcloud.cli.metal import _several, _Spread


@click.command(cls=_Spread)
@click.argument("names", nargs=-1)
@_several("-g", "--group", "groups")
@_several("-i", "ips")
@click.option("-n", "count", type=int)
def command(**found):
    return found


def parse(line):
    return command.main(line.split(), standalone_mode=False)


@pytest.mark.parametrize(
    ("line", "names", "groups", "ips", "count"),
    [
        ("", (), (), (), None),
        ("a b -n 2", ("a", "b"), (), (), 2),
        ("-g x y -n 2 a", ("a",), ("x", "y"), (), 2),
        ("-g x -g y -i 1 2", (), ("x", "y"), ("1", "2"), None),
        ("-n 3 --group x y --group=z", (), ("x", "y", "z"), (), 3),
        ("-g x -- a", ("a",), ("x",), (), None),
    ],
)
def test_values(line, names, groups, ips, count):
    assert parse(line) == {"names": names, "groups": groups, "ips": ips, "count": count}


@pytest.mark.parametrize("line", ["-g", "-g -n 2", "-n 2 -i", "-g -g x"])
def test_a_flag_without_a_value_is_refused(line):
    """It would mean any machine instead of some."""
    with pytest.raises(click.UsageError, match="requires an argument"):
        parse(line)

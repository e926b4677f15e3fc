"""How `vidcloud ssh` tells its own options from the command's."""

import re
import shlex
from pathlib import Path

import pytest

from vidcloud.cli.jobs import cancel, ssh
from vidcloud.cli.machines import instances

README = (Path(__file__).parents[2] / "README.md").read_text()


def understood(line):
    """What a command line means."""
    name, *words = shlex.split(line, comments=True)
    assert name == "ssh"
    return ssh.make_context("ssh", words).params


@pytest.mark.parametrize(
    "line",
    [
        "ssh --cloud ec2 -o a=b --eucarc e j n",
        "ssh j n --cloud ec2 -o a=b --eucarc e",
        "ssh j --cloud=ec2 n -o a=b --eucarc=e",
    ],
)
@pytest.mark.parametrize(("more", "command"), [("", ()), (" ls -o --cloud x", ("ls", "-o", "--cloud", "x"))])
def test_options_may_stand_behind_the_names(line, more, command):
    told = understood(line + more)
    assert (told["job"], told["node"], told["cloud"], told["pairs"], told["eucarc"]) == ("j", "n", "ec2", ("a=b",), "e")
    assert told["command"] == command


@pytest.mark.parametrize(
    ("line", "command"),
    [("ssh j n -- --cloud x", ("--cloud", "x")), ("ssh j n -x", ("-x",)), ("ssh j n ls -l", ("ls", "-l"))],
)
def test_what_is_the_commands_stays_the_commands(line, command):
    told = understood(line)
    assert (told["cloud"], told["command"]) == (None, command)


def test_the_readmes_line_is_understood():
    """Regression: its options were run on the node as a command."""
    lines = re.findall(r"^vidcloud (ssh .*)", README, re.MULTILINE)
    assert lines
    for line in lines:
        told = understood(line)
        assert (told["job"], told["node"], told["cloud"], told["command"]) == ("JOB", "NODE", "ec2", ())


@pytest.mark.parametrize("command", [cancel, instances])
def test_an_eucarc_is_an_option_of_the_cloud(command, tmp_path):
    """And is read, like ``-o eucarc=``."""
    from vidcloud.errors import UsageError

    words = ["j", "--cloud", "ec2"] if command is cancel else []
    with pytest.raises(UsageError, match="can't read the eucarc /no/where"):
        command.main([*words, "--eucarc", "/no/where"], standalone_mode=False)

"""The systemd unit of ``metal serve``: systemd understands it, and the program what it is started with."""

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from vidcloud.cli.metal import serve
from vidcloud.metal.config import load

UNIT = Path(__file__).parents[3] / "userdata/vidcloud-metal.service"
KINDS = pytest.mark.parametrize("ec2", [False, True], ids=["as it is", "with --ec2"])


def written(ec2):
    """The unit; with the line that it has for EC2's tools taken in."""
    text = UNIT.read_text()
    return text.replace("#Environment=", "Environment=") if ec2 else text


def read(text):
    """Its sections; of ``Environment`` all that was told, by name."""
    found = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes="#")
    found.optionxform = str
    found.read_string(text)
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith("Environment=")]
    return found, dict(word.split("=", 1) for line in lines for word in shlex.split(line))


@KINDS
def test_the_program_takes_what_it_is_started_with(ec2, monkeypatch, tmp_path):
    unit, environment = read(written(ec2))
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, words[:2], words[-1]) == ("vidcloud", ["metal", "serve"], "$EC2")
    asked = [*words[2:-1], *environment.pop("EC2", "").split()]
    # Its files are not here: only whether there are such options, and what they are.
    for option in serve.params:
        if isinstance(option.type, click.Path):
            monkeypatch.setattr(option.type, "exists", False)
    with serve.make_context("serve", asked) as told:
        given = {name: str(value) for name, value in told.params.items() if value is not None}
    assert given.get("ec2") == ("0.0.0.0:8773" if ec2 else None)
    assert {str(Path(given[key]).parent) for key in given if key not in {"host", "port", "ec2"}} == {"/etc/vidcloud"}
    # Settings are found where it says, and what is written lies where systemd lets it write.
    config = tmp_path / "metal.toml"
    config.write_text('url = "http://127.0.0.1/cobbler_api"\npassword_command = ["true"]\n')
    assert environment["VIDCLOUD_METAL_CONFIG"] == "/etc/vidcloud/metal.toml"
    for name, value in {**environment, "VIDCLOUD_METAL_CONFIG": str(config)}.items():
        monkeypatch.setenv(name, value)
    assert str(load().state_dir) == f"/var/lib/{unit['Service']['StateDirectory']}"


@KINDS
def test_systemd_understands_it(ec2, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NO systemd-analyze")
    copy = tmp_path / UNIT.name
    copy.write_text(written(ec2).replace("/opt/vidcloud/bin/vidcloud", sys.executable))
    done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]  # not of the system's own
    assert (done.returncode, told) == (0, []), done.stderr

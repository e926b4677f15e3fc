"""Machines that a job would overwrite are asked about, before anything begins."""

import os
import pty
import sys
from pathlib import Path

import click
import pytest

from vidcloud.cli.options import confirm_overwriting
from vidcloud.clouds.base import Destructive
from vidcloud.clouds.ec2 import EC2Cloud
from vidcloud.errors import UsageError


class Rack:
    def overwrites(self):
        return ["node01 10.0.0.1 (other, lab)", "node02 10.0.0.2 (other, lab)"]


@pytest.fixture
def stdin(monkeypatch):
    """A terminal's keyboard."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as typed, os.fdopen(theirs, "r") as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        yield typed


def test_nobody_there_means_no(monkeypatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(UsageError, match=r"^2 of 2 free machines will be installed anew.*--yes"):
            confirm_overwriting(Rack(), 2, yes=False)
        confirm_overwriting(Rack(), 2, yes=True)
        confirm_overwriting(Rack(), 0, yes=False)
        confirm_overwriting(object(), 2, yes=False)
    assert not issubclass(EC2Cloud, Destructive)


def test_machines_are_listed_and_asked_about(stdin, capsys):
    stdin.write(b"y\nn\n")
    confirm_overwriting(Rack(), 1, yes=False)
    told = capsys.readouterr().err
    assert "  node02 10.0.0.2 (other, lab)\n" in told
    assert "1 of 2 free machines will be installed anew, their disks overwritten" in told
    with pytest.raises(click.Abort):
        confirm_overwriting(Rack(), 1, yes=False)

"""Plain hosts get the program: a real sshd, ``venv`` and pip, a home of its own, and no package index."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sshd import PLAIN_PYTHON as PLAIN
from sshd import lab, packages

import vidcloud
from vidcloud.clouds import install
from vidcloud.clouds.base import open_cloud
from vidcloud.errors import CloudError
from vidcloud.remote import Target, connect


@pytest.fixture
def site(tmp_path):
    """Two hosts whose logins have one home with nothing in it."""
    home, root = tmp_path / "home", tmp_path / "share/jobs/job"
    home.mkdir()
    for name in ("instances", "logs"):
        (root / name).mkdir(parents=True)
    env = f"HOME={home} PYTHONPATH={packages(tmp_path / 'packages')} PIP_NO_INDEX=1 PIP_CONFIG_FILE=/dev/null"
    with lab(tmp_path / "lab", env=env) as made:
        made.home, made.root, made.base = home, root, home / ".cache/vidcloud"
        made.options = {
            "hosts": ",".join(h.name for h in made.hosts), "key": str(made.key), "known_hosts": str(made.known_hosts),
            "python": PLAIN, "install": "yes",
        }  # fmt: skip
        made.open = lambda **more: open_cloud("ssh", root, {**made.options, **more})
        made.target = Target.parse(made.hosts[0].name, key=made.key, known_hosts=made.known_hosts)
        (tmp_path / "server").mkdir()
        (tmp_path / "server/script").write_text(
            '"$VIDCLOUD_PYTHON" -P -c "import vidcloud.clouds.host as h; print(h.__file__)"\n'
        )
        made.line = f"script file://{tmp_path}/server [ ]"
        yield made


def printed(site, cloud, instance):
    while cloud.describe_instances()[0].state == "running":
        pass
    return cloud.console_output(instance.id)


def test_a_plain_host_gets_the_program_once(site, caplog):
    """What runs there is what was put there; a second command finds it, and makes nothing. What broke off once goes."""
    old, young = site.base / "new-old", site.base / "new-young"
    for path in (old, young):
        path.mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    cloud = site.open()
    (one,) = cloud.run_instances("processor", site.line, 1)
    assert not old.exists()
    young.rmdir()  # somebody else may be at it: it is there still
    (folder,) = site.base.iterdir()
    assert folder.name.startswith(f"{vidcloud.__version__}-")
    assert printed(site, cloud, one).startswith(str(folder / "lib"))
    assert [r.getMessage() for r in caplog.records if "installing" in r.getMessage()] == [
        f"installing host={site.hosts[0].name} at={folder}"
    ]
    made = folder.stat()
    caplog.clear()
    site.open().run_instances("processor", site.line, 2)
    assert "installing" not in caplog.text
    assert [(p.name, p.stat().st_ino, p.stat().st_mtime_ns) for p in site.base.iterdir()] == [
        (folder.name, made.st_ino, made.st_mtime_ns)
    ]


def test_launchers_that_do_it_at_once_end_with_one(site):
    both = threading.Barrier(2)

    def ensure(_):
        with connect(site.target) as remote:
            return install.ensure(remote, "host", PLAIN, lambda _: both.wait(60))

    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(ensure, range(2)))
    (folder,) = site.base.iterdir()
    assert found == {f"{folder}/bin/python"}


def test_without_the_option_it_is_only_named(site):
    cloud = site.open(install="no")
    with pytest.raises(CloudError, match=r"No module named .*vidcloud.*, or give -o install=yes$"):
        cloud.run_instances("processor", site.line, 1)
    assert not site.base.exists()


def test_another_version_is_not_used(site, tmp_path):
    old = tmp_path / "packages/vidcloud/clouds"
    old.mkdir(parents=True)
    (old / "host.py").write_text(f"print({json.dumps({'vidcloud': '0.0.1'})!r}, flush=True)\ninput()\n")
    with pytest.raises(CloudError, match=r"has vidcloud 0\.0\.1, this machine .*, or give -o install=yes$"):
        site.open(install="no").run_instances("processor", site.line, 1)


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        ("exit 127", "there is no Python of version 3.11 or later: name one with -o python="),
        ('case "$*" in *-c*) echo ;; esac', "there is no Python of version 3.11 or later"),
        (f'case "$*" in *"-m venv"*) echo no ensurepip; exit 1 ;; esac; exec {PLAIN} "$@"',
         r"can't make a virtual environment \(Debian: apt install python3-venv\): no ensurepip"),
        (f'exec {PLAIN} "$@"', "pip can't install what vidcloud needs: ERROR: No matching"),
    ],
)  # fmt: skip
def test_a_host_that_can_not(site, tmp_path, fake, why):
    """One line says why, and nothing is left there."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{fake}\n")
    python.chmod(0o755)
    if "pip" in why:
        for path in (tmp_path / "packages").glob("numpy*"):
            path.unlink()
    with pytest.raises(CloudError, match=f"can't install vidcloud on .*{why}") as told:
        site.open(python=str(python)).run_instances("processor", site.line, 1)
    assert "\n" not in str(told.value)
    assert not site.base.exists() or not list(site.base.iterdir())

"""What the ssh cloud does when hosts go; the rest is in `tests/contract/test_cloud.py`."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from sshd import lab

import vidcloud
from vidcloud.clouds import ssh
from vidcloud.clouds.base import open_cloud
from vidcloud.errors import CloudError
from vidcloud.queue.records import process_start


@pytest.fixture
def site(tmp_path):
    """Two hosts, a cloud of them, and a way to start a script on them."""
    with lab(tmp_path / "lab") as made:
        server, root = tmp_path / "server", tmp_path / "share" / "jobs" / "job"
        server.mkdir()
        for name in ("instances", "logs"):
            (root / name).mkdir(parents=True)
        made.options = {
            "hosts": ",".join(h.name for h in made.hosts), "key": str(made.key), "known_hosts": str(made.known_hosts),
            "python": sys.executable,
        }  # fmt: skip
        made.open = lambda **more: open_cloud("ssh", root, {**made.options, **more})
        made.cloud, made.root = made.open(), root

        def run(text, role="processor", cloud=made.cloud, count=1):
            (server / "script").write_text(text)
            return cloud.run_instances(role, f"script file://{server} [ '{{instance}}' 'a b' ]", count)

        made.run = run
        yield made
        for host in made.hosts:
            host.process or host.start()
        cloud = made.open()
        cloud.terminate_instances([i.id for i in cloud.describe_instances()])


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(cloud):
    return {i.id: i.state for i in cloud.describe_instances()}


def test_a_stopped_process_and_all_it_started_are_ended(site):
    (one,) = site.run("trap '' TERM; sleep 1000 & echo child $!; wait\n")
    until(lambda: "child" in site.cloud.console_output(one.id))
    child = int(site.cloud.console_output(one.id).split()[1])
    os.killpg(one.pid, signal.SIGSTOP)
    site.cloud.terminate_instances([one.id])
    assert states(site.cloud) == {one.id: "terminated"}
    until(lambda: process_start(child) is None)


def test_processors_are_spread_and_the_collector_is_on_the_first_host(site):
    site.run("sleep 1000", role="collector")
    site.run("sleep 1000", count=2)
    found = {p.stem: p.read_text() for p in (site.root / "instances").glob("*.json")}
    first, second = (h.name for h in site.hosts)
    assert first in found["collector-1"]
    assert second in found["processor-1"]
    assert first in found["processor-2"]


def test_instances_of_a_lost_host_count_for_nothing_after_a_while(site, monkeypatch):
    """They go on there, and are seen again when the host is back."""
    monkeypatch.setattr(ssh, "_RETRY_S", 0.1)
    monkeypatch.setattr(ssh, "_LOST_S", 0.5)
    one, two = site.run("sleep 1000", count=2)
    assert states(site.cloud) == {one.id: "running", two.id: "running"}
    site.hosts[0].stop()
    assert states(site.cloud)[one.id] == "running", "not at the first failure"
    until(lambda: states(site.cloud) == {one.id: "terminated", two.id: "running"})
    (three,) = site.run("sleep 1000")
    assert site.hosts[1].name in (site.root / "instances" / f"{three.id}.json").read_text()
    assert process_start(one.pid)
    site.hosts[0].start()
    until(lambda: states(site.cloud)[one.id] == "running")


def test_what_can_not_be_ended_is_told(site):
    (one,) = site.run("sleep 1000")
    for host in site.hosts:
        host.stop()
    with pytest.raises(CloudError, match=f"can't end {one.id}: can't reach") as e:
        site.cloud.terminate_instances([one.id])
    assert e.value.left_running == (one.id,)


def test_a_broken_connection_is_made_again(site):
    """The program at its other end is killed; what it started goes on."""
    (one,) = site.run("sleep 1000")
    (parent,) = (
        int(line.split()[1])
        for line in Path(f"/proc/{one.pid}/status").read_text().splitlines()
        if line.startswith("PPid")
    )
    os.kill(parent, signal.SIGKILL)
    until(lambda: process_start(parent) is None)
    time_before = process_start(one.pid)
    assert states(site.cloud) == {one.id: "running"}
    assert process_start(one.pid) == time_before


def test_a_name_is_not_used_again_when_a_start_failed(site):
    """Whether there is a process of that name, nobody knows."""
    with pytest.raises(CloudError, match="doesn't see"):
        site.run("true", cloud=site.open(share="/no/share"))
    (one,) = site.run("sleep 1000")
    assert one.id == "processor-2"
    assert states(site.cloud) == {"processor-1": "terminated", "processor-2": "running"}


def test_another_path_of_the_share_on_the_hosts(site, tmp_path):
    (tmp_path / "elsewhere").symlink_to(tmp_path / "share")
    cloud = site.open(share=str(tmp_path / "elsewhere"))
    (one,) = site.run('echo "$0 $*"', cloud=cloud)
    until(lambda: states(cloud)[one.id] == "terminated")
    assert cloud.console_output(one.id) == f"{tmp_path}/elsewhere/jobs/job/scripts/script {one.id} a b\n"


def test_another_version_on_a_host(site, monkeypatch):
    monkeypatch.setattr(ssh, "__version__", "99.0")
    with pytest.raises(CloudError, match=f"has vidcloud {vidcloud.__version__}, this machine 99.0: install the same"):
        site.run("true")


def test_a_shell_that_says_something_first(site, tmp_path):
    noisy = tmp_path / "noisy python"
    noisy.write_text(f'#!/bin/sh\necho "Welcome to the lab"\necho 7\nexec {sys.executable} "$@"\n')
    noisy.chmod(0o755)
    (one,) = site.run("sleep 1000", cloud=site.open(python=str(noisy)))
    assert one.state == "running"


def test_login(site):
    (one,) = site.run("true")
    target = site.cloud.login(one.id)
    assert (target.host, target.port, target.key) == ("127.0.0.1", site.hosts[0].port, site.key)


def test_processes_of_another_launchers_machine_are_left_alone(site, monkeypatch):
    """Their ids mean nothing here."""
    cloud = site.open(collector="local")
    (one,) = site.run("sleep 1000", role="collector", cloud=cloud)
    with monkeypatch.context() as m:
        m.setattr(socket, "gethostname", lambda: "another")
        assert states(site.open(collector="local")) == {one.id: "terminated"}
        site.open(collector="local").terminate_instances([one.id])
    assert states(site.open(collector="local")) == {one.id: "running"}


def test_a_host_whose_key_changes_is_a_lost_one(site, monkeypatch):
    """At the start that is refused; but a job that runs goes on with the other hosts."""
    monkeypatch.setattr(ssh, "_RETRY_S", 0)
    cloud = site.open(slots="2")
    site.run("sleep 1000", cloud=cloud, count=2)
    site.hosts[0].stop()
    other = site.hosts[1].key
    site.known_hosts.write_text("".join(f"[127.0.0.1]:{h.port} {other}\n" for h in site.hosts))
    site.hosts[0].start()
    (three,) = site.run("sleep 1000", cloud=cloud)
    assert site.hosts[1].name in (site.root / "instances" / f"{three.id}.json").read_text()
    try:
        with pytest.raises(CloudError, match="it may be another machine"):
            site.run("sleep 1000", cloud=site.open(slots="2"))
    finally:
        site.learn()

"""What a launcher needs of a cloud; every cloud that can run here runs this suite."""

import sys
import time
from pathlib import Path

import pytest
from sshd import lab

from vidcloud.clouds.base import open_cloud
from vidcloud.errors import UsageError


class Site:
    """A cloud for one job, and a file server with scripts."""

    def __init__(self, folder, name, options):
        self.name, self.options = name, options
        self.server = folder / "server"
        self.server.mkdir()
        self.root = folder / "job"
        for part in ("instances", "logs"):
            (self.root / part).mkdir(parents=True)
        self.cloud = self.open()

    def open(self):
        return open_cloud(self.name, self.root, self.options)

    def script(self, name, text):
        (self.server / name).write_text(f"#!/bin/sh\n{text}\n")

    def run(self, script, *arguments, role="processor", count=1):
        line = f"{script} file://{self.server} [ {' '.join(arguments)} ]"
        return self.cloud.run_instances(role, line, count)

    def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.cloud.describe_instances()
            time.sleep(0.02)

    def states(self):
        return {i.id: i.state for i in self.cloud.describe_instances()}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("lab") / "lab") as made:
        yield made


@pytest.fixture(params=["local", "ssh"])
def site(tmp_path, request):
    options = {}
    if request.param == "ssh":
        hosts = request.getfixturevalue("hosts")
        options = {
            "hosts": ",".join(h.name for h in hosts.hosts), "key": str(hosts.key), "slots": "2",
            "known_hosts": str(hosts.known_hosts), "python": sys.executable,
        }  # fmt: skip
    made = Site(tmp_path, request.param, options)
    made.script("wait", 'echo "ready $*"; trap "exit 0" TERM; while :; do sleep 0.05; done')
    made.script("stubborn", 'echo "ready"; trap "" TERM; while :; do sleep 0.05; done')
    made.script("end", 'echo "$*"; echo "to stderr" >&2')
    yield made
    made.cloud.terminate_instances([i.id for i in made.cloud.describe_instances()])


def test_an_instance_runs_the_script_with_its_arguments(site):
    (instance,) = site.run("end", "one", "'two words'", "{instance}")
    site.until(lambda: site.states()[instance.id] == "terminated")
    assert site.cloud.console_output(instance.id) == f"one two words {instance.id}\nto stderr\n"


def test_instances_are_described_in_order_and_by_role(site):
    site.run("wait", role="collector")
    site.run("wait", count=2)
    found = site.cloud.describe_instances()
    assert [i.role for i in found] == ["collector", "processor", "processor"]
    assert all(i.state == "running" and i.alive and i.pid and i.address for i in found)
    assert len({i.id for i in found}) == 3


def test_another_command_sees_them(site):
    (instance,) = site.run("wait")
    other = site.open()
    assert other.describe_instances()[0].id == instance.id
    other.terminate_instances([instance.id])
    assert site.states() == {instance.id: "terminated"}


def test_ids_are_never_used_again(site):
    (first,) = site.run("end")
    site.until(lambda: site.states()[first.id] == "terminated")
    (second,) = site.run("end")
    assert first.id != second.id


def test_terminate_insists(site):
    (instance,) = site.run("stubborn")
    site.until(lambda: "ready" in site.cloud.console_output(instance.id))
    site.cloud.terminate_instances([instance.id])
    assert site.states() == {instance.id: "terminated"}
    site.cloud.terminate_instances([instance.id, "unknown"])


def test_drain_asks_and_does_not_wait(site):
    one, two = site.run("stubborn"), site.run("wait")
    site.until(lambda: all("ready" in site.cloud.console_output(i.id) for i in (*one, *two)))
    site.cloud.terminate_instances([one[0].id, two[0].id], drain=True)
    assert site.states()[one[0].id] == "shutting-down"
    site.until(lambda: site.states()[two[0].id] == "terminated")
    assert not site.cloud.describe_instances()[0].alive


def test_reboot_runs_the_same_line(site):
    (instance,) = site.run("wait", "x")
    site.until(lambda: "ready" in site.cloud.console_output(instance.id))
    site.cloud.reboot_instances([instance.id])
    last = site.cloud.describe_instances()[-1]
    site.until(lambda: site.cloud.console_output(last.id).startswith("ready x"))
    assert last.state == "running"


def test_a_script_that_is_not_there(site):
    (instance,) = site.run("nothing")
    site.until(lambda: site.states()[instance.id] == "terminated")
    assert "has no script nothing" in site.cloud.console_output(instance.id)


def test_no_such_cloud():
    with pytest.raises(UsageError, match="no cloud 'mars'"):
        open_cloud("mars", Path("/x"))

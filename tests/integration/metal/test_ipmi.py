"""Power for real: cobblerd, the fence agent fence_ipmilan, ipmitool, and a BMC that speaks IPMI 2.0.

The BMCs, which listen at all addresses and know one password, are in a network namespace of their own, as on a management
network; so is what asks them. What it needs comes with tests/testbed/install (fence-agents, ipmitool) and the test extra (pyghmi).
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import MACHINES, connect

from vidcloud.metal.reservations import Request

LOGIN = {"power_user": "admin", "power_pass": "password"}  # fakebmc knows these only
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def require() -> None:
    """Skip where the chain can't be had, loudly; where ``VIDCLOUD_TESTBED=require``, fail."""
    lacking = [p for p in ("fence_ipmilan", "ipmitool", "unshare", "nsenter", "ip") if not shutil.which(p, path=PATH)]
    why = f"no {', '.join(lacking)}: tests/testbed/install brings them" if lacking else ""
    if os.geteuid() != 0:
        why = "needs root, for a network namespace"
    if not why:
        return
    if os.environ.get("VIDCLOUD_TESTBED") == "require":
        pytest.fail(f"IPMI must be tested here: {why}")
    pytest.skip(f"NO IPMI: {why}")


class Network:
    """A network namespace with nothing but loopback; it ends with this process at the latest."""

    def __init__(self):
        up = "ip link set lo up && echo up && exec cat"  # cat ends when nobody is there to write to it
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", up],
            env={**os.environ, "PATH": PATH}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        assert self._holder.stdout.readline() == "up\n"

    def end(self):
        self._holder.communicate()


class Bmc:
    """pyghmi's fakebmc, as a process; its machine is off at first."""

    def __init__(self, folder, network, port):
        self.port, self._enter = port, network.enter
        self._log = folder / f"bmc-{port}"
        self._process = None

    def start(self):
        fake = "import sys; from pyghmi.cmd.fakebmc import main; sys.exit(main())"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._enter, sys.executable, "-u", "-c", fake, "--port", str(self.port)], stdout=log, stderr=log
            )
        until = time.monotonic() + 60
        while self.asked("status") is None:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, "the BMC never answered"

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def asked(self, *words):
        """What ipmitool is told, past Cobbler and the agent; None if the BMC does not answer."""
        told = subprocess.run(
            [*self._enter, "ipmitool", "-I", "lanplus", "-H", "127.0.0.1", "-p", str(self.port), "-U", LOGIN["power_user"], "-E", "power", *words],
            env={**os.environ, "PATH": PATH, "IPMI_PASSWORD": LOGIN["power_pass"]},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        return told.stdout.strip() if told.returncode == 0 else None

    def is_on(self):
        told = self.asked("status")
        assert told in {"Chassis Power is on", "Chassis Power is off"}
        return told.endswith("on")

    def done(self):
        """What its machine went through, in order."""
        words = {"powered on": "on", "abruptly remove power": "off"}
        return [words[line] for line in self._log.read_text().splitlines() if line in words]


@pytest.fixture
def bmcs(daemon, tmp_path):
    """``bmcs("rack1", ...)``: machines of the real cobblerd, each with a BMC that runs."""
    require()
    token = daemon.api.login("cobbler", "cobbler")
    with contextlib.ExitStack() as ends:
        network = Network()
        ends.callback(network.end)
        agent, usual = daemon.root / "usr/sbin/fence_ipmilan", shutil.which("fence_ipmilan", path=PATH)
        agent.write_text(f'#!/bin/sh\nexec {" ".join(network.enter)} {usual} "$@"\n')
        agent.chmod(0o755)
        ports = itertools.count(623)

        def edit(how, fields):
            daemon.api.xapi_object_edit("system", fields["name"], how, fields, token)

        def make(*names, options="", **fields):
            made = []
            for name in names:
                bmc = Bmc(tmp_path, network, next(ports))
                ends.callback(bmc.stop)
                bmc.start()
                power = {
                    "power_type": "ipmilan", "power_address": "127.0.0.1", **LOGIN,
                    "power_options": f"lanplus=1\nipport={bmc.port}\n{options}", **fields,
                }  # fmt: skip
                if name in MACHINES:  # it has another power switch meanwhile
                    was = daemon.api.get_system(name)
                    ends.callback(edit, "edit", {"name": name, **{key: was[key] for key in power}})
                    edit("edit", {"name": name, **power})
                else:
                    edit("add", {"name": name, "profile": "other", "netboot_enabled": False, **power})
                    ends.callback(daemon.api.remove_system, name, token)  # other tests count machines
                made.append(bmc)
            return made

        yield make


def test_power_goes_all_the_way_to_the_bmc(daemon, bmcs):
    cobbler = connect(daemon)
    (bmc,) = bmcs("rack1")
    assert not cobbler.is_on("rack1")

    assert cobbler.power(["rack1"], "on") == {}
    assert bmc.is_on()
    assert cobbler.is_on("rack1")

    assert cobbler.power(["rack1"], "reboot") == {}
    assert bmc.is_on()

    assert cobbler.power(["rack1"], "off") == {}
    assert not bmc.is_on()
    assert not cobbler.is_on("rack1")
    assert bmc.done() == ["on", "off", "on", "off"], "a reboot is off and on, for the agent knows no other"


def test_a_bmc_that_is_gone_is_told_by_name_and_the_others_are_switched(daemon, bmcs):
    cobbler = connect(daemon)
    (here,) = bmcs("rack1")
    (gone,) = bmcs("rack2", options="power_timeout=4")  # of 20 s; Cobbler tries three times
    gone.stop()
    errors = cobbler.power(["rack1", "rack2"], "on", tries=1)
    assert list(errors) == ["rack2"]
    assert "Cobbler: command failed (rc=1)" in errors["rack2"]
    assert here.is_on()

    gone.start()  # plugged in again: the same request now does it
    assert cobbler.power(["rack1", "rack2"], "on") == {}
    assert gone.is_on()


def test_a_wrong_password_switches_nothing(daemon, bmcs):
    cobbler = connect(daemon)
    (bmc,) = bmcs("rack1", power_pass="guess")
    errors = cobbler.power(["rack1"], "on", tries=1)
    assert "Cobbler: command failed" in errors["rack1"]
    assert not bmc.is_on()


def test_the_life_of_an_instance_through_a_bmc(cobbler, bmcs, instances, hosts):
    """Reserved, power cycled, installed, running; and without power when it is free again."""
    (bmc,) = bmcs("spare")
    ann = instances("ann")
    ann.run(Request("ann", names=("spare",)), "debian")
    assert bmc.is_on()
    assert [(i.name, i.state) for i in ann.describe()] == [("spare", "pending")]
    hosts._boot("spare")  # what has power boots
    assert hosts.fetched == [("spare", "debian")]
    assert [(i.name, i.state) for i in ann.describe()] == [("spare", "running")]
    ann.reboot(["spare"])
    assert bmc.is_on()
    ann.terminate(["spare"])
    assert not bmc.is_on()
    assert (cobbler.system("spare").get("user"), cobbler.system("spare").profile) == ("", "other")
    assert bmc.done()[-4:] == ["on", "off", "on", "off"], "started, off and on again, ended"
    assert not hosts.calls("spare"), "no other switch was used"

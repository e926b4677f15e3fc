"""Power for real: cobblerd, the fence agent fence_ipmilan, ipmitool, and a BMC that speaks IPMI 2.0 on loopback.

What it needs comes with tests/testbed/install (fence-agents, ipmitool) and the test extra (pyghmi).
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from conftest import connect

LOGIN = {"power_user": "admin", "power_pass": "password"}  # fakebmc knows these only
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def require() -> None:
    """Skip where the chain can't be had, loudly; where ``VIDCLOUD_TESTBED=require``, fail."""
    lacking = [p for p in ("fence_ipmilan", "ipmitool") if not shutil.which(p, path=PATH)]
    if not lacking:
        return
    why = f"no {', '.join(lacking)}: tests/testbed/install brings them"
    if os.environ.get("VIDCLOUD_TESTBED") == "require":
        pytest.fail(f"IPMI must be tested here: {why}")
    pytest.skip(f"NO IPMI: {why}")


class Bmc:
    """pyghmi's fakebmc, as a process; its machine is off at first."""

    def __init__(self, folder):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::", 0))
            self.port = s.getsockname()[1]
        self._log = folder / f"bmc-{self.port}"
        self._process = None

    def start(self):
        fake = "import sys; from pyghmi.cmd.fakebmc import main; sys.exit(main())"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", fake, "--port", str(self.port)], stdout=log, stderr=log
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
            ["ipmitool", "-I", "lanplus", "-H", "127.0.0.1", "-p", str(self.port), "-U", LOGIN["power_user"], "-E", "power", *words],
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
    agent = daemon.root / "usr/sbin/fence_ipmilan"
    if not agent.exists():
        agent.symlink_to(shutil.which("fence_ipmilan", path=PATH))
    token = daemon.api.login("cobbler", "cobbler")
    with contextlib.ExitStack() as ends:

        def make(*names, options="", **fields):
            made = []
            for name in names:
                bmc = Bmc(tmp_path)
                ends.callback(bmc.stop)
                bmc.start()
                known = {
                    "name": name, "profile": "other", "netboot_enabled": False, "power_type": "ipmilan",
                    "power_address": "127.0.0.1", "power_options": f"lanplus=1\nipport={bmc.port}\n{options}", **LOGIN, **fields,
                }  # fmt: skip
                daemon.api.xapi_object_edit("system", name, "add", known, token)
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

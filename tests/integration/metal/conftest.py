"""One real cobblerd a test process, with hosts that boot; machines are free again before each test."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from vidcloud.metal.cobbler import Cobbler
from vidcloud.metal.ec2.door import Door
from vidcloud.metal.ec2.signature import AccessKey
from vidcloud.metal.ec2.zone import Zone
from vidcloud.metal.instances import Instances
from vidcloud.metal.reservations import LockedReservations

sys.path.insert(0, str(Path(__file__).parent))

MACHINES = {
    "node01": ("10.111.5.1", "test01"),
    "node02": ("10.111.5.2", "test01"),
    "node03": ("10.111.5.3", "test01"),
    "node16": ("10.111.5.16", "test02"),
    "node1": ("10.111.5.101", "test02"),
    "spare": ("10.111.6.1", ""),
}
POOL = [name for name, (_, group) in MACHINES.items() if group]
KEYS = {"ANN": AccessKey("ann's very secret", "ann"), "BOB": AccessKey("bob's very secret", "bob")}


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    from cobblerd import Cobblerd

    try:
        daemon = Cobblerd(tmp_path_factory.mktemp("cobbler") / "root")
    except subprocess.CalledProcessError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"can't install Cobbler: {e}")
    daemon.start()
    daemon.furnish(MACHINES)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def running_hosts(daemon):
    from hosts import Hosts

    hosts = Hosts(daemon, {name: ip for name, (ip, _) in MACHINES.items()})
    yield hosts
    hosts.end()


def connect(daemon, **more):
    return Cobbler(daemon.url, "cobbler", lambda: "cobbler", **more)


@pytest.fixture
def cobbler(daemon, hosts):
    client = connect(daemon)
    for system in client.systems():
        if set(system.meta) - {"site_rack", "vidcloud_group"} or system.netboot or system.profile != "other":
            meta = {k.removeprefix("vidcloud_"): None for k in system.meta if k.startswith("vidcloud_")}
            meta |= {"group": MACHINES[system.name][1] or None}
            client.update(system.name, meta=meta, profile="other", netboot=False)
        (daemon.root / "machines" / system.name / "deaf").unlink(missing_ok=True)
    return client


@pytest.fixture
def hosts(running_hosts, monkeypatch):
    running_hosts.forget()
    monkeypatch.setenv("PATH", f"{running_hosts.bin}:{os.environ['PATH']}")
    return running_hosts


def silent(hosts, *names):
    """Wait until machines that were switched off answer no more."""
    with hosts._changed:
        assert hosts._changed.wait_for(lambda: not any(hosts.probe(MACHINES[name][0]) for name in names), 20)


@pytest.fixture
def reservations(cobbler, tmp_path):
    return LockedReservations(cobbler, tmp_path / "state", "tester@here")


@pytest.fixture
def instances(cobbler, reservations, hosts):
    """``instances("ann")`` acts in Ann's name."""

    def make(user, **more):
        return Instances(cobbler, reservations, user, hosts.probe, poll_s=0.02, **{"power_tries": 1, **more})

    return make


@pytest.fixture
def door(cobbler, reservations, instances):
    with Door(("127.0.0.1", 0), Zone(cobbler, reservations, instances), KEYS, timeout_s=5) as door:
        thread = threading.Thread(target=door.serve_forever, args=(0.02,))
        thread.start()
        yield door
        door.shutdown()
        thread.join()


@pytest.fixture
def client(door):
    def make(key="ANN", secret=None):
        return boto3.client(
            "ec2",
            endpoint_url=door.url,
            region_name="metal",
            aws_access_key_id=key,
            aws_secret_access_key=secret or KEYS[key].secret,
            config=Config(retries={"total_max_attempts": 1}),
        )

    return make


@pytest.fixture
def ec2(client):
    return client()

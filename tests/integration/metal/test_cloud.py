"""The metal cloud as a launcher uses it, on hosts that boot, through a real cobblerd."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import silent

from vidcloud.clouds.base import Destructive
from vidcloud.clouds.metal import MetalCloud
from vidcloud.clouds.settings import MetalSettings
from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.config import MetalConfig
from vidcloud.metal.reservations import Request

LINE = "processor s3://x [ --node {instance} ]"


@pytest.fixture
def job(cobbler, instances, monkeypatch):
    """``job(groups=("test01",))`` is the cloud of Ann's job ``j``; it looks after machines at each question."""
    monkeypatch.setattr("vidcloud.clouds.metal._LOOK_S", 0.0)

    def make(install_timeout_s=3600.0, home="s3://b/j", **settings):
        config = MetalConfig(user="ann", wipe_profile="wipe", install_timeout_s=install_timeout_s)
        mine = instances("ann", install_timeout_s=install_timeout_s)
        connection = SimpleNamespace(config=config, cobbler=cobbler, instances=lambda user: mine)
        given = {"profile": "debian", "bucket": "s3://b", **settings}
        return MetalCloud("j", MetalSettings(**given), home, connection)

    return make


def states(cloud):
    return {i.address: i.state for i in cloud.describe_instances()}


def test_collector_and_processors_have_profiles_and_lines_of_their_own(job, hosts, cobbler):
    cloud = job(groups=("test01",), collector_profile="other")
    [lead] = cloud.run_instances("collector", "collector s3://x [ --node {instance} ]", 1)
    others = cloud.run_instances("processor", LINE, 2)
    hosts.settle("node01", "node02", "node03", times=2)
    assert sorted(hosts.fetched) == [("node01", "other"), ("node02", "debian"), ("node03", "debian")]
    assert set(states(cloud).values()) == {"running"}
    for instance in (lead, *others):
        [system] = [s for s in cobbler.systems() if s.ip == instance.address]
        line = base64.b64decode(system.get("line")).decode()
        assert line == f"{instance.role} s3://x [ --node {instance.id} ]"


def test_machines_by_name_are_taken_in_their_order_and_no_others(job, cobbler):
    """Also one in no group: it was named."""
    cloud = job(machines=("node16", "10.111.6.1"))
    assert cloud.overwrites() == ["node16 10.111.5.16 (other, test02)", "spare 10.111.6.1 (other)"]
    with pytest.raises(CloudError, match="3 machines wanted, 2 free of those named"):
        cloud.run_instances("processor", LINE, 3)
    assert [i.address for i in cloud.run_instances("processor", LINE, 2)] == ["10.111.5.16", "10.111.6.1"]
    assert {s.name for s in cobbler.systems() if s.get("user")} == {"node16", "spare"}


def test_without_groups_a_machine_in_none_is_left_alone(job, cobbler):
    cloud = job()
    assert not any("spare" in line for line in (*cloud.preview(1), *cloud.overwrites()))
    with pytest.raises(CloudError, match="6 machines wanted, 5 free"):
        cloud.run_instances("processor", LINE, 6)
    cloud.run_instances("processor", LINE, 5)
    assert not cobbler.system("spare").get("user")


def test_an_install_that_fails_is_replaced_by_another_machine(job, hosts, cobbler):
    """The failed one counts as gone and stays reserved, for a look, until the job ends."""
    hosts.kinds = {"node01": "hang"}
    cloud = job(install_timeout_s=2.0, groups=("test01",))
    cloud.run_instances("processor", LINE, 1)
    hosts.settle("node01")
    while states(cloud) == {"10.111.5.1": "pending"}:
        pass
    assert states(cloud) == {"10.111.5.1": "shutting-down"}
    [failed] = cloud.describe_instances()
    assert "never called back" in cloud.console_output(failed.id)
    cloud.run_instances("processor", LINE, 1)
    hosts.settle("node02", times=2)
    assert states(cloud) == {"10.111.5.1": "shutting-down", "10.111.5.2": "running"}
    assert cobbler.system("node01").get("state") == "failed"
    cloud.terminate_instances([i.id for i in cloud.describe_instances()])
    assert set(states(cloud).values()) == {"terminated"}
    assert not [s.name for s in cobbler.systems() if s.get("user")]


def test_disks_are_wiped_before_a_machine_is_given_back(job, hosts, cobbler):
    cloud = job(groups=("test01",), wipe=True)
    one, two = cloud.run_instances("processor", LINE, 2)
    hosts.settle("node01", "node02", times=2)
    assert set(states(cloud).values()) == {"running"}
    cloud.terminate_instances([one.id])
    assert hosts.fetched[-1] == ("node01", "wipe")
    cobbler.power(["node02"], "off")
    silent(hosts, "node02")
    assert states(cloud)[two.address] == "terminated", "one that went off by itself, too"
    assert ("node02", "wipe") in hosts.fetched
    assert [(s.get("user"), s.profile, cobbler.is_on(s.name)) for s in cobbler.systems() if s.name in {"node01", "node02"}] == [("", "other", False)] * 2  # fmt: skip


def test_a_machine_that_is_rebooted_is_the_same_instance(job, hosts, cobbler, monkeypatch):
    """It boots from its disk, and who looks in the seconds without power gives nothing back."""
    cloud, usual, seen = job(groups=("test01",)), cobbler.power, []
    [before] = cloud.run_instances("processor", LINE, 1)
    hosts.settle("node01", times=2)
    assert set(states(cloud).values()) == {"running"}
    line = cobbler.system("node01").get("line")

    def power(names, operation, tries=3):
        names = list(names)
        usual(names, "off", tries)
        silent(hosts, "node01")
        seen.append(states(job(groups=("test01",))))
        return usual(names, "on", tries)

    monkeypatch.setattr(cobbler, "power", power)
    cloud.reboot_instances([before.id])
    hosts.settle("node01")
    assert seen == [{"10.111.5.1": "running"}]
    assert [(i.id, i.state) for i in cloud.describe_instances()] == [(before.id, "running")]
    assert cobbler.system("node01").get("line") == line
    assert hosts.fetched == [("node01", "debian")]


def test_who_looks_while_machines_are_being_reserved_sees_all_or_none(job, hosts, cobbler, monkeypatch):
    """Regression: a supervisor saw one of the two machines that `scale` had asked for, and asked for another."""
    cloud, update, systems = job(groups=("test01",)), cobbler.update, cobbler.systems
    reserved, seen = threading.Event(), threading.Event()

    def reserves(name, **change):
        if name == "node02" and not reserved.is_set():
            reserved.set()
            assert seen.wait(30)
        return update(name, **change)

    def looks():
        found = systems()
        if reserved.is_set():
            seen.set()
        return found

    monkeypatch.setattr(cobbler, "update", reserves)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(cloud.run_instances, "processor", LINE, 2)
        assert reserved.wait(30)
        monkeypatch.setattr(cobbler, "systems", looks)
        assert set(states(job(groups=("test01",)))) == {"10.111.5.1", "10.111.5.2"}
        assert len(started.result()) == 2


def test_what_is_encrypted_is_shown_before(job):
    told = job(groups=("test01",), encrypt=True, encrypted=True, s3_endpoint_url="http://s3").preview(2)
    assert "encrypted: NFS between nodes through TLS, objects at rest" in told
    assert "not encrypted: the way to http://s3, by which input, output and the job's key go" in told
    assert "3 machines of test01: 3 are free" in told
    assert "may be installed anew, their disks overwritten: node01, node02, node03" in told
    assert not any("encrypted" in line for line in job().preview(2))


def test_it_says_what_it_would_overwrite(job):
    cloud = job(groups=("test02",))
    assert isinstance(cloud, Destructive)
    assert cloud.overwrites() == ["node1 10.111.5.101 (other, test02)", "node16 10.111.5.16 (other, test02)"]
    with pytest.raises(UsageError, match="no group 'nowhere'"):
        job(groups=("nowhere",)).overwrites()


def test_all_machines_tell_of_one_without_power(job, hosts, cobbler, instances):
    cloud = job(groups=("test01",))
    cloud.run_instances("processor", LINE, 1)
    hosts.settle("node01", times=2)
    assert set(states(cloud).values()) == {"running"}
    cobbler.power(["node01"], "off")
    silent(hosts, "node01")
    assert [m.instance.state for m in cloud.all_machines()] == ["shutting-down"]


def test_where_the_job_s_home_is_one_s_own_machines_tell(job, reservations):
    """Anybody may tag a machine of his with the job's name."""
    reservations.reserve(Request("eve", names=("node01",), meta={"job": "j", "role": "processor", "home": "s3://eve"}))
    reservations.reserve(Request("ann", names=("node02",), meta={"job": "j", "role": "processor", "home": "s3://b/j"}))
    assert job(home="").home == "s3://b/j"

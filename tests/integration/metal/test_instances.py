"""The life of instances on hosts that boot, through a real cobblerd."""

import pytest

from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.reservations import Request


def states(instances):
    return {i.name: i.state for i in instances.describe()}


def test_from_pending_to_free(cobbler, instances, hosts):
    ann = instances("ann")
    hosts.gate.clear()
    before = cobbler.system("node01"), cobbler.system("node02")
    started = ann.run(Request("ann", count=2, groups=("test01",)), "debian")
    assert [(i.name, i.state, i.profile) for i in started] == [
        ("node01", "pending", "debian"),
        ("node02", "pending", "debian"),
    ]
    hosts.settle("node01", "node02")
    assert states(ann) == {"node01": "installing", "node02": "installing"}
    hosts.gate.set()
    hosts.settle("node01", "node02")
    assert states(instances("bob")) == {"node01": "running", "node02": "running"}
    assert states(ann) == {"node01": "running", "node02": "running"}
    assert cobbler.system("node01").get("state") == "running"
    assert cobbler.system("node01").meta["site_rack"] == "7", "keys of others are kept"
    ann.terminate(ips=["10.111.5.1"])
    assert states(ann) == {"node02": "running"}
    ann.terminate()
    assert (cobbler.system("node01"), cobbler.system("node02")) == before
    assert not cobbler.is_on("node01")


def test_it_is_pending_until_the_installer_starts(cobbler, instances, hosts):
    """An install of long ago by the same machine is not this one."""
    ann = instances("ann")
    ann.run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    ann.terminate()
    cobbler.power(["node01"], "off")
    hosts.kinds = {"node01": "hang"}
    boot, hosts._boot = hosts._boot, hosts._tell  # it has power, and does nothing yet
    try:
        ann.run(Request("ann", names=("node01",)), "debian")
        hosts.settle("node01")
        assert states(ann) == {"node01": "pending"}
    finally:
        hosts._boot = boot
    hosts._boot("node01")
    hosts.settle("node01")
    assert states(ann) == {"node01": "installing"}
    [failed] = instances("ann", install_timeout_s=0.01).describe()
    assert (failed.state, "never called back" in failed.reason) == ("failed", True)
    assert states(ann) == {"node01": "failed"}, "and stays so, for a look"
    assert [i.name for i in ann.terminate(only_failed=True)] == ["node01"]
    assert states(ann) == {}


@pytest.mark.parametrize("step", ["change", "release"])
def test_two_who_terminate_at_once(reservations, instances, hosts, monkeypatch, step):
    """Neither fails, and what is reserved anew after the first is not given back by the second."""
    instances("ann").run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01")
    late, usual = instances("ann"), getattr(reservations, step)

    def overtaken(*args):
        monkeypatch.setattr(reservations, step, usual)
        assert [i.name for i in instances("ann").terminate()] == ["node01"]
        reservations.reserve(Request("ann", names=("node01",)))
        return usual(*args)

    monkeypatch.setattr(reservations, step, overtaken)
    late.terminate()
    assert states(late) == {"node01": "reserved"}


def test_where_no_boot_was_known_before_its_age_tells(instances, hosts):
    """SSH did not answer when the machine was asked for (it was shut down, or the network was): no id to compare with."""
    ann = instances("ann")
    hosts.kinds = {"node01": "mute"}
    ann.run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    hosts.answer("node01", "of-yesterday", uptime_s=86400)
    assert states(ann) == {"node01": "installing"}
    hosts.answer("node01", "of-now")
    assert states(ann) == {"node01": "running"}


def test_a_machine_without_an_address_is_not_run(daemon, cobbler, instances, hosts):
    token = daemon.api.login("cobbler", "cobbler")
    fields = {"name": "nowhere", "profile": "other", "autoinstall_meta": {"vidcloud_group": "test09"}}
    daemon.api.xapi_object_edit("system", "nowhere", "add", fields, token)
    try:
        with pytest.raises(UsageError, match="nowhere has no address"):
            instances("ann").run(Request("ann", count=1, groups=("test09",)), "debian")
        assert not cobbler.system("nowhere").get("user")
    finally:
        daemon.api.remove_system("nowhere", token)


def test_a_power_call_is_tried_again(cobbler, instances, hosts, daemon):
    (daemon.root / "machines/node01/deaf").write_text("6")  # Cobbler itself tries five times
    instances("ann", power_tries=3).run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    assert states(instances("ann")) == {"node01": "running"}


def test_a_half_done_request_is_put_back(cobbler, instances, hosts, daemon):
    before = cobbler.systems()
    (daemon.root / "machines/node02/deaf").write_text("5")
    with pytest.raises(CloudError, match="node02: ") as error:
        instances("ann").run(Request("ann", names=("node01", "node02")), "debian")
    assert error.value.left_running == ()
    assert [s.meta for s in cobbler.systems()] == [s.meta for s in before]
    assert [s.profile for s in cobbler.systems()] == [s.profile for s in before]
    assert not cobbler.is_on("node01")


def test_what_cannot_be_switched_off_is_not_given_to_others(cobbler, reservations, instances, hosts, daemon):
    (daemon.root / "machines/node02/deaf").write_text("1000")
    with pytest.raises(CloudError, match="still reserved: node02") as error:
        instances("ann").run(Request("ann", names=("node01", "node02")), "debian")
    assert error.value.left_running == ("node02",)
    assert states(instances("ann")) == {"node02": "failed"}
    with pytest.raises(UsageError, match="reserved by ann"):
        reservations.reserve(Request("bob", names=("node02",)))


def test_wiping_before_it_is_given_back(cobbler, instances, hosts):
    ann = instances("ann")
    ann.run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    ann.terminate(["node01"], wipe_profile="wipe")
    assert hosts.fetched == [("node01", "debian"), ("node01", "wipe")]
    assert (cobbler.system("node01").profile, cobbler.is_on("node01")) == ("other", False)
    assert states(ann) == {}


def test_a_wipe_that_does_not_end_keeps_the_machine(cobbler, instances, hosts):
    ann = instances("ann", install_timeout_s=0.5)
    ann.run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    hosts.kinds = {"node01": "hang"}
    with pytest.raises(CloudError, match="node01: the wipe did not end"):
        ann.terminate(["node01"], wipe_profile="wipe")
    assert states(ann) == {"node01": "failed"}


def test_reboot_with_netboot_on_installs_again(cobbler, instances, hosts):
    ann = instances("ann")
    ann.run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01", times=2)
    assert states(ann) == {"node01": "running"}
    ann.set_profile(["node01"], "wipe")
    ann.set_netboot(["node01"], on=True)
    hosts.gate.clear()
    ann.reboot(["node01"])
    hosts.settle("node01")
    assert states(ann) == {"node01": "installing"}
    hosts.gate.set()
    hosts.settle("node01")
    assert states(ann) == {"node01": "running"}
    assert hosts.fetched[-1] == ("node01", "wipe")

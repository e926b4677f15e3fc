"""The life of instances on hosts that boot, through a real cobblerd."""

import pytest
from conftest import silent

from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.ec2.zone import Zone
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


def test_an_install_that_breaks_off_is_told_in_the_end(cobbler, instances, hosts):
    """The installer started, twice, and never called back; the machine went off. It is kept for a look."""
    hosts.kinds = {"node01": "fails"}
    ann = instances("ann")
    ann.run(Request("ann", names=("node01", "node02")), "debian")
    hosts.settle("node01", "node02", times=2)
    assert hosts.fetched.count(("node01", "debian")) == 2
    assert states(ann) == {"node01": "installing", "node02": "running"}
    assert not cobbler.is_on("node01")
    found = {i.name: i for i in instances("ann", install_timeout_s=0.01).describe()}
    assert (found["node01"].state, found["node02"].state) == ("failed", "running")
    assert "the installer never called back" in found["node01"].reason
    assert cobbler.system("node01").netboot
    ann.terminate(only_failed=True)
    assert states(ann) == {"node02": "running"}
    assert not cobbler.system("node01").netboot, "as it was before"


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
            instances("ann").run(Request("ann", names=("nowhere",)), "debian")
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


def running(ann, hosts, *names):
    ann.run(Request("ann", names=names), "debian")
    hosts.settle(*names, times=2)
    assert set(states(ann).values()) == {"running"}


def test_a_machine_that_ran_is_shown_as_it_is(cobbler, reservations, instances, hosts):
    """Without power it is stopped, without SSH it runs for all we know; and nothing is done to it."""
    ann = instances("ann")
    running(ann, hosts, "node01", "node02")
    zone = Zone(cobbler, reservations, instances)
    cobbler.power(["node01"], "off")
    silent(hosts, "node01")
    (hosts.boots / "10.111.5.2").unlink()
    before = cobbler.systems(), reservations.history()
    for viewer in (ann, instances("bob")):
        assert [(i.name, i.state, i.reason) for i in viewer.describe()] == [
            ("node01", "stopped", "it has no power"),
            ("node02", "running", "SSH does not answer"),
        ]
    told = zone.do("ann", "DescribeInstances", {})["Reservations"]
    assert [i["State"]["Name"] for r in told for i in r["Instances"]] == ["stopped", "running"]
    assert (cobbler.systems(), reservations.history()) == before
    assert {c.split()[1] for c in hosts.calls("node02")[-1:]} == {"status"}
    cobbler.power(["node01"], "on")
    hosts.settle("node01")
    assert states(ann) == {"node01": "running", "node02": "running"}


def test_a_machine_that_is_power_cycled_is_not_off(cobbler, instances, hosts, monkeypatch):
    """In the seconds without power a launcher that looks must not give it back."""
    ann, seen, usual = instances("ann"), [], cobbler.power
    running(ann, hosts, "node01")
    [system] = [s for s in cobbler.systems() if s.get("user")]

    def power(names, operation, tries=3):
        names = list(names)
        usual(names, "off", tries)
        silent(hosts, "node01")
        seen.append((instances("ann").off([system]), states(ann)))
        return usual(names, "on", tries)

    monkeypatch.setattr(cobbler, "power", power)
    ann.reboot(["node01"])
    hosts.settle("node01")
    assert seen == [(set(), {"node01": "running"})]
    usual(["node01"], "off")
    silent(hosts, "node01")
    monkeypatch.setattr("vidcloud.metal.instances._REBOOT_S", 0)
    assert ann.off([system]) == {"node01"}, "long after that it is"


def test_what_was_not_confirmed_is_not_installed_anew(cobbler, instances, hosts):
    ann = instances("ann")
    running(ann, hosts, "node01")
    before = len(hosts.calls())
    ann.set_netboot(["node01"], on=True)  # after the question, say
    with pytest.raises(UsageError, match="node01: netboot is on by now"):
        ann.reboot(["node01"], installs=[])
    assert [c for c in hosts.calls()[before:] if not c.endswith("status")] == []


def test_power_is_in_the_record(reservations, instances, hosts, daemon):
    ann = instances("ann")
    running(ann, hosts, "node01")
    (daemon.root / "machines/node01/deaf").write_text("5")
    with pytest.raises(CloudError, match="node01"):
        ann.reboot(["node01"])
    ann.terminate()
    assert [line["what"] for line in reservations.history() if line["what"].startswith("power")] == [
        "power-reboot",
        "power-reboot-failed",
        "power-off",
    ]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_wipe_goes_on_without_what_somebody_gave_back(cobbler, reservations, instances, hosts, monkeypatch, when):
    """Its next user's machine is neither waited for nor switched off; nor does a Cobbler that is away end the wipe."""
    ann, change, power, systems = instances("ann"), reservations.change, cobbler.power, cobbler.systems
    running(ann, hosts, "node01", "node02")
    away = []

    def overtake():
        reservations.release(["node01"], "ann")
        reservations.reserve(Request("bob", names=("node01",)))

    def changed(asked):
        if when == "before" and (asked.name, asked.what) == ("node01", "wipe"):
            overtake()
        return change(asked)

    def switched(names, operation, tries=3):
        names = list(names)
        if operation == "on":
            if when == "meanwhile":
                overtake()
            away.append(CloudError("Cobbler is away"))
        if "node01" in names and operation == "off":
            assert cobbler.system("node01").get("user") == "ann"
        return power(names, operation, tries)

    def read():
        if away:
            raise away.pop()
        return systems()

    monkeypatch.setattr(reservations, "change", changed)
    monkeypatch.setattr(cobbler, "power", switched)
    monkeypatch.setattr(cobbler, "systems", read)
    assert [i.name for i in ann.terminate(wipe_profile="wipe")] == ["node02"]
    assert states(ann) == {"node01": "reserved"}
    assert ("node02", "wipe") in hosts.fetched
    assert not cobbler.is_on("node02")


def test_a_wipe_that_is_broken_off_leaves_another_s_machine_alone(cobbler, reservations, instances, hosts, monkeypatch):
    """One's own are switched off and kept for a look; what is somebody else's by then is not touched."""
    ann, power, systems = instances("ann"), cobbler.power, cobbler.systems
    running(ann, hosts, "node01", "node02")

    def switched(names, operation, tries=3):
        errors = power(names, operation, tries)
        if operation == "on":
            reservations.release(["node01"], "ann")
            reservations.reserve(Request("bob", names=("node01",)))
            monkeypatch.setattr(cobbler, "systems", broken_off)
        return errors

    def broken_off():
        raise KeyboardInterrupt

    monkeypatch.setattr(cobbler, "power", switched)
    with pytest.raises(KeyboardInterrupt):
        ann.terminate(wipe_profile="wipe")
    monkeypatch.setattr(cobbler, "systems", systems)
    assert (cobbler.is_on("node01"), cobbler.is_on("node02")) == (True, False)
    assert {s.name: s.get("state") for s in systems() if s.get("user")} == {"node01": "reserved", "node02": "failed"}


def test_what_somebody_gave_back_is_not_told_as_still_reserved(cobbler, reservations, instances, hosts, monkeypatch):
    power = cobbler.power

    def switched(names, operation, tries=3):
        if operation == "reboot":
            reservations.release(["node01"], "ann")
            return {"node02": "no answer"}
        return power(names, operation, tries)

    monkeypatch.setattr(cobbler, "power", switched)
    with pytest.raises(CloudError, match=r"node02: no answer$") as error:
        instances("ann").run(Request("ann", names=("node01", "node02")), "debian")
    assert error.value.left_running == ()
    assert states(instances("ann")) == {}

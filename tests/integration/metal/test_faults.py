"""What the original did wrong, each as a test against a real cobblerd."""

import pytest

from vidcloud.errors import UsageError
from vidcloud.metal.cobbler import choose
from vidcloud.metal.reservations import Request


def test_an_ip_never_means_a_machine_whose_ip_starts_like_it(cobbler, instances, hosts):
    """10.111.5.1 was found by grep, and so was 10.111.5.16: the wrong machine was re-imaged."""
    before = len(hosts.calls())
    instances("ann").run(Request("ann", ips=("10.111.5.1",)), "debian")
    hosts.settle("node01", times=2)
    assert {line.split()[0] for line in hosts.calls()[before:]} == {"node01"}
    assert hosts.fetched == [("node01", "debian")]
    for other in ("node16", "node1"):
        assert cobbler.system(other).profile == "other"
        assert not cobbler.system(other).netboot
    with pytest.raises(UsageError, match="no machine in Cobbler has the address"):
        choose(cobbler.systems(), (), ("10.111.5.10",))
    with pytest.raises(UsageError, match="no IP address"):
        choose(cobbler.systems(), (), ("10.111.5",))


@pytest.mark.parametrize(
    "nasty", ["x'; DROP TABLE reservations; --", "$(touch pwned)", "a b", "-oProxyCommand=x", "", "é"]
)
def test_nothing_that_is_given_is_read_as_code(cobbler, reservations, instances, hosts, nasty):
    """Users went into SQL, names and addresses into a shell."""
    before = cobbler.systems(), len(hosts.calls())
    for request in (Request(nasty, count=1), Request("ann", names=(nasty,)), Request("ann", ips=(nasty,))):
        with pytest.raises(UsageError):
            reservations.reserve(request)
    with pytest.raises(UsageError):
        reservations.reserve(Request("ann", count=1, groups=(nasty,)))
    with pytest.raises(UsageError):
        instances("ann").run(Request("ann", count=1), nasty)
    assert (cobbler.systems(), len(hosts.calls())) == before


def test_nobody_terminates_what_is_anothers(cobbler, instances, hosts):
    """By IP, the owner was not asked for."""
    instances("ann").run(Request("ann", names=("node01",)), "debian")
    instances("bob").run(Request("bob", names=("node02",)), "debian")
    hosts.settle("node01", "node02", times=2)
    before = cobbler.systems(), len(hosts.calls())
    bob = instances("bob")
    for wanted in ({"ips": ["10.111.5.1"]}, {"names": ["node01"]}, {"names": ["node02", "node01"]}):
        with pytest.raises(UsageError, match="node01 is reserved by ann, not by bob"):
            bob.terminate(**wanted)
    for verb in (
        lambda: bob.set_profile(["node02", "node01"], "wipe"),
        lambda: bob.set_netboot(["node01"], on=True),
        lambda: bob.reboot(["node01"]),
    ):
        with pytest.raises(UsageError, match="reserved by ann"):
            verb()
    assert (cobbler.systems(), len(hosts.calls())) == before
    assert [i.name for i in bob.terminate()] == ["node02"], "all of one's own is one's own only"
    assert cobbler.system("node01").get("user") == "ann"


def test_a_machine_that_never_booted_does_not_run(cobbler, reservations, instances, hosts):
    """netboot off meant running: also for a machine that only was reserved, or whose power call did nothing."""
    reservations.reserve(Request("ann", names=("node01",)))
    hosts.kinds = {"node02": "old", "node03": "mute"}
    hosts.answer("node02", "the-old-boot", uptime_s=86400)
    instances("ann").run(Request("ann", names=("node02", "node03")), "debian")
    hosts.settle("node02", "node03", times=2)
    assert not cobbler.system("node02").netboot
    assert hosts.probe("10.111.5.2").id == "the-old-boot"
    assert {i.name: i.state for i in instances("ann").describe()} == {
        "node01": "reserved",
        "node02": "installing",
        "node03": "installing",
    }
    found = {i.name: i for i in instances("ann", install_timeout_s=0.01).describe()}
    assert (found["node02"].state, found["node03"].state) == ("failed", "failed")
    assert "a boot before the power cycle" in found["node02"].reason
    assert "SSH does not answer" in found["node03"].reason


def test_what_was_changed_is_there_after_a_restart(daemon, cobbler, instances, hosts):
    """Nothing was ever saved: a restart of Cobbler forgot it all."""
    hosts.gate.clear()
    instances("ann").run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01")
    before = cobbler.system("node01")
    daemon.stop()
    daemon.start()
    assert cobbler.system("node01") == before
    assert (before.profile, before.netboot, before.get("user")) == ("debian", True, "ann")
    hosts.gate.set()
    hosts.settle("node01")
    instances("ann").terminate()

"""Machines installed anew, on hosts that boot, through a real cobblerd."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vidcloud.metal.connect import Connection
from vidcloud.metal.recycle import find_old, recycle
from vidcloud.metal.reservations import Request

DAY = 86400.0


@pytest.fixture
def anew(cobbler, daemon, instances, tmp_path):
    """``anew(old, at_once=2)`` installs them in the keeper's name; what it told, and what was left."""
    (tmp_path / "password").write_text("cobbler\n")
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "metal.toml").write_text(
        f'url = "{daemon.url}"\npassword_file = "{tmp_path}/password"\nuser = "keeper"\n'
    )

    def make(old, at_once=2):
        told = {}
        left = recycle(
            Connection(tmp_path / "metal.toml"), old, "", at_once, told.__setitem__,
            poll_s=0.02, instances=lambda user: instances(user or "keeper"),
        )  # fmt: skip
        return told, left

    return make


def old_in(cobbler, days, *groups):
    return find_old(cobbler.systems(), cobbler.installs(), 30 * DAY, groups, time.time() + days * DAY)


def test_an_install_that_cobbler_saw_becomes_old_and_young_again(cobbler, instances, hosts, anew):
    instances("ann").run(Request("ann", names=("node01",)), "debian")
    hosts.settle("node01")
    instances("ann").terminate()
    first = cobbler.installs()["node01"].started
    assert "node01" not in {old.system.name for old in old_in(cobbler, 29)}
    [old] = [old for old in old_in(cobbler, 31) if old.system.name == "node01"]
    assert old.why == "installed 31.0 days ago"
    assert anew([old]) == ({"node01": "installed anew and free"}, [])
    assert hosts.fetched == [("node01", "debian"), ("node01", "other")], "with the profile it has"
    assert cobbler.installs()["node01"].started > first
    assert (cobbler.system("node01").get("user"), cobbler.is_on("node01")) == ("", False)


def test_what_nobody_gave_back_is_taken_when_its_time_is_over(cobbler, instances, hosts, anew):
    for name, seconds in (("node01", -60), ("node02", 3600)):
        request = Request("ann", names=(name,), meta={"expires": f"{time.time() + seconds:.0f}"})
        instances("ann").run(request, "debian")
    hosts.settle("node01", "node02", times=2)  # installed, and booted from its own disk
    old = [old for old in old_in(cobbler, 0, "test01") if old.system.get("user")]
    assert [(o.system.name, o.why) for o in old] == [("node01", "ann's reservation has expired")]
    kept = cobbler.system("node02")
    assert anew(old) == ({"node01": "installed anew and free"}, [])
    assert hosts.fetched.count(("node01", "debian")) == 2, "hers, and anew"
    assert (cobbler.system("node01").get("user"), cobbler.system("node01").profile) == ("", "other")
    assert (cobbler.system("node02"), cobbler.is_on("node02")) == (kept, True)


def test_what_was_reserved_anew_meanwhile_is_left_alone(cobbler, instances, hosts, anew):
    instances("ann").run(Request("ann", names=("node01",), meta={"expires": "1"}), "debian")
    [old] = [old for old in old_in(cobbler, 0) if old.system.name == "node01"]
    instances("ann").terminate()
    instances("ann").run(Request("ann", names=("node01",)), "debian")
    told, left = anew([old])
    assert left == ["node01"]
    assert "reserved by ann" in told["node01"]
    assert (cobbler.system("node01").get("user"), cobbler.is_on("node01")) == ("ann", True)


def test_a_few_at_a_time(cobbler, hosts, reservations, anew):
    """Nobody shall find all machines taken because they are made anew."""
    old = old_in(cobbler, 400, "test01", "test02")
    assert len(old) == 5
    hosts.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(anew, old, at_once=2)
        try:
            hosts.settle(*(o.system.name for o in old[:2]))
            assert [s.name for s in cobbler.systems() if s.get("user")] == [o.system.name for o in old[:2]]
        finally:
            hosts.gate.set()
        told, left = ended.result(timeout=200)
    assert (len(told), left) == (5, [])
    held, most = set(), 0
    for change in reservations.history():
        (held.add if change["after"].get("user") else held.discard)(change["machine"])
        most = max(most, len(held))
    assert most == 2

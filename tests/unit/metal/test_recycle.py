"""Which machines are old."""

import pytest

from vidcloud.errors import UsageError
from vidcloud.metal.cobbler import Install, System
from vidcloud.metal.recycle import find_old

DAY = 86400.0
NOW = 20_000 * DAY


def machine(name, group="lab", **keys):
    meta = {f"vidcloud_{key}": value for key, value in {"group": group, **keys}.items()}
    return System(name, "other", netboot=False, meta=meta)


def found(systems, installs=None, groups=(), older_than_s=30 * DAY):
    by_name = {name: Install(at) for name, at in (installs or {}).items()}
    return [(old.system.name, old.why) for old in find_old(systems, by_name, older_than_s, groups, NOW)]


def test_free_machines_by_the_age_of_their_install():
    systems = [machine(name) for name in ("old", "edge", "new", "ahead", "unknown")]
    installs = {"old": NOW - 31.26 * DAY, "edge": NOW - 30 * DAY, "new": NOW - DAY, "ahead": NOW + DAY}
    assert found(systems, installs) == [("old", "installed 31.3 days ago"), ("unknown", "no install is known")]


def test_what_is_reserved_is_old_only_when_its_time_is_over():
    expiries = {"over": NOW - 0.5, "now": NOW, "later": NOW + 1}
    systems = [machine(name, user="ann", expires=f"{at:.1f}") for name, at in expiries.items()]
    systems += [
        machine("kept", user="ann"),
        machine("odd", user="ann", expires="1.2.3"),
        machine("nan", user="ann", expires="nan"),
    ]
    assert found(systems, dict.fromkeys(("over", "now", "later", "kept"), 1.0)) == [
        ("over", "ann's reservation has expired")
    ]


def test_an_expiry_that_a_release_left_behind_means_nothing():
    assert found([machine("free", expires="1.0")], {"free": NOW - DAY}) == []


def test_of_some_groups_only():
    systems = [machine("a", "lab"), machine("b", "attic"), machine("c", "")]
    assert [name for name, _ in found(systems, groups=("attic",))] == ["b"]
    assert [name for name, _ in found(systems)] == ["a", "b"], "what is in no group is nobody's to take"
    with pytest.raises(UsageError, match="no group 'la'; there are attic, lab"):
        found(systems, groups=("attic", "la"))

"""Every filter that this distribution offers keeps the promises of `vidcloud.contract`."""

import pytest

from vidcloud import plugins
from vidcloud.contract import PROMISES, check

OFFERED = [a.name for a in plugins.available() if a.distribution.startswith("vidcloud ")]


def test_there_are_filters():
    assert "invert" in OFFERED


@pytest.mark.parametrize("name", OFFERED)
def test_a_built_in_filter_keeps_its_promises(name):
    findings = check(plugins.resolve(name).filter)
    assert not [f"{PROMISES[f.promise]}: {f}" for f in findings]

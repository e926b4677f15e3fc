"""The user-data line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcloud.boot import USER_DATA_LIMIT, UserData, local_server
from vidcloud.errors import UsageError
from vidcloud.storage import local_path

word = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(word, max_size=5))
def test_a_line_says_what_was_composed(arguments):
    told = UserData("processor", "http://10.0.0.1/scripts", tuple(arguments))
    assert UserData.parse(told.compose()) == told


def test_the_form_is_the_prototypes():
    assert UserData("collector", "10.0.0.5", ("cat.avi",)).compose() == "collector 10.0.0.5 [ cat.avi ]"
    assert UserData.parse("processor 10.0.0.5 [ 10.0.0.7 neon ]").arguments == ("10.0.0.7", "neon")
    assert UserData.parse("collector host [ ]").arguments == ()


@pytest.mark.parametrize(
    "line",
    ["", "collector", "collector host", "collector host cat.avi", "collector host [ x", "a/b h [ ]", 'c h [ "x ]'],
)
def test_other_lines_are_refused(line):
    with pytest.raises(UsageError):
        UserData.parse(line)


def test_a_line_fits_what_clouds_take():
    with pytest.raises(UsageError, match="bytes"):
        UserData("collector", "host", ("x" * USER_DATA_LIMIT,)).compose()
    with pytest.raises(UsageError, match="newline"):
        UserData("collector", "host", ("a\nb",)).compose()


def test_the_role_scripts_are_installed():
    for role in ("collector", "processor"):
        assert (local_path(local_server()) / role).read_text().startswith("#!/bin/sh")

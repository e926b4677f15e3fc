"""The user-data line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcloud.boot import USER_DATA_LIMIT, UserData, command, local_server
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


SCRIPTS = [p for p in local_path(local_server()).iterdir() if p.suffix == "" and p.is_file()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_carry_and_fetch_no_keys(script):
    """Regression: the prototype fetched S3 keys over plain HTTP and passed them in argv."""
    text = script.read_text().lower()
    assert not [word for word in ("http://", "curl", "wget", "access_key", "secret", "s3curl") if word in text]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_export_nothing_to_a_whole_network(script):
    """Regression: the prototype exported to a /24 with no_root_squash, insecure, async."""
    lines = [line for line in script.read_text().lower().splitlines() if '127.0.0.1:$share"' not in line]
    assert not [word for word in ("/24", "no_root_squash", "insecure", "async") if word in "\n".join(lines)]


def test_a_launched_line_names_the_job_and_the_node_alone(tmp_path, monkeypatch):
    """What stands in user-data and argv is no secret, whatever the launcher's environment holds."""
    from vidcloud import job as jobs
    from vidcloud.job import JobSpec
    from vidcloud.launcher import Launcher
    from vidcloud.sites import ShareSite

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    told = []

    class Cloud:
        def machines(self, nodes):
            return 1

        def describe_instances(self):
            return []

        def run_instances(self, role, user_data, count):
            told.append(user_data)

    spec = JobSpec(id="j", created=0.0, input="s3://b/k", output="s3://b/o", filters=(), encode={})
    Launcher(ShareSite(jobs.create(tmp_path, spec), Cloud())).start(2)
    assert [UserData.parse(line).script for line in told] == ["collector", "processor"]
    for line in told:
        assert UserData.parse(line).arguments == ("--job", str(tmp_path / "jobs/j"), "--node", "{instance}")
        assert "hush" not in line


def test_a_script_that_lies_here_needs_no_interpreter_to_fetch_it(tmp_path):
    script = tmp_path / "role"
    script.write_text("echo $*\n")
    line = UserData("role", tmp_path.as_uri(), ("one", "two words")).compose()
    assert command(line) == ["/bin/sh", str(script), "one", "two words"]
    script.unlink()
    assert command(line)[1:] == ["-P", "-m", "vidcloud.boot"]  # whose words about it go to the instance's log
    assert command("role http://127.0.0.1:9 [ ]")[1:] == ["-P", "-m", "vidcloud.boot"]
    with pytest.raises(UsageError):
        command("role")

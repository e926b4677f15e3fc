"""``vidcloud metal …`` as a process, and its ``ssh``, against a real cobblerd."""

import json
import os
import pathlib
import pty
import shutil
import socket
import subprocess
import sys

import boto3
import pytest

from vidcloud.metal.instances import ssh_probe


@pytest.fixture
def vidcloud(daemon, cobbler, hosts, tmp_path):
    """``vidcloud("describe-systems")`` runs it, with an ``ssh`` that asks the hosts of the tests."""
    from transcript import prepare

    env = prepare(tmp_path, daemon, hosts, user="ann", power_tries="1")

    def begin(*words, entry=("vidcloud", "metal"), stdin=subprocess.DEVNULL, **more):
        start = "import sys; sys.argv[0] = sys.argv.pop(1); exec(sys.argv.pop(1))"
        return subprocess.Popen(
            [sys.executable, "-c", start, *_start(entry), *words],
            env=env | more,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(*words, code=0, **more):
        with begin(*words, **more) as child:
            try:
                out, err = child.communicate(timeout=60)
            finally:
                child.kill()
        assert child.returncode == code, (out, err)
        return err if code else out

    run.begin = begin
    return run


def _start(entry):
    if entry[0] == "vidcloud":
        return ("vidcloud", "from vidcloud.cli.main import main; main(sys.argv[1:])", *entry[1:])
    return (entry[0], "from vidcloud.cli.metal import metaleuca; metaleuca()")


def test_a_session(vidcloud, hosts, cobbler):
    assert vidcloud("describe-distros", "--plain") == "DISTRO debian debian bullseye x86_64\n"
    assert "PROFILE wipe debian\n" in vidcloud("describe-profiles", "--plain")
    assert vidcloud("describe-systems", "--plain", "node16").split() == ["SYSTEM", "node16", "other", "10.111.5.16", "off", "test02", "-"]  # fmt: skip
    assert len(vidcloud("describe-system-groups", "--plain", "-f", "-g", "test01", "test02").splitlines()) == 5
    assert "must be confirmed: --yes" in vidcloud("run-instances", "-n", "1", "-p", "debian", code=2)
    assert vidcloud("describe-instances") == vidcloud("describe-instances", "-u", "nobody"), (
        "what was asked for is given back"
    )
    assert vidcloud("run-instances", "-n", "2", "-g", "test01", "-p", "debian", "-y", "--plain") == (
        "INSTANCE node01 debian 10.111.5.1 pending\nINSTANCE node02 debian 10.111.5.2 pending\n"
    )
    hosts.settle("node01", "node02", times=2)
    found = json.loads(vidcloud("describe-instances", "-u", "ann", "--json", "--watch"))
    assert [(i["name"], i["state"], i["user"]) for i in found] == [
        ("node01", "running", "ann"),
        ("node02", "running", "ann"),
    ]
    assert vidcloud("describe-system-users", "--plain", "-u", "ann").count("USER ann node0") == 2
    assert "node01 is reserved by ann, not by bob" in vidcloud(
        "terminate-instances", "-u", "bob", "-i", "10.111.5.1", code=2
    )
    assert "node01" in vidcloud("describe-instances"), "the table for people"
    assert vidcloud("check", "--plain") == ""
    assert vidcloud("terminate-instances", "-i", "10.111.5.1", "10.111.5.2", "--plain").count("free") == 2
    assert not [s.name for s in cobbler.systems() if s.get("user")]
    lines = vidcloud("history", "--plain", "node01").splitlines()
    assert [line.split()[3] for line in lines] == [
        "reserve",
        "release",
        "reserve",
        "run",
        "power-reboot",
        "running",
        "terminating",
        "power-off",
        "release",
    ]


@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("y", 0)])
def test_reimaging_is_asked_for(vidcloud, cobbler, hosts, answer, code):
    """At a terminal the machines are listed; a no gives them back."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as typed, os.fdopen(theirs, "rb") as terminal:
        typed.write(f"{answer}\n".encode())
        told = vidcloud("run-instances", "-i", "10.111.5.1", "-p", "debian", "--plain", code=code, stdin=terminal)
    if answer == "y":
        assert told == "INSTANCE node01 debian 10.111.5.1 pending\n"
        hosts.settle("node01", times=2)
    else:
        assert "node01 10.111.5.1 (other) is installed with debian, its disk overwritten" in told
        assert not cobbler.system("node01").get("user")
        assert cobbler.system("node01").profile == "other"


@pytest.fixture
def terminal():
    """Both ends of one: what is typed, and a stdin."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as typed, os.fdopen(theirs, "rb") as stdin:
        yield typed, stdin


def until(child, text):
    """What a command says up to a line with this text."""
    said = []
    for line in child.stderr:
        said.append(line)
        if text in line:
            return said
    raise AssertionError(said)


def ended(child):
    with child:
        try:
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    return child.returncode, out, err


def test_what_was_listed_is_what_is_wiped(vidcloud, terminal, hosts, cobbler):
    """A machine that comes after the question was not asked for."""
    typed, stdin = terminal
    vidcloud("run-instances", "node01", "-p", "debian", "-y")
    hosts.settle("node01", times=2)
    child = vidcloud.begin("terminate-instances", "-u", "ann", "--wipe", "--plain", stdin=stdin)
    until(child, "node01 10.111.5.1 (debian) is wiped")
    vidcloud("reserve-systems", "node02")
    typed.write(b"y\n")
    code, out, err = ended(child)
    assert (code, out) == (0, "INSTANCE node01 debian 10.111.5.1 free\n"), err
    assert cobbler.system("node02").get("user") == "ann"


def test_sigterm_gives_back_what_was_only_asked_about(vidcloud, terminal, cobbler):
    child = vidcloud.begin("run-instances", "node01", "-p", "debian", stdin=terminal[1])
    until(child, "is installed with debian")
    assert cobbler.system("node01").get("user") == "ann"
    child.terminate()
    code, _, err = ended(child)
    assert (code, err.endswith("vidcloud: interrupted\n")) == (130, True), err
    assert not cobbler.system("node01").get("user")


def test_sigterm_puts_a_half_done_request_back(vidcloud, cobbler, hosts, daemon):
    """The machine whose power can't be switched yet is switched off and given back."""
    deaf = daemon.root / "machines/node01/deaf"
    deaf.write_text("100000")
    child = vidcloud.begin("run-instances", "node01", "-p", "debian", "-y", VIDCLOUD_METAL_POWER_TRIES="4")
    while deaf.read_text().strip() in {"100000", ""}:  # the fence agent counts down what it is asked for
        assert child.poll() is None
    assert cobbler.system("node01").get("state") == "pending"
    child.terminate()
    deaf.write_text("1")
    code, _, err = ended(child)
    assert (code, "node01" in err) == (130, False), err
    assert (cobbler.system("node01").get("user"), cobbler.system("node01").profile) == ("", "other")
    assert not cobbler.is_on("node01")


def test_sigterm_ends_a_wipe(vidcloud, cobbler, hosts):
    """Nothing goes on that nobody waits for; the machine stays for a look."""
    vidcloud("run-instances", "node01", "-p", "debian", "-y")
    hosts.settle("node01", times=2)
    hosts.gate.clear()
    child = vidcloud.begin("terminate-instances", "node01", "--wipe", "-y")
    hosts.settle("node01")
    child.terminate()
    code, _, err = ended(child)
    assert code == 130, err
    assert not cobbler.is_on("node01")
    assert cobbler.system("node01").get("state") == "failed"
    assert "interrupted" in cobbler.system("node01").get("reason")


def test_sigterm_ends_recycle(vidcloud, cobbler, hosts):
    hosts.gate.clear()
    child = vidcloud.begin("recycle", "--older-than", "0s", "-g", "test02", "-y", "--at-once", "1")
    hosts.settle("node1")
    child.terminate()
    code, out, err = ended(child)
    assert code == 130, err
    assert "node1 interrupted: given back before it ran" in out
    assert not [s.name for s in cobbler.systems() if s.get("user")]
    assert {line.split()[0] for line in hosts.calls("node16")} == set(), "and no other is begun"


def test_recycle_for_scripts(vidcloud, hosts):
    told = json.loads(vidcloud("recycle", "--older-than", "0s", "-g", "test02", "-y", "--json"))
    assert [(row["name"], row["recycled"]) for row in told] == [("node1", True), ("node16", True)]
    assert vidcloud("recycle", "--older-than", "30d", "-g", "test02", "-y", "--plain") == ""


def test_watch_until_it_runs(vidcloud, hosts):
    hosts.gate.clear()
    child = vidcloud.begin("run-instances", "node01", "-p", "debian", "-y", "-w", "--plain")
    until(child, "node01 installing")
    hosts.gate.set()
    code, out, err = ended(child)
    assert (code, out) == (0, "INSTANCE node01 debian 10.111.5.1 running\n")
    assert err.split()[1:] == ["node01", "running"]


@pytest.mark.parametrize("more", [(), ("--release-failed",)])
def test_watch_tells_of_a_failure_by_its_exit_code(vidcloud, hosts, cobbler, more):
    hosts.kinds = {"node01": "hang"}
    words = ("run-instances", "node01", "-p", "debian", "-y", "-w", *more)
    told = vidcloud(*words, code=1, VIDCLOUD_METAL_INSTALL_TIMEOUT_S="1")
    assert "vidcloud: node01 failed after 1 s: the installer never called back\n" in told
    assert cobbler.system("node01").get("state") == ("" if more else "failed")
    assert cobbler.is_on("node01") == (not more)


def test_watch_tells_of_a_machine_that_somebody_gave_back(vidcloud, hosts):
    hosts.gate.clear()
    child = vidcloud.begin("run-instances", "node01", "-p", "debian", "-y", "-w")
    until(child, "node01 installing")
    vidcloud("release-systems", "node01")
    code, _, err = ended(child)
    assert code == 1
    assert err.splitlines()[-1] == "vidcloud: node01 was given back by another"


def test_metaleuca_names(vidcloud):
    assert "SYSTEM node01" in vidcloud("--plain", entry=("metaleuca-describe-systems",))
    assert vidcloud("node01", "-p", "wipe", "--plain", entry=("/usr/bin/metaleuca-set-profile",)).startswith(
        "SYSTEM node01 wipe"
    )
    reserved = vidcloud("-n", "1", "-g", "test02", "-u", "bob", "--plain", entry=("metaleuca-reserve-systems",))
    assert reserved.split()[1::5] == ["node1", "bob"]
    assert vidcloud("node1", "-u", "bob", "--plain", entry=("metaleuca-release-systems",)).split()[-1] == "-"


def test_bad_input_is_one_line_and_code_2(vidcloud):
    for words, told in (
        (("describe-systems", "node99"), "no machine 'node99' in Cobbler"),
        (("set-profile", "node01", "-p", "nope"), "no profile 'nope'"),
        (("reserve-systems", "-n", "99"), "99 machines wanted, 5 free; 1 in no group must be named"),
        (("reserve-systems", "node01", "-n", "2"), "give either machines"),
        (("reserve-systems",), "how many machines?"),
        (("terminate-instances",), "which?"),
        (("enable-netboot",), "which machines?"),
        (("run-instances", "-n", "1", "-p", "nope", "-y"), "no profile 'nope'"),
        (("run-instances", "node01", "-p", "debian", "--release-failed"), "--release-failed needs --watch"),
        (("reserve-systems", "-g"), "requires an argument"),
        (("run-instances", "-n", "1", "-g", "-p", "debian", "-y"), "'-g' requires an argument"),
        (("reserve-systems", "-n", "1", "-u", "a b"), "is no user"),
    ):
        error = vidcloud(*words, code=2)
        assert told in error
        assert error.count("\n") == 1


def test_an_edit_is_shown_and_told_by_the_exit_code(vidcloud, cobbler):
    vidcloud("reserve-systems", "node01")
    cobbler.update("node01", profile="wipe")
    vidcloud("check", code=1)


def test_passwords_are_nowhere(vidcloud, tmp_path):
    for words in (("describe-systems", "--json"), ("history", "--json")):
        assert "power_pass" not in vidcloud(*words)
    assert "login failed" in vidcloud("reserve-systems", "node01", code=1, VIDCLOUD_METAL_PASSWORD="wr0ng")
    assert "wr0ng" not in vidcloud("reserve-systems", "node01", code=1, VIDCLOUD_METAL_PASSWORD="wr0ng")


def test_serve_for_ec2_s_tools(vidcloud, daemon, cobbler, tmp_path):
    """Both doors of one process; a port in use is told in a line."""
    for name, line in (("tokens", f"ann {'t' * 20}"), ("keys", "ANN 0123456789abcdef ann")):
        (tmp_path / name).write_text(line)
        (tmp_path / name).chmod(0o600)
    env = os.environ | {
        "VIDCLOUD_METAL_URL": daemon.url,
        "VIDCLOUD_METAL_PASSWORD": "cobbler",
        "VIDCLOUD_METAL_STATE_DIR": str(tmp_path / "server"),
    }
    door = ["--ec2", "127.0.0.1:0", "--access-keys", str(tmp_path / "keys")]
    serve = [
        sys.executable,
        "-m",
        "vidcloud",
        "metal",
        "serve",
        "--port",
        "0",
        "--tokens",
        str(tmp_path / "tokens"),
        *door,
    ]
    with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            commands, tools = (server.stdout.readline().split()[-1] for _ in range(2))
            ec2 = boto3.client(
                "ec2",
                endpoint_url=tools,
                region_name="metal",
                aws_access_key_id="ANN",
                aws_secret_access_key="0123456789abcdef",
            )
            vidcloud("reserve-systems", "node01", VIDCLOUD_METAL_SERVER=commands, VIDCLOUD_METAL_TOKEN="t" * 20)
            [[found]] = [r["Instances"] for r in ec2.describe_instances()["Reservations"]]
            assert (found["PrivateDnsName"], found["State"]["Name"]) == ("node01", "pending")
            ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
            assert not cobbler.system("node01").get("user")
            taken = tools.rpartition("/")[2]
            told = vidcloud("serve", "--ec2", taken, "--access-keys", str(tmp_path / "keys"), code=1)
            assert taken in told
            assert "in use" in told
            assert len(told.splitlines()) == 1
        finally:
            server.terminate()
        assert server.wait(20) == 0


def test_serve_and_its_client(vidcloud, daemon, cobbler, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {'t' * 20}\n")
    tokens.chmod(0o600)
    env = os.environ | {
        "VIDCLOUD_METAL_URL": daemon.url,
        "VIDCLOUD_METAL_PASSWORD": "cobbler",
        "VIDCLOUD_METAL_STATE_DIR": str(tmp_path / "server"),
    }
    serve = [sys.executable, "-m", "vidcloud", "metal", "serve", "--port", "0", "--tokens", str(tokens)]
    with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            url = server.stdout.readline().split()[-1]
            client = {"VIDCLOUD_METAL_SERVER": url, "VIDCLOUD_METAL_TOKEN": "t" * 20}
            vidcloud("reserve-systems", "node01", **client)
            assert cobbler.system("node01").get("user") == "ann"
            assert "this token is ann's, not bob's" in vidcloud(
                "reserve-systems", "node02", "-u", "bob", code=2, **client
            )
            assert "ann@127.0.0.1" in vidcloud("history", "--plain", **client)
            vidcloud("release-systems", "node01", **client)
        finally:
            server.terminate()
        assert server.wait(20) == 0
    assert "belong together" in vidcloud("serve", "--ec2", "127.0.0.1:0", code=2)
    assert "what is to be served?" in vidcloud("serve", code=2)
    assert "HOST:PORT" in vidcloud("serve", "--ec2", "8773", "--access-keys", str(tokens), code=2)
    assert "tokens don't go over plain http" in vidcloud("serve", "--host", "0.0.0.0", "--tokens", str(tokens), code=2)  # noqa: S104


@pytest.mark.skipif(
    not shutil.which("sshd", path="/usr/sbin:/usr/bin") or os.geteuid() != 0, reason="needs sshd and root"
)
def test_the_probe_through_a_real_sshd(tmp_path, monkeypatch):
    """The boot id and uptime of this very machine, by the system's ssh."""
    key, host_key = tmp_path / "key", tmp_path / "host_key"
    for path in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    shutil.copy(f"{key}.pub", tmp_path / "authorized")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nPidFile none\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\n"
    (tmp_path / "sshd_config").write_text(settings)
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    wrapper = tmp_path / "bin/ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} "$@"\n')  # a machine's own sshd has port 22
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    probe = ssh_probe("root", key)
    assert probe("127.0.0.1") is None, "nobody is there yet"
    log = tmp_path / "log"
    with subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", tmp_path / "sshd_config", "-E", log]) as sshd:
        try:
            with pathlib.Path("/proc/sys/kernel/random/boot_id").open() as f:
                boot_id = f.read().strip()
            found = next(filter(None, (probe("127.0.0.1") for _ in range(50))), None)
            assert found is not None, log.read_text()
            assert (found.id, found.uptime_s > 1) == (boot_id, True)
            assert ssh_probe("root", host_key)("127.0.0.1") is None, "another key"
        finally:
            sshd.terminate()
    with pytest.raises(ValueError, match="-oProxyCommand"):
        probe("-oProxyCommand=touch pwned")

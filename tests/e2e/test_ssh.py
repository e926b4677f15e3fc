"""Jobs on plain hosts over ssh, real servers on loopback; regression: the prototype knew no host's key."""

import json
import os
import signal
import subprocess
import sys

import pytest
from sshd import PLAIN_PYTHON, lab, packages
from users import VIDCLOUD, same_frames


@pytest.fixture
def hosts(tmp_path, user):
    with lab(tmp_path / "lab", env=f"VIDCLOUD_SHARE={user.share}") as made:
        yield made


@pytest.fixture
def on(hosts):
    """The options that run a job on the hosts."""
    return lambda **options: [
        word
        for key, value in {
            "hosts": ",".join(h.name for h in hosts.hosts), "key": hosts.key, "known_hosts": hosts.known_hosts,
            "python": sys.executable, **options,
        }.items()
        for word in ("-o", f"{key}={value}")
    ] + ["--cloud", "ssh"]  # fmt: skip


@pytest.fixture
def clip(samples):
    return samples("long-gop.mkv")


JOB = ("--chunk", 3, "--codec", "ffv1", "--job-id")
INVERT = ("--filter", "invert")


@pytest.fixture
def as_locally(user, clip):
    def check(chain="invert"):
        user.run(clip, *JOB, "quiet", "-o", "quiet.mkv", "--filter", chain)  # on this machine
        same_frames(user.folder / "out.mkv", user.folder / "quiet.mkv")
        assert user("verify", "out.mkv").code == 0
        assert user.processes() == []

    return check


def test_a_job_on_two_hosts(user, hosts, on, clip, as_locally):
    user.run(clip, *JOB, "j", *INVERT, "-o", "out.mkv", "--nodes", 2, *on())
    as_locally()
    for host in hosts.hosts:
        host.stop()
    # All that is asked afterwards stands on the share.
    nodes = user.status("j")["nodes"]
    assert [n["role"] for n in nodes] == ["collector", "processor", "processor"]
    assert "ended" in user("logs", "j", "processor-2").out
    records = "".join(p.read_text() for p in (user.share / "jobs/j/instances").glob("processor-*.json"))
    assert all(h.name in records for h in hosts.hosts)


def test_a_job_on_hosts_that_have_nothing(user, tmp_path, clip, as_locally):
    """Regression: `vidcloud` had to be installed on each by hand."""
    home = tmp_path / "home"
    home.mkdir()
    env = f"VIDCLOUD_SHARE={user.share} HOME={home} PYTHONPATH={packages(tmp_path / 'packages')} PIP_NO_INDEX=1"
    with lab(tmp_path / "plain", env=env) as hosts:
        options = {
            "hosts": ",".join(h.name for h in hosts.hosts), "key": hosts.key, "known_hosts": hosts.known_hosts,
            "python": PLAIN_PYTHON, "install": "yes",
        }  # fmt: skip
        words = [word for k, v in options.items() for word in ("-o", f"{k}={v}")]
        user.run(clip, *JOB, "j", *INVERT, "-o", "out.mkv", "--nodes", 2, "--cloud", "ssh", *words, timeout=400)
    (made,) = (home / ".cache/vidcloud").iterdir()
    assert (made / "bin/python").exists()
    as_locally()


def test_the_collector_here(user, on, clip, as_locally):
    user.run(clip, *JOB, "j", *INVERT, "-o", "out.mkv", "--nodes", 2, *on(collector="local"))
    assert '"this machine"' in (user.share / "jobs/j/instances/collector-1.json").read_text()
    as_locally()


def test_a_killed_processor_is_replaced_and_more_are_added(user, gates, on, clip, as_locally):
    """kill -9 on a host, then `scale`, from other commands, which find the hosts in the job's record."""
    child = user.start(
        "run", clip, *JOB, "j", "--filter", f"{gates.filter}:hold=8", "-o", "out.mkv", "--nodes", 2, "--lease", 3, *on(slots=2)
    )  # fmt: skip
    victim = gates.held(2)[0]
    os.kill(victim, signal.SIGKILL)
    gates.held(3)
    now = user.status("j")["nodes"]
    assert [n["state"] for n in now if n["pid"] == victim] == ["terminated"]
    more = user("scale", "j", "--nodes", 4)
    assert (more.code, more.out) == (0, "j: 4 nodes (+2)\n")
    refused = user("scale", "j", "--nodes", 5)
    assert (refused.code, refused.err) == (
        2, "vidcloud: 5 nodes on 2 hosts, 2 on each: name more hosts, or give more -o slots=…\n"
    )  # fmt: skip
    gates.held(5)
    gates.open()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    as_locally(gates.filter)


@pytest.mark.slow
def test_a_host_goes_down_in_the_middle(user, hosts, gates, on, clip, as_locally):
    """Its processor is replaced on the other one, beyond that one's slots, once the host was away for 15 s."""
    child = user.start(
        "run", clip, *JOB, "j", "--filter", f"{gates.filter}:hold=8", "-o", "out.mkv", "--nodes", 2, "--lease", 3, *on()
    )  # fmt: skip
    gates.held(2)
    records = [json.loads(p.read_text()) for p in (user.share / "jobs/j/instances").glob("processor-*.json")]
    hosts.hosts[1].stop()
    os.kill(next(r["pid"] for r in records if r["host"] == hosts.hosts[1].name), signal.SIGKILL)
    gates.held(3)
    gates.open()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert err.count("host_lost") == 1
    as_locally(gates.filter)


def test_all_is_killed_and_the_job_resumed(user, gates, on, clip, as_locally):
    child = user.start(
        "run", clip, *JOB, "j", "--filter", f"{gates.filter}:hold=8", "-o", "out.mkv", "--nodes", 2, "--lease", 2, *on()
    )  # fmt: skip
    gates.held(2)
    child.kill()
    child.wait()
    for node in user.status("j")["nodes"]:
        os.kill(node["pid"], signal.SIGKILL)
    gates.open()
    resumed = user("resume", "j", "--json")
    assert resumed.code == 0, resumed.err
    as_locally(gates.filter)


def test_cancelled(user, gates, on, clip):
    child = user.start("run", clip, *JOB, "j", "--filter", f"{gates.filter}:hold=8", "--nodes", 2, *on())
    gates.held(2)
    assert user("cancel", "j").code == 0
    child.communicate(timeout=60)
    user.when_no_processes()


def test_a_wrong_host_key_is_refused(user, hosts, on, clip):
    """Also when it is the second host's: it is not taken for a host that is merely down."""
    hosts.known_hosts.write_text(
        f"[127.0.0.1]:{hosts.hosts[0].port} {hosts.hosts[0].key}\n[127.0.0.1]:{hosts.hosts[1].port} {hosts.hosts[0].key}\n"
    )
    done = user("run", clip, *JOB, "j", *INVERT, "--nodes", 2, *on())
    assert done.code == 1
    assert done.err.startswith(
        f"vidcloud: can't start a processor: [127.0.0.1]:{hosts.hosts[1].port} shows the key SHA256:"
    )
    assert done.err.count("\n") == 1
    user.when_no_processes()


def test_a_host_that_is_down(user, hosts, on, clip, as_locally):
    """The others do its work, and one line says so; with none left, one line says that."""
    hosts.hosts[1].stop()
    done = user("run", clip, *JOB, "j", *INVERT, "-o", "out.mkv", "--nodes", 2, "--json", *on())
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        f'host_lost host={hosts.hosts[1].name} why="can\'t reach [127.0.0.1]:{hosts.hosts[1].port}: Connection refused"'
    ]
    as_locally()
    hosts.hosts[0].stop()
    done = user("run", clip, *JOB, "k", *INVERT, "-o", "k.mkv", *on())
    port = hosts.hosts[0].port
    assert (done.code, done.err) == (
        1, f"vidcloud: can't start a collector: can't reach [127.0.0.1]:{port}: Connection refused\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ({"python": "/usr/bin/false"}, 1, "vidcloud can't be run on .*: install vidcloud"),
        ({"python": "/no/python"}, 1, "vidcloud can't be run on .*(No such file|not found).*: install vidcloud"),
        ({"share": "/no/share"}, 1, "doesn't see /no/share/jobs/j: the share must be mounted there"),
        ({"hosts": ""}, 2, "needs hosts: -o hosts=a,b,c"),
        ({"hosts": "a,a"}, 2, "stands there twice"),
        ({"slots": "0"}, 2, "slots=0: must be"),
        ({"install": "maybe"}, 2, "install=maybe: must be yes or no"),
        ({"collector": "b"}, 2, "only `local`"),
        ({"key": "/no/key"}, 2, "no file /no/key"),
        ({"key": "key"}, 2, "key=key: must be an absolute path"),
        ({"share": "here"}, 2, "absolute"),
        ({"password": "x"}, 2, "-o password: the ssh cloud knows hosts, user"),
        ({"slots": "1", "nodes": 3}, 2, "3 nodes on 2 hosts, 1 on each"),
    ],
)  # fmt: skip
def test_what_is_refused(user, on, clip, options, code, why):
    import re

    nodes = options.pop("nodes", 1)
    done = user("run", clip, *JOB, "j", *INVERT, "--nodes", nodes, *on(**options))
    assert done.code == code
    assert re.search(why, done.err), done.err
    assert done.err.count("\n") == 1
    user.when_no_processes()


def test_a_user_logs_in(user, hosts, on, clip):
    """By the system's ssh and by command; the node's host is known by its key, and nothing is learnt."""
    user.run(clip, *JOB, "j", *INVERT, "-o", "out.mkv", "--nodes", 2, *on())
    records = user.share / "jobs/j/instances"
    number = next(n for n, h in enumerate(hosts.hosts) if h.name in (records / "processor-1.json").read_text())
    there = hosts.hosts[number]

    done = user("ssh", "j", "processor-1", "echo $SSH_CONNECTION; echo oops >&2;", "exit", "7")
    assert (done.code, done.out.split()[3], done.err) == (7, str(there.port), "oops\n")
    assert user("ssh", "j", "processor-1", "kill", "-9", "$$").code == 255

    shell = subprocess.run(
        [*VIDCLOUD, "ssh", "j", "processor-1"], input="echo $SSH_CONNECTION; exit 5\n",
        cwd=user.folder, env=user.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (shell.returncode, shell.stdout.split()[3]) == (5, str(there.port)), shell.stderr

    hosts.known_hosts.write_text(f"[127.0.0.1]:{there.port} {hosts.hosts[1 - number].key}\n")
    for command in ([], ["true"]):
        done = user("ssh", "j", "processor-1", *command)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "it may be another machine" in done.err

    done = user("ssh", "j", "processor-9")
    assert (done.code, done.err) == (2, "vidcloud: job j has no node processor-9: see `vidcloud status`\n")


def test_local_nodes_are_not_logged_in_to(user, clip):
    user.run(clip, *JOB, "j", *INVERT, "-o", "out.mkv")
    done = user("ssh", "j", "processor-1", "true")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "processes of this machine" in done.err


@pytest.mark.parametrize("cloud", ["local", "ssh"])
def test_logs_are_followed(user, gates, clip, cloud, request):
    """Lines come while the job runs, each once, and the command ends with the job."""
    where = request.getfixturevalue("on")() if cloud == "ssh" else []
    child = user.start(
        "run", clip, *JOB, "j", "--filter", f"{gates.filter}:hold=8", "-o", "out.mkv", "--nodes", 2, *where
    )
    gates.held(2)
    every, one = user.start("logs", "j", "-f"), user.start("logs", "j", "processor-2", "--follow")
    first = one.stdout.readline()
    assert " started job=j node=processor-2" in first
    gates.open()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    told, _ = every.communicate(timeout=60)
    alone, _ = one.communicate(timeout=60)
    assert (every.returncode, one.returncode) == (0, 0)
    assert first + alone == user("logs", "j", "processor-2").out
    assert sorted(told.splitlines()) == sorted(user("logs", "j").out.splitlines())
    assert user("logs", "j", "-f").out.count("\n") == told.count("\n")
    assert user("logs", "j", "nobody", "-f").code == 2

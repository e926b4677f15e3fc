"""Whole jobs on bare metal: a real cobblerd, whose fence agent switches hosts of the test bed."""

import json
import os
import re
import subprocess
import sys

import pytest
from testbed import bed as testbed
from testbed.rack import TEMPLATE
from users import User, same_frames

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MACHINES = {f"node{n:02d}": (f"10.1.0.{n}", "lab" if n < 7 else "spare") for n in range(1, 8)}


@pytest.fixture
def bed(tmp_path):
    """A bed with a Cobbler and its machines; ``ssh`` asks them for their boots."""
    import cobblerd

    try:
        cobblerd.environment()
    except subprocess.CalledProcessError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"can't install Cobbler: {e}")
    with testbed.made(tmp_path) as made:
        root = tmp_path / "cobbler"
        daemon = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *made.lan, sys.executable, cobblerd.__file__, str(root), json.dumps(MACHINES), TEMPLATE],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": testbed.PATH},
        )  # fmt: skip
        try:
            url = daemon.stdout.readline().strip()
            assert url, (root / "output").read_text()[-2000:]
            environment = "".join(f"{k}={v}\n" for k, v in made.keys.items())
            ips = {name: ip for name, (ip, _) in MACHINES.items()}
            made.ask("rack", root=str(root), url=url, machines=ips, environment=environment)
            (tmp_path / "password").write_text("cobbler\n")
            (tmp_path / "password").chmod(0o600)
            (tmp_path / "metal.toml").write_text(
                f'url = "{url}"\npassword_file = "{tmp_path}/password"\nuser = "ann"\nstate_dir = "{tmp_path}/state"\n'
            )
            ssh = tmp_path / "bin/ssh"
            ssh.parent.mkdir()
            ssh.write_text(f'#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\nexec cat "{root}/boots/$1"\n')
            ssh.chmod(0o755)
            made.env |= {"PATH": f"{ssh.parent}:{testbed.PATH}", "VIDCLOUD_METAL_CONFIG": f"{tmp_path}/metal.toml"}
            pairs = {"profile": "job", "groups": "lab", "bucket": made.bucket, "s3_endpoint_url": testbed.S3}
            made.options = ("--cloud", "metal", *(w for k, v in pairs.items() for w in ("-o", f"{k}={v}")))
            made.cobbler = root
            yield made
        finally:
            daemon.terminate()
            daemon.wait()


@pytest.fixture
def clip(samples):
    return samples("long-gop.mkv")


@pytest.fixture
def begin(bed, clip):
    """A job whose frames wait for a file on the share, which the collector's host has."""
    (bed.folder / "gated.py").write_text(testbed.GATED)

    def start(*args):
        return bed.start(
            "run", clip, "--filter", "./gated.py:gated:hold=6", "--chunk", 3, "--nodes", 2, "--codec", "ffv1", "-o", "out.mkv",
            "--job-id", "j", "--json", "--yes", "--lease", 30, "--plane", "frames", *bed.options, *args,
        )  # fmt: skip

    return start


def metal(bed, command, **env):
    return json.loads(bed.user("metal", command, "--json", env=env).out)


def systems(bed):
    """Machines as Cobbler has them, by name."""
    return {s["name"]: s for s in metal(bed, "describe-systems")}


def taken(bed):
    return {name for name, s in systems(bed).items() if s["user"]}


def held(bed, count):
    """Names of processors that are at work, once there are so many: each has a claim."""

    def found():
        if not (leads := [h for h in bed.running() if "becomes a collector" in bed.console(h)]):
            return None
        claims = bed.sh(leads[0], "cat /srv/vidcloud/jobs/j/claims/*/* 2>/dev/null").out
        owners = sorted(set(re.findall(r'"node": ?"(node\d+-[0-9a-f]+)"', claims)))
        return (leads[0], owners) if len(owners) >= count else None

    return bed.when(found)


def all_free(bed):
    bed.when(lambda: not bed.running())
    bed.when(lambda: not taken(bed))
    assert {(s["profile"], s["netboot"]) for s in systems(bed).values()} == {("other", "off")}
    raw = "".join(p.read_text() for p in (bed.cobbler / "var/lib/cobbler/collections/systems").iterdir())
    assert "vidcloud_line" not in raw
    assert "vidcloud_job" not in raw
    powers = [(bed.cobbler / "machines" / name / "power").read_text() for name in MACHINES]
    assert set(powers) == {"OFF\n"}


def test_a_job_that_is_scaled(bed, begin, clip, tmp_path):
    """Machines are installed, work, are joined by two more, and are free afterwards; the frames are a serial run's.

    All by NFS through TLS, as in EC2; the other tests here are without.
    """
    child = begin("-o", "encrypt=true")
    lead, _ = held(bed, 2)
    assert len(taken(bed)) == 3
    assert "stunnel" in bed.sh(lead, "ps -eo args").out
    unasked = bed.user("scale", "j", "--nodes", 4)
    assert (unasked.code, "2 of 3 free machines will be installed anew" in unasked.err) == (2, True)
    assert bed.user("scale", "j", "--nodes", 4, "--yes").out == "j: 4 nodes (+2)\n"
    held(bed, 4)
    told = bed.user("instances", *bed.options, "--json").json
    assert sorted(m["role"] for m in told) == ["collector", *["processor"] * 4]
    assert {(m["job"], m["type"]) for m in told} == {("j", "job")}
    assert "node07" not in taken(bed), "another group's"
    assert len(metal(bed, "describe-instances", VIDCLOUD_METAL_USER="bob")) == 5, "anybody with access sees them"
    assert bed.sh(lead, "touch /srv/vidcloud/open").code == 0
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert json.loads(out)["takeovers"] == 0
    quiet = User(tmp_path / "quiet")
    quiet.folder.mkdir()
    quiet.run(clip, "--filter", f"{bed.folder}/gated.py:gated", "--codec", "ffv1", "-o", "quiet.mkv")
    same_frames(bed.folder / "out.mkv", quiet.folder / "quiet.mkv")
    all_free(bed)
    consoles = "".join(bed.console(h) for h in bed.hosts())
    assert "bed-secret" not in consoles
    assert "Traceback" not in consoles


def test_cancel(bed, begin):
    child = begin()
    held(bed, 1)
    told = bed.user("cancel", "j")
    assert told.out == "j: cancelled\n", told.err
    _, err = child.communicate(timeout=300)
    assert child.returncode == 1
    assert "cancelled" in err
    all_free(bed)


@pytest.mark.parametrize("by", ["cancel", "reap"])
def test_a_killed_launcher_s_machines_are_freed_from_elsewhere(bed, begin, tmp_path, by):
    child = begin()
    held(bed, 1)
    child.kill()
    child.communicate()
    elsewhere = {"VIDCLOUD_SHARE": str(tmp_path / "elsewhere")}
    where = ("--cloud", "metal", "-o", f"s3_endpoint_url={testbed.S3}")
    status = bed.user("status", "j", "--json", *where, env=elsewhere)
    assert status.json["state"] == "running", status.err
    if by == "cancel":
        assert bed.user("cancel", "j", *where, env=elsewhere).out == "j: cancelled\n"
    else:
        bob = bed.user("reap", "--older-than", "0s", "--yes", *where, env={**elsewhere, "VIDCLOUD_METAL_USER": "bob"})
        assert bob.out == "ended 0\n", "another's machines are left alone"
        assert "ended 3" in bed.user("reap", "--older-than", "0s", "--yes", *where, env=elsewhere).out
    all_free(bed)


def test_a_launcher_killed_while_it_starts_leaves_nothing_untagged(bed, begin):
    """Whenever it is killed: what is reserved has the job's tags, and is freed by them."""
    child = begin()
    bed.when(lambda: taken(bed))
    child.kill()
    child.communicate()
    assert bed.user("instances", *bed.options, "--json").json
    bed.user("reap", "--older-than", "0s", "--yes", *bed.options)
    all_free(bed)


def test_a_machine_that_loses_power_is_replaced_and_freed(bed, begin):
    child = begin("--lease", 5)
    lead, owners = held(bed, 2)
    bed.ask("off", host=owners[0].partition("-")[0])
    bed.when(lambda: set(held(bed, 2)[1]) - set(owners))  # a new node, be it on the same machine
    assert bed.sh(lead, "touch /srv/vidcloud/open").code == 0
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    all_free(bed)


REFUSED = [
    (("-o", "profile=nothing"), 2, "no profile 'nothing'"),
    (("-o", "profile="), 2, "needs -o profile="),
    (("-o", "groups=nowhere"), 2, "no group 'nowhere'"),
    (("-o", "machines=node99"), 2, "no machine 'node99'"),
    (("-o", "proflie=x"), 2, "did you mean profile?"),
    (("-o", "wipe=yes"), 2, "wipe_profile"),
    (("--nodes", 20, "--yes"), 1, "no room for 20 processors"),
    ((), 2, "2 of 6 free machines will be installed anew, their disks overwritten: confirm with --yes"),
]


def test_what_is_refused_with_one_line(bed, clip):
    """All in one bed, for to make one takes longer than to be refused."""
    for args, code, told in REFUSED:
        made = bed.user("run", clip, "--filter", "invert", "-o", "out.mkv", *bed.options, *args)
        assert made.code == code, (args, made.err)
        assert told in made.err, args
        assert len(made.err.strip().splitlines()) == 1, (args, made.err)
        assert not taken(bed), args
    all_free(bed)
    assert bed.user("jobs").out == "", "nothing was begun"


def test_recycle(bed):
    """Old installs are made anew, two at a time, one that hangs stays reserved as failed; Cobbler knows of the new ones."""
    bed.ask("break", name="node02")
    short = {"VIDCLOUD_METAL_INSTALL_TIMEOUT_S": "40"}
    told = bed.user("metal", "recycle", "--older-than", "30d", "-g", "lab", "-p", "debian", "--yes", env=short)
    assert told.code == 1
    assert "node02 failed after 40 s: the installer never called back" in told.out
    assert "not recycled: node02" in told.err
    assert taken(bed) == {"node02"}
    [failed] = metal(bed, "describe-instances")
    assert (failed["name"], failed["state"]) == ("node02", "failed")
    again = bed.user("metal", "recycle", "--older-than", "30d", "-g", "lab", "--yes")
    assert again.out == "recycled 0\n"

"""The test bed itself: hosts, their network, their NFS; and that nothing of it is left behind."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testbed import bed as testbed

pytestmark = pytest.mark.timeout(600)
PROJECT = Path(__file__).parents[3]
AS_VIDCLOUD = "setpriv --reuid=vidcloud --regid=vidcloud --init-groups"


@pytest.fixture
def bed(tmp_path, request):
    hook = tmp_path / "hook"
    hook.write_text("echo booted $HOST_NAME\n")
    with testbed.made(tmp_path, hook, cache=getattr(request, "param", 0)) as made:
        yield made


@pytest.fixture
def shared(bed):
    """A server and two clients that have its share mounted, and a third that has no right to."""
    server, *clients, stranger = bed.launch(4)
    address = bed.hosts()[server]["address"]
    assert bed.sh(server, "mkdir -p /srv/vidcloud; chown vidcloud: /srv/vidcloud; systemctl start nfs-server").code == 0
    for client in clients:
        where = f"{bed.hosts()[client]['address']}:/srv/vidcloud"
        assert bed.sh(server, f"exportfs -o rw,sync,root_squash {where}").code == 0
        mount = f"mkdir -p /srv/vidcloud; mount -t nfs -o hard {address}:/srv/vidcloud /srv/vidcloud"
        bed.when(lambda c=client, m=mount: bed.sh(c, m).code == 0)
    return server, *clients, stranger


def test_who_may_mount_and_what_they_may(bed, shared):
    server, one, other, stranger = shared
    address = bed.hosts()[server]["address"]
    refused = bed.sh(stranger, f"mkdir -p /srv/vidcloud; mount -t nfs -o hard {address}:/srv/vidcloud /srv/vidcloud")
    assert refused.code == 32
    assert bed.sh(one, f"{AS_VIDCLOUD} sh -c 'echo hello >/srv/vidcloud/a'").code == 0
    assert bed.sh(other, "cat /srv/vidcloud/a").out == "hello\n"
    assert bed.sh(other, "echo root >/srv/vidcloud/b").code != 0, "root is nobody there"
    assert bed.sh(server, "ls /srv/vidcloud").out == "a\n"


def test_a_server_that_is_killed_is_waited_for(bed, shared):
    server, one, *_ = shared
    writer = (
        f"{AS_VIDCLOUD} sh -c 'for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.2; done >/srv/vidcloud/lines; echo done'"
    )
    bed.sh(one, f"({writer}) >/run/writer 2>&1 &")
    bed.when(lambda: bed.sh(server, "cat /srv/vidcloud/lines").out)
    assert bed.sh(server, "systemctl kill nfs-server; systemctl start nfs-server").code == 0
    bed.when(lambda: "done" in bed.sh(one, "cat /run/writer").out)
    assert bed.sh(server, "cat /srv/vidcloud/lines").out.split() == list("12345678")


@pytest.mark.parametrize("bed", [3], indirect=True)
def test_a_client_with_caches_believes_what_it_has_seen(bed, shared):
    """Names, missing ones too, and attributes: the caches are there."""
    server, one, *_ = shared
    bed.sh(server, "echo old >/srv/vidcloud/a; chown vidcloud: /srv/vidcloud/a")
    look = "stat -c %s a; ls b 2>/dev/null; echo new >/run/begin"
    wait = "while [ ! -e /run/go ]; do sleep 0.05; done"
    bed.sh(one, f"cd /srv/vidcloud; ({look}; {wait}; stat -c %s a; ls b) >/run/seen 2>&1 &")
    bed.when(lambda: bed.sh(one, "cat /run/begin").out)
    assert bed.sh(server, "echo much longer >/srv/vidcloud/a; touch /srv/vidcloud/b").code == 0
    bed.sh(one, "touch /run/go")
    seen = bed.when(lambda: bed.sh(one, "grep -c . /run/seen").out == "3\n" and bed.sh(one, "cat /run/seen").out)
    assert seen.split("\n")[:2] == ["4", "4"]
    assert "b" in bed.when(lambda: bed.sh(one, "ls /srv/vidcloud/b").out), "but not for ever"


@pytest.mark.parametrize("bed", [0, 3], indirect=True, ids="cached{}".format)
def test_claims_on_two_clients_exclude_with_pauses_past_the_lease(bed, shared):
    """Each unit has exactly one accepted result, of the epoch that it says; what comes late counts nothing."""
    server, *clients, _ = shared
    python = f"env PYTHONPATH={PROJECT} {sys.executable} {PROJECT}/bench/claims.py"
    folder = "/srv/vidcloud/queue"
    run = f"{AS_VIDCLOUD} {python}"
    assert bed.sh(server, f"{AS_VIDCLOUD} mkdir {folder}").code == 0
    bed.sh(server, f"({run} collector {folder} --units 400) >/run/collector 2>&1 &")
    bed.when(lambda: bed.sh(server, f"ls {folder}/frontier").code == 0)
    for n, client in enumerate(clients):
        work = f"{run} worker {folder} --node {client} --pauses 0.02 --seed {n}"
        bed.sh(client, f"({work}) >/run/worker 2>&1 &")
    told = json.loads(bed.when(lambda: bed.sh(server, "cat /run/collector").out, timeout=240).splitlines()[-1])
    assert (told["units"], told["accepted"], told["twice"], told["wrong"]) == (400, 400, 0, 0)
    assert told["takeovers"] > 0, "somebody paused past the lease"
    workers = [json.loads(bed.when(lambda c=c: bed.sh(c, "cat /run/worker").out).splitlines()[-1]) for c in clients]
    assert all(w["published"] for w in workers)


def test_machines_that_go_off_or_are_ended(bed):
    off, ended = bed.launch(2)
    bed.sh(off, "poweroff")
    bed.when(lambda: bed.hosts()[off]["state"] == "off")
    bed.ask("pause", host=ended)
    bed.ask("kill", host=ended)
    assert bed.running() == []


def test_what_the_api_refuses(bed):
    with pytest.raises(RuntimeError, match="16384"):
        bed.launch(1, "x" * 17_000)
    bed.image = "ami-00000000000000000"
    with pytest.raises(RuntimeError, match=r"InvalidAMIID.NotFound"):
        bed.launch(1)
    assert bed.hosts() == {}


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from testbed.bed import Bed
bed = Bed(Path(sys.argv[2]), Path(sys.argv[2]) / "hook")
print(*bed.launch(1), flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_bed_whose_owner_is_killed(tmp_path):
    testbed.require()
    (tmp_path / "hook").write_text("echo booted; sleep 4321.5\n")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(testbed.__file__).parents[1]), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline().startswith("i-")
    links, mounts = _links(), _mounts()
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 60
    while left := [
        p
        for p in _command_lines()
        if str(tmp_path) in p or "4321.5" in p or ("testbed.server" in p and str(tmp_path) in p)
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert (_links(), _mounts()) == (links, mounts), "neither is in this namespace at any time"


def _links():
    return sorted(p.name for p in Path("/sys/class/net").iterdir())


def _mounts():
    return Path("/proc/self/mounts").read_text()


def _command_lines():
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found

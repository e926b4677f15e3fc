"""Whole jobs on EC2 as the test bed has it: API, boot hook, user-data, bundle, NFS, claims, S3, machines that end themselves."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import sshd
from testbed import bed as testbed
from users import User, same_frames

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def bed(tmp_path, request):
    with testbed.made(tmp_path, cache=getattr(request, "param", 0)) as made:
        yield made


@pytest.fixture
def clip(samples):
    return samples("long-gop.mkv")


@pytest.fixture
def gated(bed):
    """A filter whose frames from number ``hold`` on wait for a file on the share, which the collector's host has."""
    (bed.folder / "gated.py").write_text(testbed.GATED)
    return "./gated.py:gated"


class Job:
    """A job that was begun on the bed."""

    def __init__(self, bed, child):
        self.bed, self.child = bed, child

    def status(self):
        return self.bed.user("status", "j", "--json").json

    def collector(self):
        return next(n["id"] for n in self.status()["nodes"] if n["role"] == "collector" and n["state"] == "running")

    def processors(self):
        return [n["id"] for n in self.status()["nodes"] if n["role"] == "processor" and n["state"] == "running"]

    def held(self, count):
        """Processors that are at work, once there are so many: each has a claim."""

        def found():
            if not (leads := [h for h in self.bed.running() if "becomes a collector" in self.bed.console(h)]):
                return None
            claims = self.bed.sh(leads[-1], "cat /srv/vidcloud/jobs/j/claims/*/* 2>/dev/null").out
            owners = sorted(set(re.findall(r'"node": ?"(i-[0-9a-f]+)"', claims)) & set(self.bed.running()))
            return owners if len(owners) >= count else None

        return self.bed.when(found)

    def open(self):
        assert self.bed.sh(self.collector(), "touch /srv/vidcloud/open").code == 0

    def done(self, timeout=240):
        out, err = self.child.communicate(timeout=timeout)
        assert self.child.returncode == 0, err + "".join(
            f"\n--- {h}\n{self.bed.console(h)[-2000:]}" for h in self.bed.hosts()
        )
        return out, err


@pytest.fixture
def begin(bed, clip, gated):
    def start(*args, nodes=2, hold=6, lease=30, output="out.mkv"):
        child = bed.start(
            "run", clip, "--filter", f"{gated}:hold={hold}", "--chunk", 3, "--nodes", nodes, "--codec", "ffv1", "-o", output,
            "--job-id", "j", "--json", "--lease", lease, *bed.options, *args,
        )  # fmt: skip
        return Job(bed, child)

    return start


@pytest.fixture
def as_serial(bed, clip, tmp_path):
    """Assert that an output has the frames of a serial run on this machine."""

    def check(what="gated.py:gated", output="out.mkv"):
        quiet = User(tmp_path / "quiet")
        quiet.folder.mkdir()
        what = f"{bed.folder}/{what}" if ":" in what else what
        quiet.run(clip, "--filter", what, "--codec", "ffv1", "-o", "quiet.mkv")
        same_frames(bed.folder / output, quiet.folder / "quiet.mkv")
        assert quiet("verify", bed.folder / output).code == 0

    return check


@pytest.mark.parametrize("plane", ["frames", "segments"])
def test_a_job_with_five_nodes(bed, begin, as_serial, plane):
    """From the API's call to machines that have ended themselves; nothing stays at the home but records."""
    job = begin("--plane", plane, "--segment-chunks", 1, nodes=5)
    job.held(5)
    job.open()
    told = json.loads(job.done()[0])
    assert told["output"] == str(bed.folder / "out.mkv")
    assert told["plane"] == plane
    as_serial()
    assert len(bed.hosts()) == 6
    bed.when(lambda: not bed.running())
    home = bed.stored(bed.bucket) / "j"
    left = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())
    assert not [name for name in left if name.startswith(("input", "output", "bundle"))]
    notes = bed.user("audit", "j", "--json").json
    assert [n["action"] for n in notes] == ["started", "stored", "ended", "delivered", "removed"]
    logs = bed.user("logs", "j").out
    assert logs.count(" started job=j ") == 5
    for host in bed.hosts():
        assert not re.findall(r"Traceback|bed-secret", console := bed.console(host)), console


@pytest.mark.parametrize("bed", [3], indirect=True)
def test_a_job_whose_nodes_believe_what_they_have_seen(bed, begin, as_serial):
    """NFS clients with caches of names, missing names and attributes, all of them longer than the role scripts ask for."""
    job = begin("--plane", "frames", nodes=2)
    job.held(2)
    job.open()
    job.done()
    as_serial()


def test_an_output_in_s3_is_what_a_local_job_makes(bed, clip, tmp_path):
    """Byte by byte, and put there by the collector; nothing comes to the launcher."""
    told = bed.user(
        "run", clip, "--filter", "invert", "--nodes", 2, "-o", "s3://bed/out/cat.mp4", "--job-id", "j",
        "--json", "--plane", "frames", *bed.options,
    )  # fmt: skip
    assert told.code == 0, told.err
    assert told.json["output"] == "s3://bed/out/cat.mp4"
    local = User(tmp_path / "local")
    local.folder.mkdir()
    local.run(clip, "--filter", "invert", "-o", "cat.mp4", "--plane", "frames")
    assert bed.stored("s3://bed/out/cat.mp4").read_bytes() == (local.folder / "cat.mp4").read_bytes()
    assert bed.user("verify", bed.stored("s3://bed/out/cat.mp4")).code == 0


def test_processors_read_ranges_without_credentials(bed, begin, as_serial):
    """Regression: they asked for the input themselves, with no instance profile. It is signed for them, on the share."""
    job = begin("--plane", "segments", "--segment-chunks", 1, "--source", "ranges")
    node, lead = job.held(2)[0], job.collector()
    assert bed.sh(node, "grep -c X-Amz-Signature /srv/vidcloud/jobs/j/input.signed").out == "1\n"
    assert bed.sh(lead, "find /srv/vidcloud -name long-gop.mkv").out == "", "no copy lies on the share"
    others = bed.sh(lead, "grep -rl X-Amz-Signature /srv/vidcloud/jobs").out.split()
    assert others == ["/srv/vidcloud/jobs/j/input.signed"]
    job.open()
    job.done()
    as_serial()
    assert "X-Amz" not in (bed.folder / "out.mkv.proof.json").read_text() + bed.user("logs", "j").out


def test_scaling_up_and_down(bed, begin, as_serial):
    job = begin(nodes=2)
    job.held(2)
    assert bed.user("scale", "j", "--nodes", 6).out == "j: 6 nodes (+4)\n"
    job.held(6)
    assert bed.user("scale", "j", "--nodes", 3).out == "j: 3 nodes (-3)\n"
    bed.when(lambda: len(bed.running()) == 4)
    job.open()
    out, _ = job.done()
    assert '"takeovers": 0' in out, "who leaves gives back what it holds"
    as_serial()


def test_a_spot_notice_drains_a_processor_and_another_comes(bed, begin, as_serial):
    job = begin(nodes=2)
    noticed, _ = job.held(2)
    bed.ask(
        "notice",
        host=noticed,
        path="spot/instance-action",
        text='{"action": "terminate", "time": "2026-11-23T00:00:00Z"}',
    )
    bed.when(lambda: noticed not in bed.running())
    assert "a spot notice" in bed.console(noticed)
    bed.when(lambda: len(bed.running()) == 3)
    job.open()
    out, _ = job.done()
    assert '"takeovers": 0' in out
    as_serial()


def test_a_killed_a_paused_and_a_cut_off_host(bed, begin, as_serial):
    """Promises 3 and 4: each loses its claim; who comes back can publish nothing in place of its successor."""
    job = begin(nodes=4, lease=5)
    killed, paused, cut, _ = job.held(4)
    bed.ask("kill", host=killed)
    bed.ask("pause", host=paused)
    bed.ask("cut", host=cut)
    bed.when(lambda: bed.user("logs", "j").out.count(" node_dead ") >= 3)
    job.open()
    bed.ask("wake", host=paused)
    bed.ask("join", host=cut)
    job.done()
    as_serial()


@pytest.mark.parametrize("encrypt", ["no", "yes"])
def test_the_share_goes_away_and_comes_back(bed, begin, as_serial, encrypt):
    """kill -9 of the NFS server: nodes wait for it, nothing is lost; behind a tunnel, too."""
    job = begin("-o", f"encrypt={encrypt}", nodes=2)
    job.held(2)
    collector = job.collector()
    assert bed.sh(collector, "systemctl kill nfs-server").code == 0
    job.open()
    assert bed.sh(collector, "systemctl start nfs-server").code == 0
    job.done()
    as_serial()


def test_the_launcher_is_killed_and_the_job_is_seen_from_elsewhere(bed, begin, as_serial, tmp_path):
    job = begin(nodes=2)
    job.held(2)
    job.child.kill()
    job.child.communicate()
    elsewhere = {"VIDCLOUD_SHARE": str(tmp_path / "elsewhere")}
    told = bed.user("status", "j", "--json", *bed.options, env=elsewhere)
    assert told.json["state"] == "running"
    assert len(told.json["nodes"]) == 3
    assert bed.user("scale", "j", "--add", 1, *bed.options, env=elsewhere).out == "j: 3 nodes (+1)\n"
    job.held(3)
    assert " started job=j " in bed.user("logs", "j", *bed.options, env=elsewhere).out
    machines = bed.user("instances", *bed.options, "--json", env=elsewhere).json
    assert {m["job"] for m in machines} == {"j"}
    job.open()
    assert bed.user("watch", "j").code == 0
    as_serial()
    bed.when(lambda: not bed.running())


def test_cancel_from_elsewhere(bed, begin, tmp_path):
    job = begin(nodes=2)
    job.held(1)
    elsewhere = {"VIDCLOUD_SHARE": str(tmp_path / "elsewhere")}
    assert bed.user("cancel", "j", *bed.options, env=elsewhere).out == "j: cancelled\n"
    _, err = job.child.communicate(timeout=120)
    assert job.child.returncode == 1
    assert "cancelled" in err
    bed.when(lambda: not bed.running())
    assert not (bed.folder / "out.mkv").exists()


def test_an_interrupted_launcher_ends_all_it_started(bed, begin):
    job = begin(nodes=2)
    job.held(1)
    job.child.send_signal(signal.SIGINT)
    _, err = job.child.communicate(timeout=120)
    assert job.child.returncode == 130, err
    assert "nothing is left running" in err
    bed.when(lambda: not bed.running())


def test_a_collectors_host_is_killed_and_the_job_begins_again(bed, begin, as_serial):
    """The share went with the machine: all nodes start anew."""
    job = begin(nodes=2)
    job.held(2)
    bed.ask("kill", host=job.collector())
    bed.when(lambda: len(bed.hosts()) >= 6)
    job.held(2)
    job.open()
    job.done()
    as_serial()
    bed.when(lambda: not bed.running())


def test_a_cloud_with_an_eucarc(bed, clip, as_serial):
    """Eucalyptus: endpoints and keys from an eucarc, no token, no metadata options, path-style S3."""
    bed.ask("refuse", names=["ClientToken", "MetadataOptions"])
    (bed.folder / "eucarc").write_text(
        f"export EC2_URL={testbed.API}\nexport S3_URL={testbed.S3}\n"
        f"export EC2_ACCESS_KEY='{bed.keys['AWS_ACCESS_KEY_ID']}'\nexport EC2_SECRET_KEY='{bed.keys['AWS_SECRET_ACCESS_KEY']}'\n"
    )
    options = (
        "-o",
        "eucarc=eucarc",
        "-o",
        f"image={bed.image}",
        "-o",
        f"bucket={bed.bucket}",
        "-o",
        "instance_profile=collector",
        "-o",
        "region=us-east-1",
    )
    bare = {k: v for k, v in bed.env.items() if not k.startswith("AWS_")}
    bed.env = {**bare, "AWS_EC2_METADATA_DISABLED": "true"}
    told = bed.user(
        "run", clip, "--filter", "invert", "--nodes", 2, "--codec", "ffv1", "-o", "out.mkv", "--job-id", "j", "--json",
        "--cloud", "ec2", *options,
    )  # fmt: skip
    assert told.code == 0, told.err
    as_serial("invert")
    assert bed.user("status", "j", "--json").json["state"] == "done"


def test_a_login_to_a_node_whose_console_tells_its_keys(bed, begin):
    """A real sshd on the node; the fingerprint comes by the cloud's API, not from whoever answers."""
    if sshd.SSHD is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("NO SSHD: apt-get install openssh-server")
    job = begin(nodes=1)
    (node,) = job.held(1)
    home = bed.folder / "ssh"
    home.mkdir()
    for name in ("mine", "host", "another"):
        sshd.keygen(home / name)
    (home / "config").write_text(
        f"HostKey {home}/host\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile {home}/mine.pub\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nUseDNS no\n"
    )
    assert bed.sh(node, f"mkdir -p /run/sshd && {sshd.SSHD} -f {home}/config").code == 0
    login = ("-o", f"key_file={home}/mine", "-o", "ssh_address=private")

    def told(key):
        shown = bed.sh(node, f"ssh-keygen -lf {home}/{key}.pub").out
        with Path(bed.hosts()[node]["console"]).open("a") as console:
            console.write(
                f"-----BEGIN SSH HOST KEY FINGERPRINTS-----\n{shown}-----END SSH HOST KEY FINGERPRINTS-----\n"
            )

    def ssh(*command):
        return bed.user("ssh", *bed.options, *login, "j", node, *command, env={"VIDCLOUD_SHARE": str(home / "none")})

    nothing = ssh("hostname")
    assert (nothing.code, nothing.out) == (1, "")
    assert "does not show its host keys" in nothing.err
    told("host")
    assert ssh("hostname", "&&", "ls", "/srv/vidcloud/jobs").out.split() == [node, "j"]
    gone = ssh("exit 7")
    assert (gone.code, gone.err) == (7, "")
    told("another")  # what is printed later may be anybody's
    unclear = ssh("hostname")
    assert (unclear.code, unclear.out) == (1, "")
    assert "host keys that differ" in unclear.err
    console = Path(bed.hosts()[node]["console"])
    console.write_text(console.read_text().replace("BEGIN SSH HOST KEY", "was", 1))
    other = ssh("hostname")
    assert (other.code, other.out) == (1, "")
    assert "it may be another machine" in other.err
    job.open()
    job.done()


@pytest.mark.parametrize("encrypt", ["yes", "no"])
def test_who_listens_to_the_lan_hears_no_nfs_of_a_job_that_encrypts(bed, begin, as_serial, encrypt):
    with bed.wire() as heard:
        job = begin("-o", f"encrypt={encrypt}")
        job.held(2)
        job.open()
        job.done()
    as_serial()
    if encrypt == "yes":
        assert heard["calls"] == 0
        assert "2049" not in heard["packets"]
        assert heard["packets"]["20049"] > 100
    else:
        assert heard["calls"] > 100, "an ear that hears nothing proves nothing"


# A call of NFS's procedure that does nothing: record mark, transaction "ARTS", call, RPC 2, program 100003, version 3.
ASK = """
import socket, sys
call = '80000028' '41525453' '00000000' '00000002' '000186a3' '00000003' + '00000000' * 5
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as s:
    s.sendall(bytes.fromhex(call))
    print('answer:', s.recv(4096))
"""


def test_who_has_no_key_does_not_reach_the_share(bed, begin, as_serial):
    """A host of the lan with no key, a wrong one, the right one, and one that plays the collector; and where the key is."""
    job = begin("-o", "encrypt=yes")
    lead, nodes = job.held(2) and job.collector(), job.held(2)
    (stranger,) = bed.launch(1, said="")
    bed.when(lambda: "inet " in bed.sh(stranger, "ip addr show eth0").out)
    address = bed.hosts()[lead]["address"]
    key = bed.sh(lead, "cat /run/vidcloud/bundle/tunnel.psk").out.strip().removeprefix("vidcloud:")
    assert re.fullmatch("[0-9a-f]{64}", key)
    (bed.folder / "ask.py").write_text(ASK)
    ask = f"{sys.executable} {bed.folder}/ask.py"

    assert "answer: b'\\x80" in bed.sh(nodes[0], f"{ask} 127.0.0.1 20049").out, "a node's own tunnel answers"
    assert "\\x80" not in bed.sh(stranger, f"{ask} {address} 20049").out
    for port in (2049, 2051, 2052):
        assert "ConnectionRefusedError" in bed.sh(stranger, f"{ask} {address} {port}").err

    def shake(key):
        cipher = "-tls1_2 -cipher ECDHE-PSK-CHACHA20-POLY1305 -psk_identity vidcloud"
        return bed.sh(stranger, f"openssl s_client -connect {address}:20049 {cipher} -psk {key} </dev/null 2>&1")

    for wrong in ("0" * 64, key[:-1] + ("0" if key[-1] != "0" else "1")):
        assert "alert bad record mac" in shake(wrong).out
    assert shake(key).code == 0, "it is the key that counts"

    # Regression: with TLS 1.3, stunnel took any certificate in the key's place, and a false collector got the data.
    bed.sh(
        stranger,
        "cd /run && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -subj /CN=x -days 2 && "
        "(setsid openssl s_server -accept 20049 -cert c -key k -rev >/dev/null 2>&1 </dev/null &)",
    )
    false = bed.hosts()[stranger]["address"]
    bed.when(lambda: bed.sh(nodes[0], f"openssl s_client -connect {false}:20049 </dev/null").code == 0)
    said = bed.sh(
        nodes[0],
        "export VIDCLOUD_BUNDLE=/run/vidcloud/bundle VIDCLOUD_RUN=/run/try; mkdir /run/try; . /run/vidcloud/bundle/host.sh; "
        f"open_tunnel 127.0.0.1:30049 {false}:20049 'client = yes'; "
        f"until {ask} 127.0.0.1 30049 || grep -q SSL_connect /run/try/tunnel.log; do sleep 0.1; done; cat /run/try/tunnel.log",
    )
    assert "handshake failure" in said.out, said
    assert "ARTS" not in said.out

    for host in (lead, *nodes):
        assert bed.sh(host, "stat -c '%a %U' /run/vidcloud/bundle/tunnel.psk").out == "600 root\n"
        assert bed.sh(host, "test -e /run/vidcloud/bundle.tar").code == 1
        seen = bed.sh(
            host, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '; cat /srv/vidcloud/jobs/j/*.json"
        ).out
        assert "stunnel /run/vidcloud/tunnel.conf" in seen
        assert "VIDCLOUD_BUNDLE=" in seen
        assert key not in seen + bed.console(host)
    assert holders(bed, key) == ["bundle.tar"]
    job.open()
    job.done()
    as_serial()
    bed.when(lambda: bed.running() == [stranger])
    assert holders(bed, key) == []


def holders(bed, key):
    """Files at the home and with the launcher that have a text in them."""
    files = [p for folder in (bed.stored(bed.bucket), bed.folder / "share") for p in folder.rglob("*") if p.is_file()]
    return [p.name for p in files if key.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("-o", "image=ami-00000000000000000"), 1, "ami-00000000000000000"),
        (("-o", "price_cap=0.1"), 2, "more than price_cap=0.1"),
        (("-o", "imgae=x"), 2, "did you mean image?"),
        (("-o", "instance_profile="), 2, "needs -o instance_profile=NAME"),
        (("-o", "bucket=s3://no-such-bucket/x"), 1, "no-such-bucket"),
        (("--env-keys",), 1, "SignatureDoesNotMatch"),
    ],
)
def test_what_is_refused_with_one_line(bed, clip, args, code, told):
    env = {}
    if args == ("--env-keys",):
        args, env = (), {"AWS_SECRET_ACCESS_KEY": "wrong"}
    made = bed.user("run", clip, "--filter", "invert", "-o", "out.mkv", *bed.options, *args, env=env)
    assert made.code == code, made.err
    assert told in made.err
    assert len(made.err.strip().splitlines()) == 1, made.err
    assert bed.hosts() == {}
    assert bed.user("jobs").out == "", "nothing was begun"
    left = {p.name for p in bed.stored("s3://bed").rglob("*") if p.is_file() and p.parent.name != "audit"}
    assert left <= ({"spec.json", "nodes.json"} if "profile" not in told else set())

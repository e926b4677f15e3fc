"""The machine image, booted: ``VIDCLOUD_IMAGE=$(tests/vm/install) pytest tests/vm``, as root. Minutes, emulated."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from testbed import bed as testbed
from users import User, same_frames

FINGERPRINT = r"BEGIN SSH HOST KEY FINGERPRINTS-----\s+256 (SHA256:\S+) .*\(ED25519\)"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def image():
    if not (folder := os.environ.get("VIDCLOUD_IMAGE")):
        pytest.skip("NO IMAGE: VIDCLOUD_IMAGE names no folder of images/build; tests/vm/install makes one")
    return Path(folder).absolute()


@pytest.fixture
def bed(image, tmp_path):
    if lacking := [p for p in ("qemu-system-x86_64", "qemu-img", "dnsmasq") if not shutil.which(p, path=testbed.PATH)]:
        pytest.skip(f"NO VM: no {', '.join(lacking)}; tests/vm/install brings them")
    with testbed.made(tmp_path, disk=image / "disk.qcow2") as made:
        yield made


def test_what_lies_in_the_tree(image):
    """The hook as it is here, the role's user, and nothing that is one machine's own or lets somebody in."""
    with tarfile.open(image / "tree.tar") as tree:
        names = tree.getnames()

        def read(name):
            return tree.extractfile(f"./etc/{name}").read().decode()

        assert read("rc.local") == (Path(__file__).parents[2] / "userdata/rc.local").read_text()
        assert tree.getmember("./etc/rc.local").mode == 0o755
        assert re.search(r"^vidcloud:x:4100:4100:.*:/usr/sbin/nologin$", read("passwd"), re.MULTILINE)
        assert {line.split(":")[1] for line in read("shadow").splitlines()} <= {"*", "!", "!*"}, "nobody has a password"
        assert read("machine-id") == ""
        assert {"AuthenticationMethods publickey", "PermitRootLogin prohibit-password", "AllowUsers root"} <= set(
            read("ssh/sshd_config.d/vidcloud.conf").splitlines()
        )
    assert not [
        n for n in names if re.search(r"/(sudo|cloud-init)$|ssh_host_|authorized_keys|^./etc/systemd/.*/nfs-server", n)
    ]


def test_root_gets_in_by_the_clouds_key_and_by_nothing_else(bed, tmp_path):
    """And whoever reads the console knows whose key it is."""
    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (host,) = bed.launch(1, said="")  # a machine of no job: it stays
    key = (tmp_path / "mine.pub").read_text()
    bed.ask("notice", host=host, path="public-keys/0/openssh-key", text=key)
    address = bed.hosts()[host]["address"]

    def ssh(*options, user="root"):
        known = ("-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={tmp_path / 'known'}")
        return subprocess.run(
            ["nsenter", "--target", str(bed._inside), "--net", "ssh", "-F", "none", *known, "-o", "ConnectTimeout=30", *options, f"{user}@{address}", "id", "-un"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    by_key = ("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i")
    bed.when(lambda: ssh(*by_key, tmp_path / "mine").stdout == "root\n", timeout=600)
    for refused in (
        ssh(*by_key, tmp_path / "other"),
        ssh(*by_key, tmp_path / "mine", user="vidcloud"),
        ssh("-o", "PreferredAuthentications=password,keyboard-interactive"),
    ):
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr
    told = re.findall(FINGERPRINT, console := bed.console(host))
    assert len(told) == 1, console[-4000:]
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "known"], capture_output=True, text=True, check=True)
    assert told[0] in shown.stdout.split()


@pytest.mark.parametrize("encrypt", ["no", "yes"])
def test_a_job_on_machines_of_the_image(bed, samples, tmp_path, encrypt):
    """GRUB, kernel, systemd, hook, bundle, kernel NFS, S3: the output is the serial run's, and all machines go off."""
    clip = samples("long-gop.mkv")
    told = bed.user(
        "run", clip, "--filter", "invert", "--nodes", 1, "--plane", "frames", "--codec", "ffv1", "-o", "out.mkv",
        "--job-id", "j", "--json", "--lease", 60, *bed.options, "-o", f"encrypt={encrypt}", "-o", "boot_timeout_s=600", timeout=900,
    )  # fmt: skip
    assert told.code == 0, told.err + "".join(f"\n--- {h}\n{bed.console(h)[-4000:]}" for h in bed.hosts())
    quiet = User(tmp_path / "quiet")
    quiet.folder.mkdir()
    quiet.run(clip, "--filter", "invert", "--codec", "ffv1", "-o", "quiet.mkv")
    same_frames(bed.folder / "out.mkv", quiet.folder / "quiet.mkv")
    bed.when(lambda: not bed.running(), timeout=180)
    consoles = [bed.console(h) for h in bed.hosts()]
    assert sorted(role for role in ("collector", "processor") for c in consoles if f"becomes a {role}" in c) == [
        "collector",
        "processor",
    ]
    # Under load the launcher may be faster to end a machine than the machine is itself.
    assert any("role has ended: this machine goes off" in c for c in consoles)
    told = [re.findall(FINGERPRINT, c) for c in consoles]
    assert all(len(keys) == 1 for keys in told), "each tells its key on its console"
    assert told[0] != told[1], "and none has another's"

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


class Root:
    """Somebody with the cloud's key, and somebody with another one."""

    def __init__(self, bed, folder):
        self._bed, self._folder = bed, folder
        for name in ("mine", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        self._key = (folder / "mine.pub").read_text()

    def authorize(self, host):
        self._bed.ask("notice", host=host, path="public-keys/0/openssh-key", text=self._key)

    def ssh(self, host, command, *options, key="mine", user="root"):
        known = ("-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={self._folder / 'known'}")
        by_key = ("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", self._folder / key) if key else ()
        address = self._bed.hosts()[host]["address"]
        return subprocess.run(
            ["nsenter", "--target", str(self._bed._inside), "--net", "ssh", "-F", "none", *known, "-o", "ConnectTimeout=30", *by_key, *options, f"{user}@{address}", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def known(self):
        """Fingerprints of the hosts that were called."""
        shown = ["ssh-keygen", "-l", "-f", self._folder / "known"]
        return subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()


def test_a_job_on_machines_of_the_image(bed, samples, tmp_path):
    """GRUB, kernel, systemd, hook, bundle, kernel NFS, S3: the output is the serial run's, and all machines go off.

    One job, for two emulated machines cost minutes: ``encrypt = true`` is tested on the bed's hosts. The job is held until root, who got in by the cloud's key and by nothing else, lets it go on.
    """
    clip = samples("long-gop.mkv")
    (bed.folder / "gated.py").write_text(testbed.GATED)
    root = Root(bed, tmp_path)
    job = bed.start(
        "run", clip, "--filter", "./gated.py:gated:hold=6", "--nodes", 1, "--plane", "frames", "--codec", "ffv1", "-o", "out.mkv",
        "--job-id", "j", "--json", "--lease", 60, *bed.options, "-o", "boot_timeout_s=600",
    )  # fmt: skip
    for host in bed.when(lambda: len(hosts := bed.hosts()) == 2 and hosts):
        root.authorize(host)  # they ask for it once, when they have booted
    lead = bed.when(
        lambda: next((h for h in bed.hosts() if "becomes a collector" in bed.console(h)), None), timeout=600
    )
    bed.when(lambda: root.ssh(lead, "id -un").stdout == "root\n", timeout=600)
    for refused in (
        root.ssh(lead, "id", key="other"),
        root.ssh(lead, "id", user="vidcloud"),
        root.ssh(lead, "id", "-o", "PreferredAuthentications=password,keyboard-interactive", key=None),
    ):
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr
    told = re.findall(FINGERPRINT, console := bed.console(lead))
    assert len(told) == 1, console[-4000:]
    assert told[0] in root.known(), "whoever reads the console knows whose key it is"
    assert root.ssh(lead, "touch /srv/vidcloud/open").returncode == 0
    _, err = job.communicate(timeout=900)
    assert job.returncode == 0, err + bed.story()
    quiet = User(tmp_path / "quiet")
    quiet.folder.mkdir()
    quiet.run(clip, "--filter", f"{bed.folder}/gated.py:gated", "--codec", "ffv1", "-o", "quiet.mkv")
    same_frames(bed.folder / "out.mkv", quiet.folder / "quiet.mkv")
    bed.when(lambda: not bed.running(), timeout=180)
    consoles = [bed.console(h) for h in bed.hosts()]
    assert sorted(role for role in ("collector", "processor") for c in consoles if f"becomes a {role}" in c) == [
        "collector",
        "processor",
    ]
    # Under load the launcher may be faster to end a machine than the machine is itself.
    assert any("role has ended: this machine goes off" in c for c in consoles)
    keys = [key for c in consoles for key in re.findall(FINGERPRINT, c)]
    assert len(keys) == len(set(keys)), "none has another's"

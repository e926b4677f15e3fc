"""The install templates: a real cobblerd renders them, and what it renders is run against a folder as a machine's disk.

Cobbler's web server is a real one on loopback, which has the image's tree and hears the calls back. `chroot` is a stub that
changes the folder only: a folder has no programs of its own.
"""

import base64
import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from programs import installed

COBBLER = Path(__file__).parents[3] / "images/cobbler"
LINE = "processor 'https://b.example/x.tar?a=1&X-Sig=$HOME%2F`date`#sha256=00' [ --job j --env 'A=it'\\''s \"so\" \\ & more' ]"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ann@example (it's $hers)"
DISTROS = {"seed": ("debian", "bullseye"), "ks": ("redhat", "rhel9")}


@pytest.fixture
def site(tmp_path):
    """What a machine being installed asks its Cobbler host for."""
    with Site(tmp_path / "www") as made:
        yield made


class Site:
    def __init__(self, folder):
        self.folder, self.asked, self.deaf = folder, [], 0
        tree = folder / "tree"
        for name, text in {
            "etc/hostname": "vidcloud\n", "etc/repart.d/root.conf": "[Partition]\n", "etc/vidcloud/environment": "",
            "opt/vidcloud/bin/vidcloud": "#!\n", "boot/vmlinuz-6": "ours", "boot/initrd.img-6": "ours",
            "boot/grub/grub.cfg": "linux /vmlinuz root=LABEL=vidcloud\n", ".marked": "", "dev/null": "",
        }.items():  # fmt: skip
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / "etc").chmod(0o755)
        (tree / "vmlinuz").symlink_to("boot/vmlinuz-6")
        with tarfile.open(folder / "tree.tar", "w") as tar:
            tar.add(tree, ".")
        self.sum = hashlib.sha256((folder / "tree.tar").read_bytes()).hexdigest()

    def __enter__(self):
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                if self.path.startswith("/cblr/") and site.deaf:
                    site.deaf -= 1
                    self.send_error(503)
                    return
                body = (site.folder / "tree.tar").read_bytes() if self.path.endswith("tree.tar") else b"True"
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def registered(daemon, site):
    """``registered("seed", line=…)`` is a system of the real cobblerd with our template, as `Rendered`."""
    for kind in ("templates", "snippets", "scripts"):
        shutil.copytree(COBBLER / kind, daemon.root / "var/lib/cobbler" / kind, dirs_exist_ok=True)
    api = daemon.api
    token = api.login("cobbler", "cobbler")
    with contextlib.ExitStack() as ends:

        def make(kind, *, of_system=None, of_profile=None):
            breed, version = DISTROS[kind]
            meta = {
                "tree": f"http://{site.host}/cobbler/links/d",
                "vidcloud_tree_sha256": site.sum,
                "vidcloud_ssh_key": KEY,
            }
            things = (
                ("distro", {"breed": breed, "os_version": version, "arch": "x86_64",
                            "kernel": str(daemon.root / "vmlinuz"), "initrd": str(daemon.root / "initrd.img")}),
                ("profile", {"distro": f"our-distro-{kind}", "autoinstall": f"vidcloud.{kind}", "server": site.host,
                             "autoinstall_meta": meta | (of_profile or {})}),
                ("system", {"profile": f"our-profile-{kind}", "autoinstall_meta": of_system or {}}),
            )  # fmt: skip
            for what, fields in things:
                name = f"our-{what}-{kind}"
                api.xapi_object_edit(what, name, "add", {"name": name, **fields}, token)
                ends.callback(getattr(api, f"remove_{what}"), name, token)
            return f"our-system-{kind}"

        yield make


def encoded(line):
    return base64.b64encode(line.encode()).decode()


def script_of(daemon, kind, system):
    """The script that makes a machine ours, as the installer gets it."""
    if kind == "seed":
        return daemon.api.generate_script("", system, "vidcloud_install")
    post = daemon.api.generate_autoinstall("", system).partition("\n%post ")[2]
    return post.partition("\n")[2].partition("\n%end")[0]


class Disk:
    """A folder with what an installer has put there, and the script's run."""

    def __init__(self, folder):
        self.root, self.bin = folder / "disk", folder / "bin"
        for name in (
            "etc/shadow",
            "usr/bin/old",
            "boot/vmlinuz-5",
            "boot/grub/grub.cfg",
            "boot/grub2/grub.cfg",
            "proc/1/stat",
            ".old",
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("the installer's")
        self.bin.mkdir()
        (self.bin / "chroot").write_text('#!/bin/sh\ncd "$1"; shift; exec "$@"\n')
        (self.bin / "chroot").chmod(0o755)

    def run(self, script):
        path = self.root.with_name("script")
        path.write_text(script)
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "VIDCLOUD_ROOT": str(self.root), "VIDCLOUD_PATIENCE": "0.05"}
        return subprocess.run(["/bin/sh", str(path)], env=env, capture_output=True, text=True, timeout=120, check=False)

    def sourced(self, name):
        """What a shell has in a variable after it has read the file."""
        told = f'. "{self.root}/etc/vidcloud/user-data.env"; printf %s "${name}"'
        return subprocess.run(["/bin/sh", "-euc", told], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.mark.parametrize("kind", DISTROS)
def test_a_machine_gets_the_tree_the_key_and_the_very_line(daemon, registered, site, disk, kind):
    system = registered(kind, of_system={"vidcloud_line": encoded(LINE)})
    done = disk.run(script_of(daemon, kind, system))
    assert done.returncode == 0, done.stderr
    assert disk.sourced("VIDCLOUD_USER_DATA") == LINE
    assert disk.sourced("VIDCLOUD_INSTANCE") == system
    assert (disk.root / "etc/vidcloud/user-data.env").stat().st_mode & 0o777 == 0o600
    assert (disk.root / "root/.ssh/authorized_keys").read_text() == f"{KEY}\n"
    assert (disk.root / "root/.ssh").stat().st_mode & 0o777 == 0o700
    # The tree in place of what the installer brought, but for its boot loader and what it has mounted.
    for name in ("opt/vidcloud/bin/vidcloud", ".marked", "boot/vmlinuz-6", "proc/1/stat"):
        assert (disk.root / name).exists(), name
    for name in (
        "etc/shadow",
        "usr",
        ".old",
        "boot/vmlinuz-5",
        "etc/repart.d/root.conf",
        "vidcloud.tar",
        "vidcloud.old",
        "vidcloud.new",
    ):
        assert not (disk.root / name).exists(), name
    assert (disk.root / "vmlinuz").read_text() == "ours"
    for loader in ("grub", "grub2"):
        assert "LABEL=vidcloud" in (disk.root / "boot" / loader / "grub.cfg").read_text()
    assert (disk.root / "etc").stat().st_mode & 0o777 == 0o755
    assert site.asked == [
        "/cobbler/pub/vidcloud/tree.tar", f"/cblr/svc/op/nopxe/system/{system}", f"/cblr/svc/op/trig/mode/post/system/{system}",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", DISTROS)
def test_without_a_line_or_a_key_there_is_no_file_of_them(daemon, registered, site, disk, kind):
    system = registered(kind, of_profile={"vidcloud_ssh_key": ""})
    site.deaf = 2  # Cobbler is asked again
    done = disk.run(script_of(daemon, kind, system))
    assert done.returncode == 0, done.stderr
    assert not (disk.root / "etc/vidcloud/user-data.env").exists()
    assert not (disk.root / "root/.ssh").exists()
    assert (disk.root / "opt/vidcloud").is_dir()
    assert site.asked[-1] == f"/cblr/svc/op/trig/mode/post/system/{system}"


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"vidcloud_tree_sha256": "0" * 64}, "is not the one with the sum 000"),
        ({"vidcloud_tree_sha256": ""}, "the profile has no vidcloud_tree_sha256"),
        ({"vidcloud_line": "%%%"}, "vidcloud_line is not base64"),
    ],
)
def test_what_goes_wrong_is_told_and_cobbler_hears_of_no_install(daemon, registered, site, disk, meta, told):
    done = disk.run(script_of(daemon, "seed", registered("seed", of_profile=meta)))
    assert done.returncode == 1
    assert told in done.stderr
    assert not [path for path in site.asked if path.startswith("/cblr/")]
    if "vidcloud_tree_sha256" in meta:
        assert (disk.root / "usr/bin/old").exists(), "a tree that is another has replaced nothing"


def test_a_cobbler_that_stays_deaf_fails_the_install(daemon, registered, site, disk):
    site.deaf = 1000
    done = disk.run(script_of(daemon, "seed", registered("seed")))
    assert done.returncode == 1
    assert "does not hear that this machine is installed" in done.stderr


@pytest.mark.parametrize("of_system", [{}, {"vidcloud_line": encoded(LINE), "vidcloud_disk": "/dev/sdb"}])
def test_the_preseed_is_one(daemon, registered, site, tmp_path, of_system):
    system = registered("seed", of_system=of_system)
    seed = daemon.api.generate_autoinstall("", system)
    lines = [line for line in seed.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    questions = [line.split(None, 3) for line in lines]
    assert all(len(words) >= 3 for words in questions), questions
    kinds = {"string", "boolean", "select", "multiselect", "note", "password"}
    assert {words[2] for words in questions} <= kinds
    assert not [line for line in lines if "$getVar" in line or "#if" in line or "$disk" in line]
    asked = {words[1]: " ".join(words[3:]) for words in questions}
    assert asked["netcfg/get_hostname"] == system
    assert asked["preseed/early_command"].endswith(f"http://{site.host}/cblr/svc/op/trig/mode/pre/system/{system}")
    assert (
        f"'http://{site.host}/cblr/svc/op/script/system/{system}/?script=vidcloud_install'"
        in asked["preseed/late_command"]
    )
    assert asked["partman-auto/disk" if of_system else "partman/early_command"].startswith(
        "/dev/sdb" if of_system else 'debconf-set partman-auto/disk "$(list-devices disk'
    )
    assert encoded(LINE) not in seed
    if shutil.which("debconf-set-selections"):
        path = tmp_path / "seed"
        path.write_text(seed)
        done = subprocess.run(
            ["debconf-set-selections", "--checkonly", path], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("of_system", [{}, {"vidcloud_line": encoded(LINE), "vidcloud_disk": "/dev/sdb"}])
def test_the_kickstart_is_one(daemon, registered, site, tmp_path, of_system):
    system = registered("ks", of_system=of_system)
    kickstart = daemon.api.generate_autoinstall("", system)
    path = tmp_path / "ks"
    path.write_text(kickstart)
    validator = installed("ksvalidator")
    done = subprocess.run([sys.executable, validator, "-v", "RHEL9", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"url --url=http://{site.host}/cobbler/links/d" in kickstart
    assert f" --hostname={system}\n" in kickstart
    before = kickstart.partition("\n%pre ")[2].partition("\n")[2].partition("\n%end")[0]
    assert f"http://{site.host}/cblr/svc/op/trig/mode/pre/system/{system}" in before
    for script in (before, script_of(daemon, "ks", system)):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("of_system", [{}, {"vidcloud_disk": "/dev/sdb"}])
def test_the_kickstart_takes_one_disk(daemon, registered, tmp_path, of_system):
    kickstart = daemon.api.generate_autoinstall("", registered("ks", of_system=of_system))
    before = kickstart.partition("\n%pre ")[2].partition("\n")[2].partition("\n%end")[0]
    stubs = {"curl": "", "lsblk": 'printf "/dev/zram0 disk\\n/dev/sr0 rom\\n/dev/nvme0n1 disk\\n/dev/sda disk\\n"'}
    for name, then in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{then}\n")
        (tmp_path / name).chmod(0o755)
    told = tmp_path / "disk.ks"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-euc", before.replace("/tmp/disk.ks", str(told))], env=env, check=True)
    disk = of_system.get("vidcloud_disk", "/dev/nvme0n1")
    assert f"ignoredisk --only-use={disk}\nclearpart --all --initlabel --drives={disk}\n" in told.read_text()


@pytest.mark.parametrize("kind", DISTROS)
def test_the_script_is_clean(daemon, registered, tmp_path, kind):
    path = tmp_path / "script"
    path.write_text(script_of(daemon, kind, registered(kind, of_system={"vidcloud_line": encoded(LINE)})))
    done = subprocess.run(
        [installed("shellcheck"), "--shell=sh", "--severity=warning", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

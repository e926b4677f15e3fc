"""The scripts that make cloud images of a disk: the AWS CLI itself against EC2 and S3 of a few lines; euca2ools by a stub."""

import http.server
import os
import re
import shutil
import subprocess
import threading
import urllib.parse
from pathlib import Path

import elsewhere
import pytest
from programs import installed

IMAGES = Path(__file__).parents[3] / "images"
SCRIPTS = ("build", "customize", "filesystem", "register-ec2", "register-eucalyptus")


class Cloud:
    """What was asked of it, in order, and how its imports end."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.registered: dict[str, str] = {}
        self.state = "completed"
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self._told("PUT", self.path)

            def do_DELETE(self) -> None:
                self._told("DELETE", self.path)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                fields = dict(urllib.parse.parse_qsl(body))
                action = fields["Action"]
                answer = {
                    "ImportSnapshot": "<importTaskId>import-snap-1</importTaskId>",
                    "DescribeImportSnapshotTasks": "<importSnapshotTaskSet><item><importTaskId>import-snap-1</importTaskId>"
                    f"<snapshotTaskDetail><snapshotId>snap-12</snapshotId><status>{cloud.state}</status>"
                    "<statusMessage>no such role vmimport</statusMessage></snapshotTaskDetail></item></importSnapshotTaskSet>",
                    "RegisterImage": "<imageId>ami-12</imageId>",
                }[action]
                if action != "DescribeImportSnapshotTasks":
                    cloud.registered |= fields
                self._told(action, "", f"<{action}Response>{answer}</{action}Response>")

            def _told(self, verb: str, path: str, body: str = "") -> None:
                cloud.asked.append(f"{verb} {path}".strip())
                self.send_response(200)
                self.send_header("content-type", "text/xml")
                self.send_header("etag", '"d41d8cd98f00b204e9800998ecf8427e"')
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }


@pytest.fixture
def cloud():
    try:
        python = elsewhere.environment("awscli-1", ["awscli>=1.40,<2"])
    except subprocess.CalledProcessError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"can't install the AWS CLI: {e}")
    made = Cloud()
    made.env["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\0" * 4096)
    return path


def call(script, *args, env=None):
    return subprocess.run(
        ["/bin/sh", IMAGES / script, *map(str, args)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_disk_becomes_an_image_of_ec2(cloud, disk):
    """By token alone, with a disk that goes with its machine; the upload doesn't stay in the bucket."""
    done = call("register-ec2", disk, "s3://bucket/some/where/", "vidcloud-1", env=cloud.env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ami-12\n"
    assert [a for a in cloud.asked if a != "DescribeImportSnapshotTasks"] == [
        "PUT /bucket/some/where/vidcloud-1.raw",
        "ImportSnapshot",
        "RegisterImage",
        "DELETE /bucket/some/where/vidcloud-1.raw",
    ]
    for key, value in {
        "DiskContainer.Format": "RAW",
        "DiskContainer.UserBucket.S3Bucket": "bucket",
        "DiskContainer.UserBucket.S3Key": "some/where/vidcloud-1.raw",
        "Name": "vidcloud-1",
        "BootMode": "legacy-bios",
        "EnaSupport": "true",
        "ImdsSupport": "v2.0",
        "BlockDeviceMapping.1.Ebs.SnapshotId": "snap-12",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
    }.items():
        assert cloud.registered[key] == value
    assert cloud.registered["RootDeviceName"] == cloud.registered["BlockDeviceMapping.1.DeviceName"]


def test_an_import_that_fails_is_told_and_leaves_nothing(cloud, disk):
    cloud.state = "error"
    done = call("register-ec2", disk, "s3://bucket", "vidcloud-1", env=cloud.env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no such role vmimport" in done.stderr
    assert "RegisterImage" not in cloud.asked
    assert cloud.asked[-1] == "DELETE /bucket/vidcloud-1.raw"


@pytest.mark.parametrize(("printed", "code", "told"), [("IMAGE\temi-12", 0, "emi-12\n"), ("error: no bucket", 1, "")])
def test_a_disk_becomes_an_image_of_eucalyptus(disk, tmp_path, printed, code, told):
    stub = tmp_path / "bin/euca-install-image"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\necho "{printed}"\n')
    stub.chmod(0o755)
    done = call(
        "register-eucalyptus", disk, "images", "vidcloud-1", env={"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    )
    assert (done.returncode, done.stdout) == (code, told)
    asked = (tmp_path / "asked").read_text()
    assert asked == f"--name vidcloud-1 --bucket images --image {disk} --arch x86_64 --virtualization-type hvm\n"


@pytest.mark.parametrize(
    ("script", "args", "told"),
    [
        ("build", (), "usage: "),
        ("build", ("--mirror",), "--mirror has no value"),
        ("build", ("--moror", "x", "out"), "unknown option --moror"),
        ("build", ("a", "b"), "usage: "),
        ("build", ("/",), "/ is there already"),
        ("build", ("--like", "/nowhere", "/nowhere/out"), "no packages.txt in /nowhere"),
        ("register-ec2", ("disk.raw",), "usage: "),
        ("register-ec2", ("disk.raw", "bucket", "name"), "bucket is no s3:// URL"),
        ("register-ec2", ("/nowhere.raw", "s3://bucket", "name"), "can't read /nowhere.raw"),
        ("register-eucalyptus", ("/nowhere.raw", "bucket", "name"), "can't read /nowhere.raw"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(script, args, told):
    done = call(script, *args)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_the_image_is_made_of_is_in_its_recipe():
    """Regression: images/ssh-access was not, and an image with an old one was kept and tested."""
    project = IMAGES.parent
    installed = re.findall(r'"\$project/(\S+?)"', (IMAGES / "customize").read_text())
    installed += [f"images/{name}" for name in re.findall(r"\$here/(\w+)", (IMAGES / "build").read_text())]
    assert {"userdata/rc.local", "images/customize", "images/filesystem"} <= set(installed)
    (words,) = re.findall(r"recipe=\$\(cat (.*?) \|", (project / "tests/vm/install").read_text())
    kept = {path for word in words.split() for path in project.glob(word)}
    assert {project / path for path in (*installed, "images/build")} <= kept


@pytest.mark.skipif(
    not all(shutil.which(p, path="/usr/sbin:/sbin") for p in ("mke2fs", "debugfs")) and not os.environ.get("CI"),
    reason="no e2fsprogs",
)
def test_the_same_files_give_the_same_file_system(tmp_path):
    """Whenever they were unpacked, and read since; regression: mke2fs took those times over."""
    disks = []
    for name in ("one", "other"):
        root = tmp_path / name
        (root / "a folder").mkdir(parents=True)
        (root / "a folder/file").write_text("x")
        (root / "hard").hardlink_to(root / "a folder/file")
        (root / "soft").symlink_to("hard")
        for path in (root / "a folder/file", root / "soft", root / "a folder", root):
            seen = 1.5e9 if name == "one" else 1.6e9
            os.utime(path, (seen, 1.7e9), follow_symlinks=False)  # and changed now, which nobody can set
        disk = tmp_path / f"{name}.disk"
        with disk.open("wb") as f:
            f.truncate(32 << 20)
        env = {"SOURCE_DATE_EPOCH": "1700000000", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        done = call("filesystem", root, disk, 1 << 20, 4096, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        disks.append(disk.read_bytes())
    assert disks[0] == disks[1]
    (tmp_path / "fs").write_bytes(disks[0][1 << 20 : (1 << 20) + 4096 * 4096])
    checked = subprocess.run(["e2fsck", "-fn", tmp_path / "fs"], env=env, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None and not os.environ.get("CI"), reason="no systemd")
def test_the_hooks_unit_is_what_systemd_takes(tmp_path):
    """And the image has it in the place where it stands before systemd's own."""
    text = (IMAGES.parent / "userdata/rc-local.service").read_text()
    assert "ExecStart=/etc/rc.local\n" in text
    (tmp_path / "hook").write_text("#!/bin/sh\n")
    (tmp_path / "hook").chmod(0o755)
    (tmp_path / "rc-local.service").write_text(text.replace("/etc/rc.local\n", f"{tmp_path}/hook\n"))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "rc-local.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    customize = (IMAGES / "customize").read_text()
    assert '"$tree/etc/systemd/system/rc-local.service"' in customize
    assert "systemctl -q enable rc-local.service" in customize


def test_scripts_are_clean():
    done = subprocess.run([installed("shellcheck"), *SCRIPTS], cwd=IMAGES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

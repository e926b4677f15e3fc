"""How the image is logged in to: images/ssh-access under /bin/sh, real keys, and a metadata service on loopback."""

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "images/ssh-access"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA ann@example.org"

needs_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None and not os.environ.get("CI"), reason="no ssh-keygen"
)


class Machine:
    def __init__(self, folder):
        self.folder, self.ssh, self.home = folder, folder / "ssh", folder / "root"
        self.keys, self.console = self.home / ".ssh/authorized_keys", folder / "console"
        self.answers = []  # what the service has, one a question; the last stays
        self.port = 1
        self.ssh.mkdir()
        self.home.mkdir()

    def run(self, *words, **env):
        known = {
            "PATH": os.environ["PATH"], "VIDCLOUD_ETC": str(self.folder / "etc"), "VIDCLOUD_SSH": str(self.ssh),
            "VIDCLOUD_ROOT_HOME": str(self.home), "VIDCLOUD_CONSOLE": str(self.console), "VIDCLOUD_PATIENCE": "0.02",
            "VIDCLOUD_METADATA": f"http://127.0.0.1:{self.port}",
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), *words], env=known | env, capture_output=True, text=True, timeout=120, check=False
        )

    @contextlib.contextmanager
    def serving(self, *answers, tokens=True):
        """A metadata service that gives these: a text, or the number of an error."""
        self.answers = list(answers)
        machine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self):
                asked = "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
                self.answer("token" if tokens and asked else 405)

            def do_GET(self):
                if tokens and self.headers["X-aws-ec2-metadata-token"] != "token":
                    self.answer(401)
                elif self.path != "/latest/meta-data/public-keys/0/openssh-key":
                    self.answer(404)
                else:
                    self.answer(machine.answers.pop(0) if len(machine.answers) > 1 else machine.answers[0])

            def answer(self, told):
                body = told.encode() if isinstance(told, str) else b"<html>no</html>"
                self.send_response(200 if isinstance(told, str) else told)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.port = server.server_port
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def fingerprints(text):
    """What stands in the last block of a console."""
    block = text.rpartition("-----BEGIN SSH HOST KEY FINGERPRINTS-----\n")[2]
    return block.partition("-----END SSH HOST KEY FINGERPRINTS-----\n")[0].splitlines()


@needs_keygen
def test_host_keys_are_made_once_and_told_at_each_boot(machine):
    for _ in range(2):
        done = machine.run("host-keys")
        assert done.returncode == 0, done.stderr
    told = machine.console.read_text()
    assert told.count("-----BEGIN SSH HOST KEY FINGERPRINTS-----") == 2
    assert fingerprints(told) == fingerprints(told[: told.rindex("-----BEGIN")]), (
        "the second boot has the keys of the first"
    )
    lines = fingerprints(told)
    assert [re.fullmatch(r"256 SHA256:[A-Za-z0-9+/]{43} root@\S+ \((\w+)\)", line)[1] for line in lines] == [
        "ED25519",
        "ECDSA",
    ]
    for kind, line in zip(("ed25519", "ecdsa"), lines, strict=True):
        key = machine.ssh / f"ssh_host_{kind}_key"
        assert key.stat().st_mode & 0o777 == 0o600
        shown = subprocess.run(
            ["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert shown == line, "what is told is what the private key says"


@needs_keygen
def test_a_key_half_made_is_made_again(machine):
    (machine.ssh / "ssh_host_ed25519_key").touch()
    (machine.ssh / "new").write_text("half")
    done = machine.run("host-keys")
    assert done.returncode == 0, done.stderr
    assert len(fingerprints(machine.console.read_text())) == 2
    assert sorted(p.name for p in machine.ssh.iterdir()) == [
        "ssh_host_ecdsa_key", "ssh_host_ecdsa_key.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [True, False])
def test_the_services_key_lets_in_beside_those_that_are_there(machine, tokens):
    machine.keys.parent.mkdir()
    machine.keys.write_text("ssh-rsa AAAA site\n")
    with machine.serving(f"{KEY}\n", tokens=tokens):
        for _ in range(2):
            done = machine.run("authorize", **({} if tokens else {"VIDCLOUD_IMDSV1": "1"}))
            assert done.returncode == 0, done.stderr
    assert machine.keys.read_text() == f"ssh-rsa AAAA site\n{KEY}\n"


def test_the_key_is_roots_alone(machine):
    with machine.serving(KEY):
        machine.run("authorize")
    assert machine.keys.read_text() == f"{KEY}\n"
    assert machine.keys.stat().st_mode & 0o777 == 0o600
    assert machine.keys.parent.stat().st_mode & 0o777 == 0o700


def test_a_service_that_comes_late_is_asked_again(machine):
    with machine.serving(503, 500, KEY):
        assert machine.run("authorize").returncode == 0
    assert machine.keys.read_text() == f"{KEY}\n"


@pytest.mark.parametrize(
    "told", [404, 503, "", "<html>hello</html>", f"{KEY}\n{KEY}", f'command="reboot" {KEY}', f"$(touch x)\n{KEY}"]
)
def test_what_is_no_key_lets_nobody_in(machine, told):
    with machine.serving(told):
        assert machine.run("authorize").returncode == 0
    assert not machine.keys.exists()


def test_no_service_at_all(machine):
    with machine.serving(KEY):
        pass
    assert machine.run("authorize").returncode == 0
    assert not machine.keys.exists()


def test_settings_of_the_image_count(machine):
    (machine.folder / "etc").mkdir()
    (machine.folder / "etc/environment").write_text("VIDCLOUD_IMDSV1=1\n")
    with machine.serving(KEY, tokens=False):
        machine.run("authorize")
    assert machine.keys.exists()


def test_another_verb(machine):
    done = machine.run("open")
    assert (done.returncode, done.stderr) == (2, "usage: ssh-access host-keys | authorize\n")

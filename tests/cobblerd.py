"""A real cobblerd without root: ``python tests/cobblerd.py FOLDER [MACHINES [TEMPLATE]]`` runs one in the foreground.

Cobbler's paths are hard-wired, so its package is copied and re-based into a folder of its own. Its parts from PyPI live in
a virtual environment in the user's cache, because they want an old setuptools. Power goes through the fence agent
``fence_tests``, which reads and writes ``FOLDER/machines/``.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

import elsewhere

VERSION = "3.3.10"
PARTS = ("setuptools<81", "Cheetah3", "distro", "dnspython", "file-magic", "netaddr", "pymongo", "pyyaml", "requests")
REBASED = re.compile(
    r"(?<![\w.])/(?=(?:etc/cobbler|var/lib/cobbler|var/log/cobbler|var/cache/cobbler|var/www/cobbler|srv/tftpboot"
    r"|usr/sbin/fence_|sbin/fence_|usr/share/(?:syslinux|grub2|efi|ipxe))\b)"
)

# Called by Cobbler as a fence agent is: options on stdin. `deaf` counts calls to fail; `log` has a line a call done.
AGENT = """#!/bin/sh
while IFS='=' read -r key value; do
  case $key in action) action=$value;; plug) plug=$value;; esac
done
machine={machines}/$plug
if [ -s "$machine/deaf" ]; then
  left=$(cat "$machine/deaf")
  if [ "$left" -gt 1 ]; then echo $((left - 1)) > "$machine/deaf"; else rm "$machine/deaf"; fi
  exit 1
fi
case $action in
  on) echo ON > "$machine/power";;
  off) echo OFF > "$machine/power";;
esac
echo "$plug $action" >> {machines}/log
echo "Status: $(cat "$machine/power")"
"""

# Cobbler's own WSGI application, which installers call at /cblr/svc, with what Apache's mod_wsgi and mod_remoteip add: a
# machine's address comes in X-Forwarded-For, because all call from this machine.
SERVICE = """
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from svc.services import application


def served(environ, start_response):
    environ["REQUEST_URI"] = environ["PATH_INFO"]
    environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR", environ["REMOTE_ADDR"])
    return application(environ, start_response)


make_server("127.0.0.1", int(sys.argv[1]), served, type("Server", (ThreadingMixIn, WSGIServer), {})).serve_forever()
"""


def environment() -> Path:
    """The Python of a virtual environment that has Cobbler; made once, about half a minute.

    Raises:
        subprocess.CalledProcessError: there is no package index to be reached.
    """
    return elsewhere.environment(f"cobbler-{VERSION}", [*PARTS, "schema"], ["--no-deps", f"cobbler=={VERSION}"])


def lay_out(root: Path, port: int) -> Path:
    """Copy Cobbler to ``root``, re-based on it. Its reboots then pause 0.1 s instead of 5, its retries as well.

    Returns:
        the Python that can run it.
    """
    python = environment()
    site = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    for part in ("cobbler", "etc/cobbler", "var/lib/cobbler"):
        shutil.copytree(site / part, root / ("lib/cobbler" if part == "cobbler" else part))
    shutil.copytree(site / "var/www/cobbler/svc", root / "lib/svc")
    collections = ("distros", "profiles", "systems", "repos", "images", "mgmtclasses", "packages", "files", "menus")
    when = [f"{verb}/{thing}/{at}" for verb in ("add", "delete") for thing in ("distro", "profile", "system") for at in ("pre", "post")]  # fmt: skip
    folders = [
        *(f"var/lib/cobbler/collections/{kind}" for kind in collections),
        *(
            f"var/lib/cobbler/triggers/{w}"
            for w in (*when, "change", "install/pre", "install/post", "sync/pre", "sync/post")
        ),
        *(
            "var/log/cobbler/anamon",
            "var/lib/cobbler/loaders",
            "var/www/cobbler/images",
            "srv/tftpboot",
            "usr/sbin",
            "machines",
        ),
        *(
            "var/www/cobbler/links",
            "var/www/cobbler/distro_mirror",
            "var/www/cobbler/rendered",
            "srv/tftpboot/pxelinux.cfg",
        ),
        *("srv/tftpboot/grub/system", "srv/tftpboot/grub/system_link", "srv/tftpboot/images", "srv/tftpboot/ipxe"),
    ]
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in (*(root / "lib").rglob("*.py"), *(root / "etc").rglob("*")):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            text = REBASED.sub(lambda _: f"{root}/", text)
            if path.name == "power_manager.py":
                text = re.sub(r"time\.sleep\(\d\)", "time.sleep(0.1)", text)
            if path.name == "settings.yaml":
                text = re.sub(r"(?m)^xmlrpc_port:.*", f"xmlrpc_port: {port}", text)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
    agent = root / "usr/sbin/fence_tests"
    agent.write_text(AGENT.format(machines=root / "machines"))
    agent.chmod(0o755)
    for name in ("vmlinuz", "initrd.img"):
        (root / name).write_bytes(b"dummy")
    return python


class Cobblerd:
    """A cobblerd that runs; ``start`` and ``stop`` may be repeated, what was saved stays."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as s, socket.socket() as t:
            s.bind(("127.0.0.1", 0))
            t.bind(("127.0.0.1", 0))
            self.port, self._service_port = s.getsockname()[1], t.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.service = f"http://127.0.0.1:{self._service_port}/cblr/svc"
        self._python = lay_out(root, self.port)
        self._process: subprocess.Popen[bytes] | None = None
        self._web: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> Any:
        """A new connection to its API."""
        return xmlrpc.client.ServerProxy(self.url, allow_none=True)

    def start(self) -> None:
        """Start it and what installers call, and wait until both answer."""
        with (self.root / "output").open("ab") as output:
            more: Any = {
                "env": {"PYTHONPATH": str(self.root / "lib"), "PATH": os.environ["PATH"]},
                "stdout": output,
                "stderr": output,
            }
            self._process = subprocess.Popen(
                [self._python, self._python.with_name("cobblerd"), "-F", "-c", self.root / "etc/cobbler/settings.yaml"],
                **more,
            )
            self._web = subprocess.Popen([self._python, "-c", SERVICE, str(self._service_port)], **more)
        until = time.monotonic() + 60
        while True:
            try:
                self.api.version()
                socket.create_connection(("127.0.0.1", self._service_port), 5).close()
            except OSError:
                ended = self._process.poll() is not None or self._web.poll() is not None
                if ended or time.monotonic() > until:
                    raise RuntimeError((self.root / "output").read_text()[-2000:]) from None
                time.sleep(0.05)  # it has no way to tell that it is up
            else:
                return

    def stop(self) -> None:
        """End it, as a power cut would."""
        for process in (self._process, self._web):
            if process is not None:
                process.kill()
                process.wait()
        self._process = self._web = None

    def furnish(self, machines: dict[str, tuple[str, str]], template: str = "") -> None:
        """One distro, profiles ``debian``, ``other`` and ``wipe``, and machines: name -> (IP, group).

        With a template there is a profile ``job``, that has it for its autoinstall file.
        """
        api = self.api
        token = api.login("cobbler", "cobbler")
        fields = {"kernel": str(self.root / "vmlinuz"), "initrd": str(self.root / "initrd.img"), "arch": "x86_64"}
        api.xapi_object_edit("distro", "debian", "add", {"name": "debian", "breed": "debian", "os_version": "bullseye", **fields}, token)  # fmt: skip
        for name in ("debian", "other", "wipe"):
            api.xapi_object_edit("profile", name, "add", {"name": name, "distro": "debian"}, token)
        if template:
            (self.root / "var/lib/cobbler/templates/job.seed").write_text(template)
            fields = {"name": "job", "distro": "debian", "autoinstall": "job.seed"}
            api.xapi_object_edit("profile", "job", "add", fields, token)
        for n, (name, (ip, group)) in enumerate(machines.items()):
            folder = self.root / "machines" / name
            folder.mkdir()
            (folder / "power").write_text("OFF\n")
            fields = {
                "name": name,
                "profile": "other",
                "netboot_enabled": False,
                "power_type": "tests",
                "power_address": "127.0.0.1",
                "power_user": "u",
                "power_pass": "p",
                "power_id": name,
                "autoinstall_meta": {"vidcloud_group": group, "site_rack": "7"} if group else {"site_rack": "7"},
                "modify_interface": {
                    "ipaddress-eth0": ip,
                    "macaddress-eth0": f"52:54:00:00:{n // 256:02x}:{n % 256:02x}",
                },
            }
            api.xapi_object_edit("system", name, "add", fields, token)


if __name__ == "__main__":
    daemon = Cobblerd(Path(sys.argv[1]).absolute())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        daemon.start()
        machines = {f"node{n:02d}": (f"10.111.5.{n}", "test01") for n in range(1, 21)}
        daemon.furnish(json.loads(sys.argv[2]) if len(sys.argv) > 2 else machines, "".join(sys.argv[3:]))
        print(daemon.url, flush=True)
        daemon._process.wait()
    finally:
        daemon.stop()

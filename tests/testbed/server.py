"""The bed's own process: lan, metadata, EC2's API before moto's, S3. ``python -m testbed.server FOLDER``.

What moto's RunInstances makes becomes a host that boots; what ends there ends in the API. Beside that, the front does what
moto leaves out: ClientToken, images that don't exist, user-data that is too long, consoles.
"""

import base64
import hashlib
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from testbed.hosts import GATEWAY, METADATA, Host, make_lan, run
from testbed.metadata import Metadata, credentials
from testbed.rack import Rack
from testbed.vm import Vm

API_PORT, S3_PORT = 5000, 9000
KEY, SECRET, ACCOUNT, REGION, BUCKET, PROFILE = "AKIABED", "bed-secret", "123456789012", "us-east-1", "bed", "collector"
_USER_DATA_MOST = 16_384


class Hypervisor:
    """A WSGI application in front of moto's, and the hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.notices: dict[str, dict[str, str]] = {}
        self.refuses: list[str] = []
        self.rack: Rack | None = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._user_data: dict[str, str] = {}
        self._profiles: set[str] = set()
        self._tokens: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.RLock()

    # -- EC2's API -----------------------------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size)
        asked = dict(urllib.parse.parse_qsl(body.decode(errors="replace")))
        with self._lock:
            action = asked.get("Action", "")
            refusal = self._refusal(action, asked)
            if refusal:
                return _answer(start_response, "400 Bad Request", _error(*refusal))
            token = asked.get("ClientToken", "") if action == "RunInstances" else ""
            same = hashlib.sha256(
                json.dumps({k: v for k, v in asked.items() if k != "Timestamp"}, sort_keys=True).encode()
            ).hexdigest()
            if token in self._tokens:
                before, told = self._tokens[token]
                if before != same:
                    return _answer(
                        start_response, "400 Bad Request", _error("IdempotentParameterMismatch", "other parameters")
                    )
                return _answer(start_response, "200 OK", told)
            told, status = self._ask_moto(environ, body, asked)
            if status.startswith("200"):
                if action == "RunInstances":
                    self._boot(told, asked)
                    if token:
                        self._tokens[token] = (same, told)
                elif action in ("TerminateInstances", "RebootInstances"):
                    self._end(
                        [v for k, v in asked.items() if k.startswith("InstanceId.")], reboot=action == "RebootInstances"
                    )
                elif action == "GetConsoleOutput":
                    told = self._console(told, asked["InstanceId"])
        return _answer(start_response, status, told)

    def _refusal(self, action: str, asked: dict[str, str]) -> tuple[str, str] | None:
        for name in self.refuses:
            if action == "RunInstances" and any(k.split(".")[0] in (name, f"{name}s") for k in asked):
                return "UnknownParameter", f"The parameter {name} is not recognized"
        if action != "RunInstances":
            return None
        if len(base64.b64decode(asked.get("UserData", ""))) > _USER_DATA_MOST:
            return "InvalidParameterValue", "User data is limited to 16384 bytes"
        known = {i.id for i in get_backend("ec2")[ACCOUNT][REGION].describe_images()}
        if asked.get("ImageId") not in known:
            return "InvalidAMIID.NotFound", f"The image id '[{asked.get('ImageId')}]' does not exist"
        return None

    def _ask_moto(self, environ: dict[str, Any], body: bytes, asked: dict[str, str]) -> tuple[bytes, str]:
        import io

        seen: list[str] = []
        environ = {**environ, "wsgi.input": io.BytesIO(body)}
        told = b"".join(self._moto(environ, lambda status, _headers, *_: seen.append(status)))
        return told, seen[0]

    def _boot(self, told: bytes, asked: dict[str, str]) -> None:
        text = told.decode()
        for instance, address in re.findall(
            r"<instanceId>(i-[0-9a-f]+)</instanceId>.*?<privateIpAddress>([0-9.]+)</privateIpAddress>", text, re.DOTALL
        ):
            self._user_data[instance] = base64.b64decode(asked.get("UserData", "")).decode()
            if any(k.startswith("IamInstanceProfile") for k in asked):
                self._profiles.add(instance)
            machine = Vm if os.environ.get("BED_DISK") else Host
            host = machine(instance, address, self.folder / instance, lambda i=instance: self._went_off(i))
            self.hosts[instance] = host
            threading.Thread(target=host.boot, daemon=True).start()

    def _end(self, ids: list[str], *, reboot: bool = False) -> None:
        for i in ids:
            if i in self.hosts:
                self.hosts[i].kill()
                if reboot:
                    threading.Thread(target=self.hosts[i].boot, daemon=True).start()

    def _went_off(self, instance: str) -> None:
        """InstanceInitiatedShutdownBehavior=terminate."""
        with self._lock:
            get_backend("ec2")[ACCOUNT][REGION].terminate_instances([instance])

    def _console(self, told: bytes, instance: str) -> bytes:
        path = self.hosts[instance].console if instance in self.hosts else None
        text = base64.b64encode(path.read_bytes() if path and path.exists() else b"")
        return re.sub(rb"<output>.*?</output>", b"<output>" + text + b"</output>", told, flags=re.DOTALL)

    # -- the metadata service ------------------------------------------------------------------------------------------

    def about(self, address: str) -> dict[str, str] | None:
        """What the metadata service tells an address."""
        # A copy: hosts are added meanwhile, by another thread.
        found = next((h for h in list(self.hosts.values()) if h.address == address and h.state != "off"), None)
        if found is None:
            return None
        told = {
            "user-data": self._user_data.get(found.name, ""),
            "meta-data/instance-id": found.name,
            "meta-data/local-ipv4": address,
            **self.notices.get(found.name, {}),
        }
        if found.name in self._profiles:
            told["meta-data/iam/security-credentials/"] = PROFILE
            told[f"meta-data/iam/security-credentials/{PROFILE}"] = credentials(KEY, SECRET)
        return {k: v for k, v in told.items() if v}

    # -- what tests ask ------------------------------------------------------------------------------------------------

    def command(self, asked: dict[str, Any]) -> Any:
        """One request of a test's."""
        what = asked["what"]
        if what == "hosts":
            return {
                n: {"address": h.address, "state": h.state, "console": str(h.console)}
                for n, h in list(self.hosts.items())
            }
        if what == "rack":
            self.rack = Rack(
                Path(asked["root"]), asked["url"], asked["machines"], asked["environment"], self.folder, self.hosts
            )
            return None
        if what == "break":
            self.rack.broken.add(asked["name"])
            return None
        if what == "refuse":
            self.refuses[:] = asked["names"]
            return None
        host = self.hosts[asked["host"]]
        if what == "notice":
            self.notices.setdefault(host.name, {})[f"meta-data/{asked['path']}"] = asked["text"]
            return None
        if what == "sh":
            return host.sh(asked["command"], asked["timeout"])
        if what == "off":  # as `poweroff` does it
            host.sh("kill -TERM 1", 30)
            return None
        if what in ("pause", "wake", "cut", "join", "kill"):
            getattr(host, what)()
            if what == "kill" and host.name.startswith("i-"):
                self._went_off(host.name)
            return None
        raise ValueError(what)


def _answer(start_response: Callable[..., Any], status: str, body: bytes) -> list[bytes]:
    start_response(status, [("content-type", "text/xml"), ("content-length", str(len(body)))])
    return [body]


def _error(code: str, message: str) -> bytes:
    return (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
    ).encode()


def serve_s3(folder: Path) -> None:
    """A real S3 server that checks signatures."""
    (folder / BUCKET).mkdir(parents=True)
    subprocess.Popen(
        ["rclone", "serve", "s3", "--addr", f"{GATEWAY}:{S3_PORT}", "--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", str(folder)],
        stdin=subprocess.DEVNULL, stdout=(folder.parent / "s3.log").open("ab"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    # No names on this lan: who looks one up hears so at once, and does not wait for a server that isn't there.
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    run("mount", "--bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf"))
    make_lan()
    hypervisor = Hypervisor(folder / "hosts")
    Metadata(METADATA, hypervisor.about)
    server = make_server(GATEWAY, API_PORT, hypervisor, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    serve_s3(folder / "s3")
    iam = get_backend("iam")[ACCOUNT]["aws" if "aws" in get_backend("iam")[ACCOUNT] else "global"]
    iam.create_instance_profile(name=PROFILE, path="/", role_names=[], tags=[])
    image = next(iter(get_backend("ec2")[ACCOUNT][REGION].describe_images())).id

    class Requests(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                try:
                    answer = {"answer": hypervisor.command(json.loads(line))}
                except Exception as e:  # noqa: BLE001 - the test is told
                    answer = {"error": f"{type(e).__name__}: {e}"}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    control = socketserver.ThreadingUnixStreamServer(str(folder / "control"), Requests)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://{GATEWAY}:{S3_PORT}", timeout=1)
        except urllib.error.HTTPError:
            break
        except OSError:
            assert time.monotonic() < deadline, "rclone did not start"
            time.sleep(0.05)
    print(json.dumps({"image": image, "bucket": BUCKET, "key": KEY, "secret": SECRET}), flush=True)
    sys.stdin.read()  # until whoever started this goes


if __name__ == "__main__":
    main()

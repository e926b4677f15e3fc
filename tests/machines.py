"""A machine to boot, whose system commands are stubs: they write down what they are asked.

The metadata service and the server of bundles are real HTTP servers on loopback.
"""

import contextlib
import http.server
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from vidcloud import boot
from vidcloud import job as jobs
from vidcloud.job import JobSpec

SCRIPTS = boot.local_path_of_scripts()


class Machine:
    """A folder that looks like a machine to the scripts, and what happened there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.served: dict[str, bytes] = {"/latest/meta-data/instance-id": b"i-007"}
        self.broken = 0
        self.busy: dict[str, int] = {}
        self.tokens = True
        self.booted: subprocess.Popen[str] | None = None
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls.touch()
        for name in (
            "poweroff",
            "shutdown",
            "hostname",
            "exportfs",
            "systemctl",
            "mount",
            "umount",
            "chown",
            "mountpoint",
        ):
            self.stub(name)
        # It goes on until it is told to end; what it was to do is in what it was given.
        ends = f"trap 'echo stunnel ends >>{self.calls}; exit 0' TERM; while :; do sleep 0.05; done"
        self.stub("stunnel", f'cat "$1" >>{self.calls}\n{ends}')
        self.key, self.alone = "", False
        self.stub("mountpoint", "exit 1")
        self.stub("setpriv", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
        self.stub("python", self.role())
        self.share = folder / "srv"
        self.job = jobs.create(
            folder / "launcher",
            JobSpec(id="j", created=0.0, input="s3://b/i", output="s3://b/o", filters=(), encode={}),
        )
        (self.job.plugins / "12.py").write_text("# mine")

    def stub(self, name: str, then: str = "") -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{then}\n')
        path.chmod(0o755)

    def role(self, then: str = "") -> str:
        """A role that shows what it got, and does something."""
        told = f'printf "<%s>" "$@" >>{self.calls}; echo " reads $AWS_DEFAULT_REGION" >>{self.calls}; {then}'
        return f'case "$*" in *zipfile*) exit 0 ;; esac\n{told}'

    def said(self) -> str:
        return self.calls.read_text()

    def when(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < deadline, f"never came: {text!r}\n{self.said()}"
            time.sleep(0.02)

    def environment(self, port: int) -> dict[str, str]:
        return {
            "PATH": str(self.bin) if self.alone else f"{self.bin}:{os.environ['PATH']}",
            "VIDCLOUD_METADATA": f"http://127.0.0.1:{port}",
            "VIDCLOUD_RUN": str(self.folder / "run"),
            "VIDCLOUD_BOOT_LOG": str(self.folder / "boot.log"),
            "VIDCLOUD_CONSOLE": str(self.folder / "console"),
            "VIDCLOUD_PYTHON": str(self.bin / "python"),
            "VIDCLOUD_SHARE_ROOT": str(self.share),
            "VIDCLOUD_PATIENCE": "0.05",
            "VIDCLOUD_ETC": str(self.folder / "etc"),
            "VIDCLOUD_DMI": str(self.folder / "dmi"),
            "VIDCLOUD_NFS_CONF": str(self.folder / "nfs.conf"),
        }

    @contextlib.contextmanager
    def serving(self):
        machine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self):
                if not machine.tokens:
                    self.send_error(405)
                    return
                self.answer(b"token" if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else None)

            def do_GET(self):
                told = self.headers["X-aws-ec2-metadata-token"]
                if self.path.startswith("/latest/") and told != ("token" if machine.tokens else None):
                    self.send_error(401)
                    return
                if machine.busy.get(self.path):
                    machine.busy[self.path] -= 1
                    if machine.busy[self.path] % 2:
                        self.send_error(503)
                    else:
                        self.close_connection = True  # without an answer
                    return
                if self.path.startswith("/bundle") and machine.broken:
                    machine.broken -= 1
                    self.send_error(503)
                    return
                self.answer(machine.served.get(self.path.partition("?")[0]))

            def answer(self, body):
                self.send_response(404 if body is None else 200)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def bundle(self) -> str:
        target = self.folder / "bundle.tar"
        pin = boot.make_bundle(self.job.root, target, key=self.key)
        self.served["/bundle.tar"] = target.read_bytes()
        return pin

    def line(self, port: int, *words: str, pin: str | None = None, script: str = "processor") -> str:
        """Of a bundle that is served."""
        made = self.bundle()
        server = f"http://127.0.0.1:{port}/bundle.tar?X-Amz-Signature=hush#sha256={pin or made}"
        return boot.UserData(script, server, words).compose()

    def start(self, port: int, *words: str, hook: Path = SCRIPTS / "rc.local", **others: str) -> subprocess.Popen[str]:
        """Boot with a line."""
        self.served["/latest/user-data"] = self.line(port, *words, **others).encode()
        self.booted = subprocess.Popen(
            ["/bin/sh", str(hook)], env=self.environment(port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        return self.booted

    def leave(self) -> None:
        if self.booted and self.booted.poll() is None:
            os.killpg(self.booted.pid, signal.SIGKILL)

    def boot(self, *words: str, **kwargs) -> str:
        with self.serving() as port:
            child = self.start(port, *words, **kwargs)
            out, _ = child.communicate(timeout=60)
        return out + (self.folder / "console").read_text()


PROCESSOR = ("--job", "j", "--node", "{instance}", "--collector", "10.0.0.5")


COLLECTOR = ("--job", "j", "--node", "{instance}", "--home", "s3://b/homes/j")

"""An HTTP server on loopback that serves ranges, and misbehaves when told to."""

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import installed


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves bytes by range; counts them; can break off, change the file, know no ranges, or wait."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}
    tag = '"one"'
    breaks, ranges, changes_after = 0, True, 10**9
    keeps_back = busy = 0
    asked: list[str] = []
    wait: threading.Event

    def do_HEAD(self):
        self.send_response(200 if self.path in self.files else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self):
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        cls = type(self)
        self.wait.wait()
        if self.busy:
            cls.busy -= 1
            self.send_error(503)
            return
        first, last = 0, len(body) - 1
        if self.ranges and self.headers["range"]:
            cls.asked = [*cls.asked, self.headers["range"]]
            first, last = map(int, self.headers["range"].removeprefix("bytes=").split("-"))
            last = min(last, len(body) - 1)
            self.send_response(206)
            self.send_header("content-range", f"bytes {first}-{last}/{len(body)}")
        else:
            self.send_response(200)
        piece = body[first : last + 1 - self.keeps_back]
        self.send_header("content-length", str(len(piece)))
        self.send_header("etag", self.tag if len(self.asked) <= self.changes_after else '"another"')
        self.end_headers()
        if self.breaks:
            cls.breaks -= 1
            self.wfile.write(piece[:100])
            self.close_connection = True
            return
        self.wfile.write(piece)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving() -> Iterator[Any]:
    """A server that answers until the block ends; its handler's class holds ``url``, files and faults."""
    handler: Any = type("Handler", (Ranges,), {"files": {}, "asked": [], "wait": threading.Event()})
    handler.wait.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield handler
    finally:
        handler.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


KEYS = {"AWS_ACCESS_KEY_ID": "AKIASERVER", "AWS_SECRET_ACCESS_KEY": "server-secret"}


@contextlib.contextmanager
def signed_s3(folder: Path, bucket: str) -> Iterator[str]:
    """rclone's S3, which checks signatures, with a bucket, until the block ends; its URL. Who has ``KEYS`` may do all."""
    (folder / bucket).mkdir(parents=True)
    keys = ",".join(KEYS.values())
    options = ["--addr", "127.0.0.1:0", "--auth-key", keys, "--config", "/dev/null"]
    argv = [installed("rclone"), "serve", "s3", *options, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = next(line for line in server.stderr if "Starting s3 server" in line)
            yield re.search(r"http://[0-9.:]+", said)[0]
        finally:
            server.kill()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of ``localhost`` that nobody has signed, and its key."""
    if not shutil.which("openssl"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs openssl to make a certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*kind, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key

"""A file server for sites with their own: it gives files by GET and HEAD, whole or a range, and nothing else.

What lies in one folder and below it can be read by whoever reaches the port, if its name is known: there is no listing,
no way out of the folder, and nothing whose name begins with a dot. No request changes anything.
"""

import contextlib
import http.server
import io
import ipaddress
import os
import re
import socket
import socketserver
import ssl
import stat
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from vidcloud import log
from vidcloud.errors import UsageError

WORKERS = 32
"""Connections that are served at a time; others wait their turn."""
PATIENCE_S = 20.0
"""A client must send its request, and take each block of the answer, in this time."""

_IDLE_S = 5.0
_BLOCK = 1 << 18
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))", re.ASCII)

_event = log.events("serve")


def open_server(
    folder: Path,
    listen: str = "127.0.0.1:8080",
    *,
    cert: Path | None = None,
    key: Path | None = None,
    workers: int = WORKERS,
    patience_s: float = PATIENCE_S,
) -> "FileServer":
    """A server that is bound to its port; ``serve_forever`` lets it answer.

    Args:
        folder: what to serve.
        listen: ``address:port``, an IPv6 address in brackets; port 0 takes a free one.
        cert: certificate chain in PEM, for TLS (1.2 at least).
        key: its private key in PEM; may stand in ``cert``.
        workers: connections served at a time.
        patience_s: seconds that a client may take for its request and for each 256 KiB of the answer.

    Raises:
        UsageError: no such folder, an address that can't be listened on, a certificate that can't be used.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder} to serve")
    if key and not cert:
        raise UsageError("--key needs --cert")
    address, port = _parse(listen)
    context = _tls(cert, key) if cert else None
    try:
        return FileServer(folder, address, port, context, workers, patience_s)
    except (OSError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"can't listen on {listen}: {reason}; choose another with --listen") from None


def _parse(listen: str) -> tuple[str, int]:
    address, _, port = listen.rpartition(":")
    try:
        return str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError:
        raise UsageError(f"--listen {listen}: must be ADDRESS:PORT, as 0.0.0.0:8080 or [::]:8080") from None


def _tls(cert: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An encrypted key would ask at the terminal: a server has none.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except ssl.SSLError as e:
        raise UsageError(f"can't use the certificate {cert} with its key: {e.reason or 'not PEM'}") from None
    except OSError as e:
        both = f"{cert} and {key}" if key else str(cert)
        raise UsageError(f"can't read {both}: {e.strerror}") from None
    return context


class FileServer(socketserver.TCPServer):
    """Serves one folder, each connection on a thread of its own; see `open_server`."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, folder: Path, address: str, port: int, tls: ssl.SSLContext | None, workers: int, patience_s: float
    ) -> None:
        self.root = folder.resolve()
        self.patience_s = patience_s
        self._tls = tls
        self._free = threading.BoundedSemaphore(workers)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        address, port = self.server_address[:2]
        host = f"[{address!s}]" if self.address_family == socket.AF_INET6 else str(address)
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread; wait before the next one is accepted while all threads are busy."""
        self._free.acquire()
        try:
            threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()
        except BaseException:
            self._free.release()
            raise

    def _serve(self, connection: Any, client: Any) -> None:
        try:
            connection.settimeout(self.patience_s)
            if self._tls:
                # Here and not where it is accepted: a client that is slow to shake hands holds up no other.
                connection = self._tls.wrap_socket(connection, server_side=True)
            _Handler(connection, client, self)
        except OSError as e:  # also TLS errors and time-outs
            _event("broke_off", client=client[0], why=str(e))
        except Exception as e:  # noqa: BLE001 - one bad request ends no server
            _event("failed", client=client[0], error=f"{type(e).__name__}: {e}")
        finally:
            self.shutdown_request(connection)
            self._free.release()

    def find(self, target: str) -> BinaryIO | None:
        """Open the file that a request's target names; None if there is none that may be given."""
        words = urlsplit(target).path.split("/")[1:]
        # Taken apart before it is decoded: an encoded slash separates nothing.
        names = [unquote_to_bytes(w) for w in words]
        if not names or any(not n or n.startswith(b".") or b"/" in n or b"\0" in n for n in names):
            return None
        try:
            real = self.root.joinpath(*map(os.fsdecode, names)).resolve(strict=True)
            parts = real.relative_to(self.root).parts
        except (OSError, ValueError, RuntimeError):
            return None
        if any(p.startswith(".") for p in parts):
            return None
        return self._open(parts)

    def _open(self, parts: tuple[str, ...]) -> BinaryIO | None:
        # From folder to folder without following links: none can be put there between the look and the opening.
        with contextlib.ExitStack() as stack:
            at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, at)
            try:
                for part in parts[:-1]:
                    at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                    stack.callback(os.close, at)
                fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at) if parts else at
            except OSError:
                return None
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                if parts:
                    os.close(fd)
                return None
            return os.fdopen(fd, "rb", buffering=0)


class _Timed(io.RawIOBase):
    """Reads from a connection until a moment, however slowly the bytes come."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self.until))
        return self._connection.recv_into(buffer)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the client is too slow")
    return left


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def setup(self) -> None:
        super().setup()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed)
        self._first = True

    def handle_one_request(self) -> None:
        self._timed.until = time.monotonic() + (self.server.patience_s if self._first else _IDLE_S)
        self._first = False
        self._began, self._status, self._sent = time.monotonic(), 0, 0
        # What the parent sets when it has read a line; here, so that a failure before that has them too.
        self.command, self.path, self.requestline, self.request_version = "-", "-", "", self.protocol_version
        try:
            super().handle_one_request()
        finally:
            if self._status:
                _event(
                    "served",
                    client=self.client_address[0],
                    method=self.command or "-",
                    path=re.split("[?#]", self.path, maxsplit=1)[0][:500],  # a query may be somebody's signature
                    status=self._status,
                    bytes=self._sent,
                    seconds=round(time.monotonic() - self._began, 3),
                )

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.headers.get("transfer-encoding") or self.headers.get("content-length", "0") != "0":
            self.close_connection = True  # a body that nobody reads must not be taken for the next request
        try:
            file = self.server.find(self.path)
        except ValueError:  # urlsplit, of a broken address
            file = None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            self._give(file)

    def _give(self, file: BinaryIO) -> None:
        told = os.fstat(file.fileno())
        size, tag = told.st_size, f'"{told.st_ino:x}-{told.st_size:x}-{told.st_mtime_ns:x}-{told.st_ctime_ns:x}"'
        headers = {"ETag": tag, "Last-Modified": formatdate(told.st_mtime, usegmt=True), "Accept-Ranges": "bytes"}
        if tag in (t.strip().removeprefix("W/") for t in self.headers.get("if-none-match", "").split(",")):
            self._head(HTTPStatus.NOT_MODIFIED, headers)
            return
        first, stop, status = 0, size, HTTPStatus.OK
        wanted = _RANGE.fullmatch(self.headers.get("range", "").replace(" ", ""))
        # Another version than the client has a part of is given whole; so is what is no single range.
        if wanted and self.command == "GET" and self.headers.get("if-range", tag).strip() == tag:
            start, end, suffix = wanted.groups()
            first = max(0, size - int(suffix)) if suffix else int(start)
            stop = min(size, int(end) + 1) if end else size
            if end and int(end) < first:
                first, stop = 0, size
            elif first >= size or suffix == "0" * len(suffix or "x"):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{size}")
                return
            else:
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = str(stop - first)
        self._head(status, headers)
        if self.command == "HEAD":
            return
        file.seek(first)
        while first < stop:
            block = file.read(min(_BLOCK, stop - first))
            if not block:  # it was cut meanwhile: what was promised can't be kept
                self.close_connection = True
                return
            self._send(block)
            first += len(block)

    def _send(self, block: bytes) -> None:
        until, view = time.monotonic() + self.server.patience_s, memoryview(block)
        while view:
            self.connection.settimeout(_left(until))
            sent = self.connection.send(view)
            self._sent += sent
            view = view[sent:]

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.connection.settimeout(self.server.patience_s)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_response(self, code: int, message: str | None = None) -> None:
        self._status = int(code)
        super().send_response(code, message)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Say a status and nothing that the client sent; ``message`` is the range of a 416."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:  # how the parent names every other method
            status = HTTPStatus.METHOD_NOT_ALLOWED
        if status not in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            self.close_connection = True
        body = f"{status} {status.phrase}\n".encode()
        headers = {"Content-Type": "text/plain", "Content-Length": str(len(body))}
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            headers["Content-Range"] = str(message)
        self._head(status, headers)
        if self.command != "HEAD":
            self._send(body)

    def version_string(self) -> str:
        return "vidcloud"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Nothing: the parent would log requests with their queries."""

"""``vidcloud metal serve``: owns the reservations for users of many hosts; and the client of it.

Four addresses, JSON in and out, ``Authorization: Bearer <token>`` on each: ``POST /reserve``, ``/change``,
``/release``, and ``GET /history``. The tokens' file has lines ``USER TOKEN``: who comes with that token can act as that
user alone. The user ``*`` may act as anybody.
"""

import hmac
import http.client
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidcloud.errors import CloudError, EndedError, UsageError, VidcloudError
from vidcloud.log import events
from vidcloud.metal.cobbler import System
from vidcloud.metal.config import secret
from vidcloud.metal.reservations import Change, LockedReservations, Request, as_json

MAX_BODY = 1 << 20
_LENGTH = re.compile(r"[0-9]{1,9}")
_ANYBODY = "*"
_TRIES = 4
event = events("metal")


class PatientServer(ThreadingHTTPServer):
    """Answers until ``shutdown``; a client that is slow, silent or gone holds nobody up.

    Args:
        address: host and port; port 0 takes a free one.
        handler: of requests.
        tls: with it, https.
        timeout_s: how long a client may take to say what it wants.

    Raises:
        CloudError: the address can't be had.
    """

    daemon_threads = True
    request_queue_size = 128
    what = ""
    """What is served, for people."""

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        tls: ssl.SSLContext | None,
        timeout_s: float,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, type("Handler", (handler,), {"timeout": timeout_s}))
        except OSError as e:
            told = f"can't listen at {address[0]}:{address[1]}: {e.strerror or e}"
            raise CloudError(f"{told}; take another address, or end what listens there") from e
        self.tls = tls

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = str(self.server_address[0])
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS in the request's own thread, where a silent client holds nobody up."""
        request.settimeout(self.RequestHandlerClass.timeout)  # type: ignore[attr-defined]
        if self.tls is None:
            super().finish_request(request, client_address)
        else:
            with self.tls.wrap_socket(request, server_side=True) as encrypted:
                super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """One line, no traceback: a client that goes away is no fault."""
        event("client_left", client=client_address[0], why=repr(sys.exception()))


def body_length(headers: Message) -> int | None:
    """How many bytes follow a request's head; None if that can't be told for sure, or is too much.

    Whoever guesses takes a body for the next request on the connection, which a proxy in front never saw.
    """
    told = headers.get_all("content-length", ["0"])
    if "transfer-encoding" in headers or headers.defects or len(told) != 1 or not _LENGTH.fullmatch(told[0].strip()):
        return None
    return length if (length := int(told[0])) <= MAX_BODY else None


class Server(PatientServer):
    """Owns reservations.

    Args:
        address: host and port; port 0 takes a free one.
        reservations: what it owns.
        tokens: user by token.
        tls: with it, https.
        timeout_s: how long a client may take to say what it wants.
    """

    what = "reservations"

    def __init__(
        self,
        address: tuple[str, int],
        reservations: LockedReservations,
        tokens: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(address, _Handler, tls, timeout_s)
        self.reservations, self.tokens = reservations, tokens
        self.lock = threading.Lock()  # in one process, threads wait in turn; between processes the file lock holds


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer({"/history": lambda _who, _asked: self.server.reservations.history()})

    def do_POST(self) -> None:
        self._answer({"/reserve": self._reserve, "/change": self._change, "/release": self._release})

    def _reserve(self, who: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        tuples = {key: tuple(asked.get(key, ())) for key in ("names", "ips", "groups")}
        request = Request(**{**asked, **tuples})
        self._may(who, request.user)
        return [as_json(s) for s in self._owned(who).reserve(request)]

    def _change(self, who: str, asked: dict[str, Any]) -> dict[str, Any]:
        change = Change(**asked)
        self._may(who, change.user)
        return as_json(self._owned(who).change(change))

    def _release(self, who: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        self._may(who, asked["user"])
        return [as_json(s) for s in self._owned(who).release(asked["names"], asked["user"], asked.get("of"))]

    def _owned(self, who: str) -> LockedReservations:
        return self.server.reservations.as_seen_by(f"{who}@{self.client_address[0]}")

    @staticmethod
    def _may(who: str, user: str) -> None:
        if who not in (_ANYBODY, user):
            raise UsageError(f"this token is {who}'s, not {user}'s")

    def _answer(self, verbs: Mapping[str, Callable[[str, dict[str, Any]], Any]]) -> None:
        who = self._who()
        length = body_length(self.headers)
        if who is None:
            self._send(401, {"error": "wrong token"})
        elif length is None:
            self._send(413, {"error": f"at most {MAX_BODY} bytes, their number in content-length"})
        elif self.path not in verbs:
            self._send(404, {"error": f"no {self.path} here"})
        else:
            try:
                asked = json.loads(self.rfile.read(length) or b"{}")
                with self.server.lock:
                    given = verbs[self.path](who, asked)
            except EndedError as e:
                self._send(410, {"error": str(e)})
            except UsageError as e:
                self._send(400, {"error": str(e)})
            except (ValueError, TypeError, KeyError, AttributeError) as e:
                self._send(400, {"error": f"not understood: {type(e).__name__}: {e}"})
            except CloudError as e:
                self._send(502, {"error": str(e), "left": list(e.left_running)})
            except (VidcloudError, OSError) as e:
                self._send(502, {"error": str(e), "left": []})
            else:
                self._send(200, given)

    def _who(self) -> str | None:
        kind, _, given = self.headers.get("authorization", "").partition(" ")
        found = None
        for token, user in self.server.tokens.items():  # all of them, however early one fits
            if hmac.compare_digest(given.encode(), token.encode()) and kind == "Bearer":
                found = user
        return found

    def _send(self, status: int, body: Any) -> None:
        told = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        if status in {401, 404, 413}:  # what follows was not read
            self.close_connection = True
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        event("asked", client=self.client_address[0], line=format % args)


def read_tokens(path: Path) -> dict[str, str]:
    """User by token, of lines ``USER TOKEN``; ``#`` starts a comment.

    Raises:
        UsageError: the file can't be read, or by others too; a line is not like that; a token is short or comes twice.
    """
    found: dict[str, str] = {}
    for n, line in enumerate(secret(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) < 16 or words[1] in found:
            raise UsageError(f"{path}, line {n}: must be USER TOKEN, the token its own and of 16 characters or more")
        found[words[1]] = words[0]
    if not found:
        raise UsageError(f"{path}: no tokens")
    return found


class RemoteReservations:
    """`Reservations` of a server.

    Args:
        url: of the server.
        token: gives the token.
        ca_file: certificates to trust instead of the system's.
        timeout_s: of each call's parts; a call that waits for the server's lock may take long.
    """

    def __init__(self, url: str, token: str, *, ca_file: Path | None = None, timeout_s: float = 300.0) -> None:
        parts = urlsplit(url)
        self._url, self._token, self._timeout_s = url, token, timeout_s
        self._host, self._port, self._base = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            except OSError as e:
                raise UsageError(f"{ca_file}: {e.strerror or e}") from None

    def reserve(self, request: Request) -> list[System]:
        """See `Reservations.reserve`."""
        return [_system(s) for s in self._ask("POST", "/reserve", as_json(request))]

    def change(self, change: Change) -> System:
        """See `Reservations.change`."""
        return _system(self._ask("POST", "/change", as_json(change)))

    def release(self, names: Sequence[str], user: str, of: Mapping[str, str] | None = None) -> list[System]:
        """See `Reservations.release`."""
        asked = {"names": list(names), "user": user, "of": None if of is None else dict(of)}
        return [_system(s) for s in self._ask("POST", "/release", asked, tries=1)]

    def history(self) -> list[dict[str, Any]]:
        """See `Reservations.history`."""
        return list(self._ask("GET", "/history", None))

    def _ask(self, method: str, path: str, body: Any, tries: int = _TRIES) -> Any:
        """Ask, and again if no answer came: but for a release, all can be asked twice."""
        for attempt in range(tries):
            try:
                return self._ask_once(method, path, body)
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as e:
                if attempt == tries - 1:
                    raise CloudError(f"the reservations' server at {self._url}: {str(e) or type(e).__name__}") from e
                time.sleep(0.2 * 2**attempt)
        raise AssertionError

    def _ask_once(self, method: str, path: str, body: Any) -> Any:
        kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
        more: dict[str, Any] = {} if self._tls is None else {"context": self._tls}
        connection = kind(self._host, self._port, timeout=self._timeout_s, **more)
        try:
            told = None if body is None else json.dumps(body)
            connection.request(method, self._base + path, told, {"authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status == 200:
            return answer
        error = str(answer.get("error", f"HTTP {response.status}"))
        if response.status == 410:
            raise EndedError(error)
        if response.status == 400:
            raise UsageError(error)
        if response.status == 401:
            raise UsageError(f"the reservations' server at {self._url} does not know this token")
        raise CloudError(error, tuple(answer.get("left", ())))


def _system(found: dict[str, Any]) -> System:
    return System(**{**found, "ips": tuple(found["ips"])})

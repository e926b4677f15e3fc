"""The EC2-style door's server: requests in, answers out, by HTTP."""

import ssl
import traceback
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from vidcloud.log import events
from vidcloud.metal.ec2.query import Query, Refusal
from vidcloud.metal.ec2.signature import AccessKey, check_signature
from vidcloud.metal.ec2.zone import Zone
from vidcloud.metal.serve import MAX_BODY, PatientServer, body_length

event = events("metal")


class Door(PatientServer):
    """Answers EC2's Query API for one zone.

    Args:
        address: host and port; port 0 takes a free one.
        zone: what is behind it.
        keys: who may ask.
        tls: with it, https.
        timeout_s: how long a client may take to say what it wants.
    """

    what = "EC2's Query API"

    def __init__(
        self,
        address: tuple[str, int],
        zone: Zone,
        keys: Mapping[str, AccessKey],
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(address, _Handler, tls, timeout_s)
        self.zone, self.keys, self.query = zone, keys, Query()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer("")

    def _answer(self, query: str) -> None:
        door, request_id, self._told = cast("Door", self.server), str(uuid.uuid4()), "-"
        try:
            status, told = 200, self._do(door, query, request_id)
        except Refusal as e:
            status, told = e.status, Query.write_refusal(e, request_id)
            self._told += f" {e.code}"
        except Exception as e:  # noqa: BLE001 - whatever it is, the client gets an answer, and the log the reason
            self.close_connection = True  # what follows may not have been read
            where = traceback.extract_tb(e.__traceback__)[-1]
            event("failed", request=request_id, error=repr(e), at=f"{where.filename}:{where.lineno}")
            refusal = Refusal("InternalError", "something behind the door failed; its log says what", 500)
            status, told = 500, Query.write_refusal(refusal, request_id)
        self.send_response(status)
        self.send_header("content-type", "text/xml;charset=UTF-8")
        self.send_header("content-length", str(len(told)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(told)

    def _do(self, door: Door, query: str, request_id: str) -> bytes:
        body = self._body()
        headers = {name.lower(): value.strip() for name, value in self.headers.items()}
        user = check_signature(door.keys, self.command, self.path, headers, body)
        self._told = user
        try:
            fields = parse_qsl(query or body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=2000)
        except ValueError:
            raise Refusal("MalformedQueryString", "neither a form nor a query string") from None
        action, asked = door.query.read(fields)
        self._told = f"{user} {action}"
        told = door.zone.do(user, action, asked)
        return door.query.write(action, told, request_id, dict(fields).get("Version", ""))

    def _body(self) -> bytes:
        length = body_length(self.headers)
        if length is None:
            self.close_connection = True  # what follows was not read
            raise Refusal("RequestEntityTooLarge", f"at most {MAX_BODY} bytes, their number in content-length", 413)
        return self.rfile.read(length)

    def log_request(self, code: object = "-", size: object = "-") -> None:  # noqa: ARG002 - the library's signature
        """Who asked for what; never the query, which may have user-data."""
        event("asked", client=self.client_address[0], status=int(str(code)), told=getattr(self, "_told", "-"))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        event("client_left", client=self.client_address[0], why=format % args)

"""The instances' metadata service, version 2: callers are told apart by their addresses."""

import http.server
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any


class Metadata:
    """Serves until the process ends.

    Args:
        address: to listen on, port 80.
        about: what there is to tell to an address: a path below /latest/ and its text; None for a stranger.
    """

    def __init__(self, address: str, about: Callable[[str], dict[str, str] | None]) -> None:
        tokens: dict[str, tuple[str, float]] = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                ttl = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                if self.path != "/latest/api/token" or not ttl:
                    self._answer(400)
                    return
                token = secrets.token_hex(16)
                tokens[token] = (self.client_address[0], time.monotonic() + int(ttl))
                self._answer(200, token)

            def do_GET(self) -> None:
                owner, until = tokens.get(self.headers["X-aws-ec2-metadata-token"] or "", ("", 0.0))
                if owner != self.client_address[0] or time.monotonic() > until:
                    self._answer(401)
                    return
                told = about(owner) or {}
                text = told.get(self.path.removeprefix("/latest/"))
                self._answer(404 if text is None else 200, text or "")

            def _answer(self, code: int, text: str = "") -> None:
                body = text.encode()
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128  # many hosts boot at once, on a machine that may be busy

        server = Server((address, 80), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def credentials(key: str, secret: str) -> str:
    """What a role's credentials look like."""
    return json.dumps(
        {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": "",
            "Expiration": "2036-01-01T00:00:00Z",
        }
    )

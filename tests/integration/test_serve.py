"""The file server over loopback: what it gives, and what it never gives."""

import contextlib
import datetime as dt
import http.client
import ipaddress
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings

import pytest
from users import VIDCLOUD

from vidcloud import storage
from vidcloud.errors import UsageError
from vidcloud.serve import open_server

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "served"
    (made / "in").mkdir(parents=True)
    (made / "big.bin").write_bytes(CONTENT)
    (made / "in" / "a file").write_text("inner")
    (made / "empty").touch()
    (made / ".hidden").write_text("hidden")
    (made / ".git").mkdir()
    (made / ".git" / "config").write_text("hidden")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "served-too").mkdir()
    (tmp_path / "served-too" / "secret").write_text("secret")
    (made / "out").symlink_to(tmp_path / "secret")
    (made / "up").symlink_to(tmp_path)
    (made / "round").symlink_to("round")
    (made / "link").symlink_to("in/a file")
    (made / "alias").symlink_to(".hidden")
    os.mkfifo(made / "fifo")
    return made


@contextlib.contextmanager
def serving(folder, **options):
    with open_server(folder, "127.0.0.1:0", **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(folder):
    with serving(folder) as made:
        yield made


def ask(server, target, method="GET", **headers):
    """One request, its target as it stands; the answer and its body."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer, answer.read()


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/big.bin", CONTENT),
        ("/in/a%20file", b"inner"),
        ("/link", b"inner"),
        ("/empty", b""),
        ("/big.bin?X-Amz-Signature=1#sha256=2", CONTENT),
    ],
)
def test_files_are_given(server, target, body):
    answer, got = ask(server, target)
    assert (answer.status, got) == (200, body)
    assert answer.headers["content-type"] == "application/octet-stream"
    head, nothing = ask(server, target, "HEAD")
    assert (head.status, head.headers["content-length"], nothing) == (200, str(len(body)), b"")


@pytest.mark.parametrize(
    "target",
    [
        "/", "//", "/in", "/in/", "/.", "/..", "/../secret", "/in/../../secret", "/in/../big.bin", "/%2e%2e/secret",
        "/.%2e/secret", "/..%2fsecret", "/in%2f..%2f..%2fsecret", "/%252e%252e/secret", "/%c0%ae%c0%ae/secret",
        "/..%5csecret", "/..;/secret", "/out", "/up/secret", "/up/served/big.bin/x", "/up/served-too/secret",
        "/../served-too/secret", "/.hidden", "/%2ehidden", "/.git/config", "/alias", "/round", "/fifo", "/big.bin/",
        "/big.bin%00", "/big.bin%00.txt", "//etc/passwd", "/%2fetc/passwd", "/nothing", "x", "/in//a%20file",
        "/" + "a" * 5000, "/" + "a/" * 3000, "file:///etc/passwd",
    ],
)  # fmt: skip
def test_there_is_no_way_out(server, target):
    answer, body = ask(server, target)
    assert (answer.status, body) == (404, b"404 Not Found\n")


def test_a_link_out_that_leads_back_in_is_inside(server):
    assert ask(server, "/up/served/empty")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_nothing_can_be_changed(server, folder, method):
    answer, _ = ask(server, "/big.bin", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (folder / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wanted", "first", "stop"),
    [
        ("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1023990-", 1023990, 1024000), ("bytes=-7", 1023993, 1024000),
        ("bytes=-9999999", 0, 1024000), ("bytes=1023999-9999999", 1023999, 1024000), ("bytes=300000-900000", 300000, 900001),
    ],
)  # fmt: skip
def test_ranges(server, wanted, first, stop):
    answer, body = ask(server, "/big.bin", range=wanted)
    assert (answer.status, body) == (206, CONTENT[first:stop])
    assert answer.headers["content-range"] == f"bytes {first}-{stop - 1}/1024000"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-1", "bytes=x-", "bytes=-", "lines=1-2", "bytes=--1"])
def test_what_is_no_single_range_is_given_whole(server, wanted):
    answer, body = ask(server, "/big.bin", range=wanted)
    assert (answer.status, body) == (200, CONTENT)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("big.bin", "bytes=1024000-"), ("big.bin", "bytes=-0"), ("empty", "bytes=0-"), ("empty", "bytes=-1")],
)
def test_ranges_beyond_the_end(server, name, wanted):
    answer, _ = ask(server, f"/{name}", range=wanted)
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{1024000 if name == 'big.bin' else 0}"


def test_a_part_is_of_the_version_that_the_client_has(server, folder):
    tag = ask(server, "/big.bin", "HEAD")[0].headers["etag"]
    assert ask(server, "/big.bin", range="bytes=0-4", if_range=tag)[0].status == 206
    assert ask(server, "/big.bin", if_none_match=tag)[0].status == 304
    for other in ('"another"', f"W/{tag}", "Mon, 23 Nov 2026 10:00:00 GMT"):
        assert ask(server, "/big.bin", range="bytes=0-4", if_range=other)[0].status == 200
    (folder / "new").write_bytes(bytes(len(CONTENT)))
    (folder / "new").replace(folder / "big.bin")
    answer, body = ask(server, "/big.bin", range="bytes=0-4", if_range=tag)
    assert (answer.status, len(body)) == (200, len(CONTENT))
    assert answer.headers["etag"] != tag


def test_vidcloud_reads_ranges_of_it(server):
    data, (size, tag) = storage.get_range(f"{server.url}/big.bin", 1000, 1999)
    assert (data, size) == (CONTENT[1000:2000], len(CONTENT))
    assert tag
    assert storage.exists(f"{server.url}/empty")
    assert not storage.exists(f"{server.url}/nothing")


def test_many_at_once(server):
    got = []
    threads = [threading.Thread(target=lambda: got.append(ask(server, "/big.bin")[1])) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [CONTENT] * 40


def test_one_connection_takes_several_requests(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    with contextlib.closing(connection):
        for target, status in (("/empty", 200), ("/nothing", 404), ("/big.bin", 200)):
            connection.request("GET", target)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status


def test_a_body_is_not_taken_for_the_next_request(server):
    with socket.create_connection(server.server_address, 10) as s:
        s.sendall(b"GET /empty HTTP/1.1\r\nContent-Length: 30\r\n\r\nGET /big.bin HTTP/1.1\r\n\r\n")
        said = b"".join(iter(lambda: s.recv(65536), b""))
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("said", [b"", b"GET /big.bin HTT", b"GET /big.bin HTTP/1.1\r\nA: b\r\n"])
def test_slow_senders_are_let_go(folder, said):
    """A thread for each of them is taken, and given back; whoever comes then is served."""
    with serving(folder, workers=2, patience_s=0.3) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.server_address, 10)) for _ in range(2)]
        for s in slow:
            s.sendall(said)
        assert ask(server, "/empty")[0].status == 200
        assert [s.recv(1) for s in slow] == [b"", b""]


def test_a_request_byte_by_byte_has_no_more_time_than_another(folder):
    with serving(folder, patience_s=0.3) as server, socket.create_connection(server.server_address, 10) as s:
        s.settimeout(0.05)
        gone = False
        for _ in range(200):
            try:
                s.sendall(b"x")
                gone = s.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                gone = True
            if gone:
                break
        assert gone


def test_slow_takers_are_let_go(folder):
    with (folder / "huge").open("wb") as f:
        f.truncate(1 << 30)
    with (
        serving(folder, workers=1, patience_s=0.3) as server,
        socket.create_connection(server.server_address, 10) as s,
    ):
        s.sendall(b"GET /huge HTTP/1.1\r\n\r\n")
        assert s.recv(12) == b"HTTP/1.1 200"
        assert ask(server, "/empty")[0].status == 200


def test_the_log_has_no_queries(server, caplog):
    logger = logging.getLogger("vidcloud")
    propagates, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.INFO, logger="vidcloud.serve"):
            ask(server, "/big.bin?X-Amz-Signature=hush")
            ask(server, "/nothing?hush#hush")
            ask(server, "/nothing?hush", "POST")
            with serving(server.root):
                pass
    finally:
        logger.propagate = propagates
    told = caplog.text
    assert "path=/big.bin status=200" in told
    assert "method=POST path=/nothing status=405" in told
    assert "hush" not in told


@pytest.fixture
def certificate(tmp_path):
    """A throw-away certificate for 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vidcloud test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - dt.timedelta(1), now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    return cert_file, key_file


def test_tls(folder, certificate):
    cert, key = certificate
    with serving(folder, cert=cert, key=key) as server:
        context = ssl.create_default_context(cafile=cert)
        connection = http.client.HTTPSConnection(*server.server_address, context=context, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/big.bin", headers={"range": "bytes=5-900000"})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (206, CONTENT[5:900001])
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError), socket.create_connection(server.server_address, 10) as s:
            old.wrap_socket(s)


def test_a_client_that_does_not_shake_hands_holds_up_nobody(folder, certificate):
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    with (
        serving(folder, cert=cert, key=key, workers=1, patience_s=0.3) as server,
        socket.create_connection(server.server_address, 10) as silent,
        socket.create_connection(server.server_address, 10) as s,
        context.wrap_socket(s, server_hostname="127.0.0.1"),
    ):
        assert silent.recv(1) == b""


@pytest.mark.parametrize("secure", [False, True])
def test_an_instance_boots_from_it(folder, certificate, secure):
    (folder / "role").write_text('echo "role $*"\n')
    cert, key = certificate
    with serving(folder, **({"cert": cert, "key": key} if secure else {})) as server:
        env = {**os.environ, "VIDCLOUD_USER_DATA": f"role {server.url} [ one 'two words' ]", "SSL_CERT_FILE": str(cert)}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vidcloud.boot"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stdout, done.returncode) == ("role one two words\n", 0), done.stderr


@pytest.mark.parametrize(
    "listen",
    ["", "8080", "127.0.0.1", "127.0.0.1:x", "somewhere:80", "127.0.0.1:99999", "192.0.2.1:8080", "127.0.0.1:-1"],
)
def test_addresses_that_can_not_be_listened_on(folder, listen):
    with pytest.raises(UsageError, match="listen"):
        open_server(folder, listen)


def test_bad_certificates_and_folders(folder, certificate, tmp_path):
    cert, key = certificate
    for options, why in (
        ({"cert": tmp_path / "none"}, "can't read .*none: No such file"),
        ({"cert": cert}, "can't use the certificate"),
        ({"cert": folder / "big.bin", "key": key}, "can't use the certificate"),
        ({"key": key}, "--key needs --cert"),
    ):
        with pytest.raises(UsageError, match=why):
            open_server(folder, "127.0.0.1:0", **options)
    with pytest.raises(UsageError, match="no folder"):
        open_server(folder / "big.bin", "127.0.0.1:0")


def test_the_command_serves_and_a_second_one_is_refused(folder):
    """One line where the port is in use; ^C ends the first."""
    first = subprocess.Popen(
        [*VIDCLOUD, "serve", folder, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = first.stdout.readline().strip()
        assert storage.exists(f"{url}/big.bin")
        listen = url.removeprefix("http://")
        done = subprocess.run(
            [*VIDCLOUD, "serve", folder, "--listen", listen], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (
            2, f"vidcloud: can't listen on {listen}: Address already in use; choose another with --listen\n"
        )  # fmt: skip
    finally:
        first.terminate()
        first.communicate(timeout=20)

"""What the EC2-style door makes of requests, sound and broken: signatures, forms, bodies, clients that speak something else."""

import socket

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session
from conftest import KEYS
from smuggled import UNSURE, hidden

from vidcloud.metal.ec2.query import Refusal
from vidcloud.metal.ec2.signature import check_signature, read_access_keys


def send(door, body, *, when=None, tamper=None, service="ec2", sign=True, method="POST", query=""):
    """A request as botocore signs it, then changed."""
    request = AWSRequest(method, f"{door.url}/{query}", {"Content-Type": "application/x-www-form-urlencoded"}, body)
    if sign:
        signer = SigV4Auth(Credentials("ANN", KEYS["ANN"].secret), service, "metal")
        if when is not None:
            request.context["timestamp"] = when
            request.headers["X-Amz-Date"] = when
            signer._modify_request_before_signing(request)
            canonical = signer.canonical_request(request)
            signer._inject_signature_to_request(
                request, signer.signature(signer.string_to_sign(request, canonical), request)
            )
        else:
            signer.add_auth(request)
    if tamper:
        tamper(request)
    answer = URLLib3Session().send(request.prepare())
    return answer.status_code, answer.text


DESCRIBE = "Action=DescribeInstances&Version=2016-11-15"


def test_signatures(door):
    assert send(door, DESCRIBE)[0] == 200
    assert send(door, b"", method="GET", query=f"?{DESCRIBE}")[0] == 200, "GET as well"
    status, told = send(door, DESCRIBE, when="20200101T000000Z")
    assert (status, "RequestExpired" in told) == (400, True)

    def other_body(request):
        request.data = request.data.replace("DescribeInstances", "TerminateInstances")

    assert "SignatureDoesNotMatch" in send(door, DESCRIBE, tamper=other_body)[1]
    assert "SignatureDoesNotMatch" in send(door, DESCRIBE, service="s3")[1]
    status, told = send(door, DESCRIBE, sign=False)
    assert (status, "AuthFailure" in told) == (401, True)

    def other_query(request):
        request.url += "&InstanceId.1=i-1"

    assert "SignatureDoesNotMatch" in send(door, b"", method="GET", query=f"?{DESCRIBE}", tamper=other_query)[1]


def test_a_claimed_sum_of_the_body_is_checked():
    """Who holds a signed request could else send another body with it."""
    request = AWSRequest("POST", "http://h/", {"Host": "h", "X-Amz-Content-SHA256": "0" * 64}, b"one")
    SigV4Auth(Credentials("ANN", KEYS["ANN"].secret), "ec2", "metal").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    with pytest.raises(Refusal, match="not the one"):
        check_signature(KEYS, "POST", "/", headers, b"one")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("Action=Nothing", "InvalidAction"),
        ("", "InvalidAction"),
        ("Action", "MalformedQueryString"),
        (f"{DESCRIBE}&Nothing=1", "UnknownParameter"),
        (f"{DESCRIBE}&InstanceId.x=1", "InvalidParameterValue"),
        (f"{DESCRIBE}&MaxResults=many", "InvalidParameterValue"),
        (f"{DESCRIBE}&DryRun=perhaps", "InvalidParameterValue"),
        (f"{DESCRIBE}&Version=1", "InvalidQueryParameter"),
        ("Action=TerminateInstances", "MissingParameter"),
        ("Action=RunInstances&ImageId=debian&MinCount=1&MaxCount=1&UserData=!", "InvalidParameterValue"),
        ("Action=RunInstances&ImageId=debian&MinCount=1&MaxCount=1&UserData=%C3%A4", "InvalidParameterValue"),
        ("Action=RunInstances&MinCount=1&MaxCount=1", "MissingParameter"),
    ],
)
def test_requests_that_are_not_understood(door, body, code):
    status, told = send(door, body)
    assert (status, f"<Code>{code}</Code>" in told) == (400, True), told


def test_the_answer_is_in_the_client_s_version(door):
    assert 'xmlns="http://ec2.amazonaws.com/doc/2013-10-15/"' in send(door, DESCRIBE.replace("2016-11", "2013-10"))[1]


def test_a_body_too_long_is_not_read(door):
    status, told = send(door, "x" * (2 << 20))
    assert (status, "RequestEntityTooLarge" in told) == (413, True)


@pytest.mark.parametrize("head", UNSURE)
def test_a_body_of_unsure_length_is_no_next_request(door, head):
    assert hidden(door.server_address, f"POST / HTTP/1.1\r\nHost: h\r\n{head}") == [413]


@pytest.mark.parametrize(
    "said",
    [b"GARBAGE\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nshort", b"\x16\x03"],
)
def test_clients_that_speak_something_else(door, ec2, said, caplog):
    """They hold nobody up and end nothing."""
    with socket.create_connection(door.server_address) as other:
        other.sendall(said)
        other.shutdown(socket.SHUT_WR)
        assert ec2.describe_images()["Images"]
        while other.recv(4096):
            pass
    assert not [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("ANN short ann", "line 1"),
        ("ANN 0123456789abcdef", "line 1"),
        ("ANN 0123456789abcdef ann\nANN 0123456789abcdeg bob", "line 2"),
        ("ANN 0123456789abcdef a$b", "no user"),
        ("# nobody", "no access keys"),
    ],
)
def test_access_keys_that_cannot_be(tmp_path, lines, told):
    from vidcloud.errors import UsageError

    path = tmp_path / "keys"
    path.write_text(lines)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=told):
        read_access_keys(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others may read it"):
        read_access_keys(path)

"""Reservations exclude, by file lock and through the server, with a real cobblerd."""

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from conftest import MACHINES, connect
from servers import certificate

from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.cobbler import Cobbler
from vidcloud.metal.reservations import Change, LockedReservations, Request, foreign_edits
from vidcloud.metal.serve import RemoteReservations, Server

TOKENS = {"a" * 20: "ann", "b" * 20: "bob", "c" * 20: "*"}


@pytest.fixture
def server(reservations):
    with Server(("127.0.0.1", 0), reservations, TOKENS) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def contend(make, cobbler, rounds):
    """20 reservers want a machine each, of six: six get one each, of which no two are the same; all come back."""
    with ThreadPoolExecutor(20) as pool:
        for _ in range(rounds):
            ready = threading.Barrier(20)

            def reserve(n, ready=ready):
                mine = make(n)
                ready.wait(20)
                try:
                    return [(f"user{n}", s.name) for s in mine.reserve(Request(f"user{n}", count=1))]
                except UsageError as e:
                    return [] if "0 free" in str(e) else [(f"user{n}", str(e))]

            won = [pair for pairs in pool.map(reserve, range(20)) for pair in pairs]
            assert sorted(name for _, name in won) == sorted(MACHINES)
            assert sorted((s.get("user"), s.name) for s in cobbler.systems()) == sorted(won)
            given = pool.map(lambda pair: make(int(pair[0][4:])).release([pair[1]], pair[0]), won)
            assert len(list(given)) == len(MACHINES)
            assert not [s.name for s in cobbler.systems() if s.get("user")]


def test_twenty_under_the_file_lock(daemon, cobbler, tmp_path):
    contend(lambda n: LockedReservations(connect(daemon), tmp_path / "state", f"user{n}@here"), cobbler, rounds=2)


def test_twenty_through_the_server(server, cobbler):
    contend(lambda n: RemoteReservations(server, "c" * 20), cobbler, rounds=2)


def test_the_server_speaks_tls(reservations, tmp_path):
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with Server(("127.0.0.1", 0), reservations, TOKENS, tls) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"https://localhost:{server.server_port}"
            with socket.create_connection(("127.0.0.1", server.server_port)):  # who says nothing holds nobody up
                assert RemoteReservations(url, "a" * 20, ca_file=cert).history() == []
            with pytest.raises(CloudError, match="certificate verify failed"):
                RemoteReservations(url, "a" * 20).release(["node01"], "ann")
        finally:
            server.shutdown()
            thread.join()


def test_all_or_none(reservations, cobbler):
    with pytest.raises(UsageError, match="4 machines wanted, 3 free in test01"):
        reservations.reserve(Request("ann", count=4, groups=("test01",)))
    assert len(reservations.reserve(Request("ann", count=4, groups=("test01", "test02")))) == 4
    with pytest.raises(UsageError, match="node01 is reserved by ann"):
        reservations.reserve(Request("bob", names=("node16", "node01")))
    with pytest.raises(UsageError, match="no group 'test0'"):
        reservations.reserve(Request("bob", count=1, groups=("test0",)))
    assert not [s.name for s in cobbler.systems() if s.get("user") == "bob"]


def test_the_same_request_gets_the_same_machines(server):
    """A reply that was lost must not cost a machine."""
    ann = RemoteReservations(server, "a" * 20)
    request = Request("ann", count=2)
    assert ann.reserve(request) == ann.reserve(request)


def test_who_has_a_token_acts_as_its_user_alone(server, cobbler):
    ann, bob = RemoteReservations(server, "a" * 20), RemoteReservations(server, "b" * 20)
    ann.reserve(Request("ann", names=("node01",)))
    with pytest.raises(UsageError, match="this token is bob's"):
        bob.release(["node01"], "ann")
    with pytest.raises(UsageError, match="reserved by ann, not by bob"):
        bob.release(["node01"], "bob")
    with pytest.raises(UsageError, match="this token is bob's"):
        bob.change(Change("node01", "ann", "set-profile", profile="wipe"))
    with pytest.raises(UsageError, match="does not know this token"):
        RemoteReservations(server, "wrong" * 5).release(["node01"], "ann")
    assert cobbler.system("node01").get("user") == "ann"
    [system] = ann.release(["node01"], "ann")
    assert not system.get("user")
    assert [(line["what"], line["who"]) for line in ann.history()] == [
        ("reserve", "ann@127.0.0.1"),
        ("release", "ann@127.0.0.1"),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"user": "ann", "names": 3}', b'{"user": "ann", "x": 1}', b"\xff"]
)
def test_what_the_server_does_not_understand(server, cobbler, body):
    for path in ("/reserve", "/change", "/release"):
        headers = {"Authorization": "Bearer " + "a" * 20}
        answer = urllib3.request("POST", server + path, body=body, headers=headers, timeout=10, retries=False)
        assert (answer.status, bool(answer.json()["error"])) == (400, True)
    assert not [s.name for s in cobbler.systems() if s.get("user")]


def test_an_edit_past_vidcloud_is_found(reservations, cobbler):
    reservations.reserve(Request("ann", names=("node01", "node02")))
    assert foreign_edits(cobbler.systems(), reservations.history()) == []
    cobbler.update("node01", meta={"user": None, "reservation": None})
    cobbler.update("node02", profile="wipe")
    cobbler.update("spare", meta={"user": "eve"})
    found = {(e.name, e.what, e.was, e.now) for e in foreign_edits(cobbler.systems(), reservations.history())}
    assert ("node01", "user", "ann", "") in found
    assert ("node02", "profile", "other", "wipe") in found
    assert ("spare", "user", "", "eve") in found
    with pytest.raises(UsageError, match="somebody changed its reservation"):
        reservations.reserve(Request("bob", names=("node01",)))
    assert "node01" not in {s.name for s in reservations.reserve(Request("bob", count=3))}
    reservations.release(["node01"], "ann")
    assert "node01" not in {e.name for e in foreign_edits(cobbler.systems(), reservations.history())}


def test_a_change_for_a_reservation_that_ended_is_refused(reservations):
    [system] = reservations.reserve(Request("ann", names=("node01",)))
    reservations.release(["node01"], "ann")
    reservations.reserve(Request("ann", names=("node01",)))
    with pytest.raises(UsageError, match="has ended"):
        reservations.change(Change("node01", "ann", "late", system.get("reservation"), {"state": "running"}))


def test_half_a_reservation_is_given_back(cobbler, tmp_path):
    class Breaks(LockedReservations):
        def _update(self, change):
            if change.what == "reserve" and change.name == "node02":
                raise CloudError("Cobbler went away")
            return super()._update(change)

    with pytest.raises(CloudError, match="nothing was reserved: Cobbler went away"):
        Breaks(cobbler, tmp_path, "me").reserve(Request("ann", names=("node01", "node02")))
    assert not [s.name for s in cobbler.systems() if s.get("user")]


def test_interrupted_half_way_it_is_given_back(cobbler, tmp_path):
    class Interrupted(LockedReservations):
        def _update(self, change):
            then = super()._update(change)
            if change.what == "reserve" and change.name == "node02":
                raise KeyboardInterrupt
            return then

    with pytest.raises(KeyboardInterrupt):
        Interrupted(cobbler, tmp_path, "me").reserve(Request("ann", names=("node01", "node02")))
    assert not [s.name for s in cobbler.systems() if s.get("user")]


@pytest.mark.parametrize(
    "meta", [{"user": "bob"}, {"reservation": "r"}, {"state": 3}, {"state": "x" * 501}, {"reason": "a\nb"}]
)
def test_whose_a_machine_is_no_change_can_say(reservations, server, cobbler, meta):
    reservations.reserve(Request("ann", names=("node01",)))
    before = cobbler.system("node01")
    for mine in (reservations, RemoteReservations(server, "a" * 20)):
        with pytest.raises(UsageError, match="vidcloud_"):
            mine.change(Change("node01", "ann", "x", meta=meta))
    assert cobbler.system("node01") == before


def test_a_dead_token_is_renewed(daemon, cobbler):
    client = Cobbler(daemon.url, "cobbler", lambda: "cobbler")
    client.update("node01", meta={"user": "ann"})
    daemon.stop()
    daemon.start()  # it has forgotten all tokens
    assert client.update("node01", meta={"user": None}).get("user") == ""


def test_a_wrong_password_is_one_line(daemon):
    with pytest.raises(CloudError, match=r"Cobbler: login failed \(cobbler\)"):
        Cobbler(daemon.url, "cobbler", lambda: "wrong").update("node01", meta={"x": "1"})

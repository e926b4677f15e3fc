"""Reservations exclude, by file lock and through the server, with a real cobblerd."""

import json
import os
import socket
import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import urllib3
from conftest import MACHINES, POOL, connect
from servers import certificate
from smuggled import INSIDE, UNSURE, hidden

from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.cobbler import Cobbler
from vidcloud.metal.recycle import find_old
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
    """20 reservers want a machine each, of five: five get one each, of which no two are the same; all come back."""
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
            assert sorted(name for _, name in won) == sorted(POOL)
            assert sorted((s.get("user"), s.name) for s in cobbler.systems() if s.get("user")) == sorted(won)
            given = pool.map(lambda pair: make(int(pair[0][4:])).release([pair[1]], pair[0]), won)
            assert len(list(given)) == len(POOL)
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


@pytest.mark.parametrize("groups", [(), ("test01",), ("test02",)])
def test_a_machine_in_no_group_is_taken_by_name_only(reservations, cobbler, groups):
    """The groups file was the original's pool: a production server that Cobbler merely knows must not be re-imaged."""
    free = len([name for name, (_, group) in MACHINES.items() if group and (not groups or group in groups)])
    with pytest.raises(UsageError, match=f"6 machines wanted, {free} free"):
        reservations.reserve(Request("ann", count=6, groups=groups))
    taken = reservations.reserve(Request("ann", count=6, at_least=1, groups=groups))
    assert (len(taken), "spare" in {s.name for s in taken}) == (free, False)
    [spare] = reservations.reserve(Request("ann", ips=("10.111.6.1",)))
    assert spare.name == "spare"


def test_recycle_leaves_a_machine_in_no_group_alone(cobbler, reservations):
    """Even one whose reservation, by name, has expired."""
    reservations.reserve(Request("ann", names=("spare", "node16"), meta={"expires": "1"}))
    found = find_old(cobbler.systems(), {}, 0.0, (), 1e12)
    assert sorted(old.system.name for old in found) == sorted(POOL)


def test_a_reservation_s_name_is_its_user_s(reservations, cobbler):
    """Names of reservations can be guessed: who takes one first doesn't get into another's way."""
    reservations.reserve(Request("eve", names=("node16",), id="ann:j-collector-1"))
    request = Request("ann", count=1, groups=("test01",), id="ann:j-collector-1")
    assert [s.get("user") for s in reservations.reserve(request)] == ["ann"]
    assert [s.name for s in reservations.reserve(request)] == ["node01"], "and again"


def test_a_machine_without_an_address_is_passed_over(daemon, reservations):
    token = daemon.api.login("cobbler", "cobbler")
    fields = {"name": "node00", "profile": "other", "autoinstall_meta": {"vidcloud_group": "test01"}}
    daemon.api.xapi_object_edit("system", "node00", "add", fields, token)
    try:
        assert [s.name for s in reservations.reserve(Request("ann", count=1, groups=("test01",)))] == ["node01"]
    finally:
        daemon.api.remove_system("node00", token)


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


def told_by(server, line, length, authorization=f"Bearer {'c' * 20}"):
    return hidden(
        ("127.0.0.1", urlsplit(server).port), f"{line} HTTP/1.1\r\nAuthorization: {authorization}\r\n{length}"
    )


@pytest.mark.parametrize("length", UNSURE)
def test_a_body_of_unsure_length_is_no_next_request(server, length):
    assert told_by(server, "POST /reserve", length) == [413]


def test_the_body_of_what_is_refused_is_no_next_request(server):
    length = f"Content-Length: {len(INSIDE)}"
    for line, status in (("POST /nothing", 404), ("GET /reserve", 404), ("PUT /reserve", 501)):
        assert told_by(server, line, length) == [status]
    assert told_by(server, "POST /reserve", length, "Bearer wrong") == [401]
    assert told_by(server, "POST /reserve", f"{length}\r\nConnection: close") == [400], "read, but not understood"


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


def edited(daemon, name, how="edit", **fields):
    api = daemon.api
    api.xapi_object_edit("system", name, how, {"name": name, **fields}, api.login("cobbler", "cobbler"))


def test_another_address_or_power_is_found(daemon, reservations, cobbler):
    """Whose power is switched, and whose SSH is asked, is no small matter."""
    reservations.reserve(Request("ann", names=("node01", "node02")))
    try:
        edited(daemon, "node01", modify_interface={"ipaddress-eth0": "10.111.5.77"})
        edited(daemon, "node02", power_address="127.0.0.9")
        assert sorted((e.name, e.what, e.was, e.now) for e in foreign_edits(cobbler.systems(), reservations.history())) == [
            ("node01", "ip", "10.111.5.1", "10.111.5.77"),
            ("node02", "power", "tests 127.0.0.1 node02", "tests 127.0.0.9 node02"),
        ]  # fmt: skip
    finally:
        edited(daemon, "node01", modify_interface={"ipaddress-eth0": "10.111.5.1"})
        edited(daemon, "node02", power_address="127.0.0.1")


def test_a_machine_deleted_while_it_is_reserved_is_found_and_can_be_forgotten(daemon, reservations, cobbler):
    edited(daemon, "brief", "add", profile="other", autoinstall_meta={"vidcloud_group": "test01"})
    try:
        [system] = reservations.reserve(Request("ann", names=("brief",)))
    finally:
        daemon.api.remove_system("brief", daemon.api.login("cobbler", "cobbler"))
    [edit] = foreign_edits(cobbler.systems(), reservations.history())
    assert (edit.name, edit.what, edit.was, edit.now) == ("brief", "machine", "reserved by ann", "deleted or renamed")
    assert reservations.release(["brief"], "ann", {"brief": system.get("reservation")}) == [], "of no use to others"
    with pytest.raises(UsageError, match="brief is reserved by ann, not by bob"):
        reservations.release(["brief"], "bob")
    assert reservations.release(["brief"], "ann") == []
    assert foreign_edits(cobbler.systems(), reservations.history()) == []
    with pytest.raises(UsageError, match="no machine 'brief'"):
        reservations.release(["brief"], "ann")


def test_a_profile_that_was_removed_meanwhile_keeps_no_machine(daemon, reservations, cobbler):
    api = daemon.api
    token = api.login("cobbler", "cobbler")
    api.xapi_object_edit("profile", "brief", "add", {"name": "brief", "distro": "debian"}, token)
    cobbler.update("node01", profile="brief")
    reservations.reserve(Request("ann", names=("node01",)))
    reservations.change(Change("node01", "ann", "set-profile", profile="wipe"))
    api.remove_profile("brief", token)
    [system] = reservations.release(["node01"], "ann")
    assert (system.get("user"), system.profile) == ("", "wipe")


def test_a_line_that_a_crash_cut_short_swallows_no_other(reservations, tmp_path):
    reservations.reserve(Request("ann", names=("node01",)))
    with (tmp_path / "state/history.jsonl").open("ab") as record:
        record.write(b'{"time": 1, "who": "a')
    reservations.release(["node01"], "ann")
    assert [line["what"] for line in reservations.history()] == ["reserve", "release"]


def test_the_record_is_bounded(reservations, cobbler, tmp_path, monkeypatch):
    """The newest line of each machine stays: else a machine's last change by vidcloud would look like an edit."""
    monkeypatch.setattr("vidcloud.metal.reservations._RECORD_BYTES", 1000)
    reservations.reserve(Request("ann", names=("node16",)))
    for _ in range(10):
        reservations.reserve(Request("bob", names=("node01",)))
        reservations.release(["node01"], "bob")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "state").iterdir()}
    assert sizes.keys() == {"lock", "history.jsonl", "history.1.jsonl"}
    assert max(sizes.values()) < 2000
    history = reservations.history()
    assert [line["what"] for line in history if line["machine"] == "node16"] == ["reserve"]
    assert [line["what"] for line in history][-2:] == ["reserve", "release"]
    assert len(history) < 15
    assert foreign_edits(cobbler.systems(), history) == []


@pytest.mark.parametrize(("mode", "files"), [(0o2770, 0o660), (0o700, 0o600)])
def test_a_folder_that_a_group_may_write_to_is_shared(cobbler, tmp_path, monkeypatch, mode, files):
    """Whoever comes first must not keep the others out, whatever his umask."""
    monkeypatch.setattr("vidcloud.metal.reservations._RECORD_BYTES", 1)
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    before = os.umask(0o077)
    try:
        mine = LockedReservations(cobbler, folder, "me")
        mine.reserve(Request("ann", names=("node01",)))
        mine.release(["node01"], "ann")
    finally:
        os.umask(before)
    assert {(p.name, stat.S_IMODE(p.stat().st_mode), p.stat().st_gid) for p in folder.iterdir()} == {
        (name, files, folder.stat().st_gid) for name in ("lock", "history.jsonl", "history.1.jsonl")
    }


def test_keys_of_others_stay_as_they_were(daemon, reservations):
    """Also one without a value, which Cobbler sends as "~", and one with several."""
    meta = {"quiet": None, "many": ["a", "b"], "site_rack": "7", "vidcloud_group": "test01"}
    edited(daemon, "node01", autoinstall_meta=meta)
    stored = daemon.root / "var/lib/cobbler/collections/systems/node01.json"
    try:
        reservations.reserve(Request("ann", names=("node01",)))
        found = json.loads(stored.read_text())["autoinstall_meta"]
        assert {key: found[key] for key in meta} == meta
        reservations.release(["node01"], "ann")
        assert json.loads(stored.read_text())["autoinstall_meta"] == meta
    finally:
        edited(daemon, "node01", autoinstall_meta={"site_rack": "7", "vidcloud_group": "test01"})


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

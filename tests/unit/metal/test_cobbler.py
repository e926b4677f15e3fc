"""The client, held against an XML-RPC server that misbehaves."""

import contextlib
import http.server
import socket
import ssl
import threading
import xmlrpc.client
from xmlrpc.server import SimpleXMLRPCServer

import pytest
from servers import certificate

from vidcloud.errors import CloudError, UsageError
from vidcloud.metal.cobbler import Cobbler, System, choose


@contextlib.contextmanager
def serving(**functions):
    server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False, allow_none=True)
    for name, function in functions.items():
        server.register_function(function, name)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Cobbler(f"http://127.0.0.1:{server.server_address[1]}", "cobbler", lambda: "secret", timeout_s=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def machine(**more):
    return {"name": "a", "profile": "p", "netboot_enabled": False, "autoinstall_meta": {"rack": "7"}, **more}


def test_machines_match_exactly():
    systems = [System("node1", "p", False, ("10.0.0.1",)), System("node16", "p", False, ("10.0.0.16", "fe80::1"))]
    assert [s.name for s in choose(systems, ["node16", "node1", "node16"], ["10.0.0.1"])] == ["node16", "node1"]
    assert [s.name for s in choose(systems, (), ["FE80:0::1"])] == ["node16"]
    for names, ips in (
        (["node"], ()),
        (["NODE1"], ()),
        (["node*"], ()),
        ((), ["10.0.0.10"]),
        ((), ["10.0.0"]),
        ((), [""]),
    ):
        with pytest.raises(UsageError):
            choose(systems, names, ips)
    with pytest.raises(UsageError, match="node1, x in Cobbler has the address"):
        choose([*systems, System("x", "p", False, ("10.0.0.1",))], (), ["10.0.0.1"])


@pytest.mark.parametrize("answer", ["~", machine(name="A"), None])
def test_an_unknown_name_is_told(answer):
    with serving(get_system=lambda name: answer) as cobbler, pytest.raises(UsageError, match="no machine 'a'"):
        cobbler.system("a")


def test_inherited_metadata_are_none():
    with serving(get_system=lambda name: machine(autoinstall_meta="<<inherit>>")) as cobbler:
        assert cobbler.system("a").meta == {}


def test_each_change_is_saved_and_read_back():
    calls, state = [], machine()

    def modify(handle, attribute, value, token):
        calls.append(attribute)
        state[attribute] = value
        return True

    def save(handle, token):
        calls.append("save")
        return True

    functions = {"get_system": lambda name: state, "get_system_handle": lambda n, t: n, "login": lambda u, p: "t"}
    with serving(**functions, modify_system=modify, save_system=save) as cobbler:
        then = cobbler.update("a", meta={"user": "ann"}, netboot=True)
        assert (then.get("user"), then.meta["rack"], then.netboot) == ("ann", "7", True)
        assert calls == ["autoinstall_meta", "netboot_enabled", "save"]
    with (
        serving(**functions, modify_system=lambda *a: True, save_system=save) as cobbler,
        pytest.raises(CloudError, match="a: somebody else changed profile"),
    ):
        cobbler.update("a", profile="other")


@pytest.mark.parametrize(
    "fault",
    [
        "<class 'RuntimeError'>:dictionary changed size during iteration",
        "<class 'FileExistsError'>:[Errno 17] File exists: '../system/52:54:00:00:00:00' -> '/srv/tftpboot/grub/a'",
    ],
)
def test_a_change_is_saved_again_where_cobblers_threads_got_in_each_others_way(fault):
    """Regression: a machine that booted while another was changed, as cobblerd 3.3.10 answered then."""
    saves, state = [], machine()

    def modify(handle, attribute, value, token):
        state[attribute] = value
        return True

    def save(handle, token):
        saves.append(handle)
        if len(saves) <= faults:
            raise xmlrpc.client.Fault(1, fault)
        return True

    functions = {"get_system": lambda name: state, "get_system_handle": lambda n, t: n, "login": lambda u, p: "t"}
    with serving(**functions, modify_system=modify, save_system=save) as cobbler:
        faults = 2
        assert cobbler.update("a", meta={"user": "ann"}).get("user") == "ann"
        assert saves == ["a"] * 3
        faults = 100
        with pytest.raises(CloudError, match=r"^Cobbler: .*(during iteration|File exists)"):
            cobbler.update("a", meta={"user": "bob"})
        assert saves == ["a"] * 6


def test_what_cobbler_refuses_is_not_tried_again():
    saves = []

    def save(handle, token):
        saves.append(handle)
        raise xmlrpc.client.Fault(1, "<class 'cobbler.cexceptions.CX'>:'access denied'")

    functions = {"get_system": lambda name: machine(), "get_system_handle": lambda n, t: n, "login": lambda u, p: "t"}
    with (
        serving(**functions, modify_system=lambda *a: True, save_system=save) as cobbler,
        pytest.raises(CloudError, match="Cobbler: access denied"),
    ):
        cobbler.update("a", netboot=True)
    assert saves == ["a"]


def test_a_token_that_dies_is_renewed_once():
    logins = []

    def login(user, password):
        logins.append((user, password))
        return f"token{len(logins)}"

    def handle(name, token):
        if token == "token1":  # noqa: S105
            raise xmlrpc.client.Fault(1, f"<class 'CX'>:'invalid token: {token}'")
        raise xmlrpc.client.Fault(1, f"<class 'CX'>:'denied {token}'")

    with serving(login=login, get_system_handle=handle, get_system=lambda name: machine()) as cobbler:
        with pytest.raises(CloudError, match="Cobbler: denied token2"):
            cobbler.is_on("a")
        assert logins == [("cobbler", "secret")] * 2


def test_a_cobbler_that_does_not_answer_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cobbler = Cobbler(f"http://127.0.0.1:{silent.getsockname()[1]}", "u", lambda: "p", timeout_s=0.05)
        with pytest.raises(CloudError, match="does not answer get_systems: timed out"):
            cobbler.systems()
    with pytest.raises(CloudError, match="does not answer get_systems"):
        Cobbler("http://127.0.0.1:1", "u", lambda: "p", timeout_s=1).systems()


def test_what_is_no_cobbler_is_told():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("content-length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(CloudError, match="is no API of a Cobbler"):
                Cobbler(f"http://127.0.0.1:{server.server_port}", "u", lambda: "p", timeout_s=5).systems()
        finally:
            server.shutdown()
            thread.join()


def test_tls_is_checked(tmp_path):
    """Against a certificate that only the configuration's ca_file knows."""
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda: [machine()], "get_systems")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        trusting = Cobbler(f"https://localhost:{port}", "u", lambda: "p", ca_file=cert, timeout_s=5)
        assert [s.name for s in trusting.systems()] == ["a"]
        for url, ca in ((f"https://localhost:{port}", None), (f"https://127.0.0.1:{port}", cert)):
            with pytest.raises(CloudError, match="certificate verify failed"):
                Cobbler(url, "u", lambda: "p", ca_file=ca, timeout_s=5).systems()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(UsageError, match=r"none\.pem"):
        Cobbler("https://c/", "u", lambda: "p", ca_file=tmp_path / "none.pem")


def test_power_calls_go_out_at_once_and_are_tried_again():
    together, failed = threading.Barrier(3), set()

    def power(name, operation, token):
        if name == "c" and name not in failed:
            failed.add(name)
            raise xmlrpc.client.Fault(1, "<class 'CX'>:'no answer'")
        return name != "d"

    class AtOnce(Cobbler):
        def _switch(self, name, operation, tries):
            together.wait(10)  # all three are here at once, or this breaks
            return super()._switch(name, operation, tries)

    functions = {"login": lambda u, p: "t", "get_system_handle": lambda n, t: n, "power_system": power}
    with serving(**functions) as cobbler:
        at_once = AtOnce(cobbler._url, "u", lambda: "p")
        assert at_once.power(["b", "c", "d"], "reboot", tries=2) == {"d": "power reboot refused"}
        assert cobbler.power([], "on") == {}

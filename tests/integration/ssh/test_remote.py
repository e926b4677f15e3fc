"""ssh against real servers: who is trusted, and what is done over a connection."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sshd import keygen, lab

from vidcloud.errors import HostKeyError, RemoteError, UsageError
from vidcloud.remote import Target, connect


@pytest.fixture
def target(hosts):
    return Target("127.0.0.1", hosts.hosts[0].port, key=hosts.key, known_hosts=hosts.known_hosts)


def test_commands(target):
    with connect(target) as remote:
        done = remote.run("cat; echo oops >&2; exit 3", b"said")
        assert (done.code, done.out, done.err) == (3, b"said", b"oops\n")
        assert remote.run("true").code == 0
        assert remote.run("kill -9 $$").code == -1


def test_much_on_both_outputs(target):
    with connect(target) as remote:
        done = remote.run("head -c 9000000 /dev/zero >&2; cat", bytes(5_000_000))
        assert (len(done.out), len(done.err)) == (5_000_000, 9_000_000)


def test_a_command_that_takes_too_long(target):
    with connect(target) as remote, pytest.raises(RemoteError, match=r"sleep took longer than 0.2 s"):
        remote.run("sleep 60", timeout_s=0.2)


def test_files(target, tmp_path):
    content = bytes(range(256)) * 20_000
    (tmp_path / "here").write_bytes(content)
    there = tmp_path / "there"
    with connect(target) as remote:
        remote.put(tmp_path / "here", str(there))
        remote.put(tmp_path / "here", str(there))
        assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(content).digest()
        assert b"".join(remote.read(str(there), 1000)) == content[1000:]
        remote.get(str(there), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
        with pytest.raises(RemoteError, match="none: No such file"):
            remote.get(str(tmp_path / "none"), tmp_path / "never")
        with pytest.raises(RemoteError, match="No such file"):
            remote.put(tmp_path / "here", str(tmp_path / "no" / "where"))
        with pytest.raises(RemoteError, match="No such file"):
            list(remote.read(str(tmp_path / "none")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "here", "there"]


def test_fingerprints(hosts, target):
    one, other = (h.fingerprint for h in hosts.hosts)
    pinned = replace(target, known_hosts=None)
    with connect(replace(pinned, fingerprints=(other, one))) as remote:
        assert remote.run("echo in").out == b"in\n"
        assert remote.host_key == hosts.hosts[0].key
        assert remote.host_key in hosts.known_hosts.read_text()
    with pytest.raises(HostKeyError, match=rf"shows the key {re.escape(one)} .*none of the known"):
        connect(replace(pinned, fingerprints=(other,)))


def test_another_key_than_the_known_one(hosts, target, tmp_path):
    wrong = tmp_path / "known"
    wrong.write_text(f"[127.0.0.1]:{target.port} {hosts.hosts[1].key}\n")
    with pytest.raises(HostKeyError, match=r"shows the key SHA256:.* its known key is SHA256:.*another machine") as e:
        connect(replace(target, known_hosts=wrong))
    assert "\n" not in str(e.value)


def test_an_unknown_key_is_not_learnt(target, tmp_path):
    empty = tmp_path / "known"
    empty.touch()
    with pytest.raises(HostKeyError, match="is not known: it shows SHA256:"):
        connect(replace(target, known_hosts=empty))
    assert empty.read_text() == ""


def test_keys_that_do_not_fit(target, tmp_path):
    keygen(tmp_path / "other")
    keygen(tmp_path / "locked", "passphrase")
    with pytest.raises(RemoteError, match="refuses the login as"):
        connect(replace(target, key=tmp_path / "other"))
    with pytest.raises(RemoteError, match="has a passphrase"):
        connect(replace(target, key=tmp_path / "locked"))
    with pytest.raises(UsageError, match="no key file"):
        connect(replace(target, key=tmp_path / "none"))
    with pytest.raises(UsageError, match="can't read"):
        connect(replace(target, known_hosts=tmp_path / "none"))
    (tmp_path / "garbage").write_text("garbage\n")
    with pytest.raises(RemoteError):
        connect(replace(target, key=tmp_path / "garbage"))


def test_hosts_that_are_not_there(target):
    with pytest.raises(RemoteError, match=r"can't reach .*: "):
        connect(replace(target, port=1))
    with pytest.raises(RemoteError, match="no host of that name"):
        connect(replace(target, host="no-such-host.invalid"))


def test_a_connection_that_breaks(tmp_path):
    with lab(tmp_path / "lab", 1) as made:
        (host,) = made.hosts
        with connect(Target("127.0.0.1", host.port, key=made.key, known_hosts=made.known_hosts)) as remote:
            assert remote.run("true").code == 0
            host.stop()
            with pytest.raises(RemoteError):
                remote.run("true")


@pytest.mark.parametrize(
    ("text", "host", "port", "user"),
    [
        ("a", "a", 22, "me"),
        ("you@a:2", "a", 2, "you"),
        ("[::1]:22", "::1", 22, "me"),
        ("[::1]", "::1", 22, "me"),
        ("::1", "::1", 22, "me"),
    ],
)
def test_targets(text, host, port, user):
    target = Target.parse(text, user="me", key=Path("k"))
    assert (target.host, target.port, target.user, target.key) == (host, port, user, Path("k"))


@pytest.mark.parametrize("text", ["", "a:", "a:x", "a:0", "a:99999", "me@", "-oProxyCommand=x", "-x@a", "a b", "[::1"])
def test_what_is_no_target(text):
    with pytest.raises(UsageError):
        Target.parse(text)

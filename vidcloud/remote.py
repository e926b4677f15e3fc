"""Other machines by ssh: one connection, whose host key was known before, and what is done over it.

A host's key is compared with fingerprints that the caller knows, or with a known_hosts file; a key that is in neither
is refused, never learnt. Logins are by key or agent, never by password.
"""

import contextlib
import getpass
import logging
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paramiko

from vidcloud.errors import HostKeyError, RemoteError, UsageError, VidcloudError

CONNECT_S = 10.0
_BLOCK = 1 << 17

# Its tracebacks of failed negotiations would stand beside our one line.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Target:
    """Where to log in, and how to know that it is the right machine.

    Attributes:
        host: name or address.
        port: of the ssh server.
        user: login name; "": as here.
        key: file of the private key; None: those of the agent and the usual files.
        fingerprints: of the host's keys, each ``SHA256:…``; if given, nothing else counts.
        known_hosts: file of known keys; None: ``~/.ssh/known_hosts`` and ``/etc/ssh/ssh_known_hosts``.
    """

    host: str
    port: int = 22
    user: str = ""
    key: Path | None = None
    fingerprints: tuple[str, ...] = ()
    known_hosts: Path | None = None

    @classmethod
    def parse(cls, text: str, **others: Any) -> "Target":
        """A target of ``[user@]host[:port]``, an IPv6 address with a port in brackets.

        Raises:
            UsageError: it is not of that form.
        """
        user, _, place = text.rpartition("@")
        host, port = place, "22"
        if place.startswith("["):
            host, closed, rest = place[1:].partition("]")
            host = host if closed and rest[:1] in ("", ":") else ""
            port = rest.removeprefix(":") or "22"
        elif place.count(":") == 1:
            host, _, port = place.partition(":")
        # A dash in front would be an option to whatever program gets the name.
        if not host or host.startswith("-") or user.startswith("-") or not host.isprintable() or " " in host:
            raise UsageError(f"host {text!r}: must be [user@]host[:port]")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"host {text!r}: {port!r} is no port")
        return cls(host, int(port), **{**others, **({"user": user} if user else {})})

    def __str__(self) -> str:
        """As known_hosts says it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: its exit code; -1 if a signal ended it.
        out: what it wrote to standard output.
        err: what it wrote to standard error.
    """

    code: int
    out: bytes
    err: bytes


class Remote:
    """A connection to a host; made by `connect`, a context manager."""

    def __init__(self, target: Target, client: paramiko.SSHClient) -> None:
        self.target = target
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    @property
    def host_key(self) -> str:
        """The host's key, which was checked: its type and the key, as in a known_hosts file."""
        key = self._transport().get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None:
            raise RemoteError(f"the connection to {self.target} is closed")
        return transport

    def run(
        self,
        command: str,
        data: bytes = b"",
        *,
        timeout_s: float | None = 60.0,
        show: Callable[[int, bytes], object] | None = None,
    ) -> Outcome:
        """Run a command with the user's shell there.

        Args:
            command: for the shell.
            data: its standard input.
            timeout_s: seconds it may take; None: for ever.
            show: called with 1 or 2, for standard output or error, and what is written there, as it comes; the
                outcome has only the exit code then.

        Raises:
            RemoteError: it took longer, or the connection broke.
        """
        out, err = bytearray(), bytearray()
        told = show or (lambda to, data: (out if to == 1 else err).extend(data))
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with _errors(self.target), contextlib.closing(self.converse(command)) as channel:
            view = memoryview(data)
            if not data:
                channel.shutdown_write()
            while True:
                if channel.recv_ready():
                    told(1, channel.recv(_BLOCK))
                elif channel.recv_stderr_ready():
                    told(2, channel.recv_stderr(_BLOCK))
                elif channel.eof_received and channel.exit_status_ready():
                    return Outcome(channel.recv_exit_status(), bytes(out), bytes(err))
                elif view and channel.send_ready():
                    view = view[channel.send(view[:_BLOCK]) :]
                    if not view:
                        channel.shutdown_write()
                elif until is not None and time.monotonic() > until:
                    raise RemoteError(f"{self.target}: {command.split(maxsplit=1)[0]} took longer than {timeout_s:g} s")
                elif channel.closed:
                    raise RemoteError(f"the connection to {self.target} broke")
                else:
                    # The exit status wakes no select: a short one sees it.
                    select.select([] if channel.eof_received else [channel], [], [], 0.02)

    def converse(self, command: str) -> paramiko.Channel:
        """Start a command and give its channel: a socket to its standard input and output.

        Raises:
            RemoteError: it can't be started.
        """
        with _errors(self.target):
            channel = self._transport().open_session(timeout=CONNECT_S)
            channel.settimeout(CONNECT_S)
            channel.exec_command(command)
            return channel

    def read(self, path: str, start: int = 0) -> Iterator[bytes]:
        """A file's bytes from a place on, in blocks, as they come.

        Raises:
            RemoteError: it can't be read.
        """
        with _errors(self.target, path), self._sftp() as sftp, sftp.open(path, "rb") as file:
            file.seek(start)
            file.prefetch()
            while block := file.read(_BLOCK):
                yield block

    def get(self, path: str, target: Path) -> None:
        """Copy a file from there; ``target`` appears when it is whole.

        Raises:
            RemoteError: it can't be read, or written here.
        """
        partial = target.with_name(f".{target.name}.partial")
        try:
            with _errors(self.target, path), self._sftp() as sftp:
                sftp.get(path, str(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def put(self, source: Path, path: str) -> None:
        """Copy a file to there, in place of one of that name; it appears when it is whole.

        Raises:
            RemoteError: it can't be read here, or written there.
        """
        partial = f"{path}.partial"
        with _errors(self.target, path), self._sftp() as sftp:
            try:
                sftp.put(str(source), partial)
                sftp.posix_rename(partial, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    sftp.remove(partial)
                raise

    @contextlib.contextmanager
    def _sftp(self) -> Iterator[paramiko.SFTPClient]:
        sftp = self._client.open_sftp()
        channel = sftp.get_channel()
        if channel is not None:
            channel.settimeout(60)
        with contextlib.closing(sftp):
            yield sftp


def connect(target: Target) -> Remote:
    """Log in to a host whose key is known.

    Raises:
        HostKeyError: its key is not known, or is another.
        RemoteError: it can't be reached, or refuses the login.
        UsageError: the key file or known_hosts can't be read.
    """
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Known(target))
    if not target.fingerprints:
        _load(client, target)
    if target.key and not target.key.expanduser().is_file():
        raise UsageError(f"no key file {target.key}")
    usual = target.key is None
    try:
        with _errors(target):
            client.connect(
                target.host,
                target.port,
                target.user or getpass.getuser(),
                key_filename=str(target.key.expanduser()) if target.key else None,
                allow_agent=usual,
                look_for_keys=usual,
                timeout=CONNECT_S,
                banner_timeout=CONNECT_S,
                auth_timeout=CONNECT_S,
            )
            if transport := client.get_transport():
                transport.set_keepalive(15)
    except BaseException:
        client.close()
        raise
    return Remote(target, client)


def interactive(target: Target) -> int:
    """Let the user log in with the system's ``ssh``, to a host whose key was checked and is pinned.

    Returns:
        Its exit code.

    Raises:
        HostKeyError: the host's key is not known, or is another.
        RemoteError: it can't be reached, or refuses the login.
        UsageError: there is no ``ssh`` here.
    """
    program = shutil.which("ssh")
    if program is None:
        raise UsageError("there is no ssh on this machine: install it, or give a command to run")
    with connect(target) as remote:
        key = remote.host_key
    with tempfile.NamedTemporaryFile("w", prefix="vidcloud-known-hosts-") as known:
        known.write(f"vidcloud {key}\n")
        known.flush()
        # An alias, so that neither a port nor the user's own configuration changes the name that the key is under.
        options = {
            "UserKnownHostsFile": known.name,
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": "vidcloud",
            "StrictHostKeyChecking": "yes",
            "CheckHostIP": "no",
            "UpdateHostKeys": "no",
            **({"IdentitiesOnly": "yes", "IdentityFile": str(target.key).replace("%", "%%")} if target.key else {}),
        }
        words = [program, *(w for k, v in options.items() for w in ("-o", f'{k}="{v}"')), "-p", str(target.port)]
        return subprocess.call([*words, "-l", target.user or getpass.getuser(), "--", target.host])


def _load(client: paramiko.SSHClient, target: Target) -> None:
    usual = (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts"))
    for path in (target.known_hosts.expanduser(),) if target.known_hosts else usual:
        try:
            client.load_system_host_keys(str(path))
        except OSError as e:
            if target.known_hosts:
                raise UsageError(f"can't read {path}: {e.strerror}") from None


class _Known(paramiko.MissingHostKeyPolicy):  # type: ignore[misc] # paramiko has no types
    """Takes the keys whose fingerprints are known, and no other that known_hosts doesn't have."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def missing_host_key(self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey) -> None:
        """Compare fingerprints."""
        target, shown = self._target, f"{key.fingerprint} ({key.get_name()})"
        if target.fingerprints and key.fingerprint not in target.fingerprints:
            raise HostKeyError(
                f"{target} shows the key {shown}, which is none of the known ones: it may be another machine"
            )
        if not target.fingerprints:
            raise HostKeyError(
                f"the key of {target} is not known: it shows {shown}; if that is right, log in once with `ssh`"
            )


@contextlib.contextmanager
def _errors(target: Target, path: str = "") -> Iterator[None]:
    where = f"{target}: {path}" if path else f"{target}"
    try:
        yield
    except VidcloudError:
        raise
    except paramiko.BadHostKeyException as e:
        shown, known = e.key.fingerprint, e.expected_key.fingerprint
        raise HostKeyError(
            f"{target} shows the key {shown}, but its known key is {known}: it may be another machine"
        ) from None
    except paramiko.PasswordRequiredException:
        raise RemoteError(
            f"{target}: the key {target.key or ''} has a passphrase: give it to the agent (ssh-add) and leave it out"
        ) from None
    except paramiko.AuthenticationException:
        user = target.user or getpass.getuser()
        raise RemoteError(f"{target} refuses the login as {user}: check user and key") from None
    except paramiko.ssh_exception.NoValidConnectionsError as e:
        reason = next(iter(e.errors.values()))
        raise RemoteError(f"can't reach {target}: {getattr(reason, 'strerror', None) or reason}") from None
    except TimeoutError:
        raise RemoteError(f"can't reach {target}: no answer within {CONNECT_S:g} s") from None
    except socket.gaierror:
        raise RemoteError(f"can't reach {target}: there is no host of that name") from None
    except OSError as e:
        raise RemoteError(f"{where}: {e.strerror or e}") from None
    except (paramiko.SSHException, EOFError, ValueError) as e:
        raise RemoteError(f"{where}: {str(e) or 'the connection broke'}") from None

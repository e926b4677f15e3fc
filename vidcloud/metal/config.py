"""Where Cobbler is and how to log in: ``metal.toml``, as eucarc was, or the environment.

Keys of ``~/.config/vidcloud/metal.toml`` (``$VIDCLOUD_METAL_CONFIG`` names another file). Each can be set by the
environment variable ``VIDCLOUD_METAL_<KEY>``, which wins. There is no key for a password or token: they come from a
file, from a command (a keyring's), or from ``VIDCLOUD_METAL_PASSWORD`` and ``VIDCLOUD_METAL_TOKEN``; never from a
command line.
"""

import dataclasses
import getpass
import ipaddress
import os
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidcloud.errors import UsageError

_PREFIX = "VIDCLOUD_METAL_"
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True)
class MetalConfig:
    """All settings; times are in seconds.

    Attributes:
        url: Cobbler's API, ``https://cobbler.example/cobbler_api``. Plain http is for this machine only.
        login: the user at Cobbler.
        password_file: a file with the password alone, that only its owner may read.
        password_command: what prints the password, a keyring's say: ``["secret-tool", "lookup", "host", "cobbler"]``.
        ca_file: certificates to trust for ``url`` and ``server`` instead of the system's.
        user: in whose name machines are reserved.
        server: the URL of a ``vidcloud metal serve`` that owns the reservations; without it, a file lock does.
        token_file: a file with the token for ``server``, that only its owner may read.
        state_dir: the lock and the record of changes, where no ``server`` owns them. Several users of one host share
            them in a folder that their group may write to; users of several hosts need a ``server``.
        timeout_s: of each call.
        power_timeout_s: of each power call: Cobbler answers when the machine has been switched.
        install_timeout_s: from the power cycle until an instance counts as failed.
        power_tries: how often a machine's power call is tried.
        wipe_profile: the profile that ``--wipe`` boots.
        ssh_user: who asks a machine for its boot id.
        ssh_key: that user's private key; without it, what ssh finds itself.
    """

    url: str = "http://127.0.0.1/cobbler_api"
    login: str = "cobbler"
    password_file: Path | None = None
    password_command: tuple[str, ...] = ()
    ca_file: Path | None = None
    user: str = ""
    server: str = ""
    token_file: Path | None = None
    state_dir: Path = Path("~/.local/state/vidcloud/metal")
    timeout_s: float = 30.0
    power_timeout_s: float = 120.0
    install_timeout_s: float = 3600.0
    power_tries: int = 3
    wipe_profile: str = ""
    ssh_user: str = "root"
    ssh_key: Path | None = None

    def password(self) -> str:
        """The password at Cobbler, asked for when it is needed.

        Raises:
            UsageError: there is none, or its file can be read by others.
        """
        found = os.environ.get(_PREFIX + "PASSWORD")
        if found is not None:
            return found
        if self.password_file is not None:
            return secret(self.password_file)
        if self.password_command:
            return _printed(self.password_command, self.timeout_s)
        raise UsageError("no password for Cobbler: set password_file or password_command in metal.toml")

    def token(self) -> str:
        """The token for ``server``.

        Raises:
            UsageError: there is none, or its file can be read by others.
        """
        found = os.environ.get(_PREFIX + "TOKEN")
        if found is not None:
            return found
        if self.token_file is None:
            raise UsageError("no token for the reservations' server: set token_file in metal.toml")
        return secret(self.token_file)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> MetalConfig:
    """Read the file, then the environment.

    Args:
        path: the file; without it ``$VIDCLOUD_METAL_CONFIG``, then the usual one, which need not exist.
        environ: instead of the process's environment.

    Raises:
        UsageError: no such file, an unknown key, a value of the wrong kind, or a password over plain http.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ[_PREFIX + "CONFIG"]) if environ.get(_PREFIX + "CONFIG") else None)
    values: dict[str, Any] = {}
    file = named or Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "vidcloud" / "metal.toml"
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is not None:
            raise UsageError(f"{file}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{file}: {e}") from None
    except OSError as e:
        raise UsageError(f"{file}: {e.strerror}") from None
    fields = {f.name: f for f in dataclasses.fields(MetalConfig)}
    for key in values:
        if key in {"password", "token"}:
            raise UsageError(f"{file}: a {key} does not stand here: put it into a file and set {key}_file")
        if key not in fields:
            raise UsageError(f"{file}: unknown key {key!r}; there are {', '.join(fields)}")
    sources = dict.fromkeys(values, str(file))
    for key in fields:
        name = _PREFIX + key.upper()
        if environ.get(name):
            text = environ[name]
            values[key] = shlex.split(text) if key == "password_command" else text
            sources[key] = name
    taken = {key: _value(key, value, fields[key].default, sources[key]) for key, value in values.items()}
    config = MetalConfig(**taken)
    for url in filter(None, (config.url, config.server)):
        _check_url(url)
    user = config.user or getpass.getuser()
    return dataclasses.replace(config, user=check_user(user), state_dir=config.state_dir.expanduser())


def check_user(user: str) -> str:
    """``user`` itself, if it can be one: it ends up in Cobbler's templates, so nothing that a template or shell reads.

    Raises:
        UsageError: it can't.
    """
    if not _USER.fullmatch(user):
        raise UsageError(f"{user!r} is no user: letters, digits and . _ @ + - only, 64 at most")
    return user


def secret(path: Path) -> str:
    """What a file holds, without the line's end.

    Raises:
        UsageError: it can't be read, is empty, or others can read it.
    """
    path = path.expanduser()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"{path}: others may read it; `chmod 600` it")
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: {getattr(e, 'strerror', None) or e}") from None
    if not text:
        raise UsageError(f"{path}: empty")
    return text


def _printed(command: tuple[str, ...], timeout_s: float) -> str:
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=timeout_s, text=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise UsageError(f"password_command {command[0]}: {e}") from None
    return done.stdout.rstrip("\r\n")


def _value(key: str, value: Any, default: Any, source: str) -> Any:
    """``value`` as the kind that ``key`` has."""
    wrong = UsageError(f"{source}: {key} = {value!r} is not what it should be")
    if key == "password_command":
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise UsageError(f"{source}: password_command must be a list of strings")
        return tuple(value)
    if isinstance(default, str):
        if not isinstance(value, str):
            raise wrong
        return value
    if isinstance(default, (int, float)):
        if isinstance(value, bool):
            raise wrong
        try:
            number = type(default)(value)
        except (TypeError, ValueError):
            raise wrong from None
        if not 0 < number < 1e7:
            raise wrong
        return number
    if not isinstance(value, str) or not value:
        raise wrong
    return Path(value).expanduser()


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(f"{url}: must be https://HOST/…")
    if parts.username or parts.password:
        raise UsageError(f"{parts.scheme}://…@{host}: a password does not stand in a URL")
    if parts.scheme == "http" and not _is_loopback(host):
        raise UsageError(f"{url}: passwords don't go over plain http to another machine; use https")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

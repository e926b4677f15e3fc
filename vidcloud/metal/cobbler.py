"""A client of Cobbler's XML-RPC API: names match exactly, changes are saved, calls have time-outs.

What vidcloud knows about a machine lives in Cobbler, as keys ``vidcloud_*`` of the system's ``autoinstall_meta``; other
keys there are kept. Cobbler has no lock: two clients that change one system at once can lose a change. Whoever writes,
holds the lock of `vidcloud.metal.reservations`.
"""

import http.client
import ipaddress
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from vidcloud.errors import CloudError, UsageError

PREFIX = "vidcloud_"
_POWER_THREADS = 64
_TRIES = 3
_RACES = tuple(f"<class '{name}'>" for name in ("RuntimeError", "FileExistsError"))


@dataclass(frozen=True)
class System:
    """A machine as Cobbler knows it.

    ``meta`` has all keys of its ``autoinstall_meta``, ``power`` how its power is switched: type, address and plug.
    """

    name: str
    profile: str
    netboot: bool
    ips: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    power: str = ""

    @property
    def ip(self) -> str:
        """Its first address, or ``""``."""
        return self.ips[0] if self.ips else ""

    def get(self, key: str) -> str:
        """The value of ``vidcloud_<key>``, or ``""``."""
        return str(self.meta.get(PREFIX + key, ""))


@dataclass(frozen=True)
class Install:
    """The newest start of an install that Cobbler has seen: in seconds of Cobbler's clock; 0 if there was none."""

    started: float = 0.0


class Cobbler:
    """A connection; may be used from several threads.

    Args:
        url: of the API.
        login: the user.
        password: gives the password; called at the first login and when a token has died.
        ca_file: certificates to trust instead of the system's.
        timeout_s: seconds without an answer after which a call fails.
        power_timeout_s: the same for power calls, which Cobbler answers when the machine has been switched.
    """

    def __init__(
        self,
        url: str,
        login: str,
        password: Callable[[], str],
        *,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        power_timeout_s: float = 120.0,
    ) -> None:
        self._url, self._login, self._password = url, login, password
        self._timeouts = {False: timeout_s, True: power_timeout_s}
        self._context = None
        if urlsplit(url).scheme == "https":
            try:
                self._context = ssl.create_default_context(
                    cafile=None if ca_file is None else str(ca_file.expanduser())
                )
            except OSError as e:
                raise UsageError(f"{ca_file}: {e.strerror or e}") from None
        self._local = threading.local()  # a ServerProxy has one connection, and none of its methods is thread-safe
        self._token, self._token_lock = "", threading.Lock()

    # Reading

    def distros(self) -> list[dict[str, str]]:
        """``name``, ``breed``, ``os_version``, ``arch`` of each distro, by name."""
        keys = ("name", "breed", "os_version", "arch")
        return _by_name({key: str(found.get(key, "")) for key in keys} for found in self._read("get_distros"))

    def profiles(self) -> list[dict[str, str]]:
        """``name`` and ``distro`` of each profile, by name."""
        keys = ("name", "distro")
        return _by_name({key: str(found.get(key, "")) for key in keys} for found in self._read("get_profiles"))

    def systems(self) -> list[System]:
        """All machines, by name."""
        return sorted((_system(found) for found in self._read("get_systems")), key=lambda s: s.name)

    def system(self, name: str) -> System:
        """The machine of exactly this name.

        Raises:
            UsageError: there is none.
        """
        return _system(self._found(name))

    def check_profile(self, name: str) -> None:
        """See that a profile of exactly this name exists.

        Raises:
            UsageError: there is none.
        """
        if name not in (names := [p["name"] for p in self.profiles()]):
            raise UsageError(f"no profile {name!r} in Cobbler; there are {', '.join(names) or 'none'}")

    def installs(self) -> dict[str, Install]:
        """The newest start of an install by machine, of those that are their address's newest."""
        found: dict[str, Install] = {}
        # Keyed by the address that called; the third value is "system:<name>".
        for started, _, target, *_ in self._authorised("get_status", "normal").values():
            kind, _, name = str(target).partition(":")
            if kind == "system" and float(started) > found.get(name, Install()).started:
                found[name] = Install(float(started))
        return found

    # Changing

    def update(
        self,
        name: str,
        *,
        meta: Mapping[str, str | None] | None = None,
        profile: str | None = None,
        netboot: bool | None = None,
    ) -> System:
        """Change a machine, save it, and read back what Cobbler then has. What is to stay is not even sent.

        Args:
            name: the machine.
            meta: what to change of the ``vidcloud_*`` keys, named without the prefix; ``None`` takes a key away.
            profile: the new profile.
            netboot: whether it boots from the network.

        Raises:
            UsageError: there is no such machine.
            CloudError: Cobbler refused, can't be reached, or has something else afterwards.
        """
        now = self._found(name)
        wanted: dict[str, Any] = {}
        if meta:
            kept = _meta(now)
            for key, value in meta.items():
                if value is None:
                    kept.pop(PREFIX + key, None)
                else:
                    kept[PREFIX + key] = value
            wanted["autoinstall_meta"] = kept
        if profile is not None:
            wanted["profile"] = profile
        if netboot is not None:
            wanted["netboot_enabled"] = netboot
        if not wanted:
            return _system(now)
        handle = self._authorised("get_system_handle", name)
        for attribute, value in wanted.items():
            self._authorised("modify_system", handle, attribute, value)
        self._authorised("save_system", handle)  # a change that is not saved is gone when Cobbler restarts
        found = self._found(name)
        then = _system(found)
        have = {"autoinstall_meta": _meta(found), "profile": then.profile, "netboot_enabled": then.netboot}
        if wrong := [key for key, value in wanted.items() if have[key] != value]:
            raise CloudError(f"{name}: somebody else changed {', '.join(wrong)} at the same time, or Cobbler did not")
        return then

    def power(self, names: Iterable[str], operation: str, tries: int = 3) -> dict[str, str]:
        """Switch machines, all at once: one call a machine, because Cobbler's own way for many is serial.

        Args:
            names: the machines.
            operation: ``on``, ``off`` or ``reboot``.
            tries: how often a machine is tried, with growing pauses.

        Returns:
            what went wrong in the end, by machine; empty if all went well.
        """
        wanted = sorted(set(names))
        if not wanted:
            return {}
        with ThreadPoolExecutor(min(_POWER_THREADS, len(wanted)), thread_name_prefix="power") as pool:
            results = pool.map(lambda name: self._switch(name, operation, tries), wanted)
            return {name: error for name, error in zip(wanted, results, strict=True) if error}

    def is_on(self, name: str) -> bool:
        """Whether a machine has power.

        Raises:
            UsageError: there is no such machine.
            CloudError: its power can't be asked for.
        """
        handle = self._authorised("get_system_handle", self.system(name).name)
        return bool(self._authorised("power_system", handle, "status", long=True))

    def _switch(self, name: str, operation: str, tries: int) -> str:
        error = ""
        for attempt in range(tries):
            if attempt:
                time.sleep(min(0.5 * 2**attempt, 10.0))
            try:
                handle = self._authorised("get_system_handle", name)
                if self._authorised("power_system", handle, operation, long=True):
                    return ""
                error = f"power {operation} refused"
            except CloudError as e:
                error = str(e)
        return error

    # Calls

    def _found(self, name: str) -> dict[str, Any]:
        found = self._read("get_system", name)
        if not isinstance(found, dict) or found.get("name") != name:  # of an unknown name Cobbler gives "~"
            raise UsageError(f"no machine {name!r} in Cobbler")
        return found

    def _read(self, method: str, *arguments: Any) -> Any:
        return self._call(method, *arguments, reads=True)

    def _authorised(self, method: str, *arguments: Any, long: bool = False) -> Any:
        """A call with a token, which is renewed once if Cobbler does not know it any more."""
        token = self._token or self._log_in("")
        try:
            return self._call(method, *arguments, token, long=long)
        except CloudError as e:
            if not isinstance(e.__cause__, xmlrpc.client.Fault) or not _is_dead_token(e.__cause__):
                raise
        return self._call(method, *arguments, self._log_in(token), long=long)

    def _log_in(self, dead: str) -> str:
        with self._token_lock:
            if self._token == dead:  # else another thread has been here
                self._token = str(self._call("login", self._login, self._password()))
            return self._token

    def _call(self, method: str, *arguments: Any, long: bool = False, reads: bool = False) -> Any:
        """A call, made again where threads of Cobbler's collided; one that reads, also where no answer came."""
        for attempt in range(_TRIES):
            try:
                return self._call_once(method, *arguments, long=long)
            except CloudError as e:
                fault = e.__cause__ if isinstance(e.__cause__, xmlrpc.client.Fault) else None
                if attempt == _TRIES - 1 or not (reads if fault is None else _is_race(fault)):
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def _call_once(self, method: str, *arguments: Any, long: bool) -> Any:
        proxies = self._local.__dict__.setdefault("proxies", {})
        if long not in proxies:
            transport = _Transport(self._timeouts[long], self._context)
            proxies[long] = xmlrpc.client.ServerProxy(self._url, transport=transport, allow_none=True)
        try:
            return getattr(proxies[long], method)(*arguments)
        except xmlrpc.client.Fault as e:
            told = "the login has expired" if _is_dead_token(e) else _bare(e.faultString)
            raise CloudError(f"Cobbler: {told}") from e
        except xmlrpc.client.ProtocolError as e:
            raise CloudError(f"Cobbler at {self._url}: HTTP {e.errcode} {e.errmsg}") from e
        except (xmlrpc.client.Error, ExpatError) as e:
            raise CloudError(f"{self._url} is no API of a Cobbler: its answer to {method} is not XML-RPC") from e
        except (OSError, http.client.HTTPException) as e:
            told = f"Cobbler at {self._url} does not answer {method}: {str(e) or type(e).__name__}"
            raise CloudError(f"{told}; does it run, and is `url` in metal.toml right?") from e


class _Transport(xmlrpc.client.Transport):
    """The library's own, with a time-out and a TLS context."""

    def __init__(self, timeout_s: float, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._timeout_s, self._context = timeout_s, context

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection and host == self._connection[0] and self._connection[1] is not None:
            return self._connection[1]
        name, self._extra_headers, _ = self.get_host_info(host)
        if self._context is None:
            connection = http.client.HTTPConnection(name, timeout=self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(name, timeout=self._timeout_s, context=self._context)
        self._connection = host, connection
        return connection


def choose(systems: Iterable[System], names: Iterable[str], ips: Iterable[str]) -> list[System]:
    """The machines of exactly these names and addresses, in order of the question.

    Raises:
        UsageError: there is none of that name or address, more than one with that address, or it is no address.
    """
    systems = list(systems)
    by_name = {s.name: s for s in systems}
    found = []
    for name in names:
        if name not in by_name:
            raise UsageError(f"no machine {name!r} in Cobbler")
        found.append(by_name[name])
    for ip in ips:
        wanted = _address(ip)
        if wanted is None:
            raise UsageError(f"{ip!r} is no IP address")
        having = [s for s in systems if wanted in map(_address, s.ips)]
        if len(having) != 1:
            raise UsageError(f"{', '.join(s.name for s in having) or 'no machine'} in Cobbler has the address {ip}")
        found.extend(having)
    return [by_name[name] for name in dict.fromkeys(s.name for s in found)]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _meta(found: Mapping[str, Any]) -> dict[str, Any]:
    """All keys as Cobbler has them: keys of others may have lists, or no value, which Cobbler sends as ``~``."""
    meta = found.get("autoinstall_meta")
    kept = meta if isinstance(meta, dict) else {}  # else "<<inherit>>"
    return {str(key): None if value == "~" else value for key, value in kept.items()}


def _system(found: Mapping[str, Any]) -> System:
    ips = []
    for _, interface in sorted(found.get("interfaces", {}).items()):
        ips += [str(interface[key]) for key in ("ip_address", "ipv6_address") if interface.get(key)]
    return System(
        name=str(found["name"]),
        profile=str(found.get("profile", "")),
        netboot=bool(found.get("netboot_enabled")),
        ips=tuple(ips),
        meta={key: "" if value is None else str(value) for key, value in _meta(found).items()},
        power=" ".join(str(found.get(f"power_{key}", "")) for key in ("type", "address", "id")).strip(),
    )


def _by_name(found: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(found, key=lambda f: f["name"])


def _is_dead_token(fault: xmlrpc.client.Fault) -> bool:
    return "invalid token" in fault.faultString or '"token" did not have' in fault.faultString


def _is_race(fault: xmlrpc.client.Fault) -> bool:
    # A machine that boots makes Cobbler write its boot files, as a save does, without a lock: "dictionary changed size
    # during iteration", "File exists". The change itself was made, but not all of these files.
    return fault.faultString.startswith(_RACES)


def _bare(fault: str) -> str:
    """``<class 'cobbler.cexceptions.CX'>:'login failed (x)'`` without its class and quotes."""
    return (fault.partition(">:")[2] or fault).strip("'\"")

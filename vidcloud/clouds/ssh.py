"""A cloud of plain hosts that see a common share at one path: an instance is a process, started on a host by ssh.

What was started where lies in the job's ``instances/`` folder, one record an instance: any later command finds it.
Each host that is used runs `vidcloud.clouds.host` at the other end of one kept connection. A host that can't be
reached counts for nothing after 15 seconds: its instances are replaced on others, and the queue fences off what lives.
"""

import contextlib
import fcntl
import json
import logging
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcloud import __version__, log
from vidcloud.clouds import install
from vidcloud.clouds.base import Instance, InstanceState, Role
from vidcloud.errors import CloudError, HostKeyError, RemoteError, UsageError
from vidcloud.remote import Remote, Target, connect

_OPTIONS = ("hosts", "user", "key", "known_hosts", "slots", "share", "python", "install", "collector")
_HERE = "this machine"
_START_S = 30.0
"""So long may Python take to start, from a share of which nothing is cached."""
_ASK_S = 15.0
"""Longer than ending an instance takes."""
_FRESH_S = 0.25
"""So old may be what a host said; a supervisor asks many times a second."""
_PENDING_S = 60.0
_RETRY_S = 10.0
_LOST_S = 15.0

_event = log.events("ssh")


@dataclass(frozen=True)
class Options:
    """What ``-o`` says of this cloud.

    Attributes:
        hosts: where to log in, by the name the user gave.
        slots: processors a host takes.
        share: the share's path on the hosts; "": as here.
        python: the interpreter on the hosts that has vidcloud.
        install: put vidcloud on hosts where that interpreter has none, or another version.
        collector_here: the collector is a process of this machine.
    """

    hosts: dict[str, Target]
    slots: int
    share: str
    python: str
    install: bool
    collector_here: bool

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> "Options":
        """The options' meaning.

        Raises:
            UsageError: one is unknown, missing or malformed.
        """
        if unknown := [k for k in options if k not in _OPTIONS]:
            raise UsageError(f"-o {unknown[0]}: the ssh cloud knows {', '.join(_OPTIONS)}")
        names = [h.strip() for h in options.get("hosts", "").split(",") if h.strip()]
        if not names:
            raise UsageError("the ssh cloud needs hosts: -o hosts=a,b,c")
        if len(set(names)) < len(names):
            raise UsageError("-o hosts: a host stands there twice; -o slots=2 gives each two processors")
        paths = {k: Path(options[k]).expanduser() for k in ("key", "known_hosts") if k in options}
        for key, path in paths.items():
            if not path.is_absolute():  # it is read again by commands that are given elsewhere
                raise UsageError(f"-o {key}={path}: must be an absolute path")
            if not path.is_file():
                raise UsageError(f"-o {key}: no file {path}")
        slots = options.get("slots", "1")
        if not slots.isdecimal() or int(slots) < 1:
            raise UsageError(f"-o slots={slots}: must be a number, at least 1")
        share = options.get("share", "")
        if share and not share.startswith("/"):
            raise UsageError(f"-o share={share}: must be an absolute path")
        if (collector := options.get("collector", "")) not in ("", "local"):
            raise UsageError(f"-o collector={collector}: only `local`, or leave it out for the first host")
        if (wanted := options.get("install", "no")) not in ("yes", "no"):
            raise UsageError(f"-o install={wanted}: must be yes or no")
        user = options.get("user", "")
        hosts = {n: Target.parse(n, user=user, **paths) for n in names}
        python = options.get("python", "python3")
        return cls(hosts, int(slots), share.rstrip("/"), python, wanted == "yes", bool(collector))


class _AbsentError(RemoteError):
    """A host doesn't have this vidcloud."""


class _Host:
    """A host, and the conversation with the program there; made when first asked, and again when it broke."""

    def __init__(self, name: str, begin: "Callable[[], _Talk]") -> None:
        self.name = name
        self._begin = begin
        self._talk: _Talk | None = None
        self._lock = threading.Lock()
        self._error: RemoteError | None = None
        self._failed_at = 0.0
        self._told = False
        self.lost_since: float | None = None
        self.met = False

    def ask(self, do: str, **others: Any) -> dict[str, Any]:
        """What the host answers.

        Raises:
            RemoteError: it can't be reached; for 10 seconds it isn't tried again.
            CloudError: it can't do it.
        """
        with self._lock:
            if self._error and time.monotonic() < self._failed_at + _RETRY_S:
                raise self._error
            try:
                answer = self._asked({"do": do, **others})
            except RemoteError as e:
                self.lost_since = self.lost_since or time.monotonic()
                self._error, self._failed_at = e, time.monotonic()
                raise
            self._error = self.lost_since = None
            self._told, self.met = False, True
        if "error" in answer:
            raise CloudError(f"{self.name}: {answer['error']}")
        return answer

    def tell(self, error: RemoteError) -> None:
        """Say, once while that lasts, that it goes without this host."""
        if not self._told:
            self._told = True
            _event("host_lost", level=logging.WARNING, host=self.name, why=str(error))

    def _asked(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self._talk is not None:
            try:
                return self._talk.ask(asked)
            except RemoteError:
                self._talk.close()
                self._talk = None
                if asked["do"] == "start":  # it may have been done
                    raise
        self._talk = self._begin()
        return self._talk.ask(asked)


class _Talk:
    """Lines of JSON to and from `vidcloud.clouds.host`."""

    def __init__(self, name: str, channel: Any, close: Callable[[], None], last_words: Callable[[], str]) -> None:
        self._name = name
        self._channel = channel
        self._buffer = b""
        self.close = close
        self._greet(last_words)

    def _greet(self, last_words: Callable[[], str]) -> None:
        # A shell's start-up files may print something before.
        version = None
        while version is None:
            try:
                said = json.loads(self._line())
            except ValueError:
                continue
            except RemoteError:
                raise _AbsentError(
                    f"vidcloud can't be run on {self._name} ({last_words() or 'it said nothing'}): "
                    f"install vidcloud {__version__} there and name its Python with -o python=…, or give -o install=yes"
                ) from None
            version = said.get("vidcloud") if isinstance(said, dict) else None
        if version != __version__:
            raise _AbsentError(
                f"{self._name} has vidcloud {version}, this machine {__version__}: "
                "install the same, name another Python with -o python=…, or give -o install=yes"
            )

    def ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            self._channel.settimeout(_ASK_S)
            self._channel.sendall(json.dumps(asked).encode() + b"\n")
        except OSError as e:
            raise RemoteError(f"the connection to {self._name} broke: {e}") from None
        return dict(json.loads(self._line()))

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                data = self._channel.recv(1 << 16)
            except TimeoutError:
                raise RemoteError(f"{self._name} doesn't answer") from None
            except OSError as e:
                raise RemoteError(f"the connection to {self._name} broke: {e}") from None
            if not data:
                raise RemoteError(f"the connection to {self._name} broke")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _talk_by_ssh(name: str, target: Target, options: Options) -> _Talk:
    remote = connect(target)
    try:
        try:
            return _talk_over(remote, name, options.python)
        except _AbsentError:
            if not options.install:
                raise
        python = install.ensure(
            remote, name, options.python, lambda at: _event("installing", level=logging.WARNING, host=name, at=at)
        )
        return _talk_over(remote, name, python)
    except BaseException:
        remote.close()
        raise


def _talk_over(remote: Remote, name: str, python: str) -> _Talk:
    # A tilde is the shell's to expand: it must not be quoted.
    home, rest = ("~/", python[2:]) if python.startswith("~/") else ("", python)
    channel = remote.converse(f"exec {home}{shlex.quote(rest)} -P -m vidcloud.clouds.host")
    channel.settimeout(_START_S)

    def last_words() -> str:
        with contextlib.suppress(OSError):
            lines = channel.recv_stderr(1 << 16).decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    return _Talk(name, channel, remote.close, last_words)


def _talk_here() -> _Talk:
    ours, theirs = socket.socketpair()
    with theirs:
        end = theirs.fileno()
        child = subprocess.Popen([sys.executable, "-P", "-m", "vidcloud.clouds.host"], stdin=end, stdout=end)

    def close() -> None:
        ours.close()
        child.wait()

    ours.settimeout(_START_S)
    try:
        return _Talk(_HERE, ours, close, lambda: "")
    except BaseException:
        close()
        raise


class SshCloud:
    """Instances as processes of hosts.

    Args:
        job_root: the job's directory as it is seen here, on the share.
        options: see `Options`.

    Raises:
        UsageError: bad options.
    """

    def __init__(self, job_root: Path, options: Mapping[str, str]) -> None:
        self._options = Options.parse(options)
        self._root = job_root
        self._instances = job_root / "instances"
        self._logs = job_root / "logs"
        self._hosts = {n: self._host(n, t) for n, t in self._options.hosts.items()}
        self._here = _Host(_HERE, _talk_here)
        self._records: dict[str, dict[str, Any]] = {}
        self._said: dict[str, tuple[float, dict[str, bool]]] = {}
        self._pool = ThreadPoolExecutor(min(32, len(self._hosts) + 1))

    def _host(self, name: str, target: Target) -> _Host:
        return _Host(name, lambda: _talk_by_ssh(name, target, self._options))

    def _job_on(self, host: _Host) -> str:
        share = self._options.share
        return f"{share}/jobs/{self._root.name}" if share and host is not self._here else str(self._root)

    def run_instances(self, role: Role, user_data: str, count: int) -> list[Instance]:
        """Start processes: the collector on the first host that answers, processors where there are fewest."""
        room = self._options.slots * len(self._hosts)
        wanted = count + sum(i.role == "processor" and i.alive for i in self.describe_instances())
        if role == "processor" and wanted > room:
            raise UsageError(
                f"{wanted} nodes on {len(self._hosts)} hosts, {self._options.slots} on each: "
                "name more hosts, or give more -o slots=…"
            )
        started: list[Instance] = []
        line = self._on_the_share(user_data)
        if self._options.install and role == "processor":
            self._reach_all()
        with self._locked():
            for _ in range(count):
                try:
                    started.append(self._start_somewhere(role, line))
                except (RemoteError, CloudError, OSError) as e:
                    left = tuple(i.id for i in started)
                    raise CloudError(f"can't start a {role}: {e}", left) from e
        return started

    def _reach_all(self) -> None:
        """Have all hosts install at the same time, but for the first: others with the same home find it there."""

        def reach(host: _Host) -> None:
            with contextlib.suppress(RemoteError):  # who needs it hears it again
                host.ask("alive", processes=[])

        first, *others = self._hosts.values()
        reach(first)
        list(self._pool.map(reach, others))

    def _on_the_share(self, line: str) -> str:
        """A line that names a folder of this machine, changed to name a copy of its files on the share."""
        server = shlex.split(line)[1]
        folder = Path(server.removeprefix("file://"))
        if not server.startswith("file://") or not folder.is_dir():
            return line
        copy = self._root / "scripts"
        copy.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".py":
                partial = copy / f".{path.name}.partial"
                shutil.copyfile(path, partial)
                partial.replace(copy / path.name)
        return line.replace(shlex.quote(server), shlex.quote(f"file://{copy}"), 1)

    def _start_somewhere(self, role: Role, line: str) -> Instance:
        problems: list[tuple[_Host, RemoteError]] = []
        for host in self._order(role):
            try:
                instance = self._start(host, role, line)
            except RemoteError as e:
                if isinstance(e, HostKeyError) and not host.met:
                    raise  # that is for the user to look into; later it is a host that is lost
                problems.append((host, e))
                continue
            for lost, error in problems:
                lost.tell(error)
            return instance
        raise problems[0][1]

    def _order(self, role: Role) -> list[_Host]:
        """The hosts to try, the best first."""
        if role == "collector":
            return [self._here] if self._options.collector_here else list(self._hosts.values())
        load = dict.fromkeys(self._hosts, 0.0)
        for instance in self.describe_instances():
            if instance.alive and (host := self._records[instance.id]["host"]) in load:
                # The collector works as well, but less than a processor.
                load[host] += 1 if instance.role == "processor" else 0.5
        return sorted(self._hosts.values(), key=lambda h: load[h.name])

    def _start(self, host: _Host, role: Role, template: str) -> Instance:
        taken = [p.stem for p in self._instances.glob(f"{role}-*.json")]
        name = f"{role}-{max((int(t.rpartition('-')[2]) for t in taken), default=0) + 1}"
        line, job = template.replace("{instance}", name), self._job_on(host)
        host.ask("alive", processes=[])  # a host that can't be reached costs no name
        record = {
            "version": 1,
            "id": name,
            "role": role,
            "host": host.name,
            "at": socket.gethostname() if host is self._here else "",
            "pid": 0,
            "started": 0,
            "launched": time.time(),
            "user_data": line,
        }
        # The name is taken before: if the answer is lost, nobody knows whether there is a process of that name.
        self._write(record)
        try:
            answer = host.ask("start", job=job, name=name, line=line.replace(str(self._root), job))
        except BaseException:
            (self._instances / f"{name}.ended").touch()
            raise
        record |= answer
        self._write(record)
        self._said.pop(host.name, None)
        return self._instance(record, "running")

    def _write(self, record: Mapping[str, Any]) -> None:
        partial = self._instances / f".{record['id']}.json"
        partial.write_text(json.dumps(record))
        partial.replace(self._instances / f"{record['id']}.json")

    def _instance(self, record: Mapping[str, Any], state: InstanceState) -> Instance:
        target = self._options.hosts.get(record["host"])
        address = target.host if target else "127.0.0.1"
        return Instance(record["id"], record["role"], state, address, record["launched"], record["pid"])

    def describe_instances(self) -> list[Instance]:
        """All instances, from their records and what the hosts say."""
        names = {p.name for p in self._instances.iterdir()}
        for name in names:
            i = name.removesuffix(".json")
            if name != i and not name.startswith(".") and not self._records.get(i, {}).get("pid"):
                self._records[i] = json.loads((self._instances / name).read_text())
        living = [r for i, r in self._records.items() if f"{i}.ended" not in names]
        alive = self._ask_hosts([r for r in living if r["pid"]])
        states: dict[str, InstanceState] = {}
        for record in living:
            i = record["id"]
            if not record["pid"]:
                # Its launcher is just starting it, or was killed while doing so.
                states[i] = "pending" if time.time() < record["launched"] + _PENDING_S else "terminated"
            elif alive.get(i):
                states[i] = "shutting-down" if f"{i}.draining" in names else "running"
            elif alive.get(i) is False:
                (self._instances / f"{i}.ended").touch()  # so that nobody asks its host again
        found = [self._instance(r, states.get(i, "terminated")) for i, r in self._records.items()]
        return sorted(found, key=lambda i: i.launched)

    def _ask_hosts(self, records: Sequence[Mapping[str, Any]]) -> dict[str, bool | None]:
        """Which of them live, by id; None where their host has not answered for long."""
        hosts = self._by_host(records)
        found: dict[str, bool | None] = {}
        for answer in self._pool.map(lambda h: self._ask_host(h, hosts[h]), hosts):
            found.update(answer)
        return found

    def _ask_host(self, host: _Host, records: Sequence[Mapping[str, Any]]) -> dict[str, bool | None]:
        at, said = self._said.get(host.name, (0.0, {}))
        if time.monotonic() > at + _FRESH_S or any(r["id"] not in said for r in records):
            try:
                answer = host.ask("alive", processes=[[r["pid"], r["started"]] for r in records])
            except RemoteError as e:
                host.tell(e)
                lost = host.lost_since is not None and time.monotonic() > host.lost_since + _LOST_S
                return {r["id"]: None if lost else True for r in records}
            said = dict(zip([r["id"] for r in records], answer["alive"], strict=True))
            self._said[host.name] = (time.monotonic(), said)
        return {r["id"]: said[r["id"]] for r in records}

    def _by_host(self, records: Sequence[Mapping[str, Any]]) -> dict[_Host, list[Mapping[str, Any]]]:
        hosts: dict[_Host, list[Mapping[str, Any]]] = {}
        for record in records:
            host = self._hosts.get(record["host"])
            if record["host"] == _HERE and record["at"] == socket.gethostname():
                host = self._here
            if host:  # else it is a process of another launcher's machine, of which nothing is known here
                hosts.setdefault(host, []).append(record)
        return hosts

    def terminate_instances(self, ids: Sequence[str], *, drain: bool = False) -> None:
        """Ask with SIGTERM; unless draining, insist with SIGKILL, for the whole process group."""
        wanted = [
            self._records[i.id] for i in self.describe_instances() if i.id in set(ids) and i.state != "terminated"
        ]
        for record in wanted:
            (self._instances / f"{record['id']}.draining").touch()
        hosts = self._by_host(wanted)
        problems = [p for p in self._pool.map(lambda h: self._end(h, hosts[h], drain=drain), hosts) if p]
        if problems:
            left = tuple(i for ids, _ in problems for i in ids)
            why = "; ".join(dict.fromkeys(w for _, w in problems))
            raise CloudError(f"can't end {', '.join(left)}: {why}; processors end by themselves after a while", left)

    def _end(
        self, host: _Host, records: Sequence[Mapping[str, Any]], *, drain: bool
    ) -> tuple[tuple[str, ...], str] | None:
        self._said.pop(host.name, None)
        processes = [[r["pid"], r["started"]] for r in records]
        try:
            left = host.ask("end", processes=processes, drain=drain)["left"]
        except (RemoteError, CloudError) as e:
            return tuple(r["id"] for r in records), str(e)
        if not left:
            return None
        return tuple(r["id"] for r, p in zip(records, processes, strict=True) if p in left), f"kill them on {host.name}"

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """End processes and start others with the same lines; they get new ids, for claims are bound to the old."""
        self.describe_instances()
        records = [self._records[i] for i in ids]
        self.terminate_instances(ids)
        for r in records:
            self.run_instances(r["role"], r["user_data"].replace(r["id"], "{instance}"), 1)

    def machines(self, nodes: int) -> int:
        """As many hosts as there are, before any takes a second one."""
        return min(nodes + 1, len(self._options.hosts))

    def console_output(self, instance_id: str) -> str:
        """What a process printed."""
        path = self._logs / f"{instance_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def login(self, instance_id: str) -> Target:
        """Where to log in for an instance."""
        path = self._instances / f"{instance_id}.json"
        if not path.exists():
            raise UsageError(f"job {self._root.name} has no node {instance_id}: see `vidcloud status`")
        host = json.loads(path.read_text())["host"]
        if host not in self._options.hosts:
            raise UsageError(f"{instance_id} runs on this machine: there is nothing to log in to")
        return self._options.hosts[host]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Two commands on this machine (a supervisor and `scale`) must not choose the same name.
        with (self._instances / "lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

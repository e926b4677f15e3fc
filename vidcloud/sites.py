"""Where a job is worked on, as its launcher sees it: which cloud, how nodes find the job, where its records are.

Two kinds: a share that the launcher sees as well as the nodes (`ShareSite`), and a share out of reach, with the job's
home between (`HomeSite`).
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vidcloud import boot, home, storage, wheel
from vidcloud.clouds.base import Cloud, Instance, RemoteCloud, Role, check_options, open_cloud, open_remote
from vidcloud.errors import CloudError, StorageError, UsageError
from vidcloud.job import JobDirectory, JobRecords

_ADDRESS_S = 120.0
_PRESIGNED_S = 7 * 24 * 3600


class Printed(NamedTuple):
    """What a node said.

    Attributes:
        data: as it came; of a long log the end.
        start: bytes that came before it and are not kept.
        kind: ``log``, or ``console`` while there is nothing else.
    """

    data: bytes
    start: int = 0
    kind: str = "log"

    @property
    def text(self) -> str:
        """As text."""
        return self.data.decode(errors="replace")


class Site(Protocol):
    """A job's place in the world."""

    records: JobRecords
    poll_s: float
    """How often to look at the job."""
    share_outlives: bool
    """Whether the share is there when the collector's instance is not."""

    @property
    def boot_timeout_s(self) -> float:
        """How long after its start a node may not have been heard of."""
        ...

    def heard(self) -> set[str]:
        """Nodes that said anything so far."""
        ...

    @property
    def cloud(self) -> Cloud:
        """Where its instances are."""
        ...

    def claim(self) -> None:
        """Make sure that a job that begins is the only one of its id; before, nothing may be ended or removed."""
        ...

    def prepare(self, tell: Callable[[int, int], None]) -> None:
        """Put in place what nodes will fetch. ``tell`` hears how many bytes of how many went."""
        ...

    def user_data(self, role: Role) -> str:
        """The line for an instance."""
        ...

    def settle(self, instances: Sequence[Instance]) -> None:
        """Tell the collector who belongs to the job."""
        ...

    def drain(self, ids: Sequence[str]) -> None:
        """Ask processors to give back what they hold and leave."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep other launchers from seeing to the nodes at the same time."""
        ...

    def log(self, instance: str) -> Printed:
        """What a node said."""
        ...

    def deliver(self, result: dict[str, Any]) -> dict[str, Any]:
        """Bring the output to where the user wants it; the result, with ``output`` as the user knows it."""
        ...

    def discard(self) -> None:
        """Remove what a job that broke off left of its output."""
        ...

    def sweep(self) -> None:
        """Remove all that an ended job needs no more; its records stay."""
        ...

    def notes(self) -> list[dict[str, Any]]:
        """What was written down of the job's data, in order."""
        ...


class ShareSite:
    """A job whose share the launcher sees.

    Args:
        job: its directory.
        cloud: by default the one of its record.
    """

    poll_s = 0.2
    share_outlives = True

    def __init__(self, job: JobDirectory, cloud: Cloud | None = None) -> None:
        told = job.site()
        self._job = job
        self.records: JobRecords = job
        self.cloud: Cloud = cloud or open_cloud(told.get("cloud", "local"), job.root, told.get("options", {}))

    boot_timeout_s = math.inf  # a process that can't begin ends

    def heard(self) -> set[str]:
        """All that there are."""
        return {i.id for i in self.cloud.describe_instances()}

    def claim(self) -> None:
        """Nothing: its directory is new."""

    def prepare(self, tell: Callable[[int, int], None]) -> None:
        """Nothing: nodes see what the launcher sees."""

    def user_data(self, role: Role) -> str:
        """The line for an instance."""
        arguments = ("--job", str(self._job.root), "--node", "{instance}")
        return boot.UserData(role, boot.local_server(), arguments).compose()

    def settle(self, instances: Sequence[Instance]) -> None:
        """Nothing: a common share admits by itself."""

    def drain(self, ids: Sequence[str]) -> None:
        """Ask by the cloud."""
        self.cloud.terminate_instances(ids, drain=True)

    def locked(self) -> AbstractContextManager[None]:
        """By a lock on the share."""
        return self._job.locked("nodes")

    def log(self, instance: str) -> Printed:
        """What a node printed."""
        return Printed(self.cloud.console_output(instance).encode())

    def deliver(self, result: dict[str, Any]) -> dict[str, Any]:
        """The collector has put it there."""
        return result

    def discard(self) -> None:
        """Remove the file in the making."""
        spec = self._job.spec()
        with contextlib.suppress(StorageError, OSError):
            storage.staging(spec.output, self._job.scratch, spec.id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Pixels and queue files."""
        self._job.sweep()

    def notes(self) -> list[dict[str, Any]]:
        """None: the data leaves no place that the user doesn't see."""
        return []


class HomeSite:
    """A job whose share is a machine's own, far away; launcher and collector meet at its home.

    Args:
        url: the home.
        cloud: where its instances are.
        job: the directory of the launcher that began it, with what is to go up; None for a launcher elsewhere.
    """

    poll_s = 2.0
    share_outlives = False

    def __init__(self, url: str, cloud: RemoteCloud, job: JobDirectory | None) -> None:
        self._url = url.rstrip("/")
        self._home, self._job = home.Home(url), job
        self._told = job.site() if job else {}
        self._claimed = False
        self.records = home.records(url)
        self.cloud: RemoteCloud = cloud

    @property
    def boot_timeout_s(self) -> float:
        """As the cloud says: a machine's boot, its software's start, and the fetching of the bundle."""
        return self.cloud.boot_timeout_s

    def heard(self) -> set[str]:
        """Those whose log came to the home: roles begin one before anything else."""
        return {name.removesuffix(".log") for name in storage.names(self._home.url("logs"))}

    def prepare(self, tell: Callable[[int, int], None]) -> None:
        """Upload the input, if it is a file here, and the bundle of scripts, program, spec and plugins.

        Raises:
            UsageError: there was, or is, a job of this id: its home is not empty, or machines are tagged with it.
            StorageError: it can't be stored.
        """
        if self._job is None:
            raise UsageError("a job is begun where its files are")
        self.claim()
        self._job.make()
        bundle = self._job.scratch / "bundle.tar"
        key = boot.make_key() if self.cloud.encrypts else ""
        pin = boot.make_bundle(self._job.root, bundle, wheel.build(self._job.scratch), key)
        spec = self._job.spec()
        self._home.note("started", job=spec.id, input=spec.input, output=spec.output, cloud=self._told["cloud"])
        self._home.replace("bundle.sha256", pin.encode())
        self._publish(bundle, pin)
        bundle.unlink()  # it may hold a key
        if source := self._told.get("input"):
            path, gone = Path(source), 0

            def count(more: int) -> None:
                nonlocal gone
                gone += more
                tell(gone, path.stat().st_size)

            self._home.note("stored", what=source, where=spec.input)
            storage.upload(path, spec.input, count)

    def _publish(self, bundle: Path, pin: str) -> None:
        """Put the bundle where nodes fetch it: the home, or a file server's folder on this machine."""
        if (shown := self._shown(pin)) is None:
            storage.upload(bundle, self._home.url("bundle.tar"))
            return
        url = f"{self._told['options']['file_server'].rstrip('/')}/{shown.name}"
        self._home.note("stored", what="bundle", where=url)
        partial = shown.with_name(f".{shown.name}")
        try:
            partial.touch(0o640)
            shutil.copyfile(bundle, partial)
            partial.replace(shown)
        except OSError as e:
            raise StorageError(f"can't write into file_folder {shown.parent}: {e.strerror}") from e
        self._home.replace("bundle.url", url.encode())  # for launchers elsewhere

    def _shown(self, pin: str) -> Path | None:
        """The bundle's file in the file server's folder, if there is one; nobody guesses its name if it holds a key."""
        folder = self._told.get("options", {}).get("file_folder")
        return Path(folder).expanduser().absolute() / f"{pin}.tar" if folder else None

    def claim(self) -> None:
        """Write the spec into an empty home, first of all: whoever gives up later must know what to remove.

        Raises:
            UsageError: there was, or is, a job of this id: its home is not empty, or machines are tagged with it.
            StorageError: the home can't be reached.
        """
        if self._job is None or self._claimed:
            return
        job = self._job
        other = f"choose another --job-id than {job.id}"
        if any(i.alive for i in self.cloud.describe_instances()):
            raise UsageError(f"a job {job.id} has machines that run: {other}")
        # A result, a wish to cancel or a log of another job would be taken for this one's.
        free = not storage.tree(self._url)
        try:
            if free:
                self._home.create("spec.json", job.directory.read("spec.json"))
        except FileExistsError:
            free = False
        if not free:
            raise UsageError(f"{self._url} holds another job: {other}")
        self._claimed = True

    def user_data(self, role: Role) -> str:
        """The line for an instance: a bundle that is pinned, and no secret; from S3 it may be fetched for a week.

        Raises:
            CloudError: a processor's line before there is a collector.
        """
        pin = self._home.read("bundle.sha256").decode().strip()
        try:
            url = self._home.read("bundle.url").decode()
        except FileNotFoundError:
            url = storage.presign(self._home.url("bundle.tar"), _PRESIGNED_S)
        server = f"{url}#sha256={pin}"
        arguments = ["--job", self.records.id, "--node", "{instance}", "--lifetime", str(self.cloud.lifetime_s)]
        for name, value in self.cloud.environment.items():
            arguments += ["--env", f"{name}={value}"]
        if role == "collector":
            arguments += ["--home", self._url]
        else:
            dead_man = math.ceil(self.records.spec().dead_man_s)
            arguments += ["--dead-man", str(dead_man), "--collector", self._collector_address()]
        return boot.UserData(role, server, tuple(arguments)).compose()

    def _collector_address(self) -> str:
        deadline = time.monotonic() + _ADDRESS_S
        while time.monotonic() < deadline:
            alive = [i for i in self.cloud.describe_instances() if i.role == "collector" and i.alive]
            if alive and alive[-1].address:
                return alive[-1].address
            time.sleep(self.poll_s / 4)
        raise CloudError("the collector has no address: see `vidcloud instances`", ())

    def settle(self, instances: Sequence[Instance]) -> None:
        """Who may mount the share: the job's processors and nobody else."""
        admitted = {*self._home.marks()["host"]}
        # Others stay: another launcher may have started some that this one does not see yet.
        for node in (i for i in instances if i.role == "processor" and i.address):
            if node.alive and node.id not in admitted:
                self._home.admit(node.id, node.address)
            elif not node.alive and node.id in admitted:
                self._home.dismiss(node.id)

    def drain(self, ids: Sequence[str]) -> None:
        """Ask by the home; the cloud knows meanwhile that they leave."""
        for node in ids:
            self._home.ask_to_leave(node)
        self.cloud.terminate_instances(ids, drain=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No lock: launchers anywhere name the same next node, and a cloud starts it once."""
        yield

    def log(self, instance: str) -> Printed:
        """What a node said, or its console, where it did not come so far."""
        try:
            start, data = self._home.log(instance)
        except FileNotFoundError:
            return Printed(self.cloud.console_output(instance).encode(), kind="console")
        return Printed(data, start)

    def deliver(self, result: dict[str, Any]) -> dict[str, Any]:
        """Fetch the output and its proof to the user's disk; where another launcher looks, it stays at the home.

        Raises:
            StorageError: it can't be fetched or put there; it stays at the home.
        """
        wanted = self._told.get("output")
        if not wanted or self._job is None or result.get("state") != "done":
            return result
        with self._job.locked("delivery"):  # one that supervises and one that watches
            if not (done := self._job.root / "delivered").exists():
                self._home.note("delivered", what=self._job.spec().output, where=wanted)
                self._fetch(self._job, wanted)
                done.touch()
        return {**result, "output": wanted}

    def _fetch(self, job: JobDirectory, wanted: str) -> None:
        job.make()
        spec = job.spec()
        for suffix in (".proof.json", ""):
            url = spec.output + suffix
            if suffix and not storage.exists(url):
                continue
            staged = storage.staging(wanted + suffix, job.scratch, spec.id)
            staged.unlink(missing_ok=True)
            if (got := storage.get(url, staged)) != staged:
                shutil.copyfile(got, staged)  # a home that is a folder
            storage.put(staged, wanted + suffix, force=spec.force)

    def discard(self) -> None:
        """Forget what went up of the output: nobody sees it, but it is paid for."""
        _abort_uploads(self.records.spec().output)

    def sweep(self) -> None:
        """Remove the input, the bundle and a delivered output from the home."""
        spec = self.records.spec()
        if self._job is not None and self._job.spec() != spec:
            return  # another job's home, of the same id
        with contextlib.suppress(FileNotFoundError):
            if shown := self._shown(self._home.read("bundle.sha256").decode().strip()):
                shown.unlink(missing_ok=True)
        urls = [self._home.url(f"bundle.{kind}") for kind in ("tar", "url", "sha256")] + [spec.input]
        if self._told.get("output"):
            urls += [spec.output, f"{spec.output}.proof.json"]
        there = {self._home.url(name) for name in storage.tree(self._url)}
        _abort_uploads(spec.output)
        if spec.input.startswith(f"{self._url}/"):
            _abort_uploads(spec.input)
        self._remove([url for url in urls if url in there])
        if self._job is not None:
            self._job.sweep()

    def _remove(self, urls: Sequence[str]) -> None:
        if not urls:
            return  # another launcher was faster
        # Frames and parts were on the collector's own disk: they are gone with its machine.
        gone = [i.id for i in self.cloud.describe_instances() if i.role == "collector" and not i.alive]
        self._home.note("removed", what=urls, machines=gone)
        for url in urls:
            storage.remove(url)

    @property
    def undelivered(self) -> bool:
        """Whether an output lies at the home that a user wanted elsewhere: nobody fetched it."""
        output = self.records.spec().output
        return output in {self._home.url(name) for name in storage.tree(self._url)}

    def clear(self) -> None:
        """Remove all of an ended job from its home but what tells where its data went.

        Raises:
            StorageError: it can't be removed.
        """
        # The spec last: who is interrupted can begin again.
        names = [name for name in storage.tree(self._url) if not name.startswith("audit/")]
        self._remove([self._home.url(name) for name in sorted(names, key="spec.json".__eq__)])

    def notes(self) -> list[dict[str, Any]]:
        """The home's audit records."""
        return self._home.notes()


def _abort_uploads(url: str) -> None:
    """Forget what a killed launcher or collector sent, where that is allowed; else a rule of the bucket must do it."""
    with contextlib.suppress(StorageError):
        storage.abort_uploads(url)


class NewLines:
    """What nodes of a job say, each line once.

    Args:
        site: where the job is.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._read: dict[tuple[str, str], int] = {}

    def __call__(self, instance: str, *, last: bool = False) -> list[str]:
        """Whole lines that a node said since the last call; with ``last``, also one without an end."""
        said = self._site.log(instance)
        key = instance, said.kind  # a log is not the rest of a console
        begin = max(self._read.get(key, 0), said.start)
        new = said.data[begin - said.start :]
        new = new if last else new[: new.rfind(b"\n") + 1]
        self._read[key] = begin + len(new)
        return new.decode(errors="replace").splitlines()


def open_site(job: JobDirectory) -> Site:
    """Where a job is that was begun on this machine, by its record.

    Raises:
        UsageError: its cloud is not to be had.
    """
    told = job.site()
    if not told.get("home"):
        return ShareSite(job)
    cloud = open_remote(told["cloud"], job.id, told["options"], told["home"])
    return HomeSite(told["home"], cloud, job)


def find_site(job_id: str, cloud_name: str, options: Mapping[str, str]) -> Site:
    """Where a job is that was begun elsewhere, by the tags of its instances.

    Raises:
        UsageError: no instances of that job in that cloud.
    """
    cloud = open_remote(cloud_name, job_id, options)
    if not (url := cloud.home):
        # A cloud forgets its machines within the hour; homes stay.
        bucket = check_options(cloud_name, options)["bucket"].rstrip("/")
        url = f"{bucket}/{job_id}"
        if job_id not in storage.folders(bucket):
            raise UsageError(f"no job {job_id} in the cloud {cloud_name}, nor in {bucket}: see `vidcloud instances`")
        cloud = open_remote(cloud_name, job_id, options, url)
    return HomeSite(url, cloud, None)


def all_homes(cloud_name: str, options: Mapping[str, str]) -> list[HomeSite]:
    """The jobs that have homes in a cloud's bucket, whoever began them, the newest last.

    Raises:
        UsageError: the cloud's options are wrong.
        StorageError: the homes can't be listed.
    """
    bucket = check_options(cloud_name, options)["bucket"].rstrip("/")
    found: list[tuple[float, HomeSite]] = []
    for job_id in storage.folders(bucket):
        url = f"{bucket}/{job_id}"
        site = HomeSite(url, open_remote(cloud_name, job_id, options, url), None)
        with contextlib.suppress(UsageError):  # what is left of a job that was cleared: its audit
            found.append((site.records.spec().created, site))
    return [site for _, site in sorted(found, key=lambda f: f[0])]

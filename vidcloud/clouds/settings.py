"""What a cloud must be told: of ``vidcloud.toml``, an eucarc, the environment, ``-o key=value``; the later counts."""

import dataclasses
import difflib
import getpass
import os
import re
import shlex
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vidcloud.errors import UsageError

_EUCARC = {
    "EC2_URL": "endpoint_url",
    "S3_URL": "s3_endpoint_url",
    "EC2_ACCESS_KEY": "access_key",
    "AWS_ACCESS_KEY": "access_key",
    "AWS_ACCESS_KEY_ID": "access_key",
    "EC2_SECRET_KEY": "secret_key",
    "AWS_SECRET_KEY": "secret_key",
    "AWS_SECRET_ACCESS_KEY": "secret_key",
}
"""What an eucarc exports, and what it means here; all else in it (certificates, EC2_JVM_ARGS, …) is of no use."""
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_REFERENCE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, kw_only=True)
class HomeSettings:
    """What all clouds must be told whose jobs have a home in S3.

    Attributes:
        s3_endpoint_url: of S3's API; "": AWS.
        region: "": as boto3 finds it.
        path_style: address buckets by path; by default where ``s3_endpoint_url`` is set.
        s3_signature: ``s3v4``, or ``s3`` for old Walrus.
        s3_checksums: ``when_supported``, or ``when_required`` for old Walrus, which knows no CRC32.
        encrypt: NFS between nodes goes through TLS, with a key of the job's own.
        encrypted: encrypt volumes and objects at rest; by default where ``encrypt`` is set.
        max_lifetime_s: seconds after which a node ends itself.
        boot_timeout_s: seconds after its start in which a node must have been heard of, or is replaced.
        owner: for the tags.
        bucket: ``s3://bucket/prefix`` under which jobs have their homes; must be given.
        file_server: URL under which nodes fetch what lies in ``file_folder``; "": by presigned URLs of S3.
        file_folder: a folder of the launcher's machine that a file server shows (`vidcloud serve`).
    """

    s3_endpoint_url: str = ""
    region: str = ""
    path_style: bool | None = None
    s3_signature: str = "s3v4"
    s3_checksums: str = "when_supported"
    encrypt: bool = False
    encrypted: bool | None = None
    max_lifetime_s: int = 12 * 3600
    boot_timeout_s: int = 600
    owner: str = ""
    bucket: str = ""
    file_server: str = ""
    file_folder: str = ""

    def environment(self) -> dict[str, str]:
        """What programs must know to reach the home, by names that they read; no secrets."""
        told = {
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "VIDCLOUD_S3_PATH_STYLE": "1" if self.path_style else "",
            "VIDCLOUD_S3_SIGNATURE": self.s3_signature if self.s3_signature != "s3v4" else "",
            "VIDCLOUD_S3_CHECKSUMS": self.s3_checksums if self.s3_checksums != "when_supported" else "",
            "VIDCLOUD_S3_ENCRYPTION": "AES256" if self.encrypted else "",
        }
        return {name: value for name, value in told.items() if value}

    def encryption(self, at_rest: str) -> list[str]:
        """Lines that tell what is encrypted and what is not; ``at_rest`` is what ``encrypted`` covers in this cloud."""
        between = "NFS between nodes through TLS" if self.encrypt else ""
        told = [what for what in (between, at_rest if self.encrypted else "") if what]
        lines = [f"encrypted: {', '.join(told)}"] if told else []
        if self.encrypt and self.s3_endpoint_url.startswith("http://"):
            way = f"the way to {self.s3_endpoint_url}"
            lines.append(f"not encrypted: {way}, by which input, output and the job's key go")
        return lines

    def adopt(self) -> None:
        """Have this process's own clients of S3 reach what nodes will reach."""
        os.environ.update(self.environment())

    def pairs(self) -> dict[str, str]:
        """All that counts, as ``-o`` takes it; no secrets.

        Also what is as by default: a file or the environment, which are read again, must not tell otherwise.
        """
        told = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.repr:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                told[f.name] = {"True": "yes", "False": "no"}.get(text, text)
        return told


_S = TypeVar("_S", bound=HomeSettings)


@dataclass(frozen=True, kw_only=True)
class EC2Settings(HomeSettings):
    """What ``--cloud ec2`` must be told besides; AWS and Eucalyptus differ by these alone.

    Attributes:
        endpoint_url: of EC2's API; "": AWS, by region.
        access_key: "": boto3's own chain of credentials (environment, ``~/.aws``, profile).
        secret_key: belongs to ``access_key``.
        ec2_signature: ``v4``, or ``v2`` for old Eucalyptus.
        imdsv2: ``required``, or ``optional`` on clouds that have only version 1 of the metadata service.
        client_token: whether the cloud honours ClientToken; ``auto``: AWS does, of others it is not believed.
        image: machine image, ``ami-…`` or ``emi-…``; must be given.
        bare: the image knows nothing of vidcloud: user-data becomes a script that installs what is needed.
        collector_type: instance type of the collector.
        processor_types: of processors; several: what has room, in this order.
        key: name of a key pair, for ``vidcloud ssh``.
        key_file: its private half; "": ``~/.ssh/<key>.pem`` or ``~/.ssh/<key>``, or the agent's and the usual keys.
        ssh_user: who `vidcloud ssh` logs in as.
        ssh_address: ``public``, ``private``, or ``auto``: the public one, if a machine has one.
        subnets: several: what has room, in this order; none: the cloud's default.
        zones: availability zones, where no subnets are given: what has room, in this order; none: the cloud's choice.
        security_group: id or name; "": ``vidcloud``, made if absent.
        ssh_from: CIDR from which SSH is let in to a group that is made; "": from nowhere.
        instance_profile: name or ARN; by it the collector reaches the home. ``none``: the image has keys of its own.
        volume_gb: of each root disk; 0: as the image says. The collector's holds the share.
        spot: processors on spot capacity, on demand where there is none.
        price_cap: US dollars an hour for the whole job, refused above; 0: none.
    """

    endpoint_url: str = ""
    access_key: str = dataclasses.field(default="", repr=False)
    secret_key: str = dataclasses.field(default="", repr=False)
    ec2_signature: str = "v4"
    imdsv2: str = "required"
    client_token: str = "auto"  # noqa: S105 - no secret
    image: str = ""
    bare: bool = False
    collector_type: str = "c6i.xlarge"
    processor_types: tuple[str, ...] = ("c6i.large",)
    key: str = ""
    key_file: str = ""
    ssh_user: str = "root"
    ssh_address: str = "auto"
    subnets: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    security_group: str = ""
    ssh_from: str = ""
    instance_profile: str = ""
    volume_gb: int = 0
    spot: bool = False
    price_cap: float = 0.0

    def private_key(self) -> Path | None:
        """File of the key pair's private half; None: what ssh finds by itself."""
        if self.key_file:
            return Path(self.key_file).expanduser()
        usual = [Path.home() / ".ssh" / name for name in (f"{self.key}.pem", self.key)] if self.key else []
        return next((p for p in usual if p.is_file()), None)

    def adopt(self) -> None:
        """Have this process's own clients of S3 reach what nodes will reach, with the same keys."""
        super().adopt()
        if self.access_key:
            os.environ.update(AWS_ACCESS_KEY_ID=self.access_key, AWS_SECRET_ACCESS_KEY=self.secret_key)


@dataclass(frozen=True, kw_only=True)
class MetalSettings(HomeSettings):
    """What ``--cloud metal`` must be told besides; how Cobbler is reached stands in ``metal.toml``.

    Attributes:
        profile: Cobbler's profile that is installed; must be given.
        collector_profile: the collector's; "": as ``profile``.
        groups: of machines to take free ones of; none: any, but no machine without a group.
        machines: names or addresses of the machines to take free ones of; none: any of ``groups``.
        wipe: boot ``metal.toml``'s wipe_profile on each machine before it is given back.
        config: path of ``metal.toml``; "": as `vidcloud metal` finds it.
    """

    profile: str = ""
    collector_profile: str = ""
    groups: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    wipe: bool = False
    config: str = ""


def read_settings(
    cloud: str,
    pairs: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
    files: tuple[Path, ...] | None = None,
) -> EC2Settings:
    """All settings of a cloud that is like EC2.

    Args:
        cloud: the table in ``vidcloud.toml``.
        pairs: of ``-o``; ``eucarc=FILE`` names one.
        environ: by default this process's.
        files: places of ``vidcloud.toml``, the first that exists counts; by default here and ``~/.config/vidcloud``.

    Raises:
        UsageError: an unknown setting, or one of a wrong kind.
    """
    environ = os.environ if environ is None else environ
    told = _of_file(cloud, files)
    given = {k: v for k, v in pairs.items() if k != "eucarc"}
    eucarc = pairs.get("eucarc") or told.pop("eucarc", "")
    told |= _meaning(environ if not eucarc else {**environ, **read_eucarc(Path(eucarc), environ)}, whole=bool(eucarc))
    settings = _made(EC2Settings, told | given, environ)
    _check_word(settings, "ec2_signature", ("v4", "v2"))
    _check_word(settings, "imdsv2", ("required", "optional"))
    _check_word(settings, "client_token", ("auto", "yes", "no"))
    _check_word(settings, "ssh_address", ("auto", "public", "private"))
    return settings


def read_metal(
    pairs: Mapping[str, str], environ: Mapping[str, str] | None = None, files: tuple[Path, ...] | None = None
) -> MetalSettings:
    """All settings of ``--cloud metal``: of the table ``[metal]``, then ``-o``. See `read_settings`.

    Raises:
        UsageError: an unknown setting, or one of a wrong kind.
    """
    return _made(MetalSettings, _of_file("metal", files) | dict(pairs), os.environ if environ is None else environ)


def _of_file(cloud: str, files: tuple[Path, ...] | None) -> dict[str, Any]:
    if files is None:
        files = (Path("vidcloud.toml"), Path.home() / ".config/vidcloud/vidcloud.toml")
    return next((_table(file, cloud) for file in files if file.is_file()), {})


def _made(kind: type[_S], told: Mapping[str, Any], environ: Mapping[str, str]) -> _S:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {name: _value(name, value, fields) for name, value in told.items()}
    values.setdefault("owner", f"{getpass.getuser()}@{socket.gethostname()}")
    values.setdefault("region", environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "")
    if values.get("path_style") is None:
        values["path_style"] = bool(values.get("s3_endpoint_url"))
    if values.get("encrypted") is None:
        values["encrypted"] = values.get("encrypt", False)
    settings = kind(**values)
    _check_word(settings, "s3_signature", ("s3v4", "s3"))
    _check_word(settings, "s3_checksums", ("when_supported", "when_required"))
    if settings.bucket and not re.fullmatch(r"s3://[^/]+(/.*)?", settings.bucket):
        raise UsageError(f"-o bucket={settings.bucket}: must be s3://BUCKET or s3://BUCKET/FOLDER")
    _check_file_server(settings)
    return settings


def _check_file_server(settings: HomeSettings) -> None:
    url, folder = settings.file_server, settings.file_folder
    if bool(url) != bool(folder):
        raise UsageError("-o file_server=URL and -o file_folder=DIR go together: where nodes ask, and what it shows")
    if url and not re.fullmatch(r"https?://[^\s?#]+", url):
        raise UsageError(f"-o file_server={url}: must be https://HOST/FOLDER, or http://")
    if url.startswith("http:") and settings.encrypt:
        raise UsageError(f"-o file_server={url}: with encrypt the bundle holds a key, so it must be https://")


def _check_word(settings: HomeSettings, name: str, allowed: Sequence[str]) -> None:
    if getattr(settings, name) not in allowed:
        raise UsageError(f"-o {name}={getattr(settings, name)}: must be one of {', '.join(allowed)}")


def read_eucarc(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What an eucarc exports. It is read, not run: assignments, quotes and ``${NAME}`` are understood, nothing else.

    Raises:
        UsageError: it can't be read.
    """
    try:
        text = path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"can't read the eucarc {path}: {getattr(e, 'strerror', None) or 'no text'}") from e
    found: dict[str, str] = {"EUCA_KEY_DIR": str(path.expanduser().absolute().parent)}
    for line in text.splitlines():
        match = _ASSIGNMENT.fullmatch(line)
        if not match or "$(" in line or "`" in line:  # its folder is found by a command: that is known already
            continue
        name, raw = match.groups()
        if name == "EUCA_KEY_DIR":
            continue
        try:
            words = shlex.split(raw, comments=True)
        except ValueError:
            continue
        value = words[0] if words else ""
        if not raw.lstrip().startswith("'"):
            value = _REFERENCE.sub(lambda m: found.get(m[1], environ.get(m[1], "")), value)
        found[name] = value
    return found


def _table(file: Path, cloud: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text()).get(cloud, {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"can't read {file}: {e}") from e
    if not isinstance(table, dict):
        raise UsageError(f"{file}: {cloud} must be a table, [{cloud}]")
    return dict(table)


def _meaning(exported: Mapping[str, str], *, whole: bool) -> dict[str, str]:
    """Settings in the environment. AWS's own names of keys are boto3's business, unless an eucarc sets them."""
    names = _EUCARC if whole else {k: v for k, v in _EUCARC.items() if not k.startswith("AWS_")}
    return {names[name]: exported[name] for name in names if exported.get(name)}


def _value(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    if name not in fields:
        near = difflib.get_close_matches(name, fields, 1)
        hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(fields)}"
        raise UsageError(f"no setting {name!r} of this cloud{hint}")
    kind = str(fields[name].type)
    try:
        if "tuple" in kind:
            return (
                tuple(w for w in re.split(r"[,\s]+", value) if w) if isinstance(value, str) else tuple(map(str, value))
            )
        if "bool" in kind:
            if isinstance(value, bool):
                return value
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[value.lower()]
        if "int" in kind:
            return int(value)
        if "float" in kind:
            return float(value)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UsageError(f"-o {name}={value}: must be {'yes or no' if 'bool' in kind else 'a number'}") from None
    return str(value)

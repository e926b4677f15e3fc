"""The user-data line: ``<script> <file server> [ <arguments> ]``, and the way from a line to a running role.

A booted image's hook does in shell what `boot` does here: fetch the script that the line names from the file server,
run it with the arguments. The line carries no secret.
"""

import hashlib
import importlib.metadata
import io
import os
import secrets
import shlex
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidcloud import storage
from vidcloud.errors import UsageError, VidcloudError

USER_DATA_LIMIT = 16_384
"""EC2 refuses more bytes than this."""

_SCRIPTS = ("collector", "processor", "host.sh")

_BARE = """\
#!/bin/sh
# An image without vidcloud: install what it needs, then be booted by the hook below.
give_up() {{
  echo "vidcloud: $1: this machine goes off"
  poweroff
  exit 1
}}
# What is not installed in an hour never will be. The role's script sets the time anew.
shutdown -h +60 || give_up "can't arm the dead-man timer"
export DEBIAN_FRONTEND=noninteractive
# Before the server is there, which starts when it is installed: with version 3, the first locks stall.
mkdir -p /etc/nfs.conf.d
printf '[nfsd]\\nvers3=n\\n' >/etc/nfs.conf.d/vidcloud.conf
install() {{
  apt-get update -q &&
    apt-get install -yq --no-install-recommends python3-venv nfs-kernel-server nfs-common stunnel4 curl &&
    {{ id vidcloud >/dev/null 2>&1 || useradd --system --uid 4100 --user-group --home-dir /run/vidcloud vidcloud; }} &&
    python3 -m venv /opt/vidcloud && /opt/vidcloud/bin/pip install -q {needs}
}}
# The network may come up later, and the image's own upgrades may hold the lock.
tried=1
until install; do
  [ "$tried" -lt 30 ] || give_up "can't install what a role needs"
  tried=$((tried + 1))
  sleep "${{VIDCLOUD_PATIENCE:-10}}"
done
export VIDCLOUD_USER_DATA={line} VIDCLOUD_IMDSV1={imdsv1}
"""


@dataclass(frozen=True)
class UserData:
    """What an instance is told.

    Attributes:
        script: name of the role script.
        server: URL of the folder from which the script is fetched.
        arguments: for the script.
    """

    script: str
    server: str
    arguments: tuple[str, ...] = ()

    def compose(self) -> str:
        """The line.

        Raises:
            UsageError: longer than clouds allow, or a word that can't stand in it.
        """
        words = (self.script, self.server, *self.arguments)
        if any("\n" in w for w in words):
            raise UsageError("user-data is one line: a newline can't be part of it")
        line = f"{shlex.quote(self.script)} {shlex.quote(self.server)} [ {shlex.join(self.arguments)} ]"
        if len(line.encode()) > USER_DATA_LIMIT:
            raise UsageError(f"user-data of {len(line)} bytes: clouds take {USER_DATA_LIMIT}")
        return line

    @classmethod
    def parse(cls, line: str) -> "UserData":
        """The line's meaning.

        Raises:
            UsageError: not of the form ``<script> <file server> [ <arguments> ]``.
        """
        try:
            words = shlex.split(line)
        except ValueError as e:
            raise UsageError(f"user-data {line!r}: {e}") from None
        if len(words) < 4 or words[2] != "[" or words[-1] != "]" or "/" in words[0]:
            raise UsageError(f"user-data must be `<script> <file server> [ <arguments> ]`, got {line!r}")
        return cls(words[0], words[1], tuple(words[3:-1]))


def local_server() -> str:
    """The file server of one's own machine: the role scripts that were installed with vidcloud."""
    return f"file://{local_path_of_scripts()}"


def make_key() -> str:
    """A key for a job whose nodes talk through TLS: 32 random bytes in hex."""
    return secrets.token_hex(32)


def make_bundle(job_root: Path, target: Path, wheel: Path | None = None, key: str = "") -> str:
    """Write what a machine of its own fetches: role scripts, the job's spec and plugins, the program, a key.

    Args:
        job_root: the job's directory.
        target: a tar, which only its owner may read; the same files and key give the same bytes.
        wheel: the program.
        key: of `make_key`; with it, nodes talk through TLS.

    Returns:
        The bundle's SHA-256 in hex, by which lines pin it.
    """
    scripts = local_path_of_scripts()
    members = {p.name: p for p in scripts.iterdir() if p.name in _SCRIPTS}
    members["job/spec.json"] = job_root / "spec.json"
    members |= {f"job/plugins/{p.name}": p for p in (job_root / "plugins").iterdir()}
    if wheel is not None:
        members[f"wheels/{wheel.name}"] = wheel
    target.unlink(missing_ok=True)
    target.touch(0o600)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("job", "job/plugins", "wheels"):
            about = tarfile.TarInfo(folder)
            about.type, about.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(about)
        for name, path in sorted(members.items()):
            about = tarfile.TarInfo(name)
            about.size, about.mode = path.stat().st_size, 0o755 if "/" not in name else 0o644
            with path.open("rb") as f:
                tar.addfile(about, f)
        if key:
            told = f"vidcloud:{key}\n".encode()
            about = tarfile.TarInfo("tunnel.psk")
            about.size, about.mode = len(told), 0o600
            tar.addfile(about, io.BytesIO(told))
    with target.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def as_shell_script(line: str, *, imdsv1: bool = False) -> str:
    """User-data for a machine image that knows nothing of us (Debian, Ubuntu): it installs what is needed, then does
    what the boot hook does with the line.

    Args:
        line: the user-data of an image that has the hook.
        imdsv1: the cloud may have but version 1 of the metadata service, which takes no tokens.

    Raises:
        UsageError: together with the line longer than clouds allow.
    """  # noqa: D205
    needs = [r.split(";")[0].strip() for r in importlib.metadata.requires("vidcloud") or () if "extra ==" not in r]
    hook = (local_path_of_scripts() / "rc.local").read_text()
    script = _BARE.format(needs=shlex.join(needs), line=shlex.quote(line), imdsv1=int(imdsv1))
    script += hook.removeprefix("#!/bin/sh\n")
    if len(script.encode()) > USER_DATA_LIMIT:
        raise UsageError(f"user-data of {len(script.encode())} bytes: clouds take {USER_DATA_LIMIT}")
    return script


def local_path_of_scripts() -> Path:
    """The folder of the boot hook and the role scripts."""
    import vidcloud.userdata  # noqa: PLC0415 - only a launcher asks

    return Path(str(vidcloud.userdata.__file__)).parent


def command(line: str) -> list[str]:
    """What becomes the role that a line names, with the line in ``VIDCLOUD_USER_DATA``.

    It is the role script itself where that lies on this machine: an interpreter less, a tenth of a second a node. Else
    it is this module, which fetches the script first.

    Raises:
        UsageError: a malformed line.
    """
    told = UserData.parse(line)
    script = storage.local_path(f"{told.server}/{told.script}")
    if script is not None and script.exists():
        return _script_command(script, told)
    return [sys.executable, "-P", "-m", "vidcloud.boot"]


def _script_command(script: Path, told: UserData) -> list[str]:
    return ["/bin/sh", str(script), *told.arguments]


def boot(line: str) -> None:
    """Become the role that a line names. Does not return.

    Raises:
        UsageError: a malformed line.
        StorageError: the script can't be fetched.
    """
    told = UserData.parse(line)
    scratch = Path(tempfile.gettempdir()) / f"vidcloud-{os.getpid()}-{told.script}"
    script = storage.get(f"{told.server}/{told.script}", scratch)
    if not script.exists():
        raise UsageError(f"the file server {told.server} has no script {told.script}")
    os.environ.setdefault("VIDCLOUD_PYTHON", sys.executable)
    run = _script_command(script, told)
    os.execv(run[0], run)  # noqa: S606 - the point of it


if __name__ == "__main__":
    try:
        boot(os.environ["VIDCLOUD_USER_DATA"])
    except VidcloudError as e:
        sys.exit(f"vidcloud: {e}")

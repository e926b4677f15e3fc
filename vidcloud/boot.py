"""The user-data line: ``<script> <file server> [ <arguments> ]``, and the way from a line to a running role.

A booted image's hook does in shell what `boot` does here: fetch the script that the line names from the file server,
run it with the arguments. The line carries no secret.
"""

import os
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidcloud import storage
from vidcloud.errors import UsageError, VidcloudError

USER_DATA_LIMIT = 16_384
"""EC2 refuses more bytes than this."""


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
    import vidcloud.userdata  # noqa: PLC0415 - only a launcher asks

    return "file://" + str(Path(vidcloud.userdata.__file__).parent)


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
    os.execv("/bin/sh", ["/bin/sh", str(script), *told.arguments])  # noqa: S606 - the point of it


if __name__ == "__main__":
    try:
        boot(os.environ["VIDCLOUD_USER_DATA"])
    except VidcloudError as e:
        sys.exit(f"vidcloud: {e}")

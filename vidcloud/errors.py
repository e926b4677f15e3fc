"""The error tree and the exit codes. Imports nothing.

Libraries raise; only the command line's ``main`` catches `VidcloudError`, prints its one line and exits with its code.
"""

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def one_line(error: BaseException, limit: int = 400) -> str:
    """An exception as one line: its type and its message, with line breaks taken out (OpenCV's have many)."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins" and not kind.__module__.startswith("vidcloud"):
        name = f"{kind.__module__}.{name}"
    message = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    text = f"{name}: {message}" if message else name
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class VidcloudError(Exception):
    """The base of all that vidcloud raises on purpose. ``str()`` of it is one clear line that says what to do."""

    exit_code = EXIT_FAILURE


class UsageError(VidcloudError):
    """What was asked for can't be done as asked: a bad option, no such file, an output that exists."""

    exit_code = EXIT_USAGE


class EndedError(UsageError):
    """What was to be changed belongs to nobody any more, or to somebody else by now."""


class CapacityError(UsageError):
    """More was wanted than there is."""


class PluginError(UsageError):
    """A filter that can't be found, loaded or configured, or whose file differs from its pinned SHA-256."""


class MediaError(VidcloudError):
    """A file that can't be read, decoded, encoded or written as media."""


class InputError(MediaError):
    """An input that is refused before any work starts: not a video, zero frames."""

    exit_code = EXIT_USAGE


class FilterError(VidcloudError):
    """A filter raised on a frame.

    Attributes:
        filter_name: the filter as the user wrote it.
        frame: index of the frame in the video, from 0.
        time_s: the frame's presentation time in seconds.
        detail: the exception in one line.
        traceback: the whole traceback.
    """

    def __init__(self, filter_name: str, frame: int, time_s: float, detail: str, traceback: str = "") -> None:
        super().__init__(f"filter {filter_name} failed on frame {frame} (at {time_s:.3f} s): {detail}")
        self.filter_name = filter_name
        self.frame = frame
        self.time_s = time_s
        self.detail = detail
        self.traceback = traceback


class ShareError(VidcloudError):
    """The share can't be used: not writable, no hard links, or it stayed unreachable through all retries."""


class TornError(ShareError):
    """A record is not whole. On a network file system a reader may meet one that is just being replaced."""


class NotTheCollectorError(ShareError):
    """Another collector is at work on the job, or has taken it over: this one must leave no word about it."""


class LeaseLostError(VidcloudError):
    """This node could not show that it is alive for half a lease: what it holds is no longer its own."""


class StorageError(VidcloudError):
    """A file or object can't be fetched or stored."""


class CloudError(VidcloudError):
    """A cloud refused or failed.

    Attributes:
        left_running: ids of instances that must still be terminated.
    """

    def __init__(self, message: str, left_running: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.left_running = left_running


class RemoteError(VidcloudError):
    """A host can't be reached by ssh, or doesn't do what it is told."""


class HostKeyError(RemoteError):
    """A host's key is unknown, or another than the known one: it may be another machine."""


class JobFailedError(VidcloudError):
    """The job ended without an output."""


class JobCancelledError(JobFailedError):
    """The job was cancelled."""


class VerifyError(VidcloudError):
    """An output is not what its proof says."""

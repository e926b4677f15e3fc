"""Get and put files by URL: ``file``, ``http(s)``, ``s3``.

Whatever the scheme, a file is whole under its name or not there: local files are linked or renamed into place, S3
objects appear when their upload is complete, and HTTP servers get one PUT.
"""

import contextlib
import errno
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vidcloud.errors import StorageError, UsageError

SCHEMES = ("file", "http", "https", "s3")
_TIMEOUT_S = 60.0
_READS, _READ_AGAIN_S = 5, 0.5
_WEEK_S = 7 * 24 * 3600
"""As long as S3 lets a presigned URL hold."""


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return "://" in text


def normalise(text: str) -> str:
    """A path or URL as a URL; paths become absolute.

    Raises:
        UsageError: an unknown scheme, or an s3 URL without bucket or key.
    """
    if not is_url(text):
        return "file://" + str(Path(text).absolute())
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise UsageError(f"{text}: can't use {parts.scheme}://; give a path or one of {', '.join(SCHEMES)}")
    if parts.scheme == "s3" and not (parts.netloc and parts.path.strip("/")):
        raise UsageError(f"{text}: must be s3://bucket/key")
    return text


def local_path(url: str) -> Path | None:
    """The path of a ``file`` URL; None for any other."""
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None


def name_of(url: str) -> str:
    """The last part of a URL's path."""
    path = local_path(url)
    return path.name if path else unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def exists(url: str) -> bool:
    """Whether something is stored under a URL.

    Raises:
        StorageError: it can't be found out; the line says why.
    """
    if path := local_path(url):
        return path.exists()
    parts = urlsplit(url)
    if parts.scheme == "s3":
        with _s3_errors(url):
            client = _s3()
            try:
                client.head_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
            except client.exceptions.ClientError as e:
                if e.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return False
                raise
        return True
    return bool(_http("HEAD", url).status < 300)


def get(url: str, target: Path) -> Path:
    """Make a URL's content available as a local file.

    Args:
        url: a ``file`` URL is not copied.
        target: where to put what must be fetched.

    Returns:
        The path to read.

    Raises:
        StorageError: it can't be fetched.
    """
    if path := local_path(url):
        return path
    if target.exists():
        return target
    partial = target.with_name(target.name + ".partial")
    parts = urlsplit(url)
    if parts.scheme == "s3":
        with _s3_errors(url):
            _s3().download_file(parts.netloc, parts.path.lstrip("/"), str(partial))
    else:
        response = _http("GET", url, preload_content=False)
        if response.status >= 300:
            raise StorageError(f"can't fetch {url}: the server says {response.status} {response.reason}")
        with _http_errors(url), partial.open("wb") as f:
            shutil.copyfileobj(response, f, 1 << 20)
        response.release_conn()
    partial.replace(target)
    return target


def get_range(url: str, first: int, last: int, shown: str = "") -> tuple[bytes, tuple[int, str]]:
    """Some bytes of a file, and which version of it they are of.

    Args:
        url: ``http(s)`` or ``s3``.
        first: of the bytes wanted, from 0.
        last: of them; beyond the file's end means up to the end.
        shown: what errors call the file, where ``url`` lets its bearer read it; by default ``url``.

    Returns:
        The bytes, the size of the whole file, and its ETag (or time of modification, or "").

    Raises:
        StorageError: they can't be fetched, or the server gives whole files only.
    """
    wanted, parts = f"bytes={first}-{last}", urlsplit(url)
    shown = shown or url
    if parts.scheme == "s3":
        with _s3_errors(shown):
            answer = _kept_s3().get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"), Range=wanted)
            data, told, tag = answer["Body"].read(), answer.get("ContentRange", ""), answer.get("ETag", "")
    else:
        response = _http("GET", url, shown=shown, headers={"range": wanted, "accept-encoding": "identity"})
        if response.status == 200 and not response.headers.get("content-range"):  # rclone's S3 says 200 for a part, too
            raise StorageError(f"the server of {shown} gives whole files only: leave --source at share")
        if response.status >= 300:
            raise StorageError(f"can't fetch {shown}: the server says {response.status} {response.reason}")
        data, told = response.data, response.headers.get("content-range", "")
        tag = response.headers.get("etag") or response.headers.get("last-modified", "")
    size = told.rpartition("/")[2]
    if not size.isdecimal():
        raise StorageError(f"the server of {shown} does not tell the file's size: leave --source at share")
    return data, (int(size), str(tag))


def read(url: str) -> bytes:
    """What a small file holds.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it can't be read.
    """
    if path := local_path(url):
        return path.read_bytes()
    parts = urlsplit(url)
    if parts.scheme != "s3":
        response = _http("GET", url)
        if response.status == 404:
            raise FileNotFoundError(errno.ENOENT, "not there", url)
        if response.status >= 300:
            raise StorageError(f"can't fetch {url}: the server says {response.status} {response.reason}")
        return bytes(response.data)
    client = _kept_s3()
    for left in range(_READS - 1, -1, -1):
        with _s3_errors(url):
            try:
                return bytes(client.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read())
            except client.exceptions.ClientError as e:
                if e.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    raise FileNotFoundError(errno.ENOENT, "not there", url) from None
                raise
            except AttributeError as e:
                # botocore 1.40-1.43 stumbles over the body of a server's error 500, and so does not try again itself.
                if not left:
                    raise StorageError(f"{url}: the server fails, again and again; try later") from e
        time.sleep(_READ_AGAIN_S)
    raise AssertionError(url)


def write(url: str, data: bytes) -> None:
    """Store a small file, whole, over what is there.

    Args:
        url: ``file`` or ``s3``.
        data: its content.

    Raises:
        StorageError: it can't be stored.
    """
    if path := local_path(url):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as e:
            raise StorageError(f"can't write {path}: {e.strerror}") from e
        return
    parts = urlsplit(url)
    with _s3_errors(url):
        _kept_s3().put_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"), Body=data, **_at_rest())


def create(url: str, data: bytes) -> None:
    """Store a small file under a name that is free.

    Args:
        url: ``file`` or ``s3``. On a server that knows no conditional writes, two at the same moment may both be told
            that it was free.
        data: its content.

    Raises:
        FileExistsError: the name is taken.
        StorageError: it can't be stored.
    """
    taken = FileExistsError(errno.EEXIST, "exists", url)
    if exists(url):
        raise taken
    if path := local_path(url):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as f:
                f.write(data)
        except FileExistsError:
            raise
        except OSError as e:
            raise StorageError(f"can't write {path}: {e.strerror}") from e
        return
    parts = urlsplit(url)
    client = _kept_s3()
    where = {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
    with _s3_errors(url):
        try:
            client.put_object(**where, Body=data, IfNoneMatch="*", **_at_rest())
        except client.exceptions.ClientError as e:
            status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412):  # there, or in the making
                raise taken from None
            if status != 501:
                raise
            client.put_object(**where, Body=data, **_at_rest())


def remove(url: str) -> None:
    """Remove a file that may be there.

    Args:
        url: ``file`` or ``s3``.

    Raises:
        StorageError: it can't be removed.
    """
    if path := local_path(url):
        path.unlink(missing_ok=True)
        return
    parts = urlsplit(url)
    with _s3_errors(url):
        _kept_s3().delete_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))


def names(url: str) -> list[str]:
    """Names of the files in a folder, sorted; none if there is no such folder.

    Args:
        url: ``file`` or ``s3``.

    Raises:
        StorageError: it can't be listed.
    """
    if path := local_path(url):
        return sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    parts = urlsplit(url)
    prefix = f"{parts.path.strip('/')}/".lstrip("/")
    with _s3_errors(url):
        pages = _kept_s3().get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix, Delimiter="/")
        return sorted(o["Key"].removeprefix(prefix) for page in pages for o in page.get("Contents", ()))


def tree(url: str) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; none if there is no such folder.

    Args:
        url: ``file`` or ``s3``.

    Raises:
        StorageError: it can't be listed.
    """
    if path := local_path(url):
        return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    parts = urlsplit(url)
    prefix = f"{parts.path.strip('/')}/".lstrip("/")
    with _s3_errors(url):
        pages = _kept_s3().get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
        return sorted(o["Key"].removeprefix(prefix) for page in pages for o in page.get("Contents", ()))


def folders(url: str) -> list[str]:
    """Names of the folders in a folder, sorted; none if there is no such folder.

    Args:
        url: ``file`` or ``s3``.

    Raises:
        StorageError: it can't be listed.
    """
    if path := local_path(url):
        return sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    parts = urlsplit(url)
    prefix = f"{parts.path.strip('/')}/".lstrip("/")
    with _s3_errors(url):
        pages = _kept_s3().get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix, Delimiter="/")
        found = [o["Prefix"] for page in pages for o in page.get("CommonPrefixes", ())]
    return sorted(name.removeprefix(prefix).rstrip("/") for name in found)


def abort_uploads(url: str) -> None:
    """Forget what went up of a file by programs that did not live to its last part: S3 keeps, and charges, such parts.

    Args:
        url: ``file`` or ``s3``.

    Raises:
        StorageError: they can't be listed or aborted.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return
    key, client = parts.path.lstrip("/"), _kept_s3()
    with _s3_errors(url):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=parts.netloc, Prefix=key):
            for begun in page.get("Uploads", ()):
                if begun["Key"] == key:
                    client.abort_multipart_upload(Bucket=parts.netloc, Key=key, UploadId=begun["UploadId"])


def upload(path: Path, url: str, tell: Callable[[int], None] | None = None) -> None:
    """Store a copy of a local file: in many parts at once if it is large, and not there until it is whole.

    Args:
        path: the file; stays.
        url: ``file`` or ``s3``.
        tell: called with the number of bytes that went up since its last call, from any thread.

    Raises:
        StorageError: it can't be stored.
    """
    if target := local_path(url):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if tell:
            tell(path.stat().st_size)
        return
    parts = urlsplit(url)
    checked = os.environ.get("VIDCLOUD_S3_CHECKSUMS") != "when_required"
    extra = {**({"ChecksumAlgorithm": "CRC32"} if checked else {}), **_at_rest()}
    with _s3_errors(url):
        _s3().upload_file(str(path), parts.netloc, parts.path.lstrip("/"), ExtraArgs=extra, Callback=tell)


def presign(url: str, seconds: int) -> str:
    """A URL by which anybody may read an object for a while.

    Args:
        url: ``s3``; a ``file`` URL stays as it is.
        seconds: a week at most.

    Raises:
        StorageError: no credentials.
    """
    if local_path(url):
        return url
    parts = urlsplit(url)
    where = {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
    with _s3_errors(url):
        return str(_s3().generate_presigned_url("get_object", Params=where, ExpiresIn=min(seconds, _WEEK_S)))


def staging(url: str, scratch: Path, job_id: str) -> Path:
    """Where to make a file that will be put under a URL: beside its final place if that is local."""
    if path := local_path(url):
        return path.with_name(f".{path.stem}.{job_id}.partial{path.suffix}")
    return scratch / name_of(url)


def put(staged: Path, url: str, *, force: bool) -> None:
    """Move a whole local file to a URL.

    Args:
        staged: from `staging`; gone afterwards.
        url: the destination.
        force: replace what is there.

    Raises:
        StorageError: something is there already, or it can't be stored; ``staged`` stays.
    """
    if path := local_path(url):
        try:
            _sync(staged)
            if force:
                staged.replace(path)
            else:
                _move_to_free_name(staged, path)
        except FileExistsError:
            raise StorageError(f"{path} has appeared meanwhile; the result is {staged}: rename it") from None
        except OSError as e:
            raise StorageError(f"can't write {path}: {e.strerror}; the result is {staged}") from e
        return
    if not force and exists(url):
        raise StorageError(f"{url} has appeared meanwhile; the result is {staged}")
    parts = urlsplit(url)
    if parts.scheme == "s3":
        upload(staged, url)
    else:
        with staged.open("rb") as f:
            size = str(staged.stat().st_size)
            response = _http("PUT", url, body=f, headers={"content-length": size})
        if response.status >= 300:
            raise StorageError(f"can't store {url}: the server says {response.status} {response.reason}")
    staged.unlink()


def _move_to_free_name(staged: Path, path: Path) -> None:
    try:
        os.link(staged, path)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # exFAT and the like have no hard links: look, then rename.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        staged.rename(path)
    else:
        staged.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _http(method: str, url: str, *, shown: str = "", **kwargs: Any) -> Any:
    import urllib3  # noqa: PLC0415 - only for those who use it

    with _http_errors(shown or url):
        return urllib3.request(method, url, timeout=_TIMEOUT_S, retries=_retries(), **kwargs)


def _retries() -> Any:
    import urllib3  # noqa: PLC0415

    # A server that is busy or restarts says so with these; the last answer is given back as it is.
    busy = (429, 500, 502, 503, 504)
    return urllib3.Retry(4, backoff_factor=0.5, status_forcelist=busy, raise_on_status=False)


@contextlib.contextmanager
def _http_errors(url: str) -> Iterator[None]:
    import urllib3  # noqa: PLC0415

    try:
        yield
    except urllib3.exceptions.IncompleteRead as e:
        raise StorageError(f"can't fetch {url}: it broke off after {e.partial} bytes; try again") from e
    except urllib3.exceptions.ProtocolError as e:
        raise StorageError(f"can't fetch {url}: the connection broke; try again") from e
    except urllib3.exceptions.HTTPError as e:
        if isinstance(getattr(e, "reason", None), urllib3.exceptions.ProtocolError):
            raise StorageError(f"can't fetch {url}: the connection broke, again and again; try later") from e
        raise StorageError(f"can't reach {url}: {_reason(e)}") from e


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or error
    return str(inner).rsplit(": ", 1)[-1] or type(inner).__name__


@functools.cache
def _kept_s3() -> Any:
    # Making a client takes a quarter of a second, which many small reads can't bear.
    return _s3()


def _s3() -> Any:
    import boto3  # noqa: PLC0415 - a quarter of a second, only for those who use it
    from botocore.config import Config  # noqa: PLC0415

    # The endpoint comes by AWS_ENDPOINT_URL_S3; for this there is no name that boto3 knows. Presigned URLs by SigV4.
    style = "path" if os.environ.get("VIDCLOUD_S3_PATH_STYLE") == "1" else "auto"
    checksums = os.environ.get("VIDCLOUD_S3_CHECKSUMS") or None
    config = Config(
        signature_version=os.environ.get("VIDCLOUD_S3_SIGNATURE", "s3v4"), s3={"addressing_style": style},
        request_checksum_calculation=checksums, response_checksum_validation=checksums,
    )  # fmt: skip
    return boto3.session.Session().client("s3", config=config)  # not the cached one: credentials may have come since


def _at_rest() -> dict[str, str]:
    """How a bucket is asked to encrypt: ``VIDCLOUD_S3_ENCRYPTION`` is ``AES256`` or ``aws:kms``."""
    told = os.environ.get("VIDCLOUD_S3_ENCRYPTION")
    return {"ServerSideEncryption": told} if told else {}


@contextlib.contextmanager
def _s3_errors(url: str) -> Iterator[None]:
    import botocore.exceptions as b  # noqa: PLC0415
    from boto3.exceptions import Boto3Error  # noqa: PLC0415

    try:
        yield
    except (b.NoCredentialsError, b.PartialCredentialsError) as e:
        raise StorageError(
            f"{url}: no credentials; run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from e
    except (b.BotoCoreError, b.ClientError, Boto3Error) as e:
        raise StorageError(f"{url}: {e}") from e

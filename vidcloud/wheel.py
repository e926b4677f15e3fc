"""A wheel of the very program that runs, so that nodes run the same: from its files, also of an editable install."""

import base64
import hashlib
import importlib
import importlib.metadata
import zipfile
from pathlib import Path

from vidcloud.errors import VidcloudError

_PACKAGES = ("vidcloud", "vidcloud.filters", "vidcloud.userdata")
"""The first has all its folders below it; the others may lie elsewhere."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(folder: Path) -> Path:
    """Write ``vidcloud-<version>-py3-none-any.whl``; the same files give the same bytes.

    Args:
        folder: where to put it.

    Returns:
        The wheel.

    Raises:
        VidcloudError: the program is not installed properly: its metadata is missing.
    """
    try:
        installed = importlib.metadata.distribution("vidcloud")
    except importlib.metadata.PackageNotFoundError:
        raise VidcloudError("vidcloud is not installed: `pip install .` in its folder") from None
    version = installed.version
    about = f"vidcloud-{version}.dist-info"
    files = {name: data for package in _PACKAGES for name, data in _files(package).items()}
    # In a checkout that somebody stands in, setuptools' own folder is found first, with other names.
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO")
    if not metadata:
        raise VidcloudError("vidcloud's installation has no metadata: `pip install .` in its folder")
    files[f"{about}/METADATA"] = metadata.encode()
    files[f"{about}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: vidcloud\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/RECORD"] = (
        "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items())).encode()
        + f"{about}/RECORD,,\n".encode()
    )
    target = folder / f"vidcloud-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return target


def _files(package: str) -> dict[str, bytes]:
    root = Path(str(importlib.import_module(package).__file__)).parent
    inside = package.replace(".", "/")
    return {
        f"{inside}/{path.relative_to(root)}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

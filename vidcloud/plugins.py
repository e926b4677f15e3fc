"""From ``neon:radius=9`` or ``./mine.py:Sharpen`` to a filter.

A filter is named in one of two ways:

- ``NAME[:key=value,…]``: a filter that an installed distribution offers in the entry-point group ``vidcloud.filters``.
  The built-in ones take the same path as a user's; nothing here imports them.
- ``PATH.py[:CLASS][:key=value,…]``: a filter in a file. ``CLASS`` (a function's name in the short form) may be left out
  where the file defines one filter.

A job carries `FilterRef` records. A file's bytes travel with the job under their SHA-256, and a node runs those bytes
or nothing. Only that one file travels: modules that lie beside it are not copied, and importing one fails here, before
a node is started. Put such code into the same file, or into an installed package with an entry point.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.abc
import importlib.util
import inspect
import os
import re
import secrets
import sys
import traceback
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vidcloud.chain import Stage
from vidcloud.errors import PluginError, ShareError, one_line
from vidcloud.filter import Filter, configure

GROUP = "vidcloud.filters"
"""The entry-point group in which distributions offer filters."""

_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*")
_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<rest>.*))?", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FilterSpecText:
    """What a user's text says, before anything is looked up.

    Attributes:
        reference: an entry point's name, or a file's path.
        params: parameters as text, in the order given.
        member: the class or function in the file; empty where left out, and for entry points.
        is_file: whether ``reference`` is a path.
    """

    reference: str
    params: dict[str, str]
    member: str = ""
    is_file: bool = False


def parse_spec(text: str) -> FilterSpecText:
    r"""Take a user's text apart.

    A comma within a value is written ``\,``. A path with a colon before its end starts with ``./`` or ``/``.

    Raises:
        PluginError: the text is not of one of the two forms.
    """
    head, colon, rest = text.partition(":")
    if _NAME.fullmatch(head) and not head.endswith(".py"):
        if colon and not rest:
            raise PluginError(f"filter {text!r}: nothing follows the colon; write {head} or {head}:key=value")
        return FilterSpecText(head, _parse_params(rest, text))
    found = _FILE.fullmatch(text)
    if not found:
        raise PluginError(f"filter {text!r}: write NAME, NAME:key=value,… or PATH.py:CLASS:key=value,…")
    path, rest = found["path"], found["rest"]
    if rest is None:
        return FilterSpecText(path, {}, is_file=True)
    member, colon, params = rest.partition(":")
    if "=" in member:
        member, params = "", rest
    elif not member.isidentifier() or (colon and not params):
        raise PluginError(f"filter {text!r}: after the file write :CLASS, :key=value,… or :CLASS:key=value,…")
    return FilterSpecText(path, _parse_params(params, text), member, is_file=True)


def _parse_params(text: str, whole: str) -> dict[str, str]:
    params: dict[str, str] = {}
    for item in re.split(r"(?<!\\),", text) if text else ():
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key.replace("-", "_").isidentifier():
            raise PluginError(f"filter {whole!r}: {item!r} is not key=value")
        if key.replace("_", "-") in (k.replace("_", "-") for k in params):
            raise PluginError(f"filter {whole!r}: {key} is given twice")
        params[key] = value.strip().replace("\\,", ",")
    return params


@dataclass(frozen=True)
class FilterRef:
    """A filter in a job's record: enough for another node to load the very same one.

    Attributes:
        name: the filter as the user wrote it.
        kind: where it comes from.
        member: the entry point's name, or the class or function in the file.
        params: parameters as text.
        file: the file's own name, without its folder; for people.
        sha256: of the file's bytes, in hexadecimal.
        distribution: which distribution offers the entry point.
        version: of that distribution.
    """

    name: str
    kind: Literal["entry-point", "file"]
    member: str
    params: dict[str, str] = field(default_factory=dict, hash=False)
    file: str = ""
    sha256: str = ""
    distribution: str = ""
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """As written into a job's spec and into a proof."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "FilterRef":
        """As read; unknown keys are ignored.

        Raises:
            PluginError: the record is not one of a filter.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            ref = cls(**{k: v for k, v in record.items() if k in known})
        except TypeError as e:
            raise PluginError(f"a filter's record lacks a part: {e}") from None
        # The hash becomes a file name: nothing but a hash may get there.
        if ref.kind not in ("entry-point", "file") or (ref.kind == "file" and not _SHA256.fullmatch(ref.sha256)):
            raise PluginError(f"the record of filter {ref.name} is neither of an entry point nor of a file")
        return ref


@dataclass(frozen=True)
class Resolved:
    """A user's text, resolved on this machine.

    Attributes:
        ref: what a job records of it.
        filter: the filter, configured.
        source: the file's bytes, those that were run; empty for entry points.
    """

    ref: FilterRef
    filter: Filter
    source: bytes = field(default=b"", repr=False)

    @property
    def stage(self) -> Stage:
        """As a part of a chain."""
        return Stage(self.ref.name, self.filter)


def resolve(text: str) -> Resolved:
    """Find and configure the filter that a user's text means.

    Raises:
        PluginError: there is no such filter, it can't be imported, or a parameter is unknown or bad.
    """
    spec = parse_spec(text)
    if not spec.is_file:
        entry = _entry_point(spec.reference)
        made = configure(_load_entry_point(entry), spec.params, spec.reference)
        distribution, version = _origin(entry)
        ref = FilterRef(text, "entry-point", entry.name, spec.params, distribution=distribution, version=version)
        return Resolved(ref, made)
    file = _File.read(spec)
    members = [spec.member] if spec.member else file.members()
    if len(members) > 1:
        choice = " or ".join(f"{spec.reference}:{member}" for member in members)
        raise PluginError(f"{spec.reference} defines several filters: write {choice}")
    return file.resolved(text, members[0])


def resolve_each(text: str) -> list[Resolved]:
    """As `resolve`, but a file without ``:CLASS`` gives all filters that it defines.

    Raises:
        PluginError: as `resolve`.
    """
    spec = parse_spec(text)
    if not spec.is_file or spec.member:
        return [resolve(text)]
    file = _File.read(spec)
    return [file.resolved(text, member) for member in file.members()]


def bundle(resolved: Resolved, plugin_dir: Path) -> None:
    """Copy a filter's file into a job, as ``<plugin_dir>/<sha256>.py``; nothing to do for an entry point.

    The bytes are those that `resolve` ran, whatever has become of the user's file since. The copy appears whole or not
    at all, and is never replaced.

    Raises:
        ShareError: the folder can't be written, or holds something else under that name.
    """
    if resolved.ref.kind != "file":
        return
    target = plugin_dir / f"{resolved.ref.sha256}.py"
    private = plugin_dir / f".{resolved.ref.sha256}.{secrets.token_hex(4)}"
    try:
        with private.open("xb") as f:
            f.write(resolved.source)
            f.flush()
            os.fsync(f.fileno())
        # Taken: by another filter of the same file, or by this very call, whose reply a network lost. The bytes tell.
        with contextlib.suppress(FileExistsError):
            target.hardlink_to(private)
        same = target.read_bytes() == resolved.source
    except OSError as e:
        raise ShareError(f"can't copy {resolved.ref.file} into {plugin_dir}: {e.strerror}") from e
    finally:
        with contextlib.suppress(OSError):
            private.unlink(missing_ok=True)
    if not same:
        raise ShareError(f"{target} holds other bytes than its name says: remove it")


def load(ref: FilterRef, plugin_dir: Path) -> Stage:
    """Load a filter from a job's record, on any node.

    Args:
        ref: from the job's spec.
        plugin_dir: where `bundle` put the files.

    Raises:
        PluginError: this node has no such filter or another version of it, or the file is not the one that was pinned.
    """
    if ref.kind == "entry-point":
        entry = _entry_point(ref.member)
        here, wanted = " ".join(_origin(entry)), f"{ref.distribution} {ref.version}"
        if here != wanted:  # another version may make other pixels, and then the output would not be the serial one
            raise PluginError(f"filter {ref.member} is of {wanted} in this job, but of {here} on this node")
        return Stage(ref.name, configure(_load_entry_point(entry), ref.params, ref.name))
    path = plugin_dir.absolute() / f"{ref.sha256}.py"
    try:
        source = path.read_bytes()
    except OSError as e:
        raise PluginError(f"filter {ref.name}: can't read its copy in the job ({path}): {e.strerror}") from e
    # What is hashed here is what runs: the file is not read a second time.
    if hashlib.sha256(source).hexdigest() != ref.sha256:
        raise PluginError(f"filter {ref.name}: {path} is not the file that the job pinned (SHA-256 differs); not run")
    module = _module(path, source, ref.sha256, ref.file)
    return Stage(ref.name, configure(_member(module, ref.member, ref.file), ref.params, ref.name))


@dataclass(frozen=True)
class Available:
    """A filter that an installed distribution offers, for listing.

    Attributes:
        name: to use with ``--filter``.
        distribution: which distribution offers it, with its version.
        filter: the filter with its default parameters; None if it can't be loaded.
        error: why not.
    """

    name: str
    distribution: str
    filter: Filter | None
    error: str = ""


def available() -> list[Available]:
    """All filters of installed distributions, by name. One that can't be loaded is listed with the reason."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, _origin(e))):
        origin = " ".join(_origin(entry))
        try:
            _entry_point(entry.name)
            found.append(Available(entry.name, origin, configure(_load_entry_point(entry), {}, entry.name)))
        except PluginError as e:
            found.append(Available(entry.name, origin, None, str(e)))
    return found


# -- entry points ------------------------------------------------------------------------------------------------------


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "0")


def _entry_point(name: str) -> EntryPoint:
    entries = entry_points(group=GROUP)
    found = sorted(entries.select(name=name), key=_origin)
    if len(found) > 1:
        origins = " and ".join(" ".join(_origin(e)) for e in found)
        raise PluginError(f"filter {name} is offered by {origins}: uninstall all but one")
    if found:
        return found[0]
    names = sorted(entries.names)
    close = difflib.get_close_matches(name.replace("_", "-"), names, n=1)
    if not close and Path(f"{name}.py").exists():
        close = [f"./{name}.py"]
    hint = f"did you mean {close[0]}? " if close else ""
    raise PluginError(f"no filter {name}: {hint}there are {', '.join(names) or 'none'}")


def _load_entry_point(entry: EntryPoint) -> type[Filter]:
    origin = " ".join(_origin(entry))
    try:
        loaded = entry.load()
    except Exception as e:
        extra = f"; try: pip install '{_origin(entry)[0]}[{','.join(entry.extras)}]'" if entry.extras else ""
        raise PluginError(f"filter {entry.name} of {origin} can't be imported: {one_line(e)}{extra}") from e
    if not _is_filter(loaded):
        raise PluginError(f"filter {entry.name} of {origin}: {entry.value} is not a filter class")
    return loaded  # type: ignore[no-any-return]


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A user's filter file, read and run."""

    spec: FilterSpecText
    path: Path
    source: bytes
    sha256: str
    module: ModuleType

    @classmethod
    def read(cls, spec: FilterSpecText) -> "_File":
        path = Path(spec.reference).expanduser().absolute()
        try:
            source = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise PluginError(f"no filter file {spec.reference}") from None
        except OSError as e:
            raise PluginError(f"can't read the filter file {spec.reference}: {e.strerror}") from e
        sha256 = hashlib.sha256(source).hexdigest()
        return cls(spec, path, source, sha256, _module(path, source, sha256, spec.reference))

    def members(self) -> list[str]:
        return _defined(self.module, self.spec.reference)

    def resolved(self, text: str, member: str) -> Resolved:
        shown = self.spec.reference
        made = configure(_member(self.module, member, shown), self.spec.params, f"{shown}:{member}")
        ref = FilterRef(text, "file", member, self.spec.params, file=self.path.name, sha256=self.sha256)
        return Resolved(ref, made, self.source)


class _BytesLoader(importlib.abc.ExecutionLoader):
    """Runs given bytes as a file's module: no second read, and no ``__pycache__`` beside a user's file."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - a loader of one module
        return str(self._path)

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return importlib.util.decode_source(self._source)

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002
        return False


def _module(path: Path, source: bytes, sha256: str, shown: str) -> ModuleType:
    """Run a filter file, once a process for the same path and bytes.

    Raises:
        PluginError: it can't be imported.
    """
    unique = hashlib.sha256(f"{sha256} {path}".encode()).hexdigest()[:16]
    name = f"vidcloud_plugin_{unique}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _BytesLoader(path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # noqa: S101 - it is None only without a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as e:
        del sys.modules[name]
        line = _line(e, path)
        where = f", line {line}" if line else ""
        hint = ""
        if isinstance(e, ModuleNotFoundError) and e.name and (path.parent / f"{e.name.split('.')[0]}.py").exists():
            hint = " (a file beside it is not copied to the nodes: put its code into the filter's file)"
        raise PluginError(f"filter file {shown} can't be imported{where}: {one_line(e)}{hint}") from e
    return module


def _line(e: BaseException, path: Path) -> int | None:
    if isinstance(e, SyntaxError) and e.filename == str(path):
        return e.lineno
    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else None


def _is_filter(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Filter) and not inspect.isabstract(thing)


def _defined(module: ModuleType, shown: str) -> list[str]:
    """Names of the filters that a file defines itself; those that it imported are not meant."""
    found = {v: n for n, v in reversed(vars(module).items()) if _is_filter(v) and v.__module__ == module.__name__}
    if not found:
        raise PluginError(f"{shown} defines no filter: it needs a function under @frame_filter() or a Filter class")
    return list(reversed(found.values()))


def _member(module: ModuleType, member: str, shown: str) -> type[Filter]:
    found = getattr(module, member, None)
    if not _is_filter(found):
        what = "is not a filter" if hasattr(module, member) else "is not in it"
        raise PluginError(f"{shown}: {member} {what}; it has {', '.join(_defined(module, shown))}")
    return found  # type: ignore[return-value]

"""From a user's text to a filter: by name, by file, and by a job's record on another node."""

import contextlib
import hashlib
import importlib
import json
import sys
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcloud import plugins
from vidcloud.errors import PluginError, ShareError
from vidcloud.filter import At
from vidcloud.plugins import FilterRef, available, bundle, load, parse_spec, resolve, resolve_each

SHORT = """
from vidcloud.filter import frame_filter, param

@frame_filter(formats=("gray",))
def add(frame, *, amount: int = param(1, low=0, high=9)):
    "Add."
    return frame + frame.dtype.type(amount)
"""

LONG = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidcloud.filter import Filter, Halo, param


@dataclass
class Blend(Filter):
    formats: ClassVar[tuple[str, ...]] = ("gray",)
    radius: int = param(2)

    @property
    def halo(self):
        return Halo(self.radius, self.radius)

    def apply(self, window, out, at):
        out[...] = window[0]
"""


@pytest.fixture(autouse=True)
def _forget_modules():
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(("vidcloud_plugin_", "fake")):
            del sys.modules[name]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def jobs(tmp_path):
    """A job's folder of plugins."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(name, version, code, entries)``: a distribution with filters, as pip would leave it."""

    def run(name, version, code="", **entries):
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = "".join(f"{k.replace('_', '-')} = {v}\n" for k, v in entries.items())
        (info / "entry_points.txt").write_text(f"[vidcloud.filters]\n{lines}")
        if code:
            (site / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        return site

    return run


def line_of(call, *args):
    with pytest.raises(PluginError) as e:
        call(*args)
    text = str(e.value)
    assert "\n" not in text
    return text


def filtered(made, value=10):
    out = np.zeros((2, 2), np.uint8)
    before, after = made.halo
    made.apply([np.full((2, 2), value, np.uint8)] * (before + 1 + after), out, At(0, 0.0))
    return int(out[0, 0])


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reference", "member", "params"),
    [
        ("neon", "neon", "", {}),
        ("motion-blur:type=zoom,length=20", "motion-blur", "", {"type": "zoom", "length": "20"}),
        ("lut:file=a.py", "lut", "", {"file": "a.py"}),
        ("text:say=a:b=c", "text", "", {"say": "a:b=c"}),
        (r"text:say=a\,b,size=3", "text", "", {"say": "a,b", "size": "3"}),
        ("text:say=", "text", "", {"say": ""}),
        ("neon: radius = 9 , amount=1", "neon", "", {"radius": "9", "amount": "1"}),
        ("mine.py", "mine.py", "", {}),
        ("./mine.py:Sharpen", "./mine.py", "Sharpen", {}),
        ("/a b/mine.py:Sharpen:amount=2,edge-mode=x", "/a b/mine.py", "Sharpen", {"amount": "2", "edge-mode": "x"}),
        ("mine.py:amount=2", "mine.py", "", {"amount": "2"}),
        ("mine.py:file=x:y.py", "mine.py", "", {"file": "x:y.py"}),
        ("./odd:name.py:Sharpen", "./odd:name.py", "Sharpen", {}),
        ("../my.pyfilters/mine.py:A", "../my.pyfilters/mine.py", "A", {}),
    ],
)
def test_texts_are_taken_apart(text, reference, member, params):
    spec = parse_spec(text)
    assert (spec.reference, spec.member, spec.params) == (reference, member, params)
    assert spec.is_file == reference.endswith(".py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write NAME"),
        ("./mine", "write NAME"),
        ("neon:", "nothing follows the colon"),
        ("neon:radius", "'radius' is not key=value"),
        ("neon:radius=1,,amount=2", "'' is not key=value"),
        ("neon:=3", "'=3' is not key=value"),
        ("neon:a b=3", "is not key=value"),
        ("neon:radius=1,radius=2", "radius is given twice"),
        ("neon:edge-mode=1,edge_mode=2", "edge_mode is given twice"),
        ("mine.py:", "after the file write"),
        ("mine.py:A:", "after the file write"),
        ("mine.py::a=1", "after the file write"),
        ("mine.py:my class", "after the file write"),
    ],
)
def test_bad_texts_are_refused_in_one_line(text, says):
    assert says in line_of(parse_spec, text)


words = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\\", exclude_categories=["C", "Z"]), max_size=8)


@given(
    words, st.dictionaries(words, values, max_size=4), st.sampled_from(["", "./", "/x/"]), st.sampled_from(["", "A"])
)
def test_what_is_put_together_is_taken_apart_again(name, params, folder, member):
    reference = f"{folder}{name}.py" if folder else name
    items = ",".join(f"{k}={v}".replace(",", "\\,") for k, v in params.items())
    spec = parse_spec(":".join(part for part in (reference, member if folder else "", items) if part))
    assert (spec.reference, spec.params, spec.is_file) == (reference, params, bool(folder))
    assert spec.member == (member if folder else "")


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(text):
    with contextlib.suppress(PluginError):
        assert parse_spec(text).reference


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_with_one_filter_needs_no_name(here):
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py:amount=3")
    assert filtered(found.filter) == 13
    assert (found.ref.name, found.ref.kind, found.ref.member) == ("mine.py:amount=3", "file", "add")
    assert (found.ref.file, found.ref.sha256) == ("mine.py", hashlib.sha256(SHORT.encode()).hexdigest())
    assert found.stage.name == "mine.py:amount=3"


def test_a_dataclass_with_postponed_annotations_loads(here):
    """Dataclasses look up their module in sys.modules: a loader that leaves it out fails here."""
    (here / "mine.py").write_text(LONG)
    assert resolve("./mine.py:Blend:radius=3").filter.halo == (3, 3)


def test_imported_filters_are_not_meant_unless_named(here, install):
    install("fakeone", "1.2", SHORT.replace("def add", "def other"))
    (here / "mine.py").write_text("from fakeone import other\n" + SHORT + "plus = add\n")
    assert [r.ref.member for r in resolve_each("mine.py")] == ["add"]
    assert resolve("mine.py:plus").ref.member == "plus"
    assert resolve("mine.py:other").ref.member == "other"


def test_several_filters_need_a_name_and_are_listed(here):
    (here / "mine.py").write_text(SHORT + LONG.replace("from __future__ import annotations\n", ""))
    assert line_of(resolve, "./mine.py:amount=3") == (
        "./mine.py defines several filters: write ./mine.py:add or ./mine.py:Blend"
    )
    assert [r.ref.member for r in resolve_each("./mine.py")] == ["add", "Blend"]
    assert [r.ref.member for r in resolve_each("./mine.py:Blend")] == ["Blend"]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("mine.py:Add", SHORT, "mine.py: Add is not in it; it has add"),
        ("mine.py:param", SHORT, "mine.py: param is not a filter; it has add"),
        ("mine.py", "x = 1", "mine.py defines no filter: it needs a function under @frame_filter() or a Filter class"),
        ("mine.py:amount=10", SHORT, "filter mine.py:add: amount=10: must be at most 9"),
        ("mine.py:much=1", SHORT, "filter mine.py:add has no parameter much: it has amount"),
        (
            "mine.py",
            "\n\nimport nothing_like_this",
            "filter file mine.py can't be imported, line 3: ModuleNotFoundError: No module named 'nothing_like_this'",
        ),
        (
            "mine.py",
            "x = 1\ny = (\n",
            "filter file mine.py can't be imported, line 2: SyntaxError: '(' was never closed",
        ),
        (
            "mine.py",
            "def f():\n    raise ValueError('no')\n\nf()\n",
            "filter file mine.py can't be imported, line 2: ValueError: no",
        ),
        ("mine.py", "raise SystemExit(3)", "filter file mine.py can't be imported, line 1: SystemExit: 3"),
        ("mine.py", "x = '\0'", "filter file mine.py can't be imported"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(here, text, code, line):
    (here / "mine.py").write_text(code)
    known = set(sys.modules)
    assert line_of(resolve, text).startswith(line)
    left = [name for name in set(sys.modules) - known if name.startswith("vidcloud_plugin_")]
    assert bool(left) == ("can't be imported" not in line)


def test_a_missing_file_is_refused_in_one_line(here):
    (here / "folder.py").mkdir()
    assert line_of(resolve, "./mine.py:A") == "no filter file ./mine.py"
    assert line_of(resolve, "folder.py/mine.py") == "no filter file folder.py/mine.py"
    assert line_of(resolve, "folder.py") == "can't read the filter file folder.py: Is a directory"


def test_a_file_that_imports_its_neighbour_is_told_that_it_will_not_travel(here):
    (here / "helper_of_mine.py").write_text("x = 1")
    (here / "mine.py").write_text("import helper_of_mine\n" + SHORT)
    assert line_of(resolve, "mine.py").endswith(
        "No module named 'helper_of_mine' (a file beside it is not copied to the nodes: put its code into the filter's file)"
    )


def test_a_changed_file_is_read_anew(here):
    (here / "mine.py").write_text(SHORT)
    first = resolve("mine.py")
    (here / "mine.py").write_text(SHORT.replace("param(1,", "param(2,"))
    second = resolve("mine.py")
    assert (filtered(first.filter), filtered(second.filter)) == (11, 12)
    assert first.ref.sha256 != second.ref.sha256


def test_the_same_file_runs_once_a_process(here):
    (here / "mine.py").write_text("print('ran')\n" + SHORT)
    assert type(resolve("mine.py").filter) is type(resolve("./mine.py:add").filter)


def test_nothing_is_left_beside_a_users_file(here):
    (here / "mine.py").write_text(SHORT)
    resolve("mine.py")
    assert [p.name for p in here.iterdir()] == ["mine.py"]


# -- into a job and out of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [SHORT, LONG])
def test_a_file_travels_with_the_job(here, jobs, code):
    (here / "mine.py").write_text(code)
    found = resolve("./mine.py")
    bundle(found, jobs)
    (here / "mine.py").unlink()
    ref = FilterRef.from_json(json.loads(json.dumps(found.ref.to_json())))
    assert ref == found.ref
    stage = load(ref, jobs)
    assert stage.name == "./mine.py"
    assert filtered(stage.filter) == filtered(found.filter)


def test_the_bytes_that_were_checked_travel_not_what_the_file_has_become(here, jobs):
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py")
    (here / "mine.py").write_text(SHORT.replace("amount)", "9)"))
    bundle(found, jobs)
    assert filtered(load(found.ref, jobs).filter) == 11


def test_bundling_is_whole_and_once(here, jobs):
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py")
    bundle(found, jobs)
    (copy,) = jobs.iterdir()
    before = copy.stat()
    bundle(resolve("mine.py:amount=2"), jobs)
    assert [p.name for p in jobs.iterdir()] == [f"{found.ref.sha256}.py"]
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_bundling_over_something_else_is_refused(here, jobs):
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py")
    (jobs / f"{found.ref.sha256}.py").write_text("other")
    with pytest.raises(ShareError, match="holds other bytes"):
        bundle(found, jobs)
    assert (jobs / f"{found.ref.sha256}.py").read_text() == "other"
    with pytest.raises(ShareError, match=r"can't copy mine\.py into"):
        bundle(found, jobs / "nowhere")


def test_a_changed_copy_is_refused_and_not_run(here, jobs):
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py")
    bundle(found, jobs)
    (jobs / f"{found.ref.sha256}.py").write_text(f"open({str(here / 'ran')!r}, 'w')\n" + SHORT)
    assert "SHA-256 differs" in line_of(load, found.ref, jobs)
    assert not (here / "ran").exists()


def test_the_file_is_read_once_between_check_and_run(here, jobs, monkeypatch):
    """No gap: a file swapped after the check can't run, for nothing reads it again."""
    (here / "mine.py").write_text(SHORT)
    found = resolve("mine.py")
    bundle(found, jobs)
    copy = jobs / f"{found.ref.sha256}.py"
    real = hashlib.sha256

    def swap(data):
        if data == SHORT.encode():
            copy.write_text(SHORT.replace("amount)", "9)"))
        return real(data)

    monkeypatch.setattr(plugins.hashlib, "sha256", swap)
    assert filtered(load(found.ref, jobs).filter) == 11


def test_a_missing_copy_is_one_line(here, jobs):
    (here / "mine.py").write_text(SHORT)
    assert "can't read its copy in the job" in line_of(load, resolve("mine.py").ref, jobs)


def test_a_traceback_shows_the_users_line(here, jobs):
    (here / "mine.py").write_text(SHORT.replace("return frame +", "return 1 / 0 +"))
    found = resolve("mine.py")
    bundle(found, jobs)
    with pytest.raises(ZeroDivisionError) as e:
        filtered(load(found.ref, jobs).filter)
    assert "return 1 / 0 + frame.dtype" in "".join(traceback.format_exception(e.value))


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "../../etc/passwd"},
        {"sha256": ""},
        {"sha256": "A" * 64},
        {"kind": "url"},
    ],
)
def test_a_record_that_points_elsewhere_is_refused(change):
    good = FilterRef("mine.py", "file", "add", file="mine.py", sha256="a" * 64).to_json()
    assert FilterRef.from_json(good | {"from-the-future": 1}).member == "add"
    with pytest.raises(PluginError, match=r"the record of filter mine\.py"):
        FilterRef.from_json(good | change)
    with pytest.raises(PluginError, match="lacks a part"):
        FilterRef.from_json({"name": "x"})


# -- entry points ------------------------------------------------------------------------------------------------------


def test_an_installed_filter_is_found_by_name(install, jobs):
    install("fakeone", "1.2", SHORT, my_add="fakeone:add")
    found = resolve("my-add:amount=5")
    assert filtered(found.filter) == 15
    assert found.ref == FilterRef(
        "my-add:amount=5", "entry-point", "my-add", {"amount": "5"}, distribution="fakeone", version="1.2"
    )
    bundle(found, jobs)
    assert list(jobs.iterdir()) == []
    stage = load(FilterRef.from_json(found.ref.to_json()), jobs)
    assert (stage.name, filtered(stage.filter)) == ("my-add:amount=5", 15)


def test_an_unknown_name_is_answered_with_what_there_is(install, here):
    install("fakeone", "1.2", SHORT, sharpest="fakeone:add")
    assert line_of(resolve, "sharpes").startswith("no filter sharpes: did you mean sharpest? there are ")
    line = line_of(resolve, "zzzz")
    assert line.startswith("no filter zzzz: there are ")
    assert "sharpest" in line
    (here / "zzzz.py").write_text(SHORT)
    assert "did you mean ./zzzz.py?" in line_of(resolve, "zzzz")


def test_a_name_that_two_distributions_offer_is_refused_with_both(install):
    install("fakeone", "1.2", SHORT, twice="fakeone:add")
    install("faketwo", "3", SHORT, twice="faketwo:add")
    assert line_of(resolve, "twice") == "filter twice is offered by fakeone 1.2 and faketwo 3: uninstall all but one"
    assert [bool(a.error) for a in available() if a.name == "twice"] == [True, True]


def test_a_filter_that_lacks_its_extra_is_told_how_to_get_it(install):
    install("fakeone", "1.2", "import nothing_like_this", gpu="fakeone:add [cuda]", cpu="fakeone:add")
    assert line_of(resolve, "gpu") == (
        "filter gpu of fakeone 1.2 can't be imported: ModuleNotFoundError: No module named 'nothing_like_this'; "
        "try: pip install 'fakeone[cuda]'"
    )
    assert line_of(resolve, "cpu").endswith("No module named 'nothing_like_this'")


def test_an_entry_point_that_is_no_filter_is_refused(install):
    install("fakeone", "1.2", SHORT, wrong="fakeone:param", gone="fakeone:nothing")
    assert line_of(resolve, "wrong") == "filter wrong of fakeone 1.2: fakeone:param is not a filter class"
    assert "can't be imported: AttributeError" in line_of(resolve, "gone")


def test_another_version_on_a_node_is_refused(install, jobs):
    """It could make other pixels, and then the output would not be the serial one."""
    install("fakeone", "1.2", SHORT, my_add="fakeone:add")
    ref = FilterRef("my-add", "entry-point", "my-add", distribution="fakeone", version="1.1")
    assert line_of(load, ref, jobs) == "filter my-add is of fakeone 1.1 in this job, but of fakeone 1.2 on this node"
    assert "no filter nowhere" in line_of(load, FilterRef("nowhere", "entry-point", "nowhere"), jobs)


def test_listing_shows_good_filters_and_why_others_fail(install):
    install("fakeone", "1.2", SHORT, my_add="fakeone:add")
    install("faketwo", "3", "1 / 0", broken="faketwo:x")
    found = {a.name: a for a in available()}
    assert (found["my-add"].distribution, found["my-add"].error) == ("fakeone 1.2", "")
    assert filtered(found["my-add"].filter) == 11
    assert found["broken"].filter is None
    assert "ZeroDivisionError" in found["broken"].error
    assert list(found) == sorted(found)

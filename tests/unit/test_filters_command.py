"""``vidcloud filters``: what it prints, what it writes, and its exit codes."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from vidcloud import plugins
from vidcloud.cli.filters import filters, summary, template
from vidcloud.contract import PROMISES, assert_keeps_promises
from vidcloud.errors import PluginError, UsageError
from vidcloud.filter import WORK_FORMATS, Filter, Halo, param

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Glow(Filter):
    """Make it glow.

    More than one line.
    """

    formats: ClassVar = WORK_FORMATS
    radius: float = param(15.0, low=0, high=100, help="how far")
    edge_mode: str = param("wrap", choices=("wrap", "smear"))
    linear: bool = param(default=True)
    turns: int = param(1, low=0)

    @property
    def halo(self):
        return Halo(2, 1)

    def apply(self, window, out, at):
        pass


@dataclass
class Silent(Glow):
    pass


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def offered(monkeypatch):
    found = [
        plugins.Available("broken", "some 1.0", None, "filter broken can't be imported"),
        plugins.Available("glow", "vidcloud 0.1", Glow()),
    ]
    monkeypatch.setattr(plugins, "available", lambda: found)


def call(*args, code=0):
    result = CliRunner().invoke(filters, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


# -- list --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("list",)])
def test_the_list_shows_parameters_defaults_bounds_formats_and_halo(offered, args):
    lines = call(*args).splitlines()
    assert lines[:7] == [
        "broken  can not be used: filter broken can't be imported",
        "glow    Make it glow",
        "        radius=15.0     0…100       how far",
        "        edge-mode=wrap  wrap|smear",
        "        linear=true",
        "        turns=1         from 0",
        (
            "        works in planar YUV, 16-bit planar YUV, bgr24, rgb24, gray, bgr48, rgb48, gray16; "
            "needs 2 frames before and 1 after"
        ),
    ]


@pytest.mark.parametrize("args", [("--json",), ("list", "--json")])
def test_the_list_as_json(offered, args):
    broken, glow = json.loads(call(*args))
    assert broken == {"name": "broken", "distribution": "some 1.0", "error": "filter broken can't be imported"}
    assert (glow["summary"], glow["halo"]) == ("Make it glow", {"before": 2, "after": 1})
    assert glow["parameters"][0] == {
        "name": "radius", "type": "float", "default": 15.0, "low": 0, "high": 100, "choices": [], "help": "how far",
    }  # fmt: skip


def test_a_filter_without_a_docstring_has_no_summary():
    assert (summary(Glow()), summary(Silent())) == ("Make it glow", "")


# -- new ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--class",)])
@pytest.mark.parametrize("name", ["mylook", "my-look", "My_Look2.py"])
def test_a_new_filter_keeps_all_promises_at_once(options, name):
    output = call("new", name, *options)
    file = name.removesuffix(".py") + ".py"
    assert output == f"{file} written. Next: vidcloud filters test ./{file}\n"
    assert "FAILED" not in call("test", f"./{file}")


def test_the_long_form_in_a_new_filter_works_too():
    """It stands there as a comment: without the marks, it is a filter that keeps all promises."""
    text = template("my-look", as_class=False)
    comment = re.search(r"^# from dataclasses .*", text, re.DOTALL | re.MULTILINE)[0]
    Path("long.py").write_text(re.sub(r"^# ?", "", comment, flags=re.MULTILINE))
    assert_keeps_promises("./long.py:MyLook:radius=2")
    assert "param(0.5" in text


@pytest.mark.parametrize("as_class", [False, True])
def test_a_new_filter_is_formatted(as_class):
    text = template("a-very-long-name-for-a-filter", as_class=as_class)
    assert max(map(len, text.splitlines())) <= 120
    assert text.endswith("\n")
    assert "\n\n\n\n" not in text


def test_new_replaces_nothing():
    Path("mine.py").write_text("precious")
    with pytest.raises(UsageError, match=r"mine\.py exists"):
        call("new", "mine")
    assert Path("mine.py").read_text() == "precious"


@pytest.mark.parametrize("name", ["9lives", "a b", "class", "np", "halo", "-x", "nowhere/mine"])
def test_a_name_that_can_not_be_is_refused(name):
    with pytest.raises(UsageError):
        call("new", "--", name)
    assert list(Path().iterdir()) == []


# -- test --------------------------------------------------------------------------------------------------------------


def test_each_promise_is_told_and_a_broken_one_ends_with_exit_code_1():
    Path("bad.py").write_text(
        "from vidcloud.filter import frame_filter\n\n"
        "@frame_filter(formats=('gray',))\ndef half(frame):\n    frame[0] = 0\n    return frame\n\n"
        "@frame_filter(formats=('gray',))\ndef good(frame):\n    return frame\n"
    )
    lines = call("test", "bad.py", code=1).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["bad.py:half", "bad.py:good"]
    bad, good = lines[1 : len(PROMISES) + 2], lines[len(PROMISES) + 3 :]
    assert bad[4] == f"  FAILED  {PROMISES['pure']}"
    assert bad[5].startswith("            gray, 64x48, frame 0: writes into a frame it is given")
    assert [line.split()[0] for line in bad[6:]] == ["unseen"] * 4
    assert good == [f"  ok      {says}" for says in PROMISES.values()]
    (half, fine) = json.loads(call("test", "bad.py", "--json", code=1))
    assert (half["filter"], half["ok"], fine["ok"]) == ("bad.py:half", False, True)
    assert [p["ok"] for p in half["promises"]] == [True, True, True, True, False, None, None, None, None]


def test_an_unknown_filter_is_a_plugin_error():
    with pytest.raises(PluginError, match="no filter nothing-like-this"):
        call("test", "nothing-like-this")


@pytest.mark.parametrize("name", ["sepia.py:sepia", "sepia.py:strength=0.3", "light_trails.py:length=3"])
def test_the_examples_keep_their_promises(name):
    assert_keeps_promises(f"{EXAMPLES}/{name}")


# -- preview -----------------------------------------------------------------------------------------------------------


def test_preview_refuses_before_it_works():
    Path("there.png").write_text("precious")
    with pytest.raises(UsageError, match=r"there\.png exists: give --force"):
        call("preview", "no-video.mp4", "--filter", f"{EXAMPLES}/sepia.py", "-o", "there.png")
    with pytest.raises(UsageError, match=r"is a \.png file"):
        call("preview", "no-video.mp4", "--filter", f"{EXAMPLES}/sepia.py", "-o", "there.jpg")
    assert Path("there.png").read_text() == "precious"


def test_importing_the_command_imports_nothing_heavy():
    code = "import sys, vidcloud.cli.filters; print([m for m in ('numpy', 'cv2', 'av', 'PIL') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

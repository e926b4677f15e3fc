"""What the README shows works as it stands."""

import json
import re
import shlex
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_main_job(user):
    """The first command's last part, in a copy of the examples."""
    command = re.search(r"\.venv/bin/vidcloud (run examples/.+)", README)[1]
    (user.folder / "examples").mkdir()
    shutil.copy(ROOT / "examples/bigbuckbunny.mp4", user.folder / "examples")
    done = user(*shlex.split(command), timeout=280)
    assert done.code == 0, done.err
    for name in re.findall(r"`(examples/bigbuckbunny\.neon\.\S+)`", README):
        assert (user.folder / name).exists()
    assert user("verify", "examples/bigbuckbunny.neon.mp4").code == 0


def test_the_filter(user):
    """The example filter keeps a filter's promises."""
    (user.folder / "darken.py").write_text(re.search(r"```python\n(.+?)```", README, re.DOTALL)[1])
    done = user("filters", "test", "./darken.py")
    assert done.code == 0, done.out + done.err


def test_the_options_exist(user):
    """Every option in the README is one of some command."""
    helps = (
        "".join(user(c, "--help").out for c in ("run", "scale", "verify", "jobs", "filters", "serve", "reap"))
        + user("--help").out
    )
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.split("## Developing")[0])):
        assert option in helps, option


def test_the_filters_it_names_exist(user):
    listed = {f["name"] for f in json.loads(user("filters", "--json").out)}
    assert listed == {
        "edge", "gaussian-blur", "invert", "motion-blur", "neon", "soft-glow", "temporal-denoise", "threshold",
    } | {n for n in listed if n.startswith("neon-")}  # fmt: skip
    assert all(f"`{name}`" in README for name in listed)

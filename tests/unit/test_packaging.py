"""What pyproject.toml names is what there is: nothing that an installed program needs stays behind."""

import fnmatch
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
OTHERS = {package: ROOT / folder for package, folder in BUILD["package-dir"].items()}


def folders():
    """Folder by package, of all that are packages."""
    found = {
        ".".join(init.parent.relative_to(ROOT).parts): init.parent for init in (ROOT / "vidcloud").rglob("__init__.py")
    }
    return found | OTHERS


def test_all_packages_are_installed():
    assert sorted(BUILD["packages"]) == sorted(folders())


def test_each_folder_with_code_is_a_package():
    inside = (path.parent for top in (ROOT / "vidcloud", *OTHERS.values()) for path in top.rglob("*.py"))
    assert set(inside) == set(folders().values())


def test_all_data_is_installed():
    left = [
        path
        for package, folder in folders().items()
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix != ".py"
        and not any(fnmatch.fnmatch(path.name, told) for told in BUILD["package-data"].get(package, ()))
    ]
    assert left == []

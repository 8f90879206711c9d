"""What is installed: every package of the repository, and the command under a name of its own."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [
        path.parent.relative_to(ROOT) for wing in ("pipeline", "tasks") for path in (ROOT / wing).rglob("__init__.py")
    ]
    there = {".".join(folder.parts) for folder in folders} - {"tasks.start"} | {"gradmap_start"}
    assert sorted(listed) == sorted(there)

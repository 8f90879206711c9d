"""README and docs/ against the code: links, commands, imports and configs that they show."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.plan.config import load_config
from tasks.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


TOML = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "toml"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]


def test_readme_is_a_door_to_every_page():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text]


def test_the_table_of_commands_names_those_that_there_are():
    (table,) = re.findall(
        r"^## Commands\n(.*?)\n\n[^|]", (ROOT / "docs/config.md").read_text("utf-8"), re.DOTALL | re.M
    )
    told = re.findall(r"^\| `gradmap (\w+)([^`]*)`", table, re.MULTILINE)
    parsers = _parser()._subparsers._group_actions[0].choices
    assert {name for name, _ in told} == set(parsers)
    for name, words in told:
        known = parsers[name].format_help()
        assert not [option for option in re.findall(r"--\w+", words) if option not in known]
        assert ("CONFIG\\|STORE" in words) == ("CONFIG|STORE" in known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_examples_import_is_there(page):
    for block in blocks(page, "python"):
        for line in re.findall(r"^from pipeline[\w.]* import (?:\([^)]*\)|[^\n]*)|^import pipeline$", block, re.M):
            exec(line, {})


@pytest.mark.parametrize("text", TOML)
def test_configs_and_parts_of_them_are_accepted(tmp_path, text):
    given = tomllib.loads(text)
    begin = "" if "store" in given else 'store = "cube.zarr"\n'
    if "cohort" not in given:
        begin += '[[cohort]]\nname = "lab"\nframe_ms = 10.0\nlags = 40\nfrequencies_hz = "frequencies.txt"\n'
        begin += '[[cohort.checkpoints]]\npath = "checkpoints/*"\n'
    end = "" if "maps" in given else '[maps.strf]\nkind = "strf"\n'
    (tmp_path / "run.toml").write_text(f"{begin}{text}\n{end}", encoding="utf-8")
    assert load_config(tmp_path / "run.toml").maps


def test_a_cluster_names_its_images_and_what_the_launcher_needs():
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    types = yaml.safe_load(text)["available_node_types"].values()
    assert all(entry["node_config"]["ImageId"] for entry in types)
    assert text.index("pip install boto3") < text.index("ray up cluster.yaml")
    assert "in a second terminal" in text

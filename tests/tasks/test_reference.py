"""The reference pages in docs/ say what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.gradients.health.flags import TABLE
from pipeline.plan.kinds import KINDS
from tasks.reference import variables_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("keys.md", "flags.md", "variables.md", "measures.md")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The pages, from a process of its own: other tests register kinds that are no part of the library."""
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, "-m", "tasks.reference", str(folder)], check=True)
    return {name: (folder / name).read_text(encoding="utf-8") for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_what_the_code_gives(name, told):
    assert (DOCS / name).read_text(encoding="utf-8") == told[name], "write it again with make reference"


def test_every_flag_key_and_variable_is_on_its_page(told):
    assert all(f"| `{flag.name}` | {flag.bit} |" in told["flags.md"] for flag in TABLE)
    ours = {kind: settings for kind, settings in KINDS.items() if settings.__module__.startswith("pipeline.")}
    for kind, settings in ours.items():
        (section,) = [part for part in told["keys.md"].split("\n## ") if part.startswith(f"Maps of the kind `{kind}`")]
        # a key that is a table has its keys listed instead
        assert sum(f"| `{key}` |" in section for key in settings.model_fields) >= len(settings.model_fields) - 2
        (section,) = [part for part in told["variables.md"].split("\n## ") if part.startswith(f"Of the kind `{kind}`")]
        for variable in variables_of(kind):
            assert f"| `{'<map>_' * bool(variable.suffix) + (variable.suffix or '<map>')}` |" in section

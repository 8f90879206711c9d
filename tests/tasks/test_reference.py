"""The reference pages in docs/ say what the code says."""

from pathlib import Path

import pytest

from pipeline.gradients.health import TABLE
from pipeline.plan.kinds import KINDS
from tasks.reference import pages, variables_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["keys.md", "flags.md", "variables.md", "measures.md"])
def test_a_committed_page_is_what_the_code_gives(name):
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name], "write it again with make reference"


def test_every_flag_key_and_variable_is_on_its_page():
    told = pages()
    assert all(f"| `{flag.name}` | {flag.bit} |" in told["flags.md"] for flag in TABLE)
    for kind, settings in KINDS.items():
        (section,) = [part for part in told["keys.md"].split("\n## ") if part.startswith(f"Maps of the kind `{kind}`")]
        # a key that is a table has its keys listed instead
        assert sum(f"| `{key}` |" in section for key in settings.model_fields) >= len(settings.model_fields) - 2
        (section,) = [part for part in told["variables.md"].split("\n## ") if part.startswith(f"Of the kind `{kind}`")]
        for variable in variables_of(kind):
            assert f"| `{'<map>_' * bool(variable.suffix) + (variable.suffix or '<map>')}` |" in section

"""The shape of the code: short functions and files, one home for each name, kinds asked in their own homes alone."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.plan.kinds import KINDS
from tasks.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for top in ("pipeline", "tasks") for path in (ROOT / top).rglob("*.py"))

#: Where the kinds of map have their homes: their data, their compute and their look.
HOMES = ("pipeline/plan/kinds/", "pipeline/run/kinds/", "pipeline/pictures/kinds/")

#: Words with which the docstring of something that gives a thing back would say what it does, not what comes back.
DOINGS = re.compile(
    r"(?!Checks of)"
    r"(Return|Compute|Calculate|Get|Give|Make|Take|Read|Write|Draw|Print|Show|Find|Load|Build|Create|Convert|Run|Check"
    r"|Evaluate|Yield|Start|Send)s?\b"
)

LONGEST_FUNCTION = 50
LONGEST_FILE = 500


def inside(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    documented = first.end_lineno - first.lineno + 1 if told and first.end_lineno else 0
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - documented


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{inside(path)}: {node.name} has {lines_of_code(node)} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of_code(node) > LONGEST_FUNCTION
    ]
    assert not long, long


def test_no_file_is_too_long_to_be_read_at_a_sitting():
    long = {inside(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in long.items() if count > LONGEST_FILE}


def test_no_two_modules_share_a_name_but_those_of_a_kind_and_of_a_command():
    named = defaultdict(list)
    for path in FILES:
        if path.stem not in ("__init__", "__main__", *KINDS) and not inside(path).startswith("tasks/commands/"):
            named[path.stem].append(inside(path))
    assert not [homes for homes in named.values() if len(homes) > 1]


def test_no_two_modules_of_the_library_define_one_public_name():
    homes = defaultdict(list)
    for path in FILES:
        if inside(path).startswith("pipeline/") and not inside(path).startswith(HOMES):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(inside(path))
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def test_a_module_of_a_command_has_its_name():
    assert {path.stem for path in (ROOT / "tasks" / "commands").glob("*.py")} == {"__init__", *COMMANDS}


def asks_for_a_kind(node: ast.AST) -> bool:
    """Whether an expression compares something with the name of a kind of map, or asks whether it is one's config."""
    if isinstance(node, ast.Compare):
        words = {part.value for side in (node.left, *node.comparators) for part in ast.walk(side) if is_text(part)}
        named = {getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node)}
        return bool(words & set(KINDS)) and "kind" in named
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
        classes = {getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node.args[1])}
        return bool(classes & ({config.__name__ for config in KINDS.values()} | {"MapConfig", "GradientConfig"}))
    return False


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("asked", ["entry.kind == 'strf'", "kind in ('dynamic',)", "isinstance(entry, StrfMapConfig)"])
def test_a_question_for_a_kind_is_seen(asked):
    assert any(map(asks_for_a_kind, ast.walk(ast.parse(asked))))


def test_a_kind_of_map_is_asked_in_its_own_homes_alone():
    asking = [
        f"{inside(path)}:{node.lineno}"
        for path in FILES
        if not inside(path).startswith(HOMES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if asks_for_a_kind(node)
    ]
    assert not asking, asking


def gives_something(node: ast.AST) -> bool:
    """Whether a docstring can say what comes back: of a class, a module, or a function that does not return None."""
    if not isinstance(node, ast.FunctionDef):
        return isinstance(node, ast.ClassDef | ast.Module)
    returns = "None" if node.returns is None else ast.unparse(node.returns)
    return returns != "None" and "[None]" not in returns


def test_a_docstring_says_what_comes_back():
    doing = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            told = ast.get_docstring(node) if gives_something(node) else None
            if told and DOINGS.match(told):
                doing.append(f"{inside(path)}: {told.splitlines()[0]}")
    assert not doing, doing

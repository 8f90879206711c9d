"""The rooms: which wing may import what, read from the files."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import pipeline
from pipeline import words

ROOT = Path(__file__).resolve().parents[1]
SCIENTIFIC = {"numpy", "scipy", "pandas", "statsmodels", "xarray", "matplotlib", "zarr", "torch", "ray", "deepSTRF"}
SCIENTIFIC |= {
    "einops",
    "pydantic",
    "safetensors",
    "soundfile",
    "jaxtyping",
    "fsspec",
    "rich",
    "pyarrow",
    "dask",
    "torchaudio",
}

#: What each wing may import beside the standard library, itself and the words that all share.
MAY_IMPORT = {
    "plan": {"numpy", "pydantic"},
    "gradients": {"torch", "numpy", "jaxtyping"},
    "numbers": {"numpy", "scipy", "pandas", "statsmodels", "xarray", "pyarrow", "dask"},
    "inputs": {
        "torch",
        "numpy",
        "einops",
        "safetensors",
        "soundfile",
        "pydantic",
        "fsspec",
        "deepSTRF",
        "torchaudio",
        "plan",
    },
    "store": {"xarray", "zarr", "numpy", "fsspec", "dask", "plan"},
    "pictures": {"matplotlib", "xarray", "numpy", "pandas", "soundfile", "numbers"},
    "demo": {"torch", "numpy", "safetensors", "soundfile", "jaxtyping", "gradients"},
    "run": (SCIENTIFIC - {"ray", "deepSTRF"}) | {"plan", "gradients", "numbers", "inputs", "store"},
}


def imported(path: Path) -> set[str]:
    """Top names of what a file imports anywhere; wings of the library as ``pipeline.wing``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written from the top, so that rooms can be told"
            base = node.module or ""
            modules = [f"{base}.{alias.name}" for alias in node.names] if base == "pipeline" else [base]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            names.add(".".join(parts[:2]) if parts[0] == "pipeline" else parts[0])
    return names


def wings() -> list[Path]:
    return sorted(path for path in (ROOT / "pipeline").iterdir() if path.is_dir() and (path / "__init__.py").exists())


@pytest.mark.parametrize("wing", [path.name for path in wings()])
def test_a_wing_imports_only_what_its_room_allows(wing):
    rooms = {f"pipeline.{path.name}" for path in wings()}
    allowed = {f"pipeline.{name}" if f"pipeline.{name}" in rooms else name for name in MAY_IMPORT[wing] | {wing}}
    for path in sorted((ROOT / "pipeline" / wing).rglob("*.py")):
        used = imported(path) & (rooms | SCIENTIFIC | {"tasks", "pipeline"})  # `pipeline.words` is everyone's
        assert used <= allowed, f"{path.relative_to(ROOT)} imports {sorted(used - allowed)}"


def test_the_words_import_nothing_but_the_standard_library():
    assert imported(ROOT / "pipeline" / "words.py") <= sys.stdlib_module_names


def test_what_the_config_may_name_is_what_the_engine_has():
    from pipeline.gradients.routes.cheapest import ROUTES

    assert get_args(words.Route) == ("auto", *ROUTES)
    assert get_args(words.Role) == words.ROLES


def test_every_wing_stands_in_the_table():
    assert {path.name for path in wings()} == set(MAY_IMPORT)


def test_only_tasks_imports_ray_and_nothing_in_the_library_imports_tasks():
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        assert not imported(path) & {"ray", "tasks"}, path


def test_deepstrf_is_imported_in_one_file():
    importers = [path for path in (ROOT / "pipeline").rglob("*.py") if "deepSTRF" in imported(path)]
    assert len(importers) <= 1, importers


def test_only_the_store_touches_zarr():
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        if path.parts[-2] != "store":
            assert "zarr" not in imported(path), path


def test_every_public_name_is_there_and_documented():
    assert sorted(pipeline.__all__) == pipeline.__all__ == dir(pipeline)
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'strf_gradmap'"):
        _ = pipeline.strf_gradmap


def test_a_status_does_not_wait_for_torch():
    code = "import sys, tasks.cli, pipeline.store.status; assert not {'torch', 'ray', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

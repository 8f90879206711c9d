"""The notebooks are what a reader gets: short, without outputs, on public names, and they run."""

import ast
import importlib.util
from pathlib import Path

import nbformat
import pytest
import zarr.storage
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from pipeline.pictures import plots

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PUBLIC = ("pipeline", "pipeline.numbers", "pipeline.pictures")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def python_of(notebook: nbformat.NotebookNode) -> str:
    """All code of a notebook, without the lines that only IPython understands."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return "\n".join(line for line in code.splitlines() if not line.startswith("%"))


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


@each
def test_a_notebook_is_valid_short_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells) <= 24
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(len(cell.source.splitlines()) <= 20 for cell in code)


@each
def test_a_notebook_reads_the_demos_store_by_default(path):
    cell = parameters(read(path))
    assert cell.source.splitlines()[-1] == 'store = "../demo/gradmaps.zarr"'


@each
def test_a_notebook_imports_only_public_names(path):
    for node in ast.walk(ast.parse(python_of(read(path)))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
            assert not any(alias.name.startswith("_") for alias in node.names)
        else:
            continue
        for module in modules:
            ours = module.split(".")[0] in ("pipeline", "tasks")
            # A module of a public wing, such as pipeline.numbers.agreement, is public too.
            assert not ours or module in PUBLIC or module.rpartition(".")[0] in PUBLIC, module


def test_the_gallery_shows_every_plot_and_its_page_is_what_the_notebook_says():
    name = importlib.util.spec_from_file_location("make_gallery", FOLDER.parent / "docs" / "make_gallery.py")
    make_gallery = importlib.util.module_from_spec(name)
    name.loader.exec_module(make_gallery)
    notebook = read(FOLDER / "gallery.ipynb")
    drawn = [plot for plot, _, _ in make_gallery.parts(notebook) if plot]
    assert sorted(drawn) == sorted(plots.__all__)
    written = (FOLDER.parent / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert make_gallery.page(notebook) == written, "write it again with make gallery"
    pictures = sorted((FOLDER.parent / "docs" / "images" / "gallery").iterdir())
    assert [picture.stem for picture in pictures] == sorted(drawn)
    assert sum(picture.stat().st_size for picture in pictures) < 1_500_000


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks, which need the same libraries; each gets it without any name of the one before."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(FOLDER))
    client.stop_channels()
    yield manager
    manager.shutdown_kernel()


@each
def test_a_notebook_runs_on_a_demo(path, demo_store, kernel):
    notebook = read(path)
    parameters(notebook).source = f"%reset -f\nstore = {str(demo_store)!r}"
    NotebookClient(notebook, timeout=900, km=kernel, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    # What a library says of itself is no fault of a notebook.
    assert [text for text in complaints if "site-packages" not in text] == []


@pytest.fixture
def objects_read(monkeypatch):
    """Names of the objects that zarr reads of a store in a folder, as they are read."""
    names = []
    get = zarr.storage.LocalStore.get

    async def told(self, key, *arguments, **more):
        data = await get(self, key, *arguments, **more)
        if data is not None:
            names.append(key)
        return data

    monkeypatch.setattr(zarr.storage.LocalStore, "get", told)
    return names


def test_the_browser_of_a_large_cube_reads_the_objects_of_what_it_shows_and_no_others(
    demo_store, objects_read, monkeypatch
):
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = read(FOLDER / "browse_large_cubes.ipynb")
    parameters(notebook).source = f"store = {str(demo_store)!r}"
    names = {}
    exec(python_of(notebook), names)
    names["browser"].get_root()  # from here on it follows what is chosen

    def maps_read():
        found = sorted({name for name in objects_read if name.startswith("demo/strf/c/")})
        objects_read.clear()
        return found

    # the demo has two checkpoints of each architecture, each an object of its own
    assert maps_read() == ["demo/strf/c/0/0/0/0", "demo/strf/c/1/0/0/0"]
    names["of_checkpoint"].value = "gru-seed1"
    assert maps_read() == ["demo/strf/c/2/0/0/0", "demo/strf/c/3/0/0/0"]
    names["opened"]([5])
    assert names["of_neuron"].value == "n05"
    assert maps_read() == ["demo/strf/c/2/0/0/0", "demo/strf/c/3/0/0/0"]

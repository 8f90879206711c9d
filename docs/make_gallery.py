"""The page gallery.md with its pictures, made by the notebook of that name on the cubes of a finished demo."""

import base64
import re
import sys
from inspect import getdoc
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from pipeline.pictures import plots

DOCS = Path(__file__).resolve().parent
NOTEBOOK = DOCS.parent / "notebooks" / "gallery.ipynb"
WRITTEN = "Written by `make gallery` from the notebook [gallery.ipynb](../notebooks/gallery.ipynb); edit that instead."


def parts(notebook: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    """What stands on the page in order: the plot that a cell draws or no name, what the page says, the cell's lines."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found.append(("", cell.source, ""))
            continue
        lines = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        drawn = re.findall(r"plots\.(plot_\w+)\(", lines)
        if not drawn:
            found.append(("", "", lines))
            continue
        first, _, _ = str(getdoc(getattr(plots, drawn[-1]))).partition("\n\n")
        found.append((drawn[-1], f"### `{drawn[-1]}`\n\n{first.replace('``', '`')}".replace("\n ", " "), lines))
    return found


def page(notebook: nbformat.NotebookNode) -> str:
    """The page in Markdown."""
    sections = []
    for number, (name, words, lines) in enumerate(parts(notebook)):
        section = [words, WRITTEN] if number == 0 else [words]
        section += [f"```python\n{lines.strip()}\n```"] if lines else []
        section += [f"![{name}](images/gallery/{name}.png)"] if name else []
        sections.append("\n\n".join(part for part in section if part))
    return "\n\n".join(sections) + "\n"


def main(store: Path) -> None:
    """Run the notebook on a store; write the page and one picture for each plot."""
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    (DOCS / "gallery.md").write_text(page(notebook), encoding="utf-8")
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = f"store = {str(store.resolve())!r}"
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
    folder = DOCS / "images" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    for cell, (name, _, _) in zip(notebook.cells, parts(notebook), strict=True):
        pictures = [one.data["image/png"] for one in cell.get("outputs", []) if "image/png" in one.get("data", {})]
        for picture in pictures:
            (folder / f"{name}.png").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

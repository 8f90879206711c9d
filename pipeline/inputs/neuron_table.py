"""The table of neurons: their names and what is known of each."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from pipeline.inputs.files import FileTooLargeError, read_file
from pipeline.plan.config import ConfigError
from pipeline.text import printable
from pipeline.words import RESERVED_NAMES

#: Largest table that is read, in bytes.
TABLE_BYTES = 256 * 2**20

#: Cells that stand for "not known" in a column of numbers.
UNKNOWN = frozenset(("", "nan", "na", "n/a", "none", "null"))

#: A whole number as a table writes it; one with leading zeros is a label.
INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
#: A number as a table writes it.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_neuron_table(path: str) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    """Names of the neurons, and their other columns by name, each as long as there are neurons.

    ``path``: CSV with a header line and a column ``neuron``, in the order in which the cube is to have them. A column
    of whole numbers becomes int, one of numbers float (where a cell is empty or ``nan``, the number is NaN), any other
    str. ``007`` is a text: its zeros mean something. Raises `ConfigError` if the file cannot be read, has no column
    ``neuron``, a name is empty or there twice, a row has another number of cells than the header, or a column's name
    cannot be a coordinate's.
    """
    rows = _rows(path)
    if not rows:
        raise ConfigError(f"the neuron table {path} is empty; give a CSV file with a column `neuron`")
    header = [name.strip() for name in rows[0][1]]
    _check_header(header, path)
    body = [(line, [cell.strip() for cell in cells]) for line, cells in rows[1:] if any(cell.strip() for cell in cells)]
    for line, cells in body:
        if len(cells) != len(header):
            raise ConfigError(
                f"line {line} of the neuron table {path} has {len(cells)} cells, but the header has {len(header)}, so"
                " it is not clear which is which; mend the line (a cell with a comma needs quotes)"
            )
    columns = {name: [cells[index] for _, cells in body] for index, name in enumerate(header)}
    names = tuple(columns.pop("neuron"))
    _check_names(names, [line for line, _ in body], path)
    return names, {name: _typed(cells) for name, cells in columns.items()}


def _rows(path: str) -> list[tuple[int, list[str]]]:
    """The lines of the table with their number in the file."""
    try:
        text = read_file(path, TABLE_BYTES).decode("utf-8-sig")  # spreadsheets put a byte order mark in front
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, FileTooLargeError, csv.Error) as error:
        raise ConfigError(
            f"the neuron table {path} cannot be read ({printable(error)}); give a CSV file in UTF-8 with a column"
            " `neuron`"
        ) from error


def _check_header(header: Sequence[str], path: str) -> None:
    if "neuron" not in header:
        separator = next((mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]), None)
        advice = f"separate the columns by commas, not {separator!r}" if separator else "call the column of names so"
        raise ConfigError(
            f"the neuron table {path} has the columns {', '.join(printable(name, 40) for name in header)}, but none"
            f" called `neuron`, so its rows cannot be matched to the models' outputs; {advice}"
        )
    for name in header:
        if header.count(name) > 1:
            raise ConfigError(f"the neuron table {path} has two columns called {name!r}; rename one of them")
        if not name or not name.isprintable() or "/" in name or name.startswith(("_", ".")):
            raise ConfigError(
                f"the neuron table {path} has a column called {name!r}, which cannot be a coordinate of the cube;"
                " give it a name without '/' that begins with a letter"
            )
        if name in RESERVED_NAMES and name != "neuron":
            raise ConfigError(
                f"the neuron table {path} has a column called {name!r}, which the cube uses itself; rename the column"
            )


def _check_names(names: Sequence[str], lines: Sequence[int], path: str) -> None:
    if not names:
        raise ConfigError(f"the neuron table {path} has a header but no neuron; add a line for each")
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name or not name.isprintable():
            raise ConfigError(
                f"line {line} of the neuron table {path} has no printable name in the column `neuron` ({name!r}), so"
                " its maps would have no label; name the neuron"
            )
        if name in first:
            raise ConfigError(
                f"the neuron table {path} has {name!r} in lines {first[name]} and {line}; a name selects one neuron, so"
                " give each its own"
            )
        first[name] = line


def _typed(cells: Sequence[str]) -> tuple[Any, ...]:
    """The cells of a column as numbers, if they are."""
    unknown = [cell.lower() in UNKNOWN for cell in cells]
    known = [cell for cell, missing in zip(cells, unknown, strict=True) if not missing]
    if known and all(INTEGER.fullmatch(cell) for cell in known) and not any(unknown):
        return tuple(int(cell) for cell in cells)
    # A number with a leading zero, as 007, is a label.
    if known and all(NUMBER.fullmatch(cell) and not re.match(r"[+-]?0\d", cell) and _is_exact(cell) for cell in known):
        return tuple(float("nan") if missing else float(cell) for cell, missing in zip(cells, unknown, strict=True))
    return tuple(cells)


def _is_exact(cell: str) -> bool:
    """Whether a number keeps its digits: whole numbers of many digits, as ids are, would be rounded."""
    return not cell.lstrip("+-").isdigit() or int(float(cell)) == int(cell)

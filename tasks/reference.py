"""The reference pages of docs/, or of another folder, written from the entries that the code itself works by."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.plan.axes import AXIS_ATTRIBUTES
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import CohortFacts, Stimuli, Variable
from pipeline.words import COMPANIONS, DEGREES, NOT_COMPUTED, STATES
from tasks.commands.help import Entry, config_entries, flag_entries, kind_entries

#: What every page says of itself.
WRITTEN = "Written from the code by `make reference`; edit the code's own words instead.\n"

#: Keys that some kinds of map cannot do without.
SAMPLE = {"stimuli": "sounds", "of": "strf"}


def pages() -> dict[str, str]:
    """The text of every reference page by its file name."""
    from pipeline.numbers.catalogue import page as measures

    return {"keys.md": keys(), "flags.md": flags(), "variables.md": variables(), "measures.md": measures()}


def keys() -> str:
    """Every key of ``run.toml``: what it takes, what it is without, and what it means."""
    sections = [f"# Keys of `run.toml`\n\n{WRITTEN}\n[config.md](config.md) shows them in use.\n"]
    for table, entries in groupby(config_entries(), key=lambda entry: _table_of(entry["name"])):
        sections.append(
            _section(f"`{table}`" if table else "The top of the file", [_named(entry, table) for entry in entries])
        )
    for kind, entries in groupby(kind_entries(), key=_kind_of()):
        head, *rest = entries
        sections.append(f"## Maps of the kind `{kind}`\n\n{head['meaning']}\n\n")
        sections[-1] += _rows([_named(entry, f"{kind}:") for entry in rest])
    return "\n".join(sections)


def flags() -> str:
    """Every health flag: how much it takes from a map, what it means, from when on, and what to do."""
    degrees = "\n".join(f"- **{name}**: {words}." for name, words in DEGREES.items())
    columns = ("name", "bit", "degree", "meaning", "raised", "what to do", "decided for")
    entries = [{**entry, "degree": str(entry["degree"]).split(":")[0]} for entry in flag_entries()]
    missing = f"Bit {NOT_COMPUTED} marks what is pending or failed: `not_computed`."
    return f"# Health flags\n\n{WRITTEN}\n{degrees}\n\n{missing}\n\n{_table(columns, entries)}\n"


def variables() -> str:
    """Every array of a cube: its axes, unit and meaning."""
    axes = [{"name": name, **about} for name, about in AXIS_ATTRIBUTES.items()]
    beside = [
        {"name": f"<map>_{ending}", "unit": about.units, "type": about.dtype, "meaning": about.long_name}
        for ending, about in COMPANIONS.items()
    ]
    states = ", ".join(f"{code} {name}" for name, code in STATES.items())
    beside.insert(0, {"name": "<map>_status", "unit": "", "type": "uint8", "meaning": f"state of each entry: {states}"})
    parts = [
        f"# Variables of a cube\n\n{WRITTEN}\n[cube.md](cube.md) says how they are read. `<map>` is the name of a table"
        " `[maps.<map>]` in the config.\n",
        f"## Axes\n\n{_table(('name', 'units', 'long_name', 'description'), axes)}\n",
        f"## Beside every map\n\nA kind of map writes those of them that its maps have.\n\n"
        f"{_table(('name', 'unit', 'type', 'meaning'), beside)}\n",
    ]
    for kind in KINDS:
        rows = [
            {
                "name": f"<map>_{one.suffix}" if one.suffix else "<map>",
                "axes": ", ".join(one.dims),
                "unit": one.units,
                "meaning": one.long_name,
            }
            for one in variables_of(kind)
        ]
        parts.append(f"## Of the kind `{kind}`\n\n{_table(('name', 'axes', 'unit', 'meaning'), rows)}\n")
    return "\n".join(parts)


def variables_of(kind: str) -> Sequence[Variable]:
    """The variables that a kind of map writes where its defaults are asked for, laid out on small axes."""
    needed = {key for key, field in KINDS[kind].model_fields.items() if field.is_required()}
    settings = KINDS[kind].model_validate({"kind": kind, **{key: SAMPLE[key] for key in needed & set(SAMPLE)}})
    facts = CohortFacts("cohort", 10.0, 8, ("n0", "n1"), (100.0, 200.0, 400.0), ())
    heard = Stimuli(
        names=("a", str(getattr(settings, "start", "b"))),
        lengths=(4000, 4000),
        bands=(3, 3),
        sample_rate=8000.0,
        recording_shapes=((2, 400), (2, 400)),
    )
    return settings.variables({axis.name: axis for axis in settings.axes(facts, heard)})


def _table_of(name: str) -> str:
    """The table that a key stands in, as `gradmap help config` writes it before the key."""
    return name.rpartition(" ")[0]


def _kind_of() -> Any:
    """Tells the kind of each entry, which only the first one of a kind names by itself."""
    known = [""]

    def kind(entry: Entry) -> str:
        if entry["name"].startswith("kind = "):
            known[0] = entry["name"].split('"')[1]
        return known[0]

    return kind


def _named(entry: Entry, table: str) -> Entry:
    return {**entry, "name": entry["name"].removeprefix(table).strip()}


def _section(title: str, entries: Sequence[Entry]) -> str:
    return f"## {title}\n\n{_rows(entries)}"


def _rows(entries: Sequence[Entry]) -> str:
    return _table(("name", "takes", "default", "meaning"), entries) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    heads = {"name": "name", "units": "unit", "long_name": "what it is", "description": ""}
    lines = [f"| {' | '.join(heads.get(name, name) for name in columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(row.get(name, "")).replace("|", "\\|").replace("\n", " ") for name in columns]
        code = [f"`{cell}`" if name == "name" and cell else cell for name, cell in zip(columns, cells, strict=True)]
        lines.append(f"| {' | '.join(code)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs"
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")

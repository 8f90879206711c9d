"""`gradmap help`: the keys of a config, the measures, the health flags and the kinds of map."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from pipeline.text import counted
from pipeline.words import DEGREES
from tasks.finished import COMPLETE, Finished
from tasks.parsing import new_command
from tasks.terminal import COLUMNS, tell, tell_table

#: What is no key of the file: where it lay, and its text.
_FOUND_OUT = ("maps", "folder", "text")

#: One key, measure, flag or kind: its name, and in words what is to be said of it.
Entry = dict[str, Any]

#: What is explained, and in one line what that is.
TOPICS = {
    "config": "the keys of run.toml",
    "kinds": "the kinds of map, and what each asks for",
    "measures": "the numbers that summarise and the page take of each map",
    "flags": "the reasons not to trust a map, and what to do about each",
}


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    summary = "explain config keys, measures, health flags, or kinds of map"
    parser = new_command(commands, explain_topic, summary, *(f"help {topic}" for topic in TOPICS), name="help")
    parser.add_argument("topic", nargs="?", choices=list(TOPICS), metavar="TOPIC", help=", ".join(TOPICS))


def explain_topic(arguments: argparse.Namespace) -> Finished:
    """One topic, printed from the entries that the code itself works by."""
    if arguments.topic is None:
        tell_table(("topic", "what it explains"), list(TOPICS.items()))
        return _finished("topics", [{"name": name, "meaning": words} for name, words in TOPICS.items()])
    find = {"config": config_entries, "kinds": kind_entries, "measures": measure_entries, "flags": flag_entries}[
        arguments.topic
    ]
    entries = find()
    for entry in entries:
        tell(entry["name"])
        for key, value in entry.items():
            if key != "name" and value:
                tell(fill(f"{key}: {value}", COLUMNS, initial_indent="    ", subsequent_indent="        "))
    return _finished(arguments.topic, entries)


def _finished(topic: str, entries: list[Entry]) -> Finished:
    line = f"gradmap: {counted(len(entries), 'entry', 'entries')} about {topic} (exit status {COMPLETE})"
    return Finished(COMPLETE, line, {"topic": topic, "entries": entries})


def config_entries() -> list[Entry]:
    """Every key outside the maps, table by table."""
    from pipeline.plan.config import RunConfig

    schema = RunConfig.model_json_schema()
    found = [*_keys("", schema, schema, leave_out=_FOUND_OUT)]
    tables = {"cohort": "[[cohort]]", "checkpoints": "[[cohort.checkpoints]]"}
    waiting: list[Mapping[str, Any]] = [schema]
    seen = {"maps"}
    while waiting:
        model = waiting.pop(0)
        for key, entry in model.get("properties", {}).items():
            inner = _table_of(entry, schema)
            if inner is None or key in seen:
                continue
            seen.add(key)
            name = tables.get(key, f"[{key}]")
            found += _keys(f"{name} ", inner, schema)
            waiting.append(inner)
    return [*found, {"name": "[maps.NAME]", "meaning": "one map; `gradmap help kinds` lists its keys by kind"}]


def kind_entries() -> list[Entry]:
    """Every key of every kind of map."""
    from pipeline.plan.kinds import KINDS

    found: list[Entry] = []
    for kind in KINDS:
        schema = KINDS[kind].model_json_schema()
        found.append({"name": f'kind = "{kind}"', "meaning": _first_line(KINDS[kind].__doc__)})
        found += _keys(f"{kind}: ", schema, schema, leave_out=("kind",))
    return found


def measure_entries() -> list[Entry]:
    """Every measure of every kind of map, as its entry tells it."""
    from pipeline.numbers.catalogue import MEASURES

    return [
        {
            "name": name,
            "of": f"maps of the kind {kind}",
            "meaning": measure.long_name,
            "unit": measure.units,
            "definition": measure.definition,
            "source": measure.source,
            "must stand out": measure.threshold,
            "missing where": measure.nan,
        }
        for kind, table in MEASURES.items()
        for name, measure in table.items()
    ]


def flag_entries() -> list[Entry]:
    """Every health flag, as its entry tells it."""
    from pipeline.gradients.health.flags import TABLE

    return [
        {
            "name": flag.name,
            "bit": flag.bit,
            "degree": f"{flag.degree}: {DEGREES[flag.degree]}",
            "meaning": flag.meaning,
            "raised": flag.threshold,
            "what to do": flag.remedy,
            "decided for": flag.decided,
        }
        for flag in TABLE
    ]


def _keys(
    prefix: str, model: Mapping[str, Any], schema: Mapping[str, Any], leave_out: Sequence[str] = ()
) -> Iterator[Entry]:
    """One entry for each key of a table of the config: what it takes, what it is without, and what it means."""
    needed = model.get("required", ())
    for key, entry in model.get("properties", {}).items():
        if key in leave_out or _table_of(entry, schema) is not None:
            continue
        default = entry.get("default")
        without = "must be given" if key in needed else "" if default is None else json.dumps(default)
        takes = _takes(entry, schema)
        yield {"name": f"{prefix}{key}", "takes": takes, "default": without, "meaning": entry.get("description", "")}


def _takes(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a key takes, in words."""
    if "const" in entry or "enum" in entry:
        return ", ".join(json.dumps(value) for value in entry.get("enum", [entry.get("const")]))
    if "anyOf" in entry or "oneOf" in entry:
        options = entry.get("anyOf", entry.get("oneOf", []))
        return " or ".join(dict.fromkeys(_takes(one, schema) for one in options if one.get("type") != "null"))
    if "$ref" in entry:
        inner = _resolved(entry, schema)
        return _takes(inner, schema) if "properties" not in inner else f"a table of {', '.join(inner['properties'])}"
    kind = entry.get("type", "anything")
    if kind == "array":
        return f"a list of {_takes(entry.get('items', {}), schema)}"
    bounds = [f"{words} {entry[key]:g}" for key, words in _BOUNDS.items() if key in entry]
    return " ".join([_TYPES.get(kind, kind), *bounds])


_TYPES = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}
_TYPES |= {"object": "a table"}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def _table_of(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The table that a key stands for, alone or as a list; None where it is a value."""
    inner = _resolved(entry.get("items", entry) if entry.get("type") == "array" else entry, schema)
    return inner if "properties" in inner else None


def _resolved(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema.get("$defs", {}).get(str(entry.get("$ref", "")).rpartition("/")[2], entry)
    return found


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]

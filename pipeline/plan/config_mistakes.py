"""What a config gets wrong, one line for each mistake, with the key that was probably meant."""

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import MapConfig
from pipeline.text import meant

#: What a key may hold, where the types alone do not tell a reader.
FORMS = {
    "lags": 'a whole number of frames from 1 to 65,536, or "auto"; a window beyond that fits no memory',
    "frequencies_hz": "a list of numbers, a file with one number a line, or {min = 80.0, max = 3800.0, count = 32,"
    ' scale = "mel"} with at most 65,536 bands',
    "objective": '"last", "peak", "sum", "mean", {frame = 120} or {mean_over = [50, 80]}',
    "stimuli": "a path or a list of paths",
    "class": "a class with its module, as deepSTRF.models.audio.StateNet or torch.nn.Identity",
    "factory": 'a function with its module, as "my_lab.models:build"',
}

#: Why a number is bounded, by its key.
BOUNDS = {
    "count": "more bands than that fit no memory",
    "frame_ms": "a frame is at most a minute long",
    "window_ms": "a longer window fits no memory",
    "memory_mib": "no machine has more",
    "object_mib": "codecs count the bytes of an object in 32 bits",
    "chunks_per_object": "an index of more chunks costs more than it saves",
    "finite_difference_neurons": "each of them costs two passes per map",
    "frame": "frames are counted in 32 bits",
}

Location = tuple[str | int, ...]


def explain(error: ValidationError, raw: Mapping[str, Any], config: type[BaseModel]) -> str:
    """The mistakes of a config, one a line, in the order of the file's keys."""
    lines: dict[Location, str] = {}
    problems = error.errors()
    for problem in problems:
        below = len(problem["loc"])
        if problem["type"] == "too_short" and any(
            other["loc"][:below] == problem["loc"] != other["loc"] for other in problems
        ):
            continue  # entries with a mistake of their own are not counted
        where, tail = _within(raw, problem["loc"])
        union = next((part for part in range(len(where)) if where[part] in FORMS), None)
        if union is not None and problem["type"] != "value_error" and isinstance(where[union], str):
            key = where[: union + 1]
            # A form that was nearly met says more than the list of all forms.
            lines.setdefault(key, f"{_name(key)} = {_shown(_at(raw, key))}: give {FORMS[str(where[union])]}")
        else:
            lines.setdefault((*where, *tail), _line(problem, where, tail, raw, config))
    return "\n  ".join(lines.values())


def _line(
    problem: Mapping[str, Any], where: Location, tail: Location, raw: Mapping[str, Any], config: type[BaseModel]
) -> str:
    kind, name = problem["type"], _name((*where, *tail))
    if kind == "extra_forbidden":
        return f"{name}: unknown key; {_advice(problem['loc'], raw, config)}"
    if kind == "missing":
        return f"{name}: missing; add it"
    if kind == "value_error":
        return f"{name}: {problem['ctx']['error']}"
    reason = BOUNDS.get(str(where[-1])) if where and kind.startswith(("less_than", "greater_than")) else None
    return f"{name} = {_shown(problem['input'])}: {problem['msg']}{f' ({reason})' if reason else ''}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _name(where: Location) -> str:
    return ".".join(map(str, where)) or "the config"


def _within(raw: Any, location: Sequence[str | int]) -> tuple[Location, Location]:
    """The part of a location that the file has, and a key at its end that the file lacks.

    What pydantic adds to name a form of several, as ``constrained-int``, is in neither.
    """
    where: list[str | int] = []
    here: Any = raw
    for part in location:
        found = part in here if isinstance(here, Mapping) else isinstance(here, list) and isinstance(part, int)
        if found:
            here = here[part]
            where.append(part)
    last = location[-1:] if location and (not where or location[-1] != where[-1]) else ()
    return tuple(where), tuple(part for part in last if isinstance(part, str) and part.isidentifier())


def _at(raw: Any, where: Location) -> Any:
    for part in where:
        raw = raw[part]
    return raw


# The key that was meant


def _advice(location: Sequence[str | int], raw: Mapping[str, Any], config: type[BaseModel]) -> str:
    key = str(location[-1])
    known = _keys(_models_at(location[:-1], raw, config))
    if question := meant(key, known):
        return question
    holders = [(name, model) for name, model in _tables(config) if key in _keys([model])]
    kinds = sorted({kind for _, model in holders if (kind := _kind_of(model)) is not None})
    if location[0] == "maps" and kinds:
        return f"maps of kind {' or '.join(kinds)} have it; known here: {', '.join(sorted(known))}"
    if holders:
        return f"it belongs to {holders[0][0]}, so move it there"
    return f"known here: {', '.join(sorted(known))}" if known else "remove it or mend its spelling"


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return sorted(
        {field.alias or name for model in models for name, field in model.model_fields.items() if not field.exclude}
    )


def _models_at(location: Sequence[str | int], raw: Any, config: type[BaseModel]) -> list[type[BaseModel]]:
    models = [config]
    for part in location:
        below = [
            found
            for model in models
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
            for found in _models_in(field.annotation)
        ]
        raw = raw[part] if isinstance(raw, Mapping) and part in raw else raw
        kind = raw.get("kind") if isinstance(raw, Mapping) else None
        # An index or a name of one's own changes nothing; a map's kind tells its model from the others.
        models = below or [model for model in models if kind is None or _kind_of(model) in (kind, None)]
    return models


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return next(iter(get_args(field.annotation)), None) if field is not None else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if annotation is MapConfig:
        yield from KINDS.values()
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        if inner not in (NoneType, Ellipsis):
            yield from _models_in(inner)


def _tables(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables of a config, as they are headed in TOML."""
    if not prefix:
        yield "the top of the file", config
    for name, field in config.model_fields.items():
        many = "tuple" in str(field.annotation)
        title = f"{prefix}.{field.alias or name}" if prefix else field.alias or name
        for model in _models_in(field.annotation):
            named = f"{title}.NAME" if "dict" in str(field.annotation) else title
            yield (f"[[{named}]]" if many else f"[{named}]"), model
            yield from _tables(model, title)

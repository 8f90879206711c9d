"""What a checkpoint's metadata.json says: labels of its neurons, numbers for each of them, facts about the training."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.inputs.files import CheckpointError, shorten
from pipeline.words import RESERVED_NAMES

#: Longest text that becomes a coordinate; longer texts are prose.
TEXT_LENGTH = 1000

#: Most entries that become coordinates and variables, each of which is an array in the store.
ENTRIES = 256

INT64 = 2**63


@dataclass(frozen=True)
class Metadata:
    """The parts of a metadata.json that the cube has a place for."""

    neurons: tuple[str, ...] | None = None
    scalars: Mapping[str, str | float | int | bool] = field(default_factory=dict)
    per_neuron: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def read_metadata(raw: Mapping[str, Any], n_neurons: int, path: str) -> Metadata:
    """Scalars, lists with one number per neuron, and the neurons' names of a metadata.json.

    Numbers, texts and truth values become scalars, lists with one number (or null: not known) per neuron become
    per-neuron numbers, and a list called ``neurons`` or ``neuron`` labels the neurons. Whatever else is there (tables,
    other lists, texts above 1000 characters) has no place on an axis and is left in the file. Names become
    identifiers: what is not a letter, a digit or ``_`` turns into ``_``, and a name that the cube uses itself is
    prefixed with ``metadata_``.

    Raises
    ------
    CheckpointError
        If the names are not one per neuron, empty, or not unique, or there are more than 256 entries.
    """
    names = next((raw[key] for key in ("neurons", "neuron") if isinstance(raw.get(key), list)), None)
    scalars: dict[str, str | float | int | bool] = {}
    per_neuron: dict[str, tuple[float, ...]] = {}
    for key, value in raw.items():
        name = _identifier(key)
        if name is None or name in scalars or name in per_neuron or value is names:
            continue
        if _is_scalar(value):
            scalars[name] = _scalar(value)
        elif _is_per_neuron(value, n_neurons):
            per_neuron[name] = tuple(math.nan if entry is None else float(entry) for entry in value)
    if len(scalars) + len(per_neuron) > ENTRIES:
        raise CheckpointError(
            f"{path} has {len(scalars) + len(per_neuron):,} scalars and lists of numbers, each of which would become an"
            f" array of the cube; keep the {ENTRIES} that matter"
        )
    return Metadata(None if names is None else _names(names, n_neurons, path), scalars, per_neuron)


def _identifier(key: str) -> str | None:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", key).strip("_")
    if not name or len(name) > 100:
        return None
    if name in RESERVED_NAMES or name == "class" or not name[0].isalpha():
        return f"metadata_{name}"
    return name


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= TEXT_LENGTH)


def _scalar(value: Any) -> str | float | int | bool:
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return str(value)
    return value


def _is_per_neuron(value: object, n_neurons: int) -> bool:
    # A list of ten numbers in a model of ten neurons: one per neuron. Whole numbers beyond a float do not fit.
    return (
        isinstance(value, list)
        and len(value) == n_neurons
        and any(entry is not None for entry in value)
        and all(
            entry is None or (isinstance(entry, int | float) and (abs(entry) < 1e308 or entry != entry))
            for entry in value
        )
    )


def _names(names: list[Any], n_neurons: int, path: str) -> tuple[str, ...]:
    labels = tuple(str(name).strip() if isinstance(name, str | int) else "" for name in names)
    if len(labels) != n_neurons:
        raise CheckpointError(
            f"{path} names {len(labels)} neurons, but the model has {n_neurons}, so maps would get the wrong labels;"
            " write one name per neuron, in the order of the model's outputs"
        )
    counts = Counter(labels)
    for label in labels:
        if not label or not label.isprintable():
            raise CheckpointError(
                f"{path} has a neuron called {label!r}, which is no label; write names of printable characters"
            )
        if counts[label] > 1:
            raise CheckpointError(
                f"{path} names the neuron {shorten(label, 80)!r} more than once, so its maps could not be told apart;"
                " give every neuron a name of its own"
            )
    return labels

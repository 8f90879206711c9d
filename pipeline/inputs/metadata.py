"""What a checkpoint's metadata.json says: labels of its neurons, numbers for each of them, facts about the training."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.inputs.files import CheckpointError
from pipeline.text import printable
from pipeline.words import RESERVED_NAMES

#: Longest text that becomes a coordinate; longer texts are prose.
TEXT_LENGTH = 1000

#: Most entries that become coordinates and variables, each of which is an array in the store.
ENTRIES = 256

#: The first whole number that 64 bits do not hold.
INT64 = 2**63

Scalar = str | float | int | bool


@dataclass(frozen=True)
class Metadata:
    """The parts of a metadata.json that the cube may have a place for, read before the model is known.

    ``left_out`` says of an entry why it has none; ``lists`` are those that have one if there are as many neurons.
    """

    path: str = ""
    labels: tuple[Any, ...] | None = None
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    lists: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def names(self, n_neurons: int) -> tuple[str, ...] | None:
        """Labels of the neurons, None where the file gives none.

        Raises `CheckpointError` if they are not one per neuron, empty, or not unique.
        """
        return None if self.labels is None else _names(self.labels, n_neurons, self.path)

    def for_neurons(self, n_neurons: int) -> tuple[dict[str, tuple[float, ...]], tuple[str, ...]]:
        """Lists with one number (or null: not known) per neuron, and a note on each entry that is left out."""
        fitting, reasons = {}, dict(self.left_out)
        for name, values in self.lists.items():
            if len(values) != n_neurons:
                reasons[name] = f"has {len(values)} entries where the model has {n_neurons} neurons"
            else:
                fitting[name] = tuple(math.nan if entry is None else float(entry) for entry in values)
        return fitting, tuple(f"metadata.json: {name!r} {reason}; left out" for name, reason in reasons.items())


def read_metadata(raw: Mapping[str, Any], path: str) -> Metadata:
    """Scalars, lists of numbers, and the neurons' names of a metadata.json.

    Numbers, texts and truth values become scalars and keep their type, lists of numbers and nulls may be numbers per
    neuron, and a list called ``neurons`` or ``neuron`` labels the neurons. Whatever else is there (tables, other
    lists, texts above 1000 characters) has no place on an axis; it is left in the file and named. Names become
    identifiers: what is not a letter, a digit or ``_`` turns into ``_``, and a name that the cube uses itself is
    prefixed with ``metadata_``.

    Raises `CheckpointError` if there are more than 256 entries.
    """
    owner = next((key for key in ("neurons", "neuron") if isinstance(raw.get(key), list)), None)
    scalars: dict[str, Scalar] = {}
    lists: dict[str, tuple[Any, ...]] = {}
    left_out: dict[str, str] = {}
    for key, value in raw.items():
        if key == owner or value is None:
            continue
        name, shown = _identifier(key), printable(key, 80)
        if name is None:
            left_out[shown] = "is no name that a coordinate can have"
        elif name in scalars or name in lists:
            left_out[shown] = f"becomes {name!r}, as another entry does"
        elif _is_scalar(value):
            scalars[name] = _scalar(value)
        elif _is_numbers(value):
            lists[name] = tuple(value)
        else:
            left_out[shown] = _reason(value)
    if len(scalars) + len(lists) > ENTRIES:
        raise CheckpointError(
            f"{path} has {len(scalars) + len(lists):,} scalars and lists of numbers, each of which would become an"
            f" array of the cube; keep the {ENTRIES} that matter"
        )
    return Metadata(path, None if owner is None else tuple(raw[owner]), scalars, lists, left_out)


def _identifier(key: str) -> str | None:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", key).strip("_")
    if not name or len(name) > 100:
        return None
    if name in RESERVED_NAMES or name == "class" or not name[0].isalpha():
        return f"metadata_{name}"
    return name


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= TEXT_LENGTH and not _half_a_character(value)
    return isinstance(value, bool | int | float)


def _half_a_character(text: str) -> bool:
    """Whether a text holds one half of a pair of UTF-16, as JSON can escape it and no file can hold it."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _scalar(value: Any) -> Scalar:
    if isinstance(value, int) and not -INT64 < value < INT64:
        return str(value)
    return value  # type: ignore[no-any-return]


def _is_numbers(value: object) -> bool:
    # Whole numbers beyond a float do not fit.
    return (
        isinstance(value, list)
        and any(entry is not None for entry in value)
        and all(
            entry is None or (isinstance(entry, int | float) and (abs(entry) < 1e308 or entry != entry))
            for entry in value
        )
    )


def _reason(value: object) -> str:
    if isinstance(value, Mapping):
        return "is a table"
    if isinstance(value, list):
        return "is a list of other things than numbers"
    if isinstance(value, str):
        if _half_a_character(value):
            return "is a text with half a character (a lone surrogate)"
        return f"is a text of {len(value):,} characters"
    return f"is a {type(value).__name__}"


def _names(names: tuple[Any, ...], n_neurons: int, path: str) -> tuple[str, ...]:
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
                f"{path} names the neuron {printable(label, 80)!r} more than once, so its maps could not be told apart;"
                " give every neuron a name of its own"
            )
    return labels

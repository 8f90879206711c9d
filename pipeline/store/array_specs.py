"""What a cohort's group holds: every array with its axes, its chunks, its attributes."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isnan, nan, prod
from typing import Any

import numpy as np

from pipeline.plan.axes import Axis, Labels, as_array
from pipeline.plan.run_plan import CohortPlan, MapPlan, VariablePlan
from pipeline.store.digests import values_digest
from pipeline.words import (
    AXES,
    COMPANIONS,
    ENSEMBLE,
    NOT_COMPUTED,
    PENDING,
    PROBE,
    STATES,
    Flag,
    digest_name,
    status_name,
    variable_name,
)

#: Checkpoints and entries in one chunk of what the driver alone writes.
BOOKKEEPING_CHECKPOINTS = 32
#: Entries of one chunk of the driver's own arrays, at most.
BOOKKEEPING_ENTRIES = 2**20

#: Roles of what the driver alone writes while maps are computed; every chunk of these is there from the start.
BOOKKEEPING = ("status", "digest", "companion", "probe")

#: The flag of what is pending or failed.
NOTHING_THERE = Flag(
    "not_computed",
    NOT_COMPUTED,
    "no map",
    meaning="there is no map: it is pending, or it failed",
    threshold="the status does not say done",
    remedy="see `gradmap status` for the cause, and run again",
)

#: What stands for "not known" in text, among whole numbers, and among truth values that are kept as 0 and 1.
NONE_OF: dict[str, Any] = {"str": "", "int64": -(2**63), "int8": -1}

#: Labels of so many checkpoints lie in one chunk.
LABELS_PER_CHUNK = 1024

#: What a cube says of the sign of its maps.
SIGN = (
    "entries are +d objective / d stimulus: a positive value means that more energy there raises the response;"
    " deepSTRF's STRF_gradmap has the opposite sign"
)


@dataclass(frozen=True)
class ArraySpec:
    """One array to be created: what Zarr and a reader need to know of it."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[int, ...] | None = None
    values: np.ndarray | None = None

    @property
    def role(self) -> str:
        """What the array is for, one of `pipeline.words.ROLES`."""
        return str(self.attributes["role"])

    def stored(self) -> np.ndarray:
        """Its values as the store gives them back."""
        assert self.values is not None
        return self.values if self.dtype == "str" else self.values.astype(self.dtype)

    def digest(self) -> str:
        """Digest of its values."""
        return values_digest(self.stored())


def cohort_arrays(cohort: CohortPlan, health_flags: Mapping[str, int | Flag]) -> list[ArraySpec]:
    """Every array of a cohort's group."""
    axes = cohort.axes()
    fixed = [*(_coordinate(dim, axis) for dim, axis in axes.items()), *_axis_labels(axes)]
    maps = [spec for entry in cohort.maps for spec in _map_arrays(cohort, entry, health_flags)]
    taken = {spec.name for spec in (*fixed, *maps)} | {PROBE, *AXES}
    return [*fixed, *_metadata_arrays(cohort, taken), _probe_array(cohort), *maps]


def _coordinate(dim: str, axis: Axis) -> ArraySpec:
    """Labels or values along one axis."""
    attributes = {**axis.attributes(), "role": "coordinate"}
    if axis.name == "frequency":
        attributes["standard_name"] = "sound_frequency"
    return _labels(dim, dim, axis.values, attributes)


def _axis_labels(axes: Mapping[str, Axis]) -> list[ArraySpec]:
    """Further coordinates along the axes that kinds of map bring."""
    return [
        _labels(f"{dim}_{label}", dim, values, {"role": "metadata", "long_name": f"{label} of {dim}"})
        for dim, axis in axes.items()
        for label, values in axis.labels.items()
    ]


def _labels(name: str, dim: str, labels: Labels, attributes: Mapping[str, Any]) -> ArraySpec:
    values = as_array(labels)
    text = values.dtype == object
    chunk = LABELS_PER_CHUNK if dim == "checkpoint" else max(1, len(values))
    dtype = "str" if text else str(values.dtype)
    return ArraySpec(name, (dim,), values.shape, (chunk,), dtype, "" if text else 0, attributes, values=values)


def _metadata_arrays(cohort: CohortPlan, taken: set[str]) -> list[ArraySpec]:
    """What is known of neurons and checkpoints beside their labels, one array per entry."""
    specs = []
    taken = set(taken)
    for column, entries in cohort.neuron_metadata.items():
        values = column_values(entries)
        name = free_name(column, taken, "neuron")
        specs.append(_column(name, "neuron", values, max(1, len(values)), column))
    for key in dict.fromkeys(key for checkpoint in cohort.checkpoints for key in checkpoint.scalars):
        values = column_values([checkpoint.scalars.get(key) for checkpoint in cohort.checkpoints])
        name = free_name(key, taken, "checkpoint")
        specs.append(_column(name, "checkpoint", values, LABELS_PER_CHUNK, key))
    size = len(cohort.neurons)
    for key in dict.fromkeys(key for checkpoint in cohort.checkpoints for key in checkpoint.per_neuron):
        rows = np.full((len(cohort.checkpoints), size), nan)
        for row, checkpoint in zip(rows, cohort.checkpoints, strict=True):
            values = np.asarray(checkpoint.per_neuron.get(key, ()), dtype=float)
            if values.shape == row.shape:  # NaN where the checkpoint gives none or another count
                row[:] = values
        specs.append(
            ArraySpec(
                free_name(key, taken, "checkpoint"),
                ("checkpoint", "neuron"),
                rows.shape,
                bookkeeping_chunks(("checkpoint", "neuron"), rows.shape),
                "float64",
                nan,
                {"role": "metadata", "long_name": f"{key} recorded with the checkpoint", "source": key},
                values=rows,
            )
        )
    return specs


def _column(name: str, dim: str, values: np.ndarray, chunk: int, source: str) -> ArraySpec:
    text = values.dtype == object
    dtype = "str" if text else str(values.dtype)
    fill: Any = nan if values.dtype.kind == "f" else NONE_OF.get(dtype, 0)
    attributes: dict[str, Any] = {"role": "metadata", "long_name": f"{source} of the {dim}", "source": source}
    if dtype in NONE_OF and bool((values == NONE_OF[dtype]).any()):
        attributes["missing_value"] = NONE_OF[dtype]  # readers that know CF show NaN there
    return ArraySpec(name, (dim,), values.shape, (chunk,), dtype, fill, attributes, values=values)


def column_values(entries: Iterable[Any]) -> np.ndarray:
    """Entries as one array: truth values as they are, or as 0 and 1 where one is missing; whole numbers as they are.

    Other numbers are float64 with NaN for none. Whole numbers beyond 64 bits, as ids may be, and anything else are
    text. `NONE_OF` holds what stands for none.
    """
    entries = [entry.item() if isinstance(entry, np.generic) else entry for entry in entries]
    entries = [None if isinstance(entry, float) and isnan(entry) else entry for entry in entries]
    present = [entry for entry in entries if entry is not None]
    if present and all(isinstance(entry, (bool, int, float)) for entry in present):
        if all(isinstance(entry, bool) for entry in present):
            kind = bool if len(present) == len(entries) else np.int8
            return np.array([NONE_OF["int8"] if entry is None else entry for entry in entries], dtype=kind)
        if all(type(entry) is int and abs(entry) < 2**63 for entry in present):
            return np.array([NONE_OF["int64"] if entry is None else entry for entry in entries], dtype=np.int64)
        if not all(type(entry) is int for entry in present):
            return np.array([nan if entry is None else float(entry) for entry in entries])
    return np.array(["" if entry is None else str(entry) for entry in entries], dtype=object)


def free_name(wanted: str, taken: set[str], owner: str) -> str:
    """A name that Zarr and a reader can use and nothing else has; it is added to ``taken``."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", wanted).strip("_") or "unnamed"
    # Some file systems do not tell capitals from small letters.
    used = {entry.casefold() for entry in taken}
    name = name if name.casefold() not in used else f"{owner}_{name}"
    stem, count = name, 2
    while name.casefold() in used:
        name, count = f"{stem}_{count}", count + 1
    taken.add(name)
    return name


def _probe_array(cohort: CohortPlan) -> ArraySpec:
    """The response of each checkpoint to a fixed probe."""
    dims, shape = ("checkpoint", "neuron"), (len(cohort.checkpoints), len(cohort.neurons))
    attributes = {
        "role": "probe",
        "long_name": "response to a fixed seeded probe",
        "comment": "tells a model that was rebuilt otherwise than before, under unchanged weights",
    }
    return ArraySpec(PROBE, dims, shape, bookkeeping_chunks(dims, shape), "float32", nan, attributes)


def _map_arrays(cohort: CohortPlan, entry: MapPlan, health_flags: Mapping[str, int | Flag]) -> list[ArraySpec]:
    """The variables of one map, its status and the numbers that accompany it."""
    n_checkpoints = len(cohort.checkpoints)
    dims = entry.status_dims
    counts = tuple(n_checkpoints if dim == "checkpoint" else entry.size(dim) for dim in dims)
    chunks = bookkeeping_chunks(dims, counts)
    status = {
        "role": "status",
        "map": entry.name,
        "long_name": f"state of each entry of {entry.name}",
        "flag_values": list(STATES.values()),
        "flag_meanings": " ".join(STATES),
        ENSEMBLE: entry.settings.ensemble_over,
    }
    specs = [_variable_array(entry, variable, n_checkpoints) for variable in entry.variables]
    specs.append(ArraySpec(status_name(entry.name), dims, counts, chunks, "uint8", PENDING, status))
    specs.append(ArraySpec(digest_name(entry.name), dims, counts, chunks, "uint64", 0, _digest_attributes(entry)))
    for ending in entry.settings.companions:
        dtype, units, title, fill = COMPANIONS[ending]
        attributes: dict[str, Any] = {"role": "companion", "map": entry.name, "long_name": f"{title} ({entry.name})"}
        attributes |= {"units": units} if units else {}
        attributes |= _flag_attributes(health_flags) if ending == "health" else {}
        if fill == -1:
            attributes["comment"] = "-1 where there is none"
        specs.append(ArraySpec(variable_name(entry.name, ending), dims, counts, chunks, dtype, fill, attributes))
    return specs


def _variable_array(entry: MapPlan, variable: VariablePlan, n_checkpoints: int) -> ArraySpec:
    """One variable of a map, in objects of which each belongs to one shard."""
    kind = np.dtype(variable.dtype).kind
    return ArraySpec(
        variable.name,
        variable.dims,
        entry.shape(variable, n_checkpoints),
        variable.inner_chunks or variable.chunks,
        variable.dtype,
        nan if kind == "f" else -1 if kind == "i" else 0,
        _variable_attributes(entry, variable),
        shards=variable.chunks if variable.inner_chunks else None,
        values=None if variable.values is None else np.asarray(variable.values, dtype=variable.dtype),
    )


def _digest_attributes(entry: MapPlan) -> dict[str, Any]:
    """What the digests of a map are of: its variables and these companions."""
    return {
        "role": "digest",
        "map": entry.name,
        "long_name": f"digest of each entry of {entry.name} and of the numbers beside it",
        "variables": " ".join(variable.name for variable in entry.computed),
        "companions": " ".join(entry.settings.companions),
    }


def _flag_attributes(health_flags: Mapping[str, int | Flag]) -> dict[str, Any]:
    """Bits and their meanings in the CF manner, and in words beside them where they are given.

    One bit more says that there is nothing to trust, so that no rule on flags keeps what is not done.
    """
    health_flags = {**health_flags, NOTHING_THERE.name: NOTHING_THERE}
    bits = {name: flag.bit if isinstance(flag, Flag) else int(flag) for name, flag in health_flags.items()}
    told = {
        name: {key: value for key, value in flag._asdict().items() if key not in ("name", "bit")}
        for name, flag in health_flags.items()
        if isinstance(flag, Flag)
    }
    return {"flag_masks": list(bits.values()), "flag_meanings": " ".join(bits), "flag_table": json.dumps(told)}


def _variable_attributes(entry: MapPlan, variable: VariablePlan) -> dict[str, Any]:
    """What one variable is, for a reader who has only the cube."""
    return {
        "role": variable.role if variable.computed else "metadata",
        "map": entry.name,
        "long_name": variable.long_name,
        "units": variable.units,
        "kind": entry.kind,
        **entry.settings.facts(),
        **({"sign": SIGN} if variable.role == "map" else {}),
        **variable.attributes,
        "settings": json.dumps(entry.signature(variable), sort_keys=True),
    }


def bookkeeping_chunks(dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of what the driver writes: a few dozen checkpoints with everything of theirs."""
    others = max(1, prod(size for dim, size in zip(dims, shape, strict=True) if dim != "checkpoint"))
    rows = max(1, min(BOOKKEEPING_CHECKPOINTS, BOOKKEEPING_ENTRIES // others))
    return tuple(rows if dim == "checkpoint" else max(1, size) for dim, size in zip(dims, shape, strict=True))

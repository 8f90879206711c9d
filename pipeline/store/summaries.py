"""Numbers per map beside the maps themselves."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from pipeline.plan.config import as_json
from pipeline.store.array_specs import LABELS_PER_CHUNK, NONE_OF, ArraySpec, bookkeeping_chunks
from pipeline.store.backend import scrub
from pipeline.store.groups import Group, consolidate, create_arrays, delete_array, write_attributes
from pipeline.store.open_store import open_existing
from pipeline.store.refusals import same_labels
from pipeline.text import listed


def write_summaries(store: str | Path, summaries: Mapping[str, xr.Dataset], *, held: Store | None = None) -> None:
    """Put summaries into the cubes of cohorts, in place of those of the same names.

    Maps, their status and the labels of the cube are not touched. The caller holds the store's lease where a run could
    be writing it.

    ``summaries``: For each cohort by its name, variables over axes of its cube and new ones of their own. Along an axis
    of the cube each label must be the cube's; where some are left out, numbers are NaN and text is missing. ``held``:
    The store as the holder of its lease writes it (`Lease.store`), where a run could be writing it. Raises `ValueError`
    if a name is taken by something that is not a summary, or labels are not the cube's, before anything is written.
    """
    handle = open_existing(store, writable=True, held=held)
    # As they stand, not as the root tells: a writer that was killed may have left it behind.
    groups = {group.name: group for group in handle.groups(summaries, copied=False)}
    specs = {name: _specs(group, summaries[name]) for name, group in groups.items()}
    for name, group in groups.items():
        extra = [spec.name for spec in specs[name] if spec.name in summaries[name].coords]
        _write(group, specs[name], [coord for coord in extra if summaries[name][coord].dims != (coord,)])
    consolidate(handle.store, summaries)


def _specs(group: Group, summaries: xr.Dataset) -> list[ArraySpec]:
    """The arrays that the summaries of one cohort become."""
    ours = {name for name in group.arrays if group.array_attributes(name).get("role") == "summary"}
    fixed = set(group.arrays) - ours
    taken = sorted(str(name) for name in summaries.data_vars if str(name) in fixed)
    if taken:
        raise ValueError(
            f"{', '.join(taken)} of cohort {group.name!r} in {scrub(group.location)} is no summary, so it is not"
            " overwritten; give the summary another name"
        )
    labels = {name: group.read(name) for name in fixed & {str(dim) for dim in summaries.dims}}
    specs = [_spec(summaries[name], group.name, labels) for name in summaries.variables if str(name) not in fixed]
    _new_axes_agree(specs, group, ours)
    return specs


def _write(group: Group, specs: list[ArraySpec], extra: list[str]) -> None:
    """Put arrays in place of those of the same names, and name the further coordinates among them."""
    for spec in specs:
        delete_array(group.store, group.name, spec.name)
    create_arrays(group.store, group.name, specs)
    coordinates = " ".join(dict.fromkeys([*group.attributes.get("coordinates", "").split(), *extra]))
    if coordinates != group.attributes.get("coordinates", ""):
        write_attributes(group.store, group.name, group.attributes | {"coordinates": coordinates})


def _spec(summary: xr.DataArray, cohort: str, labels: Mapping[str, np.ndarray]) -> ArraySpec:
    name = str(summary.name)
    if not name.isidentifier():
        raise ValueError(
            f"{name!r} cannot be the name of a variable in the store, as names become paths; use letters, digits and _"
        )
    for dim in summary.dims:
        if str(dim) in labels:
            summary = _placed(summary, dim, labels[str(dim)], cohort)
    values, dtype, fill = _storable(summary.variable, name)
    dims = tuple(str(dim) for dim in summary.dims)
    attributes = {**_json_attributes(summary.attrs), "role": "summary"}
    if dtype == "str" and bool((values == NONE_OF[dtype]).any()):
        attributes["missing_value"] = NONE_OF[dtype]
    if dims == ("checkpoint",):
        chunks: tuple[int, ...] = (LABELS_PER_CHUNK,)
    else:
        chunks = bookkeeping_chunks(dims, values.shape)
    return ArraySpec(name, dims, values.shape, chunks, dtype, fill, attributes, values=values)


def _storable(variable: xr.Variable, name: str) -> tuple[np.ndarray, str, Any]:
    values = np.asarray(variable.values)
    if values.dtype.kind in "biuf":
        return values, str(values.dtype.newbyteorder("=")), np.nan if values.dtype.kind == "f" else 0
    text = values.astype(object) if values.dtype.kind in "OUT" else None
    if text is not None:
        known = np.array([entry is not None and entry == entry for entry in text.flat]).reshape(text.shape)
        text = np.where(known, text, NONE_OF["str"])
        if all(isinstance(entry, str) for entry in text.ravel()):
            return text, "str", NONE_OF["str"]
    raise ValueError(
        f"{name} is of type {values.dtype}, which a cube does not hold; give numbers, truth values or text"
    )


def _placed(summary: xr.DataArray, dim: Hashable, stored: np.ndarray, cohort: str) -> xr.DataArray:
    """A summary in the order of the cube's labels along one axis; what it leaves out is missing."""
    if dim not in summary.coords:
        raise ValueError(
            f"{summary.name} has no labels along {dim}, so nothing says which entries of the cube it is about; keep the"
            " coordinates of the cube"
        )
    given = summary.coords[dim].values
    given = given if given.dtype.kind in "biuf" else given.astype(object)
    if same_labels(stored, given):
        return summary
    foreign = sorted(set(given.tolist()) - set(stored.tolist()), key=given.tolist().index)
    if foreign or len(set(given.tolist())) < len(given):
        raise ValueError(
            f"{summary.name} has labels along {dim} that the cube {cohort!r} has not, or twice"
            f" ({listed(foreign) or 'twice'}), so its entries have no place; select the cube's own labels"
        )
    # Whole numbers have none to spare for what is missing.
    kind = summary.dtype.kind
    summary = summary.astype(float) if kind in "biu" else summary if kind == "f" else summary.astype(object)
    return summary.reindex({dim: stored})


def _new_axes_agree(specs: list[ArraySpec], group: Group, ours: set[str]) -> None:
    """Refuse to change the size of an axis under a summary that stays."""
    written = {spec.name for spec in specs}
    sizes = {dim: size for spec in specs for dim, size in zip(spec.dims, spec.shape, strict=True)}
    for name in ours - written:
        for dim, size in zip(group.dims(name), group.shape(name), strict=True):
            if sizes.get(dim, size) != size:
                raise ValueError(
                    f"the axis {dim!r} has {sizes[dim]} positions in these summaries but {size} in the stored {name!r},"
                    " so one cube could not hold both; rename the axis, or write both summaries together"
                )


def _json_attributes(attributes: Any) -> dict[str, Any]:
    """Attributes as JSON holds them."""
    found = {}
    for key, value in attributes.items():
        value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else as_json(value)
        found[str(key)] = value if isinstance(value, (str, int, float, bool, list)) else str(value)
    return found

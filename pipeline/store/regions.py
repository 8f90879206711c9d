"""The one way in which a map gets into the store: a region of whole objects, checked before a byte is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import xarray as xr
import zarr

from pipeline.plan.axes import as_array
from pipeline.plan.run_plan import CohortPlan, MapPlan, RunPlan, VariablePlan
from pipeline.plan.shards import Shard
from pipeline.store.backend import delete_object, location_of, scrub, storage_errors
from pipeline.store.groups import Group
from pipeline.store.open_store import open_existing
from pipeline.store.refusals import same_labels
from pipeline.words import is_map, status_name

_SHOWN = 8


class RegionError(ValueError):
    """A block of numbers that does not belong where it was to be written; nothing has been written."""


class NonFiniteError(RegionError):
    """A block that holds NaN or infinity; nothing has been written."""


@dataclass(frozen=True)
class _Handle:
    """An open variable: the array, the labels along its axes, the extent of its objects, and whether it holds maps."""

    array: zarr.Array
    dims: tuple[str, ...]
    labels: dict[str, np.ndarray]
    grid: tuple[int, ...]
    sharded: bool
    is_map: bool


# Opening an array costs milliseconds, and a worker writes to the same few maps again and again.
_handles: dict[tuple[str, str, str], _Handle] = {}


def forget(store: str) -> None:
    """Drop what this process remembers of a store."""
    location = location_of(store)
    for key in [key for key in _handles if key[0] == location]:
        _handles.pop(key, None)


def label(plan: RunPlan, shard: Shard, arrays: Mapping[str, np.ndarray]) -> dict[str, xr.DataArray]:
    """A shard's numbers with the labels that the plan gives them, by the names of the map's variables.

    ``plan``: Aligned with the store (`align`), as the shard's checkpoint is a position of the store. ``arrays``: One
    for each variable, in the order of its axes, with or without the checkpoint axis of length 1. Raises `RegionError`
    if a variable is missing, or its numbers do not have the shape of the shard's region.
    """
    cohort = plan.cohort(shard.cohort)
    entry = cohort.map_plan(shard.map)
    wanted = [variable.name for variable in entry.computed]
    if set(arrays) != set(wanted) or not 0 <= shard.checkpoint < len(cohort.checkpoints):
        raise RegionError(
            f"{shard.key()}: there are numbers of {', '.join(arrays) or 'nothing'}, but the map consists of"
            f" {', '.join(wanted)}, so a part of it would stay empty; give one array for each of them"
        )
    axes = cohort.axes()
    coordinates = {dim: as_array(axes[dim].values) for dim in entry.axes}
    return {
        variable.name: _labelled(cohort, entry, variable, shard, np.asarray(arrays[variable.name]), coordinates)
        for variable in entry.computed
    }


def _labelled(
    cohort: CohortPlan,
    entry: MapPlan,
    variable: VariablePlan,
    shard: Shard,
    values: np.ndarray,
    coordinates: Mapping[str, np.ndarray],
) -> xr.DataArray:
    region = shard.region(entry)
    shape = tuple(region[dim].stop - region[dim].start for dim in variable.dims)
    if values.shape not in (shape, shape[1:]):
        raise RegionError(
            f"{shard.key()}: the numbers of {variable.name} have the shape {values.shape}, but the region over"
            f" {variable.dims} has {shape}, so they cannot be labelled; give one number per entry of the shard's region"
        )
    labels = {dim: coordinates[dim][region[dim]] for dim in variable.dims if dim != "checkpoint"}
    labels["checkpoint"] = np.array([cohort.checkpoints[shard.checkpoint].id], dtype=object)
    # Nobody selects from a region, so no index is built. What is known to be an array is not looked at for what else
    # it may be, for which xarray would import every library of arrays that is installed.
    coords = {dim: xr.Variable((dim,), along, fastpath=True) for dim, along in labels.items()}
    numbers = xr.Variable(variable.dims, values.reshape(shape), fastpath=True)
    return xr.DataArray(numbers, coords=xr.Coordinates(coords, indexes={}), name=variable.name)


def write_region(plan: RunPlan, shard: Shard, arrays: Mapping[str, xr.DataArray]) -> None:
    """Write a shard's numbers into its own objects of the store.

    The numbers count as missing until the driver has recorded the shard as done. Writing the same shard again replaces
    the same objects.

    ``arrays``: By the names of the map's variables, of their types, in the order of their axes, with a label for every
    position (see `label`). Raises `RegionError` if axes, type, labels, bounds or the grid of objects do not fit, before
    anything is written, and `NonFiniteError` if an entry of a map is NaN or infinite; the message names neurons and
    stimuli, and `OSError` if the storage fails.
    """
    location = location_of(plan.store)
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    places = [_place(location, shard, entry, name, arrays[name]) for name in arrays]
    with storage_errors(location):
        for (handle, index), values in zip(places, arrays.values(), strict=True):
            if handle.sharded:
                # A damaged storage shard fails the very write that would replace it.
                for key in object_keys(handle.array, handle.grid, index):
                    delete_object(handle.array.store, key)
            handle.array[index] = values.values


def _place(
    location: str, shard: Shard, entry: MapPlan, name: str, values: xr.DataArray
) -> tuple[_Handle, tuple[slice, ...]]:
    """Where the numbers of a variable go, once everything about them fits."""
    try:
        handle = _handle(location, shard, name)
        return handle, _checked(handle, shard, entry, name, values)
    except NonFiniteError:
        raise
    except RegionError:
        # The store may have grown since this process opened it.
        _handles.pop((location, shard.cohort, name), None)
        handle = _handle(location, shard, name)
        return handle, _checked(handle, shard, entry, name, values)


def object_keys(array: zarr.Array, grid: tuple[int, ...], index: tuple[slice, ...]) -> list[str]:
    """Keys of the objects that a region of whole objects consists of."""
    owned = [range(part.start // extent, -(-part.stop // extent)) for part, extent in zip(index, grid, strict=True)]
    return [f"{array.path}/{array.metadata.encode_chunk_key(place)}" for place in product(*owned)]


def object_grid(array: zarr.Array) -> tuple[int, ...]:
    """Extent of one object of an array along each axis."""
    return tuple(array.shards if array.shards is not None else array.chunks)


def shard_extents(group: Group, map_name: str) -> dict[str, int]:
    """Extent of one shard of a map along each axis of its status, as its variables lie in the store."""
    dims = group.dims(status_name(map_name))
    extents = dict.fromkeys(dims, 1)
    for name in group.variables(map_name):
        own = dict(zip(group.dims(name), object_grid(group.open(name)), strict=True))
        extents |= {dim: own[dim] for dim in dims if dim in own}
    return extents


def _handle(location: str, shard: Shard, name: str) -> _Handle:
    key = (location, shard.cohort, name)
    if key not in _handles:
        group = open_existing(location, writable=True).group(shard.cohort)
        if name not in group.arrays:
            raise RegionError(
                f"{shard.key()}: {scrub(location)} has no map {name!r} in the cohort {shard.cohort!r}, so there is"
                " no place for its numbers; call create_or_extend with this plan first"
            )
        # A measure of nothing but its fill value is written all the same, so that it is not taken for missing.
        array = group.open(name).with_config({"write_empty_chunks": True})
        dims = group.dims(name)
        labels = {dim: group.read(dim) for dim in dims}
        _handles[key] = _Handle(
            array, dims, labels, object_grid(array), array.shards is not None, is_map(group.array_attributes(name))
        )
    return _handles[key]


def _checked(handle: _Handle, shard: Shard, entry: MapPlan, name: str, values: xr.DataArray) -> tuple[slice, ...]:
    where = shard.key() if name == shard.map else f"{shard.key()} ({name})"
    region = shard.region(entry)
    if tuple(values.dims) != handle.dims:
        raise RegionError(
            f"{where}: the numbers have the axes {tuple(values.dims)}, but the map has {handle.dims}, so they would"
            " land transposed; give them in the order of the map"
        )
    if values.dtype != handle.array.dtype:
        raise RegionError(
            f"{where}: the numbers are {values.dtype}, but the map is {handle.array.dtype}, and a silent conversion"
            f" could overflow or hide a mistake; convert them knowingly with .astype('{handle.array.dtype}')"
        )
    for dim, size, extent in zip(handle.dims, handle.array.shape, handle.grid, strict=True):
        start, stop = region[dim].start, region[dim].stop
        if not 0 <= start < stop <= size:
            raise RegionError(
                f"{where}: {dim}={start}:{stop} lies outside of the {size} positions of the store, so nothing owns that"
                " place; take shards from the plan aligned with the store"
            )
        if start % extent or (stop % extent and stop != size):
            raise RegionError(
                f"{where}: {dim}={start}:{stop} cuts through an object of the store (objects of {extent}, size {size});"
                " two workers that write one object lose data silently; take shards from plan_shards()"
            )
        if values.sizes[dim] != stop - start:
            raise RegionError(
                f"{where}: {values.sizes[dim]} positions along {dim} for the region {start}:{stop}, so labels and"
                " numbers would not meet; give one number per position"
            )
    _check_labels(handle, shard, region, values)
    if handle.is_map:
        _check_finite(where, entry, values)
    return tuple(region[dim] for dim in handle.dims)


def _check_labels(handle: _Handle, shard: Shard, region: dict[str, slice], values: xr.DataArray) -> None:
    labelled = values.coords.variables
    for dim in handle.dims:
        if dim not in labelled:
            raise RegionError(
                f"{shard.key()}: the numbers have no labels along {dim}, so nothing says that they belong there;"
                " label them with label(plan, shard, values)"
            )
        stored = handle.labels[dim][region.get(dim, slice(0, 0))]
        given = labelled[dim].values
        if not same_labels(stored, given if given.dtype.kind in "biuf" else given.astype(object)):
            raise RegionError(
                f"{shard.key()}: the labels along {dim} are {_few(given)}, but the store has {_few(stored)} there, so"
                " the numbers would stand under other names; align the plan with the store, or take the shard that"
                " these labels belong to"
            )


def _few(labels: np.ndarray) -> str:
    shown = ", ".join(str(entry) for entry in labels[:3])
    return f"{shown}{', ...' if len(labels) > 3 else ''} ({len(labels)})"


def _check_finite(where: str, entry: MapPlan, values: xr.DataArray) -> None:
    numbers = values.values
    bad = ~np.isfinite(numbers)
    if not bad.any():
        return
    named = []
    for dim in ("neuron", entry.stimulus_dim):
        if dim in values.dims:
            others = tuple(axis for axis, name in enumerate(values.dims) if name != dim)
            ids = values.coords[dim].values[bad.any(axis=others)]
            shown = ", ".join(str(label) for label in ids[:_SHOWN])
            named.append(f"{dim} {shown}{f' and {len(ids) - _SHOWN} more' if len(ids) > _SHOWN else ''}")
    raise NonFiniteError(
        f"{where}: {int(bad.sum())} of {prod(numbers.shape)} entries are NaN or infinite ({'; '.join(named) or 'all'}),"
        " and a map that is done holds none; look at the checkpoint's weights and at these stimuli"
    )

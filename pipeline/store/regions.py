"""The one way in which a map gets into the store: a region of whole objects, checked before a byte is written."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import xarray as xr
import zarr

from pipeline.plan.shards import MapPlan, RunPlan, Shard
from pipeline.store.backend import delete_object, location_of, scrub, storage_errors
from pipeline.store.groups import existing_group, open_existing
from pipeline.store.refusals import same_labels

_SHOWN = 8


class RegionError(ValueError):
    """A block of numbers that does not belong where it was to be written; nothing has been written."""


class NonFiniteError(RegionError):
    """A block that holds NaN or infinity; nothing has been written."""


@dataclass(frozen=True)
class _Handle:
    """An open map: the array, the labels along its axes, and the extent of its objects."""

    array: zarr.Array
    dims: tuple[str, ...]
    labels: dict[str, np.ndarray]
    grid: tuple[int, ...]
    sharded: bool


# Opening an array costs milliseconds, and a worker writes to the same few maps again and again.
_handles: dict[tuple[str, str, str], _Handle] = {}


def forget(store: str) -> None:
    """Drop what this process remembers of a store."""
    location = location_of(store)
    for key in [key for key in _handles if key[0] == location]:
        _handles.pop(key, None)


def label(plan: RunPlan, shard: Shard, values: np.ndarray) -> xr.DataArray:
    """A shard's numbers with the labels that the plan gives them.

    Parameters
    ----------
    plan
        Aligned with the store (`align`), as the shard's checkpoint is a position of the store.
    values
        In the order of the map's axes, with or without the checkpoint axis of length 1.

    Raises
    ------
    RegionError
        If the numbers do not have the shape of the shard's region.
    """
    cohort = plan.cohort(shard.cohort)
    entry = cohort.map_plan(shard.map)
    region = shard.region(entry)
    shape = tuple(len(range(*region[dim].indices(size))) for dim, size in zip(entry.dims, entry.shape, strict=True))
    values = np.asarray(values)
    if values.shape not in (shape, shape[1:]) or not 0 <= shard.checkpoint < len(cohort.checkpoints):
        raise RegionError(
            f"{shard.key()}: the numbers have the shape {values.shape}, but the region over {entry.dims} has {shape}"
            f" (of {entry.shape}), so they cannot be labelled; give one number per entry of the shard's region"
        )
    labels = {dim: cohort.coordinate(dim)[region[dim]] for dim in entry.dims if dim != "checkpoint"}
    labels["checkpoint"] = np.array([cohort.checkpoints[shard.checkpoint].id], dtype=object)
    return xr.DataArray(values.reshape(shape), dims=entry.dims, coords=labels, name=entry.name)


def write_region(plan: RunPlan, shard: Shard, values: xr.DataArray) -> None:
    """Write a shard's numbers into its own objects of the store.

    The numbers count as missing until the driver has recorded the shard as done. Writing the same shard again replaces
    the same objects.

    Parameters
    ----------
    values
        float32, in the order of the map's axes, with a label for every position (see `label`).

    Raises
    ------
    RegionError
        If axes, type, labels, bounds or the grid of objects do not fit, before anything is written.
    NonFiniteError
        If an entry is NaN or infinite; the message names neurons and stimuli.
    OSError
        If the storage fails.
    """
    location = location_of(plan.store)
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    try:
        handle = _handle(location, shard, entry)
        index = _checked(handle, shard, entry, values)
    except NonFiniteError:
        raise
    except RegionError:
        # The store may have grown since this process opened it.
        _handles.pop((location, shard.cohort, shard.map), None)
        handle = _handle(location, shard, entry)
        index = _checked(handle, shard, entry, values)
    with storage_errors(location):
        if handle.sharded:
            # A damaged storage shard fails the very write that would replace it.
            for key in object_keys(handle.array, handle.grid, index):
                delete_object(handle.array.store, key)
        handle.array[index] = values.values


def object_keys(array: zarr.Array, grid: tuple[int, ...], index: tuple[slice, ...]) -> list[str]:
    """Keys of the objects that a region of whole objects consists of."""
    owned = [range(part.start // extent, -(-part.stop // extent)) for part, extent in zip(index, grid, strict=True)]
    return [f"{array.path}/{array.metadata.encode_chunk_key(place)}" for place in product(*owned)]


def object_grid(array: zarr.Array) -> tuple[int, ...]:
    """Extent of one object of an array along each axis."""
    return tuple(array.shards if array.shards is not None else array.chunks)


def _handle(location: str, shard: Shard, entry: MapPlan) -> _Handle:
    key = (location, shard.cohort, shard.map)
    if key not in _handles:
        store, _ = open_existing(location, writable=True)
        group = existing_group(store, location, shard.cohort)
        if shard.map not in group.arrays:
            raise RegionError(
                f"{shard.key()}: {scrub(location)} has no map {shard.map!r} in the cohort {shard.cohort!r}, so there is"
                " no place for its numbers; call create_or_extend with this plan first"
            )
        array = group.open(shard.map)
        dims = group.dims(shard.map)
        labels = {dim: group.read(dim) for dim in dims}
        _handles[key] = _Handle(array, dims, labels, object_grid(array), array.shards is not None)
    return _handles[key]


def _checked(handle: _Handle, shard: Shard, entry: MapPlan, values: xr.DataArray) -> tuple[slice, ...]:
    where = shard.key()
    region = shard.region(entry)
    if tuple(values.dims) != handle.dims:
        raise RegionError(
            f"{where}: the numbers have the axes {tuple(values.dims)}, but the map has {handle.dims}, so they would"
            " land transposed; give them in the order of the map"
        )
    if values.dtype != np.float32:
        raise RegionError(
            f"{where}: the numbers are {values.dtype}, but the map is float32, and a silent conversion could overflow"
            " or hide a mistake; convert them knowingly with .astype('float32')"
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
    _check_finite(where, entry, values)
    return tuple(region[dim] for dim in handle.dims)


def _check_labels(handle: _Handle, shard: Shard, region: dict[str, slice], values: xr.DataArray) -> None:
    for dim in handle.dims:
        if dim not in values.coords:
            raise RegionError(
                f"{shard.key()}: the numbers have no labels along {dim}, so nothing says that they belong there;"
                " label them with label(plan, shard, values)"
            )
        stored = handle.labels[dim][region.get(dim, slice(0, 0))]
        given = values.coords[dim].values
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

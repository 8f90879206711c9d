"""Maps taken apart into groups of checkpoints, rows of entries, blocks of neurons."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.numbers.measures import regions
from pipeline.words import EXTENT_AXES, axis_of

#: Dimensions that hold the entries of one map; a map with labels of its own has ``<map>_<dimension>``.
MAP_DIMS = ("channel", *EXTENT_AXES)


@dataclass(frozen=True)
class Groups:
    """Groups of positions along a dimension, with the coordinates that label them."""

    dim: str | None
    indices: tuple[np.ndarray, ...]
    coords: dict[str, tuple[str, list]]

    def label(self, result: xr.Dataset) -> xr.Dataset:
        """The result with its dimension ``group`` labelled, or without it where there is one unnamed group."""
        if self.dim is None:
            return result.isel(group=0)
        return (
            result.rename(group=self.dim).assign_coords(self.coords)
            if self.dim != "group"
            else result.assign_coords(self.coords)
        )


def groups_of(data: xr.DataArray, along: str, group: str | Sequence[str] | None) -> Groups:
    """Groups of positions along ``along`` that share the coordinate, or coordinates, ``group``."""
    require_dims(data, (along,))
    if group is None:
        return Groups(None, (np.arange(data.sizes[along]),), {})
    names = [group] if isinstance(group, str) else list(group)
    for name in names:
        if name not in data.coords or data.coords[name].dims != (along,):
            there = sorted(str(key) for key, coord in data.coords.items() if coord.dims == (along,))
            raise ValueError(
                f"{name!r} is not a coordinate along {along!r}; groups are made of {along}s that share a label; the"
                f" coordinates there are {', '.join(there) or 'none'}; add it with assign_coords"
            )
    table = pd.DataFrame({name: pd.Series(list(data.coords[name].values)) for name in names})
    parts = [(keys, part.index.to_numpy()) for keys, part in table.groupby(names, sort=True, dropna=True)]
    labels = [keys if isinstance(keys, tuple) else (keys,) for keys, _ in parts]
    dim = names[0] if len(names) == 1 else "group"
    coords = {name: (dim, [label[position] for label in labels]) for position, name in enumerate(names)}
    return Groups(dim, tuple(index for _, index in parts), coords)


def map_dims(maps: xr.DataArray) -> list[str]:
    """Dimensions that hold the entries of one map."""
    require_dims(maps, ())
    found = entry_dims(maps)
    if not found:
        raise ValueError(
            f"the dimensions {tuple(maps.dims)} hold no map (none of {', '.join(MAP_DIMS)}); maps are compared entry by"
            " entry; pass maps, or variance_components and the functions of tables for numbers per neuron"
        )
    return found


def entry_dims(data: xr.DataArray) -> list[str]:
    """Dimensions that hold entries of a map, in the order of `MAP_DIMS`; none for numbers per map."""
    found = [dim for own in MAP_DIMS for dim in map(str, data.dims) if axis_of(dim) == own]
    return list(dict.fromkeys(found))


def require_dims(data: xr.DataArray, dims: Sequence[Hashable]) -> None:
    """Refuse data without these dimensions."""
    if not isinstance(data, xr.DataArray):
        raise ValueError(
            f"got a {type(data).__name__}, not an xarray.DataArray; groups and neurons are found by their labels; pass"
            " one variable of an opened cube"
        )
    missing = [dim for dim in dims if dim not in data.dims]
    if missing:
        raise ValueError(
            f"the dimensions {tuple(data.dims)} lack {', '.join(map(str, missing))}; this compares along that"
            " dimension; concatenate along it, or name another with `along`"
        )


def neuron_blocks(maps: xr.DataArray, along: str, entries: Sequence[str]) -> Iterator[tuple[dict, np.ndarray]]:
    """Regions of the remaining dimensions and their maps, as float64 arrays (remaining..., along, entry)."""
    others = [dim for dim in maps.dims if dim != along and dim not in entries]
    maps = maps.transpose(*others, along, *entries)
    for region in regions(maps, others):
        part = maps.variable.isel(region).values
        yield region, part.reshape(*part.shape[: len(others) + 1], -1).astype(np.float64)


def remaining(maps: xr.DataArray, along: str, entries: Sequence[str]) -> xr.Dataset:
    """Coordinates that do not run along ``along`` or the entries, as an empty dataset."""
    gone = {along, *entries}
    return xr.Dataset(coords={name: coord for name, coord in maps.coords.items() if not set(coord.dims) & gone})


def standardised(rows: np.ndarray, centre: bool = True) -> np.ndarray:
    """Rows (..., entry) centred, with norm 1: products are correlations. NaN for rows without variation."""
    finite = np.isfinite(rows).all(axis=-1, keepdims=True)
    rows = np.where(finite, rows, 0.0)
    peak = np.abs(rows).max(axis=-1, keepdims=True, initial=0.0)
    rows = rows / np.where(peak > 0, peak, 1.0)
    if centre:
        rows = rows - rows.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    varies = finite & (norm > 1e-12 * np.sqrt(max(1, rows.shape[-1])))
    return np.where(varies, rows / np.where(varies, norm, 1.0), np.nan)

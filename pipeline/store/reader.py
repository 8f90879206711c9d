"""A cube as a reader gets it: labelled, and without what is not done."""

from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, ZarrStore
from xarray.core import indexing

from pipeline.store.backend import scrub
from pipeline.store.groups import Group
from pipeline.store.open_store import open_existing
from pipeline.store.presence import Objects, decoding, refuse_foreign_labels
from pipeline.words import DONE, NOT_COMPUTED, ROLES, map_of, role_of, status_name


def open_cube(store: str | Path, cohort: str | None = None) -> xr.Dataset:
    """The cube of one cohort, with NaN wherever `<map>_status` does not say done.

    A map and its status are read when they are asked for, the status first. So what is shown is whole and stays as it
    is, also while a run is writing the store or `gradmap verify --requeue` is taking maps back; companions and
    summaries are hidden with their maps. Plain ``xarray.open_zarr`` promises less: what it shows of an entry counts
    only if `<map>_status` said done *before* the entry was read. Where dask is installed its metadata are dask arrays
    too, which must be loaded to group or drop by them: ``cube.assign_coords(cube.coords.to_dataset().load().coords)``.

    Where dask is installed the maps are dask arrays, one chunk per object of the store.

    Parameters
    ----------
    store
        A folder or a URL.
    cohort
        May be left out where the store has one.

    Raises
    ------
    ValueError
        If there is no such store or cohort, if the store has several cohorts and none is named, or if a run that laid
        it out was killed half way; also later, when something is read that was recorded as written and is gone.

    Examples
    --------
    >>> from pipeline import open_cube
    >>> cube = open_cube("cube.zarr")
    >>> cube["strf"].dims, cube["strf"].sel(checkpoint="seed0", neuron="n2").shape
    (('checkpoint', 'neuron', 'frequency', 'lag'), (4, 6))
    """
    opened = open_existing(store)
    if cohort is None:
        names = opened.cohorts()
        if len(names) != 1:
            raise ValueError(
                f"the store {scrub(opened.location)} has {len(names)} cohorts ({', '.join(names) or 'none'}), so which"
                " cube to open is not said; name one, as in open_cube(store, cohort)"
            )
        cohort = names[0]
    return _cube(opened.group(cohort))


def open_cubes(store: str | Path) -> dict[str, xr.Dataset]:
    """The cube of every cohort by its name, in the store's order; each as `open_cube` gives it.

    Raises
    ------
    ValueError
        If there is no such store, a run that laid a cohort out was killed half way, or a cohort is gone.

    Examples
    --------
    >>> from pipeline import open_cubes
    >>> list(open_cubes("cube.zarr"))
    ['lab']
    """
    opened = open_existing(store)
    return {group.name: _cube(group) for group in opened.groups()}


def open_maps(
    store: str | Path, cohorts: Iterable[str] | None = None, *, without: Collection[str] = ("summary",)
) -> dict[str, xr.Dataset]:
    """What a run wrote, of some cohorts or of all, by their names; read as it is asked for, and never by dask.

    ``without``: Roles of what is left out; summaries by default.
    """
    return {group.name: _hidden(group, without) for group in open_existing(store).groups(cohorts)}


def _cube(group: Group) -> xr.Dataset:
    cube = _hidden(group)
    return _chunked(cube) if find_spec("dask") else cube


def _hidden(group: Group, without: Collection[str] = ()) -> xr.Dataset:
    """What is done of a cohort, but for the variables of some roles."""
    opened = ZarrStore(group.opened({*without, "digest"}), mode="r", use_zarr_fill_value_as_mask=False)
    with decoding(f"a label of the cohort {group.name}", group.location, "coordinate"):
        cube = xr.open_dataset(opened, chunks=None)
    refuse_foreign_labels(group, {str(name): cube.variables[name].values for name in cube.xindexes})
    guarded = {name: _guarded(group, str(name), entry) for name, entry in cube.variables.items()}
    hidden = {}
    for name, variable in cube.variables.items():
        status = guarded.get(status_name(map_of(name, variable.attrs)))
        if role_of(variable.attrs) in ("map", "measure", "companion", "summary") and status is not None:
            hidden[name] = _lazily(variable, _DoneOnly(variable, status, Objects.of(group, str(name))))
        elif name not in cube.xindexes:
            hidden[name] = guarded[name]
    return _ordered(cube.assign(hidden))


#: Kinds of dtype that text has: which of them depends on the versions of numpy, pandas and xarray.
TEXT = "TOU"


def _ordered(cube: xr.Dataset) -> xr.Dataset:
    """The cube with its maps first, and its labels as ordinary text, which pandas, matplotlib and netCDF know."""
    order: dict[str, int] = {role: rank for rank, role in enumerate(ROLES)}
    attributes = {name: cube.variables[name].attrs for name in cube.data_vars}
    names = sorted(attributes, key=lambda name: (order.get(role_of(attributes[name]), len(ROLES)), str(name)))
    text = {name: _as_text(entry) for name, entry in cube.variables.items() if entry.dtype.kind in TEXT}
    return cube.assign(text)[names]


def _as_text(entry: xr.Variable) -> xr.Variable:
    """Text as objects, NaN where a fact is not known, as xarray and pandas have it."""
    text = entry.astype(object)
    return text.where(text != "", np.nan) if role_of(entry.attrs) in ("metadata", "summary") else text


def _guarded(group: Group, name: str, variable: xr.Variable) -> xr.Variable:
    return _lazily(variable, _Present(variable, Objects.of(group, name)))


def _lazily(variable: xr.Variable, shown: BackendArray) -> xr.Variable:
    return xr.Variable(variable.dims, indexing.LazilyIndexedArray(shown), variable.attrs, variable.encoding)


class _Present(BackendArray):
    """A stored variable, read when it is asked for, and refused where an object of it is gone."""

    def __init__(self, values: xr.Variable, objects: Objects) -> None:
        self.values = values
        self.objects = objects
        self.shape = values.shape
        self.dtype = values.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        values = self._decoded(key).values
        self._check(key, values)
        return values

    def _decoded(self, key: tuple[Any, ...]) -> xr.Variable:
        with decoding(f"{self.objects.cohort}/{self.objects.name}", self.objects.location, self.objects.role):
            return self.values.isel(dict(zip(self.values.dims, key, strict=True))).load()

    def _check(self, key: tuple[Any, ...], values: np.ndarray, claimed: np.ndarray | None = None) -> None:
        places = [np.atleast_1d(np.arange(size)[part]) for size, part in zip(self.shape, key, strict=True)]
        shape = tuple(map(len, places))
        if claimed is not None:  # without copying it for every entry of a map
            dropped = tuple(axis for axis, part in enumerate(key) if isinstance(part, (int, np.integer)))
            claimed = np.broadcast_to(np.expand_dims(claimed, dropped), shape)
        self.objects.refuse_gone(values.reshape(shape), places, claimed)


class _DoneOnly(_Present):
    """A stored variable that shows its fill value wherever its status is not done, read when it is asked for."""

    def __init__(self, values: xr.Variable, status: xr.Variable, objects: Objects) -> None:
        super().__init__(values, objects)
        self.status = status

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        chosen = dict(zip(self.values.dims, key, strict=True))
        # The status first: what it calls done stays done and whole, whatever is written meanwhile.
        done = self.status.isel({dim: chosen[dim] for dim in self.status.dims if dim in chosen}) == DONE
        # Numbers over all neurons of a checkpoint were made of those that are done.
        done = done.any([dim for dim in self.status.dims if dim not in chosen])
        values = self._decoded(key)
        aligned = done.set_dims({dim: 1 for dim in values.dims if dim not in done.dims} | dict(done.sizes))
        aligned = aligned.transpose(*values.dims)
        shown = values.values
        self._check(key, shown, aligned.values)
        if bool(done.all()):
            return shown
        shown = shown.astype(object) if shown.dtype.kind == "T" else shown
        return np.where(aligned.values, shown, _missing(self.values))


def _missing(variable: xr.Variable) -> Any:
    """What a variable shows where there is nothing."""
    if role_of(variable.attrs) == "companion" and "flag_masks" in variable.attrs:
        return variable.dtype.type(NOT_COMPUTED)
    missing = {"f": np.nan, "i": -1, "u": 0, "b": False}.get(variable.dtype.kind)
    return np.nan if missing is None else variable.dtype.type(missing)


def _chunked(cube: xr.Dataset) -> xr.Dataset:
    chunked = {}
    for name in cube.data_vars:
        variable = cube.variables[name]
        grid = variable.encoding.get("shards") or variable.encoding.get("chunks")
        if grid is not None:
            chunked[name] = variable.chunk(dict(zip(variable.dims, grid, strict=True)))
    return cube.assign(chunked)

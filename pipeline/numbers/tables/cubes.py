"""Summaries of every map of a cube."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.numbers.measures import NOT_COMPUTED
from pipeline.numbers.strf import StrfSettings, strf_summaries
from pipeline.numbers.waveform import waveform_summaries
from pipeline.words import COUNTED_AXES, DONE, axis_of, is_map, map_names, owner_of, role_of, status_name, variable_name

#: Axes whose labels tell the rows of a table apart.
ROW_DIMS = COUNTED_AXES


def summarise(
    dataset: xr.Dataset | xr.DataArray, maps: Sequence[str] | None = None, *, settings: StrfSettings | None = None
) -> xr.Dataset:
    """The summaries of every map of an opened cube, as variables named ``<map>_<measure>``.

    Numbers of maps whose ``<map>_status`` is not 1 (done) are NaN. Labels, metadata, status and health come along;
    the maps do not. What the cube holds already under the name of a measure (memory length and oldest share, which
    a run writes beside its maps) stays as it is. Lazy where the cube is dask-backed. Each summary variable carries
    the attributes ``role`` = "summary", ``map`` and ``measure``, so that ``filter_by_attrs(role="summary")`` finds
    them.

    Parameters
    ----------
    dataset
        A cube, opened: its maps are the variables whose attribute ``role`` is "map" (or that have a ``kind``), one map
        per neuron over (frequency, lag) or over waveform_lag. Or one such map, as `gradmaps` gives it.
    maps
        Names of the maps to summarise; all by default.
    settings
        Levels of the STRF measures.

    Examples
    --------
    >>> from pipeline import open_cube, summarise
    >>> summaries = summarise(open_cube("cube.zarr"), ["strf"])
    >>> summaries["strf_best_frequency"].dims, summaries["strf_best_frequency"].attrs["units"]
    (('checkpoint', 'neuron'), 'Hz')
    """
    if isinstance(dataset, xr.DataArray):
        dataset = dataset.to_dataset(name=dataset.name or "strf")
    wanted = _wanted(dataset, maps)
    result = {
        str(name): variable
        for name, variable in dataset.variables.items()
        if not (name in dataset.coords or is_map(variable.attrs) or _is_summary(variable, wanted))
    }
    attrs = dict(dataset.attrs)
    axes: dict[Any, xr.Variable] = {}
    for name in wanted:
        values = plain_axes(dataset[name], leading=False)
        of_strfs = "lag" in values.dims
        found = strf_summaries(values, settings=settings or StrfSettings()) if of_strfs else waveform_summaries(values)
        # What a run has written beside the map, from the same definition, stays.
        numbers = _named(found, name, _done(dataset, name, found["degenerate"]))
        result |= {variable: values for variable, values in numbers.items() if variable not in result}
        axes |= {dim: found.variables[dim] for dim in found.coords if dim not in dataset.coords}
        attrs |= {f"{name}_summary_{key}": note for key, note in found.attrs.items()}
    used = {str(dim) for variable in result.values() for dim in variable.dims} | set(ROW_DIMS)
    labels = dict(dataset.coords) | axes
    return xr.Dataset(result, {name: axis for name, axis in labels.items() if {*map(str, axis.dims)} <= used}, attrs)


def _wanted(dataset: xr.Dataset, maps: Sequence[str] | None) -> list[str]:
    """Names of the maps to summarise."""
    there = maps_per_neuron(dataset)
    wanted = there if maps is None else list(maps)
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise ValueError(
            f"the cube has {'no map ' + ', '.join(map(repr, unknown)) if unknown else 'no maps'}; summaries are made of"
            " variables with the attribute role = 'map', the dimension 'neuron', and (frequency, lag) or waveform_lag;"
            " those here are"
            f" {', '.join(there) or 'none'}"
        )
    return wanted


def _named(found: xr.Dataset, name: str, done: xr.Variable | None) -> dict[str, xr.Variable]:
    """The numbers of one map as variables of the cube, with what marks a missing one where the map is not done."""
    variables = {}
    for measure in map(str, found.data_vars):
        degenerate = measure == "degenerate"
        numbers = found.variables[measure]
        if done is not None:
            numbers = numbers.where(done, NOT_COMPUTED if degenerate else np.nan).transpose(*numbers.dims)
        if degenerate:
            numbers = numbers.astype(np.int8)
        words = {"role": "summary", "kind": "summary", "map": name, "measure": measure}
        variables[variable_name(name, measure)] = xr.Variable(
            numbers.dims, numbers.data, found.variables[measure].attrs | words
        )
    return variables


def _is_summary(variable: xr.Variable, of: Sequence[str]) -> bool:
    return role_of(variable.attrs) == "summary" and variable.attrs.get("map") in of


def _done(dataset: xr.Dataset, name: str, like: xr.DataArray) -> xr.Variable | None:
    """Whether each map is done; None where that is not recorded."""
    status = dataset.variables.get(status_name(owner_of(dataset, name)))
    if status is None:
        return None
    if like.chunks is not None:
        status = status.chunk({dim: sizes for dim, sizes in like.chunksizes.items() if dim in status.dims})
    return status == DONE


def maps_per_neuron(dataset: xr.Dataset) -> list[str]:
    """Names of the map variables of a cube that have one map per neuron, on axes for which there are measures."""
    return [name for name in map_names(dataset) if _is_measurable([axis_of(dim) for dim in dataset[name].dims])]


def _is_measurable(axes: Sequence[str]) -> bool:
    extent = {axis for axis in axes if axis not in COUNTED_AXES}
    return "neuron" in axes and extent in ({"frequency", "lag"}, {"waveform_lag"})


def plain_axes(variable: xr.DataArray, *, leading: bool = True) -> xr.DataArray:
    """The variable with the plain names of its axes: all, or only those within a map."""
    own = [dim for dim in variable.dims if leading or axis_of(dim) not in ROW_DIMS]
    return variable.rename({dim: axis_of(dim) for dim in own if axis_of(dim) != dim})

"""Which maps of a cube count: done, to be trusted, and chosen by a rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.numbers.tables import ROW_DIMS, Rules, maps_per_neuron, plain_axes, summary_table
from pipeline.words import DONE, axis_of, health_name, map_of, owner_of, role_of, status_name


@dataclass(frozen=True)
class ChosenMaps:
    """Maps of which those that do not count are NaN, and how many these are by reason."""

    maps: xr.DataArray
    total: int
    left_out: Mapping[str, int]

    @property
    def kept(self) -> int:
        """Number of maps that count."""
        return self.total - sum(self.left_out.values())

    def in_words(self) -> str:
        """How many maps count, and why the others do not."""
        parts = [f"{count:,} {reason}" for reason, count in self.left_out.items() if count]
        return f"{self.kept:,} of {self.total:,} maps counted" + (f"; left out: {', '.join(parts)}" if parts else "")


@dataclass(frozen=True)
class ChosenNumbers:
    """Numbers that a run took of a map, NaN where the map does not count, and how many maps count of how many."""

    numbers: xr.Dataset
    kept: int
    total: int


def variable_of_map(dataset: xr.Dataset, name: str) -> str:
    """The variable that holds a map: of this name, or the only one of the map of this name."""
    there = maps_per_neuron(dataset)
    own = [variable for variable in there if owner_of(dataset, variable) == name]
    return name if name in there or len(own) != 1 else own[0]


def choose_maps(
    dataset: xr.Dataset, name: str = "strf", select: Rules | None = None, *, untrusted: bool = False
) -> ChosenMaps:
    """A cube's map variable with NaN wherever a map does not count.

    Left out, in this order: maps that are not done; maps that carry a health flag (``untrusted`` keeps these); and
    those whose checkpoint and neuron a rule of ``select`` rejects (see `summary_table`; a rule on a number around
    stimuli keeps a neuron whose number meets it for any stimulus). Axes have their plain names. Lazy for a dask-backed
    cube.

    Raises
    ------
    ValueError
        If the cube has no such map, or a rule names no column.
    """
    name = variable_of_map(dataset, name)
    there = maps_per_neuron(dataset)
    if name not in there:
        raise ValueError(
            f"the cube has no map {name!r} with one entry per neuron, so there is nothing to compare; its maps are"
            f" {', '.join(there) or 'none'}; name one of them"
        )
    maps = plain_axes(dataset[name])
    keep, left_out = _counting(dataset, name, maps, select, untrusted)
    chunks = {dim: sizes for dim, sizes in maps.chunksizes.items() if dim in keep.dims}
    kept = maps.where(keep.chunk(chunks) if chunks else keep)
    kept.encoding = maps.encoding  # along whose chunks the functions of agreement read
    return ChosenMaps(kept, keep.size, left_out)


def numbers_per_neuron(dataset: xr.Dataset) -> dict[str, tuple[str, ...]]:
    """Numbers of each neuron of each checkpoint that a run took of a map, as those of dynamic STRFs: names by map."""
    found: dict[str, tuple[str, ...]] = {}
    for variable in maps_per_neuron(dataset):
        owner = owner_of(dataset, variable)
        names = [str(name) for name, one in dataset.data_vars.items() if _is_number(one, str(name), owner)]
        if names:
            found[owner] = tuple(names)
    return found


def _is_number(variable: xr.DataArray, name: str, owner: str) -> bool:
    axes = {axis_of(dim) for dim in variable.dims}
    one = {"checkpoint", "neuron"} <= axes <= {"checkpoint", "neuron", "stimulus"}
    return one and role_of(variable.attrs) == "measure" and map_of(name, variable.attrs) == owner


def choose_numbers(
    dataset: xr.Dataset, name: str, numbers: Sequence[str], select: Rules | None = None, *, untrusted: bool = False
) -> ChosenNumbers:
    """Numbers that a run took of the map of this name, NaN wherever the map does not count.

    What counts is told as by `choose_maps`; ``numbers`` are names of variables, see `numbers_per_neuron`.
    """
    variable = variable_of_map(dataset, name)
    keep, _ = _counting(dataset, variable, plain_axes(dataset[variable]), select, untrusted)
    plain = {one: plain_axes(dataset[one]) for one in numbers}
    masks = {one: keep.any([dim for dim in keep.dims if dim not in values.dims]) for one, values in plain.items()}
    chosen = {one: values.where(masks[one]).transpose(*values.dims).compute() for one, values in plain.items()}
    return ChosenNumbers(xr.Dataset(chosen), int(keep.sum()), keep.size)


def _counting(
    dataset: xr.Dataset, name: str, maps: xr.DataArray, select: Rules | None, untrusted: bool
) -> tuple[xr.DataArray, dict[str, int]]:
    """Which maps count, and how many do not by reason."""
    dims = [dim for dim in maps.dims if dim in ROW_DIMS[:3]]
    alike = xr.DataArray(np.ones([maps.sizes[dim] for dim in dims], dtype=bool), dims=dims)
    keep, left_out, counted = alike, dict[str, int](), alike.size

    def without(reason: str, good: xr.DataArray) -> None:
        nonlocal keep, counted
        keep = keep & good.transpose(*[dim for dim in dims if dim in good.dims])
        left_out[reason] = counted - int(keep.sum())
        counted -= left_out[reason]

    owner = owner_of(dataset, name)
    if status_name(owner) in dataset:
        without("not done", _companion(dataset[status_name(owner)]) == DONE)
    if health_name(owner) in dataset and not untrusted:
        without("not to be trusted (health flags)", _companion(dataset[health_name(owner)]) == 0)
    if select is not None and not (isinstance(select, list | tuple) and not select):
        without("by the rule", _selected(dataset, select))
    return keep, left_out


def _companion(variable: xr.DataArray) -> xr.DataArray:
    """Status or health over the plain axes, without labels, so that nothing is aligned."""
    return xr.DataArray(np.asarray(plain_axes(variable).values), dims=plain_axes(variable).dims)


def _selected(dataset: xr.Dataset, select: Rules) -> xr.DataArray:
    """Whether any row of the table for a checkpoint and neuron meets the rules."""
    rows = summary_table(dataset, select)
    good = np.zeros([dataset.sizes[dim] for dim in ROW_DIMS[:2]], dtype=bool)
    places = [{label: at for at, label in enumerate(dataset[dim].values.tolist())} for dim in ROW_DIMS[:2]]
    checkpoints, neurons = (rows[dim].map(place).to_numpy(int) for dim, place in zip(ROW_DIMS[:2], places, strict=True))
    good[checkpoints, neurons] = True
    return xr.DataArray(good, dims=ROW_DIMS[:2])

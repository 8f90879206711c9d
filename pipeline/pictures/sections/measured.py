"""The numbers that the report is about: summaries of a bounded number of maps, and how these maps agree."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pipeline.numbers.agreement import reliability, similarity
from pipeline.pictures.choosing import Choice, grouping
from pipeline.pictures.cube_reading import TRUSTED, own_dims, placed
from pipeline.pictures.sections.outcome import Outcome
from pipeline.words import axis_of, variable_name

#: Draws of the null on the page.
NULL_DRAWS = 200


@dataclass(frozen=True)
class Told:
    """What is told of one kind of map: measures with their labels, the one that places a neuron in frequency first."""

    labels: Mapping[str, str]
    summarise: Callable[[xr.DataArray, Sequence[str]], xr.Dataset]

    @property
    def frequency(self) -> str:
        """Name of the measure that places a neuron in frequency."""
        return next(iter(self.labels))


@dataclass(frozen=True)
class Measured:
    """Maps that were chosen, NaN where not to be trusted, their summaries, and in words which they are."""

    told: Told
    maps: xr.DataArray
    numbers: xr.Dataset
    how: str

    @property
    def frequencies(self) -> xr.DataArray | None:
        """Where each map lies in frequency, in Hz."""
        return self.numbers.get(self.told.frequency)


def measures_of(entry: Outcome, choice: Choice, told: Told) -> Measured | None:
    """The summaries that the cube holds as ``<map>_<measure>``, or else those of the chosen maps.

    Of several sounds, a neuron's number is the median over those whose map is to be trusted, and the maps are those of
    the sound with most of them. Of several channels the first is taken. None where nothing is done.
    """
    if not choice.checkpoints.size or not choice.neurons.size:
        return None
    gradmap = entry.gradmap
    own = own_dims(gradmap)
    trusted = entry.standing.isin(TRUSTED)
    sounds = [str(dim) for dim in trusted.dims[2:]]
    part = {"checkpoint": choice.checkpoints, "neuron": choice.neurons}
    maps = placed(_first(gradmap, (*own, *sounds))).isel(part).load().where(trusted.isel(part))
    maps = maps.rename({dim: "waveform_lag" for dim in own if axis_of(dim) == "waveform_lag"})
    at = most_trusted(trusted)
    names = {name: variable_name(entry.shown, name) for name in told.labels}
    stored = {name: entry.cube[variable] for name, variable in names.items() if variable in entry.cube}
    if stored and all({"checkpoint", "neuron"} <= set(values.dims) for values in stored.values()):
        found = xr.Dataset({name: _first(values, sounds).where(trusted) for name, values in stored.items()})
        how = "all maps, from the cube's own summaries"
    else:
        found = told.summarise(maps, list(told.labels))
        how = choice.how
    numbers = found.map(_middle_over, keep_attrs=True, dims=sounds) if sounds else found
    numbers.attrs = found.attrs
    words = [f"{how}, without those that are not to be trusted"]
    if sounds:
        words.append(f"each number is the median over the sounds whose map is; maps and agreement: {_of(at)}")
    words += [f"{dim} {maps[dim].values}" for dim in gradmap.dims if dim in maps.coords and not maps[dim].dims]
    return Measured(told, maps.sel(at), numbers, "; ".join(words))


def most_trusted(trusted: xr.DataArray) -> dict[str, Any]:
    """The sound around which most maps are to be trusted, the first of several; empty where there is no axis."""
    return {
        str(dim): trusted[dim].values[int(trusted.sum(["checkpoint", "neuron"]).values.argmax())]
        for dim in trusted.dims[2:]
        if trusted.sizes[dim]
    }


def over_seeds(found: Measured) -> xr.Dataset | None:
    """How well the chosen maps of each neuron agree within each architecture; None without two checkpoints."""
    if found.maps.sizes["checkpoint"] < 2:
        return None
    group = grouping(found.maps)
    agreement = reliability(found.maps, group, n_null=NULL_DRAWS)
    return agreement if np.isfinite(agreement["reliability"].values).any() else None


def between_checkpoints(found: Measured) -> xr.DataArray | None:
    """The correlation between every two checkpoints' maps, the mean over neurons; None where there is none."""
    if found.maps.sizes["checkpoint"] < 2:
        return None
    pairs = similarity(found.maps, "checkpoint")["similarity"].sel(
        checkpoint=found.maps["checkpoint"].values, checkpoint_other=found.maps["checkpoint"].values
    )
    known = pairs.notnull().sum("neuron")
    mean = pairs.sum("neuron") / known.where(known > 0)
    return mean if np.isfinite(mean.values).any() else None


def middle(values: xr.DataArray, neurons: np.ndarray) -> np.ndarray:
    """The median of each of ``neurons`` over all else, NaN where there is no value."""
    numbers = values.transpose("neuron", ...).values.astype(float).reshape(values.sizes["neuron"], -1)
    medians = np.full(len(numbers), np.nan)
    known = np.isfinite(numbers).any(axis=1)
    if known.any():
        medians[known] = np.nanmedian(numbers[known], axis=1)
    return (
        xr.DataArray(medians, dims="neuron", coords={"neuron": values["neuron"].values}).reindex(neuron=neurons).values
    )


def _first(values: xr.DataArray, dims: Sequence[str] = ()) -> xr.DataArray:
    """The first of everything beside checkpoint, neuron and ``dims``: the first stimulus, the first channel."""
    return values.isel({dim: 0 for dim in values.dims if dim not in ("checkpoint", "neuron", *dims)})


def _middle_over(values: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """The median over some axes of the values that there are; NaN where there is none."""
    over = [dim for dim in dims if dim in values.dims]
    if not over or values.dtype.kind not in "fiu":
        return values.isel(dict.fromkeys(over, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a median of nothing is NaN, which is what is meant
        return values.median(over, keep_attrs=True)


def _of(at: Mapping[str, Any]) -> str:
    return ", ".join(f"{dim} {label}" for dim, label in at.items())

"""The numbers behind a picture, as a file that lies in the page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import as_text
from pipeline.pictures.page import LARGEST_NUMBERS, Markup, numbers
from pipeline.pictures.sections.outcome import Outcome

#: Bytes of the maps of one picture: at most, and what the smallest map of a page may take.
LARGEST_MAPS, SMALL_MAPS = 400_000, 100_000
#: Part of a map's room on the page that those of one picture may take beside its thumbnails.
SHARE_OF_ROOM = 3

#: Where maps are that the page has no room for.
MAPS_ELSEWHERE = "pipeline.open_cube has the maps."


def maps_behind(entry: Outcome, what: str, maps: xr.DataArray) -> Markup:
    """A link to maps: a row for each place on all their axes but the last, whose labels are the columns."""
    largest = min(LARGEST_MAPS, max(SMALL_MAPS, entry.room // SHARE_OF_ROOM))
    fixed = {str(dim): maps[dim].values[()] for dim in entry.gradmap.dims if dim in maps.coords and not maps[dim].dims}
    return numbers(f"{entry.cohort}-{entry.name}-{what}", _laid_out(maps, fixed), largest, MAPS_ELSEWHERE)


def values_behind(entry: Outcome, what: str, found: Mapping[str, xr.DataArray]) -> Markup:
    """A link to numbers over the same axes: a row for each place on them, a column for each number."""
    first = next(iter(found.values()))
    columns = _places(first)
    columns |= {name: values.transpose(*first.dims).values for name, values in found.items()}
    return numbers(f"{entry.cohort}-{entry.name}-{what}", columns, LARGEST_NUMBERS)


def _places(values: xr.DataArray) -> dict[str, Any]:
    """The labels of each place of an array, by the names of its axes."""
    labels = [values[dim].values for dim in values.dims]
    return dict(zip(map(str, values.dims), np.meshgrid(*labels, indexing="ij"), strict=True))


def _laid_out(maps: xr.DataArray, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a table of maps; ``fixed`` are the labels that all of them share."""
    along = maps.dims[-1]
    first = maps.isel({along: 0}, drop=True)
    columns = {name: np.full(first.shape, label) for name, label in fixed.items()} | _places(first)
    unit = maps[along].attrs.get("units", "")
    for at, label in enumerate(maps[along].values):
        columns[f"{along} {as_text(label)} {unit}".strip()] = maps.values[..., at]
    return columns

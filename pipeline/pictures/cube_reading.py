"""What a cube says about its maps: which are done, which failed, and which are not to be trusted."""

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import xarray as xr

from pipeline.numbers.comparing import label_text
from pipeline.words import (
    DEGREES,
    DONE,
    FAILED,
    PENDING,
    STATES,
    Degree,
    Flag,
    axis_named,
    axis_of,
    flags_of,
    health_name,
    map_names,
    owner_of,
    status_name,
)

#: The standing of a map that is done and has a health flag, by the flag's degree; the others are those of its status.
NOTICE, INCOMPLETE, WRONG, EMPTY = (1 + max(STATES.values()) + k for k in range(4))
_BY_DEGREE: dict[Degree, int] = {"notice": NOTICE, "incomplete": INCOMPLETE, "wrong": WRONG, "no map": EMPTY}

#: Standings in words, from the best to the worst.
STANDINGS = {
    DONE: "done",
    NOTICE: "done, with a notice",
    INCOMPLETE: "incomplete",
    WRONG: "wrong",
    EMPTY: "no map",
    PENDING: "not computed",
    FAILED: "failed",
}

#: Standings of maps that were computed; of those that may be measured; and of those that are not to be trusted.
COMPUTED = (DONE, NOTICE, INCOMPLETE, WRONG, EMPTY)
#: Standings of maps that may be relied on.
TRUSTED = (DONE, NOTICE)
#: Standings of maps that may not.
UNTRUSTED = (INCOMPLETE, WRONG, EMPTY)


def metadata_names(data: xr.Dataset | xr.DataArray, dim: str) -> list[str]:
    """The names of the further coordinates along ``dim``, in alphabetical order."""
    return sorted(str(name) for name, coord in data.coords.items() if coord.dims == (dim,) and name != dim)


def map_named(cube: xr.Dataset, name: str) -> xr.DataArray:
    """The map of that name, or refuse with the names that there are."""
    if name not in cube.data_vars:
        known = ", ".join(map(repr, map_names(cube))) or "none"
        raise ValueError(
            f"the cube holds no map {name!r}, so there is nothing to draw; its maps are: {known}; name one of them"
        )
    return cube[name]


def own_dims(gradmap: xr.DataArray) -> tuple[str, ...]:
    """The dimensions of one single map: (frequency, lag), or its lag in samples."""
    if "frequency" in gradmap.dims and "lag" in gradmap.dims:
        return ("frequency", "lag")
    samples = [str(dim) for dim in gradmap.dims if axis_of(dim) == "waveform_lag"]
    if len(samples) == 1:
        return (samples[0],)
    raise ValueError(
        f"an array with the dimensions {tuple(gradmap.dims)} is neither a map over (frequency, lag) nor one over"
        " waveform_lag, so its axes have no meaning here; pass a map variable of a cube, such as cube['strf']"
    )


def standing(cube: xr.Dataset, name: str) -> xr.DataArray:
    """Standing of each map: failed, pending or done, and if a health flag speaks against it, how much.

    Codes are the keys of `STANDINGS`; of several flags the worst counts. The dimensions are those of ``<map>_status``:
    a map around several sounds stands once for each. Maps without a status count as done.
    """
    if _status_of(cube, name) in cube:
        code = _integers(cube[_status_of(cube, name)])
    else:
        gradmap = map_named(cube, name)
        dims = [dim for dim in gradmap.dims if dim not in (*own_dims(gradmap), "channel")]
        labels = {key: coord for key, coord in gradmap.coords.items() if set(coord.dims) <= set(dims)}
        shape = [gradmap.sizes[dim] for dim in dims]
        code = xr.DataArray(np.full(shape, DONE), dims=dims, coords=labels)
    if _health_of(cube, name) in cube:
        health = cube[_health_of(cube, name)]
        bits = _integers(health).transpose(*code.dims)
        code = code.copy(data=np.where(code.values == DONE, _degree_codes(bits.values, health.attrs), code.values))
    return code.astype(np.int8).rename(f"{name}_standing")


def _status_of(cube: xr.Dataset, name: str) -> str:
    return status_name(owner_of(cube, name))


def _health_of(cube: xr.Dataset, name: str) -> str:
    return health_name(owner_of(cube, name))


def _degree_codes(bits: np.ndarray, attributes: Mapping[Any, Any]) -> np.ndarray:
    """The standing that flags give a map that is done; a bit without a meaning counts as wrong."""
    masks = dict.fromkeys(DEGREES, 0)
    for flag in flags_of(attributes):
        masks[flag.degree] |= flag.bit
    masks["wrong"] |= ~reduce(or_, masks.values())
    codes = np.full(bits.shape, DONE, dtype=np.int8)
    for degree in reversed(tuple(DEGREES)):
        codes[(bits & masks[degree]) != 0] = _BY_DEGREE[degree]
    return codes


def placed(values: xr.DataArray) -> xr.DataArray:
    """Values over (checkpoint, neuron, ...), also where a cube has only one of either and no axis for it."""
    for dim, label in (("checkpoint", "this checkpoint"), ("neuron", "all neurons")):
        if dim not in values.dims:
            values = values.drop_vars(dim, errors="ignore").expand_dims({dim: [label]})
    return values.transpose("checkpoint", "neuron", ...)


def best_standing(codes: xr.DataArray) -> xr.DataArray:
    """The standing per (checkpoint, neuron) of the best of its maps: one that can be used says that some can."""
    codes = placed(codes)
    others = [dim for dim in codes.dims if dim not in ("checkpoint", "neuron")]
    if not others:
        return codes
    order = np.array(list(STANDINGS))
    ranks = codes.copy(data=np.argsort(order)[codes.values]).min(others)
    return ranks.copy(data=order[ranks.values])


def standing_at(cube: xr.Dataset, name: str, labels: Mapping[str, Any]) -> int:
    """The standing of the map at ``labels``, as `standing` does for all maps."""
    code = _number_at(cube, _status_of(cube, name), labels, DONE)
    bits = _number_at(cube, _health_of(cube, name), labels, 0)
    if code != DONE or not bits:
        return code
    return int(_degree_codes(np.array(bits), cube[_health_of(cube, name)].attrs))


def flags(cube: xr.Dataset, name: str) -> dict[Flag, xr.DataArray]:
    """Maps that carry each health flag; empty where the cube records no health.

    Only maps that are done have a health.
    """
    if _health_of(cube, name) not in cube:
        return {}
    health = cube[_health_of(cube, name)]
    bits = _integers(health)
    if _status_of(cube, name) in cube:
        bits = bits.where(_integers(cube[_status_of(cube, name)]) == DONE, 0)
    return {flag: (bits & flag.bit) != 0 for flag in flags_of(health.attrs)}


def in_words(flag: Flag) -> str:
    """The name of a flag as people write it."""
    return flag.name.replace("_", " ")


def flags_at(cube: xr.Dataset, name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags that the map at ``labels`` carries, in words; empty where nothing speaks against it."""
    if _health_of(cube, name) not in cube:
        return ()
    health = cube[_health_of(cube, name)]
    bits = _number_at(cube, _health_of(cube, name), labels, 0)
    words = tuple(in_words(flag) for flag in flags_of(health.attrs) if bits & flag.bit)
    return words or (("health flag without a meaning",) if bits else ())


def at_labels(array: xr.DataArray, labels: Mapping[str, Any]) -> xr.DataArray:
    """The entry at ``labels``; other names are left aside, dimensions without one taken at position 0."""
    known = {dim: label for dim, label in labels.items() if dim in array.dims}
    for dim, label in known.items():
        known_label(array, dim, label)
    picked = array.sel(known)
    keep = own_dims(array) if _is_map(array) else ()
    return picked.isel({dim: 0 for dim in picked.dims if dim not in keep})


def known_label(array: xr.DataArray, dim: Hashable, label: object) -> None:
    """Refuse a label that ``array`` does not have on ``dim``."""
    if label not in array[dim].values:
        labels = array[dim].values
        some = ", ".join(str(value) for value in labels[:5])
        raise ValueError(
            f"no {dim} is called {label!r}, so its map cannot be drawn; the cube has {labels.size}"
            f" ({some}{', ...' if labels.size > 5 else ''}); name one of these"
        )


def group_labels(coords: xr.Dataset | xr.DataArray, by: str | None) -> list[str]:
    """Value of the metadata ``by`` of each checkpoint as text; one empty text each where there is none."""
    count = coords.sizes.get("checkpoint", 1)
    if by is None or by not in coords.coords or coords.coords[by].dims != ("checkpoint",):
        return [""] * count
    return [label_text(value) for value in coords.coords[by].values.tolist()]


def failures(cube: xr.Dataset) -> list[dict[str, str]]:
    """The failures that the cube records by checkpoint, map and cause, one mapping of texts each."""
    recorded = decoded(cube.attrs.get("failures", "{}"))
    if isinstance(recorded, Mapping):
        recorded = recorded.get("entries", ())
    entries: Sequence[Any] = recorded if isinstance(recorded, (list, tuple)) else [recorded]
    return [
        {str(key): as_text(value) for key, value in entry.items()}
        if isinstance(entry, Mapping)
        else {"message": as_text(entry)}
        for entry in entries
    ]


def omitted_failures(cube: xr.Dataset) -> dict[str, int]:
    """How many failures of each cause the cube counts without keeping their messages."""
    recorded = decoded(cube.attrs.get("failures", "{}"))
    counts = recorded.get("omitted", {}) if isinstance(recorded, Mapping) else {}
    return {str(cause): int(count) for cause, count in counts.items()}


def decoded(value: Any) -> Any:
    """An attribute that holds JSON as the value it stands for, and any other as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def as_text(value: Any) -> str:
    """A value of an attribute or of a coordinate as one line of text, an empty one where it is missing."""
    if isinstance(value, str):
        return value
    if isinstance(value, (float, np.floating)):
        return label_text(value) if np.isnan(value) or float(value).is_integer() else f"{value:.4g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _number_at(cube: xr.Dataset, name: str, labels: Mapping[str, Any], otherwise: int) -> int:
    return int(np.nan_to_num(at_labels(cube[name], labels).values)) if name in cube else otherwise


def _integers(array: xr.DataArray) -> xr.DataArray:
    # a reader that masks fill values turns flags into floats with NaN
    values = array.values
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
    return xr.DataArray(values.astype(np.int64), coords=array.coords, dims=array.dims)


def _is_map(array: xr.DataArray) -> bool:
    dims: list[Hashable] = list(array.dims)
    return ("frequency" in dims and "lag" in dims) or axis_named("waveform_lag", dims) is not None

"""Digests by which a store knows again what was written into it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from pipeline.words import COMPANIONS

#: Bytes beside each other that are digested as one piece.
FEW_BYTES = 4096


def values_digest(values: np.ndarray) -> str:
    """Digest of labels or metadata, whatever their chunks."""
    if values.dtype.kind in "biuf":
        content = f"{values.dtype.str} {values.shape}".encode() + _canonical(values).tobytes()
    else:
        content = json.dumps([str(entry) for entry in values.ravel()], ensure_ascii=False).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def map_digests(
    dims: tuple[str, ...],
    variables: Mapping[str, xr.Variable],
    companions: Mapping[str, np.ndarray],
    endings: Iterable[str],
) -> np.ndarray:
    """Digest of each single map of a region with the numbers beside it, over the axes of its status.

    Parameters
    ----------
    dims
        Axes of the status.
    variables
        What the region holds, by name, over axes of the map.
    companions
        By their endings, as a report carries them. One that is not given counts as its fill value.
    endings
        The companions that the map has.
    """
    shape = tuple(_sizes(variables)[dim] for dim in dims)
    beside = {name: companion_values(name, companions.get(name), shape) for name in endings}
    return entry_digests(dims, {**variables, **{name: xr.Variable(dims, values) for name, values in beside.items()}})


def companion_values(ending: str, numbers: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """A companion of a region as the cube holds it.

    Raises `ValueError` if it does not have one number per entry of the region.
    """
    dtype = COMPANIONS[ending].dtype
    if numbers is None:
        return np.full(shape, COMPANIONS[ending].fill, dtype)
    values = np.asarray(numbers, dtype=dtype)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(
            f"{ending} has the shape {values.shape} for a shard of {shape[1:]} entries, so it cannot be placed; give"
            " one number per neuron (and stimulus)"
        )
    return values.reshape(shape)


def entry_digests(dims: Sequence[str], variables: Mapping[str, xr.Variable]) -> np.ndarray:
    """Digest of what several variables hold at each position along some axes; 0 stands for none.

    What a variable without one of these axes holds counts at every position of it.
    """
    sizes = _sizes(variables)
    shape = tuple(sizes[dim] for dim in dims)
    count = int(np.prod(shape))
    rows: list[np.ndarray] = []
    for name in sorted(variables):
        lacking = {dim: sizes[dim] for dim in dims if dim not in variables[name].dims}
        whole = variables[name].set_dims({**lacking, **variables[name].sizes}) if lacking else variables[name]
        values = _canonical(whole.transpose(*dims, ...).values)
        row = values.reshape(count, -1).view(np.uint8)
        # Bytes that follow each other are one piece, as far as copying them costs less than telling of them one by one.
        if rows and rows[-1].shape[1] + row.shape[1] <= FEW_BYTES:
            rows[-1] = np.concatenate([rows[-1], row], axis=1)
        else:
            rows.append(row)
    found = np.empty(count, np.uint64)
    for position in range(count):
        digest = hashlib.blake2b(digest_size=8)
        for row in rows:
            digest.update(row[position].data)
        found[position] = int.from_bytes(digest.digest(), "little") or 1
    return found.reshape(shape)


def _sizes(variables: Mapping[str, xr.Variable]) -> dict[str, int]:
    return {str(dim): size for entry in variables.values() for dim, size in entry.sizes.items()}


def _canonical(values: np.ndarray) -> np.ndarray:
    """The same numbers in one row of bytes, whatever the machine's order of bytes and the bits of a NaN."""
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        if missing.any():
            values = np.where(missing, np.array(np.nan, values.dtype), values)
    return values

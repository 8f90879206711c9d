"""The objects that are put together here are, byte for byte, those that Zarr itself writes."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import GzipCodec, ZstdCodec
from zarr.storage import MemoryStore

from pipeline.store.backend import keys_below, read_many
from pipeline.store.object_bytes import encoding_of
from pipeline.store.regions import _parts, object_grid, object_keys


def array_of(shape, chunks, shards=None, dtype="float32", fill=np.nan, compressors=None):
    return zarr.create_array(
        MemoryStore(),
        name="map",
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        fill_value=fill,
        compressors=ZstdCodec(checksum=True) if compressors is None else compressors,
        config={"write_empty_chunks": True},
    )


def objects_of(array):
    keys = keys_below(array.store, "map/c")
    return dict(zip(keys, read_many(array.store, keys), strict=True))


def ours(array, values, index):
    encoding = encoding_of(array)
    grid = object_grid(array)
    keys = object_keys(array, grid, index)
    return {key: encoding.encoded(part) for key, part in zip(keys, _parts(values, grid), strict=True)}


@given(
    neurons=st.integers(1, 23),
    per_chunk=st.integers(1, 5),
    chunks=st.integers(1, 5),
    bands=st.integers(1, 4),
    kind=st.sampled_from([("float32", np.nan), (">f4", np.nan), ("float64", np.nan), ("int32", -1), ("uint8", 0)]),
    sharded=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_objects_are_those_of_zarr(neurons, per_chunk, chunks, bands, kind, sharded):
    dtype, fill = kind
    extent = (1, per_chunk * chunks, bands)
    chunk = (1, per_chunk, bands) if sharded else extent
    array = array_of((2, neurons, bands), chunk, extent if sharded else None, dtype, fill)
    values = (100 * np.random.default_rng(0).random((1, neurons, bands))).astype(dtype)
    index = (slice(1, 2), slice(0, neurons), slice(0, bands))
    array[index] = values
    assert ours(array, values, index) == objects_of(array)


def test_a_chunk_of_nothing_but_the_fill_value_is_there():
    array = array_of((1, 6), (1, 2), (1, 6), "float32", 0.0)
    values = np.zeros((1, 6), np.float32)
    array[:] = values
    assert ours(array, values, (slice(0, 1), slice(0, 6))) == objects_of(array)


@pytest.mark.parametrize(
    "array",
    [
        array_of((1, 6), (1, 2), compressors=GzipCodec()),
        array_of((4, 6), (2, 2), (4, 6)),
        array_of((1, 6), (1, 2), (1, 6), compressors=GzipCodec()),
        array_of((6,), (2,), dtype=str, fill=""),
    ],
    ids=["gzip", "chunks along two axes", "gzip inside", "text"],
)
def test_arrays_of_another_kind_are_left_to_zarr(array):
    assert encoding_of(array) is None

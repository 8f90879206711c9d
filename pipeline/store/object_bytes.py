"""One object of an array as Zarr lays it down: its chunks, compressed, and after them where each one lies.

Zarr hands each step of each chunk from thread to thread, which takes as long as compressing. A region consists of whole
objects whose chunks are all there, so that they can be put together in one go. The format is that of the Zarr v3
specification, with its codecs ``bytes``, ``zstd``, ``sharding_indexed`` and ``crc32c``.
"""

from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd

#: What stands for the place and the length of a chunk that an object does not hold.
ABSENT = 2**64 - 1


@dataclass(frozen=True)
class Encoding:
    """How the objects of one array are made of numbers.

    ``extent`` is that of one object along each axis, ``chunk`` that of one chunk inside it, None where an object is one
    chunk.
    """

    extent: tuple[int, ...]
    chunk: tuple[int, ...] | None
    dtype: np.dtype
    fill: Any
    compressor: Zstd

    def encoded(self, values: np.ndarray) -> bytes:
        """The bytes of an object that holds these numbers; at the end of the array they are fewer than its extent."""
        if self.chunk is None:
            return self._compressed(values, self.extent)
        counts = tuple(whole // part for whole, part in zip(self.extent, self.chunk, strict=True))
        index = np.full((*counts, 2), ABSENT, dtype="<u8")
        pieces, begun = [], 0
        for place in np.ndindex(*counts):
            part = values[tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, self.chunk, strict=True))]
            if part.size:
                pieces.append(self._compressed(part, self.chunk))
                index[place] = begun, len(pieces[-1])
                begun += len(pieces[-1])
        told = index.tobytes()
        return b"".join([*pieces, told, google_crc32c.value(told).to_bytes(4, "little")])

    def _compressed(self, values: np.ndarray, shape: tuple[int, ...]) -> bytes:
        """One chunk, filled up to its shape."""
        if values.shape != shape:
            whole = np.full(shape, self.fill, dtype=self.dtype)
            whole[tuple(slice(0, size) for size in values.shape)] = values
            values = whole
        compressed: bytes = self.compressor.encode(np.ascontiguousarray(values, dtype=self.dtype))
        return compressed


def encoding_of(array: zarr.Array) -> Encoding | None:
    """How the objects of an array are made; None where that is another way than that of our own arrays."""
    codecs, chunk = _named(array.metadata.to_dict()["codecs"]), None
    extent = tuple(array.chunks if array.shards is None else array.shards)
    if array.dtype.kind not in "biuf" or array.order != "C":
        return None
    if [name for name, _ in codecs] == ["sharding_indexed"]:
        sharding, chunk = codecs[0][1], tuple(array.chunks)
        index = [name for name, _ in _named(sharding["index_codecs"])]
        several = [whole for whole, part in zip(extent, chunk, strict=True) if whole != part]
        # Along several axes chunks do not lie in the order of their places.
        if index != ["bytes", "crc32c"] or sharding["index_location"] != "end" or len(several) > 1:
            return None
        codecs = _named(sharding["codecs"])
    if [name for name, _ in codecs] != ["bytes", "zstd"] or codecs[0][1].get("endian", "little") != "little":
        return None
    compressor = Zstd(level=codecs[1][1]["level"], checksum=codecs[1][1]["checksum"])
    return Encoding(extent, chunk, array.dtype.newbyteorder("<"), array.fill_value, compressor)


def _named(codecs: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and settings of codecs."""
    return [(codec["name"], codec.get("configuration", {})) for codec in codecs]

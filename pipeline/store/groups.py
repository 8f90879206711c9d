"""One cohort's group as it stands in the store, and the metadata that makes it readable."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from pipeline.plan.config import ConfigError
from pipeline.store.array_specs import BOOKKEEPING, ArraySpec
from pipeline.store.backend import (
    METADATA,
    DamagedStoreError,
    delete_below,
    is_local,
    keys_below,
    make_folder,
    names_in,
    open_store,
    parse_json,
    read_json,
    read_many,
    scrub,
    storage_errors,
    write_json,
    write_many,
)
from pipeline.words import DONE, ENSEMBLE, map_of, status_name

#: Format of the stores that this version writes and reads. 2: maps know their stimuli by content.
FORMAT = 2

#: Group that exists while a driver holds the store; no cohort can have this name.
LEASE = "_lease"

READY, CREATING, CHANGING = "ready", "creating", "changing"


class NoStoreError(ValueError, OSError):
    """There is no store of gradmaps, or none any more."""


@dataclass(frozen=True)
class Group:
    """A cohort's group: its attributes, and the metadata of each array by name.

    ``copied`` says that the metadata are the root's copy, which a reader need not ask for again.
    """

    store: Store
    location: str
    name: str
    attributes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    copied: bool = False

    @property
    def state(self) -> str:
        """Whether the group is ready, being created, or being changed."""
        return str(self.attributes.get("state", READY))

    def with_role(self, *roles: str) -> list[str]:
        """Names of the arrays that serve one of these roles."""
        return [name for name, entry in self.arrays.items() if entry["attributes"].get("role") in roles]

    def labels(self) -> list[str]:
        """Ids of its checkpoints, in their order."""
        return [str(label) for label in self.read("checkpoint")]

    def maps(self) -> list[str]:
        """Names of the maps, each of which has a status."""
        return sorted(map_of(name, self.array_attributes(name)) for name in self.with_role("status"))

    def rows_of(self, map_name: str) -> np.ndarray:
        """Which rows of ``checkpoint`` a map is computed for: single checkpoints, or ensembles over a label."""
        over = str(self.array_attributes(status_name(map_name)).get(ENSEMBLE, ""))
        column = next((name for name in self.with_role("metadata") if self._source(name) == ENSEMBLE), None)
        if column is None:
            return np.full(self.shape("checkpoint"), not over)
        return self.read(column) == over

    def _source(self, name: str) -> str:
        return str(self.array_attributes(name).get("source", ""))

    def variables(self, map_name: str) -> list[str]:
        """Names of the arrays that the shards of a map write."""
        written = self.with_role("map", "measure")
        return [name for name in written if map_of(name, self.array_attributes(name)) == map_name]

    def dims(self, name: str) -> tuple[str, ...]:
        """Axes of an array."""
        return tuple(self.arrays[name].get("dimension_names") or ())

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of an array's axes."""
        return tuple(self.arrays[name]["shape"])

    def array_attributes(self, name: str) -> dict[str, Any]:
        """Attributes of an array."""
        return self.arrays[name]["attributes"]

    def open(self, name: str) -> zarr.Array:
        """The array itself."""
        if name not in self.arrays:
            raise DamagedStoreError(
                f"the cohort {self.name!r} of {scrub(self.location)} has no {name!r}, so what it holds cannot be told;"
                " look at it with `gradmap verify`, which can restore the description of a lost array"
            )
        path, mode = f"{self.name}/{name}", "r" if self.store.read_only else "r+"
        with storage_errors(self.location):
            found = self._as_copied(path, name) if self.copied else zarr.open_array(self.store, path=path, mode=mode)
        # An absent chunk must mean that it is lost, wherever it is not the map itself.
        return found.with_config({"write_empty_chunks": self.array_attributes(name).get("role") != "map"})

    def _as_copied(self, path: str, name: str) -> zarr.Array:
        try:
            return zarr.Array.from_dict(StorePath(self.store, path), dict(self.arrays[name]))
        except Exception as error:  # a damaged description fails in many ways
            raise DamagedStoreError(
                f"the root of {scrub(self.location)} does not describe {path} as an array ({type(error).__name__}:"
                f" {error}), so it cannot be read; look at the store with `gradmap verify`"
            ) from error

    def opened(self, without: Collection[str] = ()) -> zarr.Group:
        """The group itself, which knows its arrays as they are described here, but for those of some roles."""
        kept = {name: entry for name, entry in self.arrays.items() if entry["attributes"].get("role") not in without}
        entries = _inline({name: dict(entry) for name, entry in kept.items()})
        document = {**_group(self.attributes), "consolidated_metadata": entries}
        return zarr.Group(zarr.AsyncGroup.from_dict(StorePath(self.store, self.name), document))

    def read(self, name: str) -> np.ndarray:
        """Every entry of an array; text as an object array of str."""
        return read_values(self.open(name), self.location)

    def checkpoints_with_done(self) -> set[str]:
        """Ids of the checkpoints that hold at least one done entry."""
        found = np.zeros(self.shape("checkpoint"), dtype=bool)
        for name in self.with_role("status"):
            status = self.read(name)
            found |= (status == DONE).any(axis=tuple(range(1, status.ndim)))
        return {label for label, done in zip(self.labels(), found, strict=True) if done}

    def document(self, key: str) -> Any:
        """An attribute that is stored as JSON text; an empty dict where there is none."""
        text = str(self.attributes.get(key, "{}"))
        return parse_json(text.encode(), f"the attribute {key!r} in {self.name}/{METADATA} of {scrub(self.location)}")


def read_values(array: zarr.Array, where: str) -> np.ndarray:
    """Every entry of an array; text as an object array of str.

    Raises `DamagedStoreError` if it cannot be decoded.
    """
    try:
        with storage_errors(where):
            values = np.asarray(array[...])
    except OSError:
        raise
    except Exception as error:
        raise DamagedStoreError(
            f"{array.path} of {scrub(where)} cannot be decoded ({error}), so what the store holds cannot be told; look"
            " at it with `gradmap verify`, and restore it from a copy or mend it with `gradmap verify --requeue`"
        ) from error
    return text_as_objects(values)


def text_as_objects(values: np.ndarray) -> np.ndarray:
    """Numbers as they are, and text as an object array of str."""
    return values if values.dtype.kind in "biuf" else values.astype(object)


def read_group(store: Store, location: str, name: str) -> Group | None:
    """The group of a cohort as it stands now, None where there is none."""
    metadata = read_json(store, f"{name}/{METADATA}")
    if metadata is None or metadata.get("node_type") != "group":
        return None
    names = [entry for entry in names_in(store, name) if entry != METADATA]
    entries = read_many(store, [f"{name}/{entry}/{METADATA}" for entry in names])
    found = {
        entry: _checked_array(data, f"{name}/{entry}/{METADATA} in {store}")
        for entry, data in zip(names, entries, strict=True)
        if data is not None
    }
    arrays = {entry: document for entry, document in found.items() if document.get("node_type") == "array"}
    return Group(store, location, name, metadata.get("attributes", {}), arrays)


def _checked_array(data: bytes, what: str) -> dict[str, Any]:
    """What some metadata say; refused where they say that they are an array's and do not describe one."""
    document = parse_json(data, what)
    if document.get("node_type") != "array":
        return document
    try:
        complete = _describes_an_array(data)
    except Exception as error:  # a damaged description fails in many ways
        raise DamagedStoreError(
            f"{what} does not describe an array ({type(error).__name__}: {error}), so what is stored there cannot be"
            " read; restore it from a copy, or delete it and let `gradmap verify --requeue` write it anew"
        ) from error
    assert complete
    return document


@lru_cache(maxsize=4096)
def _describes_an_array(data: bytes) -> bool:
    """Whether metadata are whole; remembered by their bytes, which are the same in every cohort of a kind."""
    document = json.loads(data)
    ArrayV3Metadata.from_dict(dict(document))
    return isinstance(document["attributes"]["role"], str)


def _read_all(store: Store, keys: list[str]) -> list[dict[str, Any] | None]:
    return [
        None if data is None else parse_json(data, f"{key} in {store}")
        for key, data in zip(keys, read_many(store, keys), strict=True)
    ]


def cohort_names(store: Store) -> list[str]:
    """Names of the cohorts in a store."""
    names = [name for name in names_in(store) if name not in (METADATA, LEASE) and not name.endswith(".partial")]
    documents = _read_all(store, [f"{name}/{METADATA}" for name in names])
    return [
        name
        for name, document in zip(names, documents, strict=True)
        if document is not None and document.get("node_type") == "group"
    ]


def copied_in(root: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a root tells of each cohort, under its name, and of each array, under ``<cohort>/<array>``."""
    entries: dict[str, Any] = (root or {}).get("consolidated_metadata", {}).get("metadata", {})
    return entries


def copies(store: Store) -> dict[str, dict[str, Any]]:
    """What the root tells of every array, by cohort."""
    by_cohort: dict[str, dict[str, Any]] = {}
    for key, entry in copied_in(read_json(store, METADATA)).items():
        cohort, _, array = key.partition("/")
        if array:
            by_cohort.setdefault(cohort, {})[array] = entry
    return by_cohort


def copied_group(store: Store, location: str, name: str, arrays: Mapping[str, Any] | None) -> Group | None:
    """The group of a cohort with its arrays as the root describes them: one object read instead of one per array.

    None where the root has no description of it, as of a group that was not finished.
    """
    if not arrays:
        return None
    metadata = read_json(store, f"{name}/{METADATA}")
    if metadata is None or metadata.get("attributes", {}).get("state") != READY:
        return None
    return Group(store, location, name, metadata["attributes"], dict(arrays), copied=True)


def claim_root(store: Store, location: str) -> bool:
    """Whether the root of the store had to be made; a folder that holds something else is refused."""
    if _has_root(store, location):
        return False
    attributes = {"gradmap_format": FORMAT, "title": "gradmaps, one group per cohort"}
    make_folder(location)
    write_json(store, METADATA, _root(attributes, {}))
    return True


def refuse_place(location: str) -> None:
    """Refuse a place that a run could not write its store to, as far as that is known without asking a storage.

    Raises `ConfigError` if a folder holds something else, what stands above it is no folder, or a URL has no package to
    open it with.
    """
    store = open_store(location)
    if is_local(location):
        _has_root(store, location)


def _has_root(store: Store, location: str) -> bool:
    """Whether a store is there; anything else that is there is refused."""
    if is_local(location):
        above = next(place for place in (Path(location), *Path(location).parents) if os.path.lexists(place))
        if not above.is_dir():
            which = "is" if above == Path(location) else f"would lie below {above}, which is"
            raise ConfigError(
                f"the store {location} {which} a file, and a store is a folder; give another path as store"
            )
    root = read_json(store, METADATA)
    if root is not None:
        if "gradmap_format" not in root.get("attributes", {}):
            raise ConfigError(
                f"{scrub(location)} holds a Zarr hierarchy that this program did not make, and writing into it could"
                " destroy it; give another store"
            )
        check_format(root, location)
        return True
    others = [name for name in names_in(store) if not name.endswith(".partial")]
    if others and not any(_is_ours(store, name) for name in cohort_names(store)):
        shown = ", ".join(others[:5])
        raise ConfigError(
            f"{scrub(location)} is not empty ({shown}{', ...' if len(others) > 5 else ''}) and is not a store of"
            " gradmaps, so files could be mixed up; give a folder or prefix of its own as store"
        )
    return False


def _is_ours(store: Store, cohort: str) -> bool:
    document = read_json(store, f"{cohort}/{METADATA}") or {}
    return "gradmap_format" in document.get("attributes", {})


def check_format(root: dict[str, Any], location: str) -> None:
    found = root["attributes"]["gradmap_format"]
    if found != FORMAT:
        raise ConfigError(
            f"{scrub(location)} has format {found!r} and this version of gradmap-pipeline reads format {FORMAT}, so"
            " its numbers could be misread; use the version that wrote it, or another store"
        )


def create_arrays(store: Store, cohort: str, specs: Sequence[ArraySpec]) -> None:
    """Create arrays of a group, with their checksummed codec and their values.

    They are made in memory first, as Zarr would ask an object store several questions before each of them.
    """
    memory = MemoryStore()
    for spec in specs:
        array = zarr.create_array(
            memory,
            name=spec.name,
            shape=spec.shape,
            chunks=spec.chunks,
            shards=spec.shards,
            dtype=str if spec.dtype == "str" else spec.dtype,
            fill_value=spec.fill,
            compressors=ZstdCodec(checksum=True),
            dimension_names=spec.dims,
            attributes=dict(spec.attributes),
            zarr_format=3,
            config={"write_empty_chunks": spec.role != "map"},
        )
        if spec.values is not None and spec.values.size:
            array[...] = spec.values
        elif spec.role in BOOKKEEPING and 0 not in spec.shape:
            array[...] = spec.fill
    keys = [key for key in keys_below(memory, "") if key != METADATA]
    objects = dict(zip(keys, read_many(memory, keys), strict=True))
    write_many(store, {f"{cohort}/{key}": data for key, data in objects.items() if data is not None})


def delete_array(store: Store, cohort: str, name: str) -> None:
    """Remove an array of a group with everything in it."""
    delete_below(store, f"{cohort}/{name}")


def clear_group(store: Store, cohort: str) -> None:
    """Remove everything of a group but what says that it is being created."""
    for name in names_in(store, cohort):
        if name != METADATA:
            delete_below(store, f"{cohort}/{name}")


def resize(group: Group, checkpoints: int) -> None:
    """Give every array of a group this many checkpoints, and the driver's own their new chunks."""
    for name, metadata in group.arrays.items():
        dims = group.dims(name)
        if "checkpoint" in dims:
            shape = [
                checkpoints if dim == "checkpoint" else size for dim, size in zip(dims, metadata["shape"], strict=True)
            ]
            if shape != metadata["shape"]:
                write_json(group.store, f"{group.name}/{name}/{METADATA}", {**metadata, "shape": shape})
                if group.array_attributes(name)["role"] in (*BOOKKEEPING, "summary"):
                    _fill_new_chunks(group, name, metadata["shape"][0], checkpoints)


def _fill_new_chunks(group: Group, name: str, before: int, now: int) -> None:
    array = group.open(name)
    rows = array.chunks[0]
    with storage_errors(group.location):
        for start in range(-(-before // rows) * rows, now, rows):
            array[start : min(start + rows, now)] = array.fill_value


def write_attributes(store: Store, cohort: str, attributes: dict[str, Any]) -> None:
    """Replace a group's attributes."""
    write_json(store, f"{cohort}/{METADATA}", _group(attributes))


def consolidate(store: Store, cohorts: Collection[str] | None = None) -> None:
    """Copy the metadata of every array into the root, if it differs.

    Plain `xr.open_zarr` and `xr.open_datatree` read it there in one piece, so a reader sees a cohort as it was before
    a change or after it, and never in between.

    ``cohorts``: The ones that may have changed; what the root says of the others stays. By default every one.
    """
    root = read_json(store, METADATA) or {}
    names = cohort_names(store)
    stays = set() if cohorts is None else set(names) - set(cohorts)
    entries = {key: entry for key, entry in copied_in(root).items() if key.partition("/")[0] in stays}
    for name, group in _finished_groups(store, [name for name in names if name not in stays]):
        entries[name] = {**_group(group.attributes), "consolidated_metadata": _inline({})}
        entries |= {f"{name}/{array}": metadata for array, metadata in group.arrays.items()}
    document = _root(root.get("attributes", {}), entries)
    if document != root:
        write_json(store, METADATA, document)


def is_consolidated(store: Store) -> bool:
    """Whether the copy of the metadata in the root agrees with the cohorts."""
    return copies_arrays(store) and not behind(store)


def copies_arrays(store: Store) -> bool:
    """Whether the root describes the arrays of every cohort as they are."""
    copied = copies(store)
    return all(
        copied.get(name, {}).get(array) == metadata
        for name, group in _finished_groups(store, cohort_names(store))
        for array, metadata in group.arrays.items()
    )


def behind(store: Store) -> list[str]:
    """Cohorts whose attributes are not those that the root has of them.

    Recording changes the attributes of a cohort first and those in the root afterwards, so a command that was stopped
    in between leaves this behind; no array is concerned.
    """
    copied = copied_in(read_json(store, METADATA))
    groups = _finished_groups(store, cohort_names(store))
    return [name for name, group in groups if copied.get(name, {}).get("attributes") != group.attributes]


def _finished_groups(store: Store, names: Iterable[str]) -> list[tuple[str, Group]]:
    groups = ((name, read_group(store, "", name)) for name in names)
    return [(name, group) for name, group in groups if group is not None and group.state == READY]


def copy_attributes(store: Store, changed: Mapping[str, dict[str, Any]]) -> None:
    """Bring the attributes of groups, by cohort, up to date in the copy that the root holds."""
    root = read_json(store, METADATA) if changed else None
    entries = copied_in(root)
    known = {cohort: attributes for cohort, attributes in changed.items() if cohort in entries}
    for cohort, attributes in known.items():
        entries[cohort]["attributes"] = attributes
    if root is not None and known:
        write_json(store, METADATA, root)


def _root(attributes: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    ordered = dict(sorted(entries.items(), key=lambda entry: (entry[0].count("/"), entry[0])))
    return {**_group(attributes), "consolidated_metadata": _inline(ordered)}


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _inline(entries: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": entries}

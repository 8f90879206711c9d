"""What a store remembers of the checkpoints that it was made of, beside its cubes."""

from typing import Any

from zarr.abc.store import Store

from pipeline.store.backend import DamagedStoreError, delete_object, open_store, read_json, write_json

#: Where it lies in the store.
PLACE = "_checkpoints.json"


def read_memory(location: str) -> dict[str, Any] | None:
    """What the store at a location remembers; None where it is not there, or not readable any more."""
    try:
        return read_json(open_store(location), PLACE)
    except DamagedStoreError:
        return None


def write_memory(store: Store, content: dict[str, Any] | None) -> None:
    """Have a store remember this, in place of what it did; nothing for None."""
    if content is None:
        delete_object(store, PLACE)
    else:
        write_json(store, PLACE, content)

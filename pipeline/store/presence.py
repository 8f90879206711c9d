"""Objects that were written and are gone: without a word they would read as numbers that were never computed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.store import Store

from pipeline.plan.shard_reports import span
from pipeline.store.backend import DamagedStoreError, exist, scrub, storage_errors
from pipeline.store.digests import values_digest
from pipeline.store.groups import Group, text_as_objects
from pipeline.store.open_store import open_existing
from pipeline.words import axis_of

_LABELS = "`gradmap run` with its config writes labels anew that the config knows; or restore the file from a copy"
_SUMMARIES = "`gradmap verify --requeue` takes it out of the store, and `gradmap summarise` measures again"
_MAPS = (
    "`gradmap verify` names all that is gone or damaged, and after `gradmap verify --requeue` a run computes it again"
)

#: What is to be done about an array of which an object is gone, by its role; `_MAPS` for the others.
_CURES = {"coordinate": _LABELS, "metadata": _LABELS, "summary": _SUMMARIES}

#: Axes whose labels tell whose numbers are gone.
_TOLD = ("checkpoint", "neuron", "stimulus")


@dataclass(frozen=True)
class Objects:
    """The objects that an array of a store consists of, as far as a reader has to know them."""

    store: Store
    location: str
    cohort: str
    name: str
    role: str
    dims: tuple[str, ...]
    grid: tuple[int, ...]
    fill: Any

    @classmethod
    def of(cls, group: Group, name: str) -> "Objects":
        """Those of an array of a group."""
        entry, attributes = group.arrays[name], group.array_attributes(name)
        grid = tuple(entry["chunk_grid"]["configuration"]["chunk_shape"])  # of shards, where an array has them
        role = str(attributes.get("role", ""))
        return cls(group.store, group.location, group.name, name, role, group.dims(name), grid, entry["fill_value"])

    def refuse_gone(self, values: np.ndarray, places: Sequence[np.ndarray], claimed: np.ndarray | None = None) -> None:
        """Refuse what was read where an object of it is gone.

        An object is asked for only where all that was read of it is the fill value, so that reading costs no more.

        Parameters
        ----------
        values
            What was read, with every axis of the array.
        places
            Positions along each axis.
        claimed
            Which of them are recorded as written, of the same shape; all by default.

        Raises
        ------
        DamagedStoreError
            Naming what is gone.
        """
        suspects = list(self._unfilled(values, places, claimed))
        keys = ["/".join((self.cohort, self.name, "c", *map(str, place))) for place in suspects]
        gone = [place for place, there in zip(suspects, exist(self.store, keys), strict=True) if not there]
        if gone:
            self._refuse(gone)

    def _unfilled(
        self, values: np.ndarray, places: Sequence[np.ndarray], claimed: np.ndarray | None
    ) -> Iterator[tuple[int, ...]]:
        """Objects of which nothing but the fill value was read where something is recorded as written."""
        if not values.size:
            return
        cut = [np.unique(place // extent, return_index=True) for place, extent in zip(places, self.grid, strict=True)]
        # One entry of each object tells almost always that it is there.
        firsts = self._is_fill(values[np.ix_(*(first for _, first in cut))])
        for at in np.argwhere(firsts):
            place = tuple(int(numbers[k]) for (numbers, _), k in zip(cut, at, strict=True))
            where = tuple(
                np.flatnonzero(positions // extent == k)
                for positions, extent, k in zip(places, self.grid, place, strict=True)
            )
            part = np.ix_(*where)
            if (claimed is None or claimed[part].any()) and self._is_fill(values[part]).all():
                yield place

    def _is_fill(self, values: np.ndarray) -> np.ndarray:
        # What is missing by the CF conventions was made NaN on the way here.
        missing = values != values if values.dtype.kind in "fcO" else np.zeros(values.shape, dtype=bool)
        return missing if self.fill == "NaN" else missing | (values == self.fill)

    def _refuse(self, gone: Sequence[tuple[int, ...]]) -> None:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        whose = self._whose(gone[0])
        raise DamagedStoreError(
            f"{self.cohort}/{self.name}/c/{'/'.join(map(str, gone[0]))}{more} of {scrub(self.location)} is gone"
            f"{f' ({whose})' if whose else ''}, so what is recorded as written would read as if it had never been;"
            f" {_CURES.get(self.role, _MAPS)}"
        )

    def _whose(self, place: Sequence[int]) -> str:
        """Whose numbers lay in an object, where the labels can be told."""
        parts = []
        try:
            group = open_existing(self.location, held=self.store).group(self.cohort)
            for dim, at, extent in zip(self.dims, place, self.grid, strict=True):
                if axis_of(dim) in _TOLD and self.role not in _CURES:
                    labels = group.read(dim)[at * extent : (at + 1) * extent]
                    parts.append(span(axis_of(dim), tuple(map(str, labels))))
        except (OSError, ValueError):
            return ""
        return ", ".join(parts)


@contextmanager
def decoding(what: str, location: str, role: str) -> Iterator[None]:
    """Errors of what cannot be decoded, in words that say what it is; those of a storage stay errors of the system."""
    try:
        with storage_errors(location):
            yield
    except (OSError, MemoryError, DamagedStoreError):
        raise
    except Exception as error:  # what is damaged fails in many ways
        raise DamagedStoreError(
            f"{what} of {scrub(location)} cannot be decoded ({error}), so what it holds cannot be told;"
            f" {_CURES.get(role, _MAPS)}"
        ) from error


def refuse_foreign_labels(group: Group, read: Mapping[str, np.ndarray]) -> None:
    """Refuse coordinates that are not those that were recorded: maps would stand under other labels.

    Raises
    ------
    DamagedStoreError
        Naming the first of them.
    """
    recorded = group.document("label_digests")
    for name, values in read.items():
        if name in recorded and values_digest(text_as_objects(values)) != recorded[name]:
            raise DamagedStoreError(
                f"{group.name}/{name} of {scrub(group.location)} is not what was recorded: its file is gone or from"
                f" elsewhere, so maps would stand under wrong labels; {_LABELS}"
            )

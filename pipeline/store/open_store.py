"""A store that is there: its place, its cohorts, and the group of each."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from pipeline.store.backend import METADATA, DamagedStoreError, location_of, open_store, read_json, scrub
from pipeline.store.groups import (
    READY,
    Group,
    NoStoreError,
    check_format,
    cohort_names,
    copied_group,
    copies,
    read_group,
)


@dataclass(frozen=True)
class OpenStore:
    """A store of gradmaps and its location in its normal form."""

    store: Store
    location: str

    def cohorts(self) -> list[str]:
        """Names of its cohorts.

        Raises
        ------
        DamagedStoreError
            If one of them is gone, so that what is made of the others would pass for the whole.
        """
        names = cohort_names(self.store)
        lost = [name for name in copies(self.store) if name not in names]
        if lost:
            raise DamagedStoreError(
                f"of {scrub(self.location)} the cohorts {', '.join(lost[:5])} are gone ({len(lost)} in all), so what is"
                " made of the others would pass for the whole; `gradmap run` with their config computes them anew, and"
                " `gradmap verify --requeue` takes them off the store's list"
            )
        return names

    def group(self, cohort: str, *, any_state: bool = False) -> Group:
        """The group of a cohort, as it stands now.

        Raises `ValueError` if there is no such cohort, or a change of it was not finished.
        """
        return self._group(cohort, copies(self.store), any_state)

    def _group(self, cohort: str, copied: Mapping[str, Mapping[str, Any]], any_state: bool) -> Group:
        group = copied_group(self.store, self.location, cohort, copied.get(cohort))
        group = group or read_group(self.store, self.location, cohort)
        if group is None:
            known = ", ".join(self.cohorts()) or "none yet"
            raise ValueError(
                f"the store {scrub(self.location)} has no cohort {cohort!r} (its cohorts: {known}), so there is nothing"
                " to open; check the name, or run a config that names it"
            )
        if group.state != READY and not any_state:
            raise ValueError(
                f"the cohort {cohort!r} of {scrub(self.location)} is {group.state}: a run is laying it out now, or was"
                " killed while it did, so its axes may disagree; wait for that run, or start `gradmap run` again to"
                " mend it"
            )
        return group

    def groups(
        self, cohorts: Iterable[str] | None = None, *, any_state: bool = False, copied: bool = True
    ) -> Iterator[Group]:
        """The groups of some cohorts, or of all, one after the other; what the root says of them is read once.

        ``any_state``: Also those whose change was not finished. ``copied``: By the root's copy of their metadata, where
        it has one; otherwise every array is asked for its own. Raises `ValueError` as `group`, when it comes to the
        one.
        """
        told = copies(self.store) if copied else {}
        return (self._group(name, told, any_state) for name in (self.cohorts() if cohorts is None else cohorts))


def open_existing(store: str | Path, *, writable: bool = False, held: Store | None = None) -> OpenStore:
    """The store at a location.

    ``held``: The store as the holder of its lease writes it. Raises `NoStoreError` if there is no store of gradmaps.
    """
    location = location_of(store)
    opened = held or open_store(location, writable=writable)
    root = read_json(opened, METADATA)
    if root is None or "gradmap_format" not in root.get("attributes", {}):
        found = "nothing there" if root is None else "a Zarr hierarchy of something else"
        raise NoStoreError(
            f"there is no store of gradmaps at {scrub(location)} ({found}), so there is nothing to read;"
            " check the path, or make the store with `gradmap run CONFIG`"
        )
    check_format(root, location)
    return OpenStore(opened, location)

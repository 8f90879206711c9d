"""What goes out: the cubes of a run in a Zarr store, laid out, written, recorded, read and checked."""

from pipeline.store.backend import clean_partials
from pipeline.store.cube import create_or_extend
from pipeline.store.findings import Finding, Verification
from pipeline.store.lease import Lease, LeaseLostError, StoreBusyError, hold_lease
from pipeline.store.places import ABSENT, align
from pipeline.store.reader import open_cube, open_cubes
from pipeline.store.record import record
from pipeline.store.regions import NonFiniteError, RegionError, label, write_region
from pipeline.store.status import (
    Backlog,
    CohortStatus,
    Counts,
    Failure,
    MapStatus,
    backlog,
    store_status,
)
from pipeline.store.summaries import write_summaries
from pipeline.store.verify import verify_store

__all__ = [
    "ABSENT",
    "Backlog",
    "CohortStatus",
    "Counts",
    "Failure",
    "Finding",
    "Lease",
    "LeaseLostError",
    "MapStatus",
    "NonFiniteError",
    "RegionError",
    "StoreBusyError",
    "Verification",
    "align",
    "backlog",
    "clean_partials",
    "create_or_extend",
    "hold_lease",
    "label",
    "open_cube",
    "open_cubes",
    "record",
    "store_status",
    "verify_store",
    "write_region",
    "write_summaries",
]

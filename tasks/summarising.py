"""Measures of every map of a store, block by block of checkpoints, on Ray where the store is large."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

#: Bytes of maps that are measured at once, and from which on a store is measured on Ray.
BLOCK_BYTES = 128 * 2**20
#: Bytes of maps above which a summary says how long it will take.
LARGE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Part:
    """Neighbouring checkpoints of one cohort that are measured together, without entries under a threshold."""

    cohort: str
    start: int
    stop: int
    threshold: float = 0.0


def summarise_store(
    location: str,
    *,
    table: Path | None = None,
    select: Sequence[str] = (),
    threshold: float = 0.0,
    address: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> pd.DataFrame:
    """The tidy table of a store's summaries, which are also written into its cubes.

    Parameters
    ----------
    table
        Where the table is written, Parquet or CSV by its ending.
    select
        Rules that rows of the table must meet, such as ``"cc_test > 0.3"``; the cubes hold every row.
    threshold
        Robust standard deviations under which an entry of an STRF map is taken as 0.
    address
        A Ray cluster to measure on. By default a store of more than `LARGE_BYTES` is measured on a Ray of its own.
    say
        Takes sentences about the progress.

    Raises
    ------
    ValueError
        If the store, a rule or the ending of the table is not right.
    """
    from pipeline.numbers.strf import StrfSettings
    from pipeline.numbers.tables import check_table_path, population_table, write_table
    from pipeline.store.lease import hold_lease
    from pipeline.store.reader import open_cubes
    from pipeline.store.summaries import write_summaries

    if table is not None:
        check_table_path(table)
    StrfSettings(threshold=threshold)  # refused before anything is measured
    cohorts = _cohorts(location)
    with hold_lease(location, owner="gradmap summarise") as lease:
        parts = [part for cohort in cohorts for part in _parts(location, cohort, threshold)]
        measured: dict[str, list[xr.Dataset]] = {cohort: [] for cohort in cohorts}
        for number, (part, summaries) in enumerate(_measured(location, parts, address), start=1):
            measured[part.cohort].append(summaries)
            say(f"{number} of {len(parts)} blocks of checkpoints measured")
        for cohort, found in measured.items():
            if found:
                summaries = xr.concat(found, "checkpoint", combine_attrs="override")
                write_summaries(location, cohort, summaries, held=lease.store)
    rows = population_table(open_cubes(location), list(select) or None)
    if table is not None:
        write_table(rows, table)
    return rows


def _cohorts(location: str) -> list[str]:
    from pipeline.store.opened import open_existing

    return open_existing(location).cohorts()


def _parts(location: str, cohort: str, threshold: float = 0.0) -> Iterator[Part]:
    from pipeline.numbers.tables import maps_per_neuron
    from pipeline.store.reader import open_cube

    cube = open_cube(location, cohort)
    checkpoints = cube.sizes["checkpoint"]
    if not maps_per_neuron(cube) or checkpoints == 0:
        return
    bytes_each = sum(cube[name].nbytes for name in maps_per_neuron(cube)) / checkpoints
    length = max(1, int(BLOCK_BYTES / max(1.0, bytes_each)))
    for start in range(0, checkpoints, length):
        yield Part(cohort, start, min(start + length, checkpoints), threshold)


def _measured(location: str, parts: Sequence[Part], address: str | None) -> Iterator[tuple[Part, xr.Dataset]]:
    """The summaries of every part, in order."""
    if address is None and len(parts) * BLOCK_BYTES < LARGE_BYTES:
        for part in parts:
            yield part, measure_part(location, part)
        return
    import ray

    from tasks.session import attached_ray, cluster_address, local_ray

    where = cluster_address(address)
    with local_ray() if where is None else attached_ray(where):
        task: Any = ray.remote(num_cpus=1, max_retries=2)(measure_part)
        waiting = [(part, task.remote(location, part)) for part in parts]
        for part, reference in waiting:
            yield part, ray.get(reference)


def measure_part(location: str, part: Part) -> xr.Dataset:
    """The summaries of a few checkpoints, in memory."""
    from pipeline.numbers.strf import StrfSettings
    from pipeline.numbers.tables import summarise
    from pipeline.store.reader import open_cube

    # In memory at once: a block is small by its making, and lazy steps over a hundred measures cost more than it.
    cube = open_cube(location, part.cohort).isel(checkpoint=slice(part.start, part.stop)).load()
    found = summarise(cube, settings=StrfSettings(threshold=part.threshold)).filter_by_attrs(role="summary")
    wanted = {str(dim) for variable in found.data_vars.values() for dim in variable.dims}
    return found.drop_vars([name for name in found.coords if name not in wanted])

"""Measures of every map of a store, block by block of checkpoints, on all cores where there is much to measure."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from pipeline.words import COUNTED_AXES, axis_of
from tasks.progress import LINE_EVERY_S

#: Bytes of maps that are measured at once.
BLOCK_BYTES = 32 * 2**20

#: Maps from which on all cores measure: starting their processes takes as long as measuring a few thousand.
MANY_MAPS = 10_000

#: Maps that a process is given at least, so that opening the store costs it little.
MAPS_PER_TASK = 2_000


@dataclass(frozen=True)
class Part:
    """Neighbouring checkpoints of one cohort that are measured together, without entries under a threshold."""

    cohort: str
    start: int
    stop: int
    maps: int = 0
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
        A Ray cluster to measure on. By default a store of more than `MANY_MAPS` maps is measured by as many processes
        as there are cores.
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
    from pipeline.store.reader import open_maps
    from pipeline.store.summaries import write_summaries

    if table is not None:
        check_table_path(table)
    StrfSettings(threshold=threshold)  # refused before anything is measured
    with hold_lease(location, owner="gradmap summarise") as lease:
        cubes = open_maps(location)
        parts = [part for cohort, cube in cubes.items() for part in _parts(cohort, cube, threshold)]
        measured: dict[str, list[xr.Dataset]] = {}
        for part, summaries in _told(_measured(location, cubes, parts, address), len(parts), say):
            measured.setdefault(part.cohort, []).append(summaries)
        joined = {cohort: _joined(found) for cohort, found in measured.items()}
        say("writing the measures")
        write_summaries(location, joined, held=lease.store)
    rows = population_table(_with_summaries(location, cubes, joined), list(select) or None)
    if table is not None:
        write_table(rows, table)
    return rows


def _parts(cohort: str, cube: xr.Dataset, threshold: float = 0.0) -> Iterator[Part]:
    from pipeline.numbers.tables import maps_per_neuron

    checkpoints, names = cube.sizes["checkpoint"], maps_per_neuron(cube)
    if not names or checkpoints == 0:
        return
    bytes_each = sum(cube[name].nbytes for name in names) / checkpoints
    length = max(1, int(BLOCK_BYTES / max(1.0, bytes_each)))
    each = sum(prod(cube.sizes[dim] for dim in cube[name].dims if axis_of(dim) in COUNTED_AXES[1:]) for name in names)
    for start in range(0, checkpoints, length):
        stop = min(start + length, checkpoints)
        yield Part(cohort, start, stop, each * (stop - start), threshold)


def _told(
    measured: Iterator[tuple[Part, xr.Dataset]], total: int, say: Callable[[str], None]
) -> Iterator[tuple[Part, xr.Dataset]]:
    """What is measured, with a line now and then."""
    last = time.monotonic()
    for number, found in enumerate(measured, start=1):
        if time.monotonic() - last > LINE_EVERY_S or number == total:
            last = time.monotonic()
            say(f"{number:,} of {total:,} blocks of checkpoints measured")
        yield found


def _joined(found: Sequence[xr.Dataset]) -> xr.Dataset:
    return found[0] if len(found) == 1 else xr.concat(found, "checkpoint", combine_attrs="override")


def _with_summaries(
    location: str, cubes: Mapping[str, xr.Dataset], measured: Mapping[str, xr.Dataset]
) -> dict[str, xr.Dataset]:
    """Cubes without their maps and with their summaries: those just measured, and what others have put beside them."""
    from pipeline.store.reader import open_maps

    found = {}
    for cohort, cube in open_maps(location, cubes, without=("map",)).items():
        summaries = measured.get(cohort, xr.Dataset())
        others = cube.drop_vars([name for name in summaries.variables if name not in cube.dims]).load()
        found[cohort] = others.assign(summaries.data_vars).assign_coords(summaries.coords)
    return found


def _measured(
    location: str, cubes: Mapping[str, xr.Dataset], parts: Sequence[Part], address: str | None
) -> Iterator[tuple[Part, xr.Dataset]]:
    """The summaries of every part, in order."""
    if address is not None:
        yield from _on_ray(location, parts, address)
        return
    workers = min(cores(), len(parts))
    if workers < 2 or sum(part.maps for part in parts) < MANY_MAPS:
        for part in parts:
            yield part, measure_part(cubes[part.cohort], part)
        return
    # Not forked: threads of Zarr and of OpenMP do not survive it.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = iter(_tasks(parts))
        # Two tasks a process are on their way, so that no more is held than they bring.
        waiting = [(task, pool.submit(measure_parts, location, task)) for task in islice(tasks, 2 * workers)]
        while waiting:
            task, promised = waiting.pop(0)
            found = promised.result()
            waiting += [(more, pool.submit(measure_parts, location, more)) for more in islice(tasks, 1)]
            yield from zip(task, found, strict=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_ray(location: str, parts: Sequence[Part], address: str) -> Iterator[tuple[Part, xr.Dataset]]:
    import ray

    from tasks.session import attached_ray, cluster_address

    where = cluster_address(address)
    assert where is not None
    with attached_ray(where):
        task: Any = ray.remote(num_cpus=1, max_retries=2)(measure_parts)
        waiting = [(some, task.remote(location, some)) for some in _tasks(parts)]
        for some, reference in waiting:
            yield from zip(some, ray.get(reference), strict=True)


def _tasks(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbouring parts, as many as one process measures at a time."""
    task: list[Part] = []
    for part in parts:
        task.append(part)
        if sum(one.maps for one in task) >= MAPS_PER_TASK:
            yield task
            task = []
    if task:
        yield task


def measure_parts(location: str, parts: Sequence[Part]) -> list[xr.Dataset]:
    """The summaries of several parts, in a process of their own."""
    from pipeline.store.reader import open_maps

    cubes = open_maps(location, dict.fromkeys(part.cohort for part in parts))
    return [measure_part(cubes[part.cohort], part) for part in parts]


def measure_part(cube: xr.Dataset, part: Part) -> xr.Dataset:
    """The summaries of a few checkpoints, in memory."""
    from pipeline.numbers.strf import StrfSettings
    from pipeline.numbers.tables import summarise

    # In memory at once: a block is small by its making, and lazy steps over a hundred measures cost more than it.
    block = cube.isel(checkpoint=slice(part.start, part.stop)).load()
    found = summarise(block, settings=StrfSettings(threshold=part.threshold)).filter_by_attrs(role="summary")
    wanted = {str(dim) for variable in found.data_vars.values() for dim in variable.dims}
    return found.drop_vars([name for name in found.coords if name not in wanted])

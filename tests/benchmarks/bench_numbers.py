"""All STRF summaries of a stored population: 300 checkpoints of 119 neurons, 34 bands, 40 lags.

    python tests/benchmarks/bench_numbers.py [--checkpoints 300] [--workers 2] [--json FILE]

Maps come from a Zarr store on disk, one object per checkpoint, and are read and measured chunk by chunk on two threads.
Processor seconds are given beside the seconds on the wall, as other work on the machine lengthens only these.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

NEURONS, BANDS, LAGS = 119, 34, 40


def write_population(store: Path, checkpoints: int) -> None:
    """Fields with noise, written one checkpoint at a time."""
    random = np.random.default_rng(0)
    frequency, lag = np.geomspace(500.0, 20000.0, BANDS), np.arange(LAGS) * 5.0
    octaves = np.log2(frequency)[:, None] - np.linspace(9.5, 13.5, NEURONS)[:, None, None]
    fields = np.exp(-0.5 * (octaves / 0.4) ** 2 - 0.5 * ((lag - 40.0) / 15.0) ** 2) * np.cos(octaves + lag / 20.0)
    for number in range(checkpoints):
        maps = (fields + 0.1 * random.standard_normal(fields.shape)).astype("f4")[None]
        part = xr.Dataset(
            {"strf": (("checkpoint", "neuron", "frequency", "lag"), maps, {"kind": "strf"})},
            coords={"checkpoint": [number], "neuron": np.arange(NEURONS), "frequency": frequency, "lag": lag},
        )
        if number == 0:
            part.to_zarr(store, zarr_format=3, consolidated=False)
        else:
            part.to_zarr(store, zarr_format=3, consolidated=False, append_dim="checkpoint")


def measure(store: Path, workers: int) -> dict[str, float]:
    """Seconds on the wall and of the processors, and how far the process grew."""
    from pipeline.numbers.tables import summarise

    population = xr.open_zarr(store, consolidated=False, chunks={"checkpoint": 1})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processors = time.perf_counter(), time.process_time()
    found = summarise(population).compute(num_workers=workers)
    wall, processors = time.perf_counter() - wall, time.process_time() - processors
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert int((found["strf_degenerate"] == 0).sum()) == population["strf"][..., 0, 0].size
    return {
        "maps": float(found["strf_norm"].size),
        "measures": float(len(found.filter_by_attrs(kind="summary").data_vars)),
        "wall_s": wall,
        "processor_s": processors,
        "maps_mib": population["strf"].nbytes / 2**20,
        "numbers_mib": found.nbytes / 2**20,
        "grown_mib": grown / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "population.zarr"
        write_population(store, arguments.checkpoints)
        figures = measure(store, arguments.workers)
    print(
        f"{figures['maps']:.0f} maps, {figures['measures']:.0f} measures: {figures['wall_s']:.1f} s on the wall,"
        f" {figures['processor_s']:.1f} s of processors, {figures['maps'] / figures['wall_s']:.0f} maps/s;"
        f" the process grew by {figures['grown_mib']:.0f} MiB for {figures['maps_mib']:.0f} MiB of maps and"
        f" {figures['numbers_mib']:.0f} MiB of numbers; load {os.getloadavg()[0]:.1f}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

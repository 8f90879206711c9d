"""Small runs as plain data, and numbers that tell where they belong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.plan.axes import Axis
from pipeline.plan.config import CheckpointsConfig, RunConfig
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import Stimuli
from pipeline.plan.run_plan import Checkpoint, CheckpointSource, CohortPlan, MapPlan, RunPlan, VariablePlan
from pipeline.plan.shard_reports import ShardReport
from pipeline.plan.shards import Shard
from pipeline.store.digests import map_digests
from pipeline.store.regions import label, write_region
from pipeline.store.status import backlog

HEALTH = {"all_zero": 1, "truncated": 2}


def pending_shards(plan: RunPlan) -> list[Shard]:
    """The shards of a plan that are still to be computed."""
    return backlog(plan).pending


def checkpoint(name: str, *, fingerprint: str | None = None, error: str | None = None, **scalars: Any) -> Checkpoint:
    """A checkpoint of that id."""
    source = CheckpointSource(name, f"/checkpoints/{name}", CheckpointsConfig(path="checkpoints/*"), "here")
    return Checkpoint(source, fingerprint or f"print of {name}", scalars=scalars, error=error)


def laid_out_map(
    name: str,
    settings: dict[str, Any],
    axes: Sequence[Axis],
    blocks: dict[str, int],
    *,
    stimuli: Stimuli | None = None,
    inner: int | None = None,
) -> MapPlan:
    """A map with one variable, cut into blocks; ``inner`` is the number of neurons in a chunk inside an object."""
    by_name = {axis.name: axis for axis in axes}
    config = KINDS[settings["kind"]](**settings)
    (asked,) = config.variables(by_name)
    extent = {"checkpoint": 1, **{axis.name: blocks.get(axis.name, len(axis)) for axis in axes}}
    variable = VariablePlan(
        name=name,
        suffix="",
        dims=tuple(extent),
        chunks=tuple(extent.values()),
        inner_chunks=None if inner is None else tuple((extent | {"neuron": inner}).values()),
        long_name=asked.long_name,
        units=asked.units,
    )
    cut = {axis: length for axis, length in extent.items() if axis in ("neuron", "stimulus")}
    return MapPlan(name, config, by_name, (variable,), cut, stimuli or Stimuli())


def strf(
    n_neurons: int,
    bands: int,
    lags: int,
    *,
    name: str = "strf",
    block: int | None = None,
    inner: int | None = None,
    **settings: Any,
) -> MapPlan:
    """A map around null."""
    each = (Axis("neuron", neuron_names(n_neurons)),) if settings.get("neurons") != "sum" else ()
    axes = (
        *each,
        Axis("frequency", tuple(100.0 * 2.0**i for i in range(bands))),
        Axis("lag", tuple(10.0 * i for i in range(lags))),
    )
    return laid_out_map(name, {"kind": "strf", **settings}, axes, {"neuron": block or n_neurons}, inner=inner)


def waveform(
    stimuli: Sequence[str],
    n_neurons: int,
    samples: int,
    *,
    name: str = "waveform",
    block: int | None = None,
    stimuli_block: int = 1,
    **settings: Any,
) -> MapPlan:
    """A map around sounds."""
    heard = Stimuli(tuple(stimuli), sample_rate=8000.0)
    axes = (
        heard.axis(),
        Axis("neuron", neuron_names(n_neurons)),
        Axis("waveform_lag", tuple(i / 8.0 for i in range(samples))),
    )
    given = {"kind": "waveform", "objective": "peak", "stimuli": "sounds/*.wav", **settings}
    blocks = {"stimulus": stimuli_block, "neuron": block or n_neurons}
    return laid_out_map(name, given, axes, blocks, stimuli=heard)


def neuron_names(count: int) -> tuple[str, ...]:
    """Labels of that many neurons."""
    return tuple(f"n{i:03d}" for i in range(count))


def cohort(
    names: Sequence[str] = ("a", "b", "c"),
    *,
    n_neurons: int = 5,
    bands: int = 4,
    lags: int = 3,
    block: int | None = 2,
    stimuli: Sequence[str] = ("hiss", "word"),
    checkpoints: Sequence[Checkpoint] | None = None,
    maps: Sequence[MapPlan] | None = None,
    **given: Any,
) -> CohortPlan:
    """A cohort with a map around null and one around two sounds."""
    entries = tuple(checkpoints if checkpoints is not None else [checkpoint(name) for name in names])
    if maps is None:
        maps = [strf(n_neurons, bands, lags, block=block)]
        if stimuli:
            maps.append(waveform(stimuli, n_neurons, 6))
    made: dict[str, Any] = {
        "name": "speech",
        "frame_ms": 10.0,
        "lags": lags,
        "neurons": neuron_names(n_neurons),
        "frequencies_hz": tuple(100.0 * 2.0**i for i in range(bands)),
        **given,
    }
    shared = {
        "neuron": Axis("neuron", made["neurons"]),
        "frequency": Axis("frequency", made["frequencies_hz"]),
        "lag": Axis("lag", tuple(made["frame_ms"] * i for i in range(lags))),
    }
    placed = tuple(
        replace(entry, axes={dim: shared.get(dim, axis) for dim, axis in entry.axes.items()}) for entry in maps
    )
    return CohortPlan(**made, checkpoints=entries, maps=placed)


def run_plan(store: str | Path, *cohorts: CohortPlan, text: str = "store = 'x'\n") -> RunPlan:
    """A run that writes these cohorts."""
    cohorts = cohorts or (cohort(),)
    config = RunConfig(
        store=str(store),
        cohort=tuple(
            {"name": c.name, "frame_ms": c.frame_ms, "lags": c.lags, "frequencies_hz": c.frequencies_hz,
             "checkpoints": [{"path": "checkpoints/*"}]}
            for c in cohorts
        ),
        maps={"strf": {"kind": "strf"}},
        text=text,
    )  # fmt: skip
    return RunPlan(str(store), tuple(cohorts), config)


def numbers(plan: RunPlan, shard: Shard) -> np.ndarray:
    """Numbers of a map with one variable; they depend on the checkpoint's id, the map and the position alone."""
    return arrays(plan, shard)[shard.map]


def arrays(plan: RunPlan, shard: Shard) -> dict[str, np.ndarray]:
    """Numbers of each variable of a shard's map."""
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    identity = plan.cohort(shard.cohort).checkpoints[shard.checkpoint].id
    region = shard.region(entry)
    found = {}
    for variable in entry.computed:
        seed = abs(sum(ord(letter) * 31**i for i, letter in enumerate(identity + variable.name))) % 2**32
        rows = np.random.default_rng(seed).standard_normal(entry.shape(variable, 1)[1:], dtype=np.float32)
        found[variable.name] = rows[tuple(region[dim] for dim in variable.dims[1:])]
    return found


def labelled(plan: RunPlan, shard: Shard, block: np.ndarray | None = None) -> xr.DataArray:
    """Numbers of a map with one variable under their labels; those of `numbers` by default."""
    return label(plan, shard, {shard.map: numbers(plan, shard) if block is None else block})[shard.map]


def write(plan: RunPlan, shard: Shard, values: xr.DataArray | None = None) -> None:
    """Write the one variable of a map; the numbers of `numbers` by default."""
    write_region(plan, shard, {shard.map: labelled(plan, shard) if values is None else values})


def companions(plan: RunPlan, shard: Shard) -> dict[str, np.ndarray]:
    """Companions of a shard, of the right shapes."""
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    region = shard.region(entry)
    shape = tuple(region[dim].stop - region[dim].start for dim in entry.status_dims[1:])
    return {
        "health": np.full(shape, 2, np.uint16),
        "memory_90": np.full(shape, 40.0, np.float32),
        "memory_99": np.full(shape, 80.0, np.float32),
        "oldest_share": np.full(shape, 0.01, np.float32),
        "frame": np.full(shape, 7, np.int32),
    }


def probe(plan: RunPlan, shard: Shard) -> np.ndarray:
    """The probe of a shard's checkpoint."""
    return np.linspace(0.5, 1.0, len(plan.cohort(shard.cohort).neurons)) + shard.checkpoint


def done(plan: RunPlan, shard: Shard) -> ShardReport:
    """The report of a shard that was written."""
    beside = companions(plan, shard)
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    variables = {name: values.variable for name, values in label(plan, shard, arrays(plan, shard)).items()}
    digests = map_digests(entry.status_dims, variables, beside, entry.settings.companions)
    return ShardReport(
        shard, route="factored", companions=beside, probe=probe(plan, shard).astype(np.float32), digests=digests
    )

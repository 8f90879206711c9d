"""Gradients and their health as the engine gives them, made into the arrays of a map."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.gradients.gradmaps import Gradmaps
from pipeline.gradients.health import Health
from pipeline.run.job import Computed, Job


@dataclass(frozen=True)
class Batch:
    """The maps of stimuli of one length and the numbers beside them, all (stimulus, neuron, ...)."""

    values: np.ndarray
    companions: dict[str, np.ndarray]
    route: str
    block: int


def batch_of(maps: Gradmaps, health: Health) -> Batch:
    """What the engine found, in memory."""
    return Batch(
        values=_array(maps.values, "float32"),
        companions={
            "health": _array(health.flags, "uint16"),
            "memory_90": _array(health.memory_lags_90, "float32"),
            "memory_99": _array(health.memory_lags_99, "float32"),
            "oldest_share": _array(health.oldest_share, "float32"),
            "frame": _array(maps.frames, "int32"),
        },
        route=maps.route,
        block=maps.block,
    )


def _array(tensor: Tensor, dtype: str) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(dtype, copy=False)


def joined(job: Job, batches: list[Batch], lag_step_ms: float) -> Computed:
    """The batches of a shard as its one array and its companions, times in ms.

    Parameters
    ----------
    lag_step_ms
        Time from one lag of the map to the next.
    """
    values = np.concatenate([batch.values for batch in batches]) if len(batches) > 1 else batches[0].values
    return Computed(
        arrays={"": _without_axes(job, values)},
        companions={
            name: _by_neuron(
                job, _in_ms(name, np.concatenate([batch.companions[name] for batch in batches]), lag_step_ms)
            )
            for name in batches[0].companions
        },
        route="+".join(dict.fromkeys(batch.route for batch in batches)),
        block=min(batch.block for batch in batches),
    )


def _without_axes(job: Job, values: np.ndarray) -> np.ndarray:
    """The engine's (stimulus, neuron, ...) array without the axes that the map lacks."""
    if "neuron" not in job.map.dims:
        values = values[:, 0]
    return values[0] if job.map.stimulus_dim is None else values


def _in_ms(name: str, values: np.ndarray, lag_step_ms: float) -> np.ndarray:
    """A memory of n lags reaches to the lag (n - 1) steps back; an all-zero map has none."""
    if not name.startswith("memory"):
        return values
    return np.where(values > 0, (values - 1) * np.float32(lag_step_ms), np.float32(np.nan))


def _by_neuron(job: Job, values: np.ndarray) -> np.ndarray:
    """Numbers over (stimulus, neuron) as they accompany the map, over (neuron[, stimulus])."""
    by_neuron = values.T if job.map.stimulus_dim is not None else values[0]
    return by_neuron if "neuron" in job.map.dims else by_neuron[0]


def engine_neurons(job: Job) -> list[int] | str:
    """The neurons in the words of the engine: positions, or their sum where the map has no axis of them."""
    return list(job.neurons) if "neuron" in job.map.dims else "sum"

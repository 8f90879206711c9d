"""Gradients and their health as the engine gives them, made into the arrays of a map."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.gradients.gradmaps import Gradmaps
from pipeline.gradients.health.assessment import Health, assess
from pipeline.gradients.question import Question
from pipeline.numbers.map_reach import reach
from pipeline.plan.map_config import ObjectiveConfigured
from pipeline.run.contract_checks import contract_of
from pipeline.run.job import Computed, Job


@dataclass(frozen=True)
class Batch:
    """The maps of stimuli of one length and the numbers beside them, all (stimulus, neuron, ...)."""

    values: np.ndarray
    companions: dict[str, np.ndarray]
    route: str
    block: int


def gradients_of(
    job: Job,
    question: Question,
    around: Iterable[Tensor | None],
    gradients: Callable[[nn.Module, Any, Question], Gradmaps],
    lag_step_ms: float,
    **contract: Any,
) -> Computed:
    """Gradients and health of the shard's neurons around stimuli, those of one length at a time.

    ``lag_step_ms``: Time from one lag of the map to the next. ``contract``: In what words `contract_of` is asked.
    """
    model, batches = job.model, []
    for stimuli in around:
        known = contract_of(model, job, stimuli, **contract)
        maps = gradients(model, stimuli, question)
        sample = job.engine.finite_difference_neurons
        batches.append(_batch(maps, assess(model, maps, stimuli, question, sample=sample, contract=known), lag_step_ms))
    return _joined(job, batches)


def _batch(maps: Gradmaps, health: Health, lag_step_ms: float) -> Batch:
    """What the engine found, in memory."""
    values = _array(maps.values, "float32")
    return Batch(
        values=values,
        companions={
            "health": _array(health.flags, "uint16"),
            **reach(values, lag_step_ms),
            "future_share": _array(health.future_share, "float32"),
            "frame": _array(maps.frames, "int32"),
        },
        route=maps.route,
        block=maps.block,
    )


def _array(tensor: Tensor, dtype: str) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(dtype, copy=False)


def _joined(job: Job, batches: list[Batch]) -> Computed:
    """The batches of a shard as its one array and its companions."""
    values = np.concatenate([batch.values for batch in batches]) if len(batches) > 1 else batches[0].values
    return Computed(
        arrays={"": _without_axes(job, values)},
        companions={
            name: _by_neuron(job, np.concatenate([batch.companions[name] for batch in batches]))
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


def _by_neuron(job: Job, values: np.ndarray) -> np.ndarray:
    """Numbers over (stimulus, neuron) as they accompany the map, over (neuron[, stimulus])."""
    by_neuron = values.T if job.map.stimulus_dim is not None else values[0]
    return by_neuron if "neuron" in job.map.dims else by_neuron[0]


def question_of(job: Job, asked: ObjectiveConfigured, lags: int | None = None, **further: Any) -> Question:
    """What the engine is asked for the neurons of a shard, or for their sum where the map has no axis of them.

    ``lags``: The window; that of the cohort by default. ``further``: Fields of the question that only some kinds of map
    have.
    """
    return Question(
        lags=job.cohort.lags if lags is None else lags,
        neurons=list(job.neurons) if "neuron" in job.map.dims else "sum",
        objective=asked.engine_objective(),
        dtype=job.dtype,
        memory_bytes=job.memory_bytes,
        **further,
    )

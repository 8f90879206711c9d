"""What deepSTRF's `fit_multi_seed` leaves beside a seed's weights: its number, its losses, its scores per neuron."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.inputs.checkpoint_files import json_beside
from pipeline.inputs.checkpoint_memory import Memory
from pipeline.inputs.files import JSON_BYTES, CheckpointError, join, read_inside, split
from pipeline.inputs.metadata import Metadata, Scalar, read_metadata
from pipeline.plan.urls import is_url

#: Name of a seed's folder.
SEED = re.compile(r"seed[-_]?(\d{1,18})")

#: Scores of the population, and of each neuron.
POPULATION, NEURONS = "final.json", "final_neurons.pt"


def read_training(folder: str, memory: Memory | None = None) -> Metadata:
    """The seed of a folder such as ``seed3``, ``val_loss`` and ``test_cc_mean`` of its final.json, and ``test_cc``, one
    number per neuron, of its final_neurons.pt.

    Nothing is unpickled but tensors, and those that are remembered not at all. Where neither file is there, nothing is
    said.

    Raises `CheckpointError` if a file that is there cannot be read.
    """
    scores = json_beside(folder, POPULATION)
    held = _per_neuron(folder, memory or Memory())
    if scores is None and held is None:
        return Metadata()
    seed = SEED.fullmatch(split(folder)[1])
    said: dict[str, Any] = {} if seed is None else {"seed": int(seed[1])}
    said |= dict(_population(scores or {}))
    said |= held or {}
    return read_metadata(said, join(folder, POPULATION))


def _population(scores: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for part, entries in scores.items():
        for name, value in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(value, bool | int | float | str):
                yield f"{part}_{name}", value
            elif isinstance(value, Mapping) and isinstance(value.get("mean"), int | float):
                yield f"{part}_{name}_mean", value["mean"]


def _per_neuron(folder: str, memory: Memory) -> Mapping[str, list[float]] | None:
    """One number per neuron for each score, by the score's name; None where there is no such file."""
    try:
        content = read_inside(folder, NEURONS, JSON_BYTES)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise CheckpointError(f"{folder} is no folder, so it has no {NEURONS}; mend the path") from error
    if is_url(folder) and not content:
        return None
    key = hashlib.sha256(content).hexdigest()
    known = memory.scores.take(key)
    return memory.scores.keep(key, _read_scores(content, join(folder, NEURONS))) if known is None else known


def _read_scores(content: bytes, path: str) -> dict[str, list[float]]:
    from torch import Tensor

    from pipeline.inputs.weights import read_weights

    return {
        f"{part}_{name}": value.detach().double().tolist()
        for part, entries in read_weights(content, path).items()
        if isinstance(entries, Mapping)
        for name, value in entries.items()
        if isinstance(value, Tensor) and value.ndim == 1
    }

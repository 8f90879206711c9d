"""The model's contract, checked per checkpoint and kind of stimulus: at `plan`, and where maps are computed."""

import weakref
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.gradients.contract import Contract, ContractError, NotFiniteError, check_contract
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.inputs.checkpoints import load_checkpoint
from pipeline.plan.shards import Checkpoint, CohortPlan, MapPlan, RunPlan
from pipeline.run.job import Job
from pipeline.text import of_error

#: What a model is given.
Hearing = Literal["spectrogram", "waveform"]

#: The longest stimulus that is heard for it, in frames: models that count frames wrongly do so long before.
LONGEST = 2000

#: Frames of the stimulus that stands for a sound at `plan`, where the sounds themselves are not read, and the most of a
#: null spectrogram, whose length the engine sees again.
FRAMES_OF_SOUND, MOST_OF_NULL = 64, 40

_known: "weakref.WeakKeyDictionary[nn.Module, dict[object, Contract]]" = weakref.WeakKeyDictionary()


def contract_of(
    model: nn.Module, job: Job, stimuli: Tensor | None, *, hears: Hearing = "spectrogram", level: float = 0.0
) -> Contract:
    """What is known of the model's contract with stimuli of this kind, found out the first time that it is asked.

    Raises
    ------
    ContractError
        If the model breaks it.
    """
    found = _known.setdefault(model, {})
    key = (hears, stimuli is None, level)
    if key not in found:
        rate = job.map.stimuli.sample_rate or 1.0
        positions = 1 if hears == "spectrogram" else max(1, round(rate * job.cohort.frame_ms / 1000.0))
        heard = None if stimuli is None else stimuli[0, ..., : LONGEST * positions]
        found[key] = _checked(model, job.cohort, heard, hears, level)
    return found[key]


def _checked(model: nn.Module, cohort: CohortPlan, heard: Tensor | None, hears: Hearing, level: float) -> Contract:
    frames = FRAMES_OF_SOUND if hears == "waveform" else min(cohort.lags, MOST_OF_NULL)
    try:
        return check_contract(model, heard, frames=frames, level=level, hears=hears, causal=cohort.causal)
    except NotFiniteError:
        return _unchecked(cohort)  # which neuron and stimulus it is, the maps tell
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The engine takes smaller blocks; a few stimuli side by side are already too many for this check.
        return _unchecked(cohort)


def _unchecked(cohort: CohortPlan) -> Contract:
    nobody = torch.zeros(len(cohort.neurons), dtype=torch.bool)
    return Contract(nobody, ~nobody, 0)


def with_contracts(plan: RunPlan, modules: "dict[str, nn.Module]") -> RunPlan:
    """The plan, in which checkpoints that break the contract of their maps have that as their error.

    Parameters
    ----------
    modules
        Modules by fingerprint, of checkpoints that need not be loaded again.
    """
    return replace(
        plan,
        cohorts=tuple(
            replace(cohort, checkpoints=tuple(_judged(cohort, one, modules) for one in cohort.checkpoints))
            for cohort in plan.cohorts
        ),
    )


def _judged(cohort: CohortPlan, checkpoint: Checkpoint, modules: "dict[str, nn.Module]") -> Checkpoint:
    if not checkpoint.usable or checkpoint.members:
        return checkpoint
    try:
        module = modules.get(checkpoint.fingerprint) or load_checkpoint(checkpoint.source)
        found = [_checked(module, cohort, None, hears, 0.0) for hears in dict.fromkeys(map(_hearing, cohort.maps))]
    except KeyboardInterrupt:
        raise
    except ContractError as error:
        return replace(checkpoint, error=str(error))
    except BaseException as error:  # a model's own code may raise anything
        return replace(checkpoint, error=f"its forward pass fails ({of_error(error)}); mend the model, or its entry")
    return replace(checkpoint, frame_bytes=max(contract.frame_bytes for contract in found))


def _hearing(entry: MapPlan) -> Hearing:
    """What a map's models are given."""
    return "waveform" if entry.settings.hears == "sounds" else "spectrogram"

"""The model's contract, checked per checkpoint and kind of stimulus: at `plan`, and where maps are computed."""

import weakref
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.gradients.contract import Contract, ContractError, NotFiniteError, check_contract
from pipeline.gradients.health.raising import raised
from pipeline.gradients.naming import name_of
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.inputs.checkpoints import load_checkpoint
from pipeline.inputs.lab_code import OverdueError, within
from pipeline.plan.run_plan import Checkpoint, CohortPlan, MapPlan, RunPlan
from pipeline.run.job import Job
from pipeline.text import of_error

#: What a model is given.
Hearing = Literal["spectrogram", "waveform"]

#: The longest stimulus that is heard for it, in frames: models that count frames wrongly do so long before.
LONGEST = 2000

#: Frames of the stimulus that stands for a sound at `plan`, where the sounds themselves are not read, and the most of a
#: null spectrogram, whose length the engine sees again.
FRAMES_OF_SOUND, MOST_OF_NULL = 64, 40

#: Seconds that the forward passes of a checkpoint may take at `plan`; they are a few of some dozens of frames.
DEADLINE_S = 40.0

_known: "weakref.WeakKeyDictionary[nn.Module, dict[object, Contract]]" = weakref.WeakKeyDictionary()


def contract_of(
    model: nn.Module, job: Job, stimuli: Tensor | None, *, hears: Hearing = "spectrogram", level: float = 0.0
) -> Contract:
    """What is known of the model's contract with stimuli of this kind, found out the first time that it is asked.

    Raises `ContractError` if the model breaks it.
    """
    found = _known.setdefault(model, {})
    key = (hears, stimuli is None, level)
    if key not in found:
        rate = job.map.stimuli.sample_rate or 1.0
        positions = 1 if hears == "spectrogram" else max(1, round(rate * job.cohort.frame_ms / 1000.0))
        heard = None if stimuli is None else stimuli[0, ..., : LONGEST * positions]
        found[key] = _checked(model, job.cohort, heard, hears, level)
    return found[key]


def contract_flags(job: Job, hears: Hearing | None = None) -> np.ndarray:
    """Health flags (neuron,) by what is known of the contract of the models that a map is computed from.

    ``hears``: What the models are given, where that is not the map's stimuli. Raises `ContractError` if a model breaks
    it.
    """
    asked = hears or _hearing(job.map)
    heard = None
    if job.map.stimuli.names:
        first = job.sounds()[0] if asked == "waveform" else job.spectrograms()[0]
        heard = torch.as_tensor(first, dtype=torch.float32, device=job.device)[None]
    ahead = np.zeros(len(job.neurons), dtype=bool)
    for model, neurons in job.members():
        ahead |= contract_of(model, job, heard, hears=asked).hears_future[list(neurons)].numpy()
    return raised("hears_the_future", torch.from_numpy(ahead)[None])[0].numpy().astype(np.uint16)


def _checked(
    model: nn.Module, cohort: CohortPlan, heard: Tensor | None, hears: Hearing, level: float, *, weigh: bool = False
) -> Contract:
    frames = FRAMES_OF_SOUND if hears == "waveform" else min(cohort.lags, MOST_OF_NULL)
    found = contract_if_told(model, heard, frames=frames, level=level, hears=hears, causal=cohort.causal, weigh=weigh)
    nobody = torch.zeros(len(cohort.neurons), dtype=torch.bool)
    return Contract(nobody, ~nobody, 0) if found is None else found


def contract_if_told(model: nn.Module, heard: Tensor | None, **asked: Any) -> Contract | None:
    """What `check_contract` tells with these words; None where the model gets no further for reasons of its own.

    Raises `ContractError` if the model breaks its contract.
    """
    try:
        return check_contract(model, heard, **asked)
    except NotFiniteError:
        return None  # which neuron and stimulus it is, the maps tell
    except OSError as error:
        # Nothing but the model's own code ran, so the storage that maps are written to has nothing to do with it.
        raise ContractError(f"{name_of(model)} cannot be called: {of_error(error)}; mend its forward") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None  # the engine takes smaller blocks; a few stimuli side by side are already too many for this check


def with_contracts(plan: RunPlan, modules: "dict[str, nn.Module]", deadline_s: float = DEADLINE_S) -> RunPlan:
    """The plan, in which checkpoints that break the contract of their maps have that as their error.

    ``modules``: Modules by fingerprint, of checkpoints that need not be loaded again. ``deadline_s``: Seconds for the
    passes of one checkpoint. One that takes longer is left in its thread, and others of its class and entry are not
    tried.
    """
    judge = _Judge(modules, deadline_s, {})
    return replace(
        plan,
        cohorts=tuple(
            replace(cohort, checkpoints=tuple(judge.judged(cohort, one) for one in cohort.checkpoints))
            for cohort in plan.cohorts
        ),
    )


@dataclass(frozen=True)
class _Judge:
    """Who says of each checkpoint whether it keeps the contract; ``overdue`` names, by class and entry, who did not."""

    modules: "dict[str, nn.Module]"
    deadline_s: float
    overdue: dict[tuple[str, str], str]

    def judged(self, cohort: CohortPlan, checkpoint: Checkpoint) -> Checkpoint:
        if not checkpoint.usable or checkpoint.members:
            return checkpoint
        like = (checkpoint.model_class, checkpoint.source.where)
        if like in self.overdue:
            return replace(checkpoint, error=f"not tried, for it is of the class of {self.overdue[like]}")
        try:
            module = self.modules.get(checkpoint.fingerprint)
            module = load_checkpoint(checkpoint.source) if module is None else module  # some cannot be true or false
            found = within(self.deadline_s, lambda: _heard(module, cohort))
        except OverdueError:
            self.overdue[like] = f"{checkpoint.id!r}, whose forward pass does not come back"
            return replace(checkpoint, error=_overdue(checkpoint, self.deadline_s))
        except BaseException as error:  # a model's own code may raise anything
            return _unusable(checkpoint, error)
        return replace(checkpoint, frame_bytes=max(contract.frame_bytes for contract in found))


def _heard(module: nn.Module, cohort: CohortPlan) -> list[Contract]:
    """The contract with each kind of stimulus that the cohort's maps give to the model."""
    return [
        _checked(module, cohort, None, hears, 0.0, weigh=True) for hears in dict.fromkeys(map(_hearing, cohort.maps))
    ]


def _overdue(checkpoint: Checkpoint, deadline_s: float) -> str:
    return (
        f"{checkpoint.source.where}: the forward pass of {checkpoint.model_class.rpartition('.')[2]} has not come back"
        f" within {deadline_s:g} s for a stimulus of some dozens of frames, so `gradmap run` would wait for its maps,"
        " for ever if it hangs; look for a loop without an end or a wait in the code that `class` or `factory` names,"
        " or take the checkpoint out of `path`"
    )


def _unusable(checkpoint: Checkpoint, error: BaseException) -> Checkpoint:
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, ContractError):
        return replace(checkpoint, error=str(error))
    return replace(checkpoint, error=f"its forward pass fails ({of_error(error)}); mend the model, or its entry")


def _hearing(entry: MapPlan) -> Hearing:
    """What a map's models are given."""
    return "waveform" if entry.settings.hears == "sounds" else "spectrogram"

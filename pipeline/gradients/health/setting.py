"""What was heard when maps were taken, and the part of the model that hears it first."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.arguments import chosen_rows
from pipeline.gradients.front_end.hop import hop_of
from pipeline.gradients.passes.model_cache import Kept
from pipeline.gradients.question import Neurons, Question
from pipeline.gradients.torch_state.arithmetic import undisturbed
from pipeline.gradients.torch_state.copies import home_of, twin_of


class EngineMaps(Protocol):
    """What is asked of maps: the values and how they came about, as the engine returns them."""

    @property
    def values(self) -> Tensor: ...
    @property
    def frames(self) -> Tensor: ...
    @property
    def before_start(self) -> Tensor: ...
    @property
    def disagreement(self) -> float: ...


@dataclass(frozen=True)
class Setting:
    """What was heard when the maps were taken, and the part of the model that hears it first."""

    listener: nn.Module
    heard: Float[Tensor, "stimulus channel *frequency time"]
    neurons: list[int] | None  # None for the one map of the sum over all neurons
    ends: Int[Tensor, "stimulus neuron"]  # position on the time axis of ``heard`` that is lag 0
    lags: int
    hop: int  # positions in one frame of the response
    constant: Float[Tensor, " frequency"] | None = None  # the spectrogram's one frame, where it does not change in time
    prefilter: nn.Module | None = None  # what made ``heard``, where the maps are taken after it
    kept: Kept = field(default_factory=Kept)  # what other neurons left of the same setting

    @property
    def starts(self) -> Int[Tensor, "stimulus neuron"]:
        return (self.ends - self.lags + 1).clamp(min=0)

    @cached_property
    def index(self) -> Int[Tensor, " neuron"]:
        """The neurons as a tensor; none for the one map of their sum."""
        return torch.tensor(self.neurons or [], dtype=torch.long)

    def asked(self, rows: list[int]) -> Neurons:
        """Some of the maps, in the engine's words."""
        return "sum" if self.neurons is None else [self.neurons[row] for row in rows]


def setting_of(model: nn.Module, gradmaps: EngineMaps, stimuli: Tensor | None, question: Question) -> Setting:
    """The setting in which these maps were taken.

    What a question keeps belongs to the model's constant spectrograms: it is at hand where no stimulus is given.

    Raises `ValueError` if the maps do not belong to these stimuli or neurons.
    """
    values = gradmaps.values
    check_maps(values)
    lags = question.window(values.shape[-1])
    count = getattr(model, "O", None)
    chosen = chosen_rows(question.neurons, count if isinstance(count, int) else values.shape[1], torch.device("cpu"))
    names = None if chosen is None else chosen.tolist()
    n_names = 1 if names is None else len(names)
    n_stimuli = 1 if stimuli is None else len(stimuli)
    if n_names != values.shape[1] or n_stimuli != values.shape[0] or lags != values.shape[-1]:
        raise ValueError(
            f"maps of {values.shape[0]} stimuli, {values.shape[1]} neurons and {values.shape[-1]} lags cannot be those"
            f" of {n_stimuli} stimuli, {n_names} neurons and {lags} lags; give what the maps were computed with"
        )
    device, dtype = home_of(model)
    frames = gradmaps.frames.to(device).expand(values.shape[:2])
    if values.ndim == 3:
        return _waveform_setting(model, stimuli, names, frames, lags)
    at_rest = stimuli is None
    if stimuli is None:
        stimuli = torch.full((1, _bands(model, values, question.space), lags), question.level)
    heard = stimuli.to(device, dtype).unsqueeze(1)
    kept = (
        Kept() if question.kept is None or not at_rest else question.kept.within(lags, question.level, question.space)
    )
    still = heard.shape[-1] == lags and len(heard) == 1 and bool((heard == heard[..., :1]).all())
    constant = heard[0, 0, :, 0] if still else None
    listener = twin_of(model, {"wav2spec": nn.Identity()})
    prefilter = None
    if question.space == "prefiltered":
        prefilter = listener.get_submodule("prefiltering")
        with undisturbed(listener, dtype), torch.no_grad():
            heard = prefilter(heard)
        listener = twin_of(listener, {"prefiltering": nn.Identity()})
    return Setting(listener, heard, names, frames, lags, 1, constant, prefilter, kept)


def check_maps(values: Tensor) -> None:
    """Refuse what is no (stimulus, neuron, ..., lag)."""
    if values.ndim < 3 or values.shape[-1] == 0:
        raise ValueError(
            f"maps of shape {tuple(values.shape)} have no stimulus, neuron and lag to tell apart; give"
            " (stimulus, neuron, ..., lag) with at least one lag"
        )


def _bands(model: nn.Module, values: Tensor, space: str) -> int:
    bands = getattr(model, "F", None)
    return int(bands) if space == "prefiltered" and bands is not None else values.shape[-2]


def _waveform_setting(
    model: nn.Module, stimuli: Tensor | None, names: list[int] | None, frames: Tensor, lags: int
) -> Setting:
    if stimuli is None or stimuli.ndim != 2:
        raise ValueError(
            f"maps over waveform lags cannot belong to stimuli {None if stimuli is None else tuple(stimuli.shape)};"
            " give the sounds (stimulus, sample) that they were computed around"
        )
    device, dtype = home_of(model)
    twin, heard = twin_of(model), stimuli.to(device, dtype).unsqueeze(1)
    with undisturbed(twin, dtype):
        hop = hop_of(twin.wav2spec, heard)
    return Setting(twin, heard, names, (frames + 1) * hop - 1, lags, hop)

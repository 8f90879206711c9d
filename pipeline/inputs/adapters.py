"""Models of one's own, whatever they take and give, as models that keep the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import EinopsError, rearrange
from torch import Tensor, nn

from pipeline.inputs.lab_code import FOREIGN
from pipeline.plan.config import AdaptConfig
from pipeline.text import printable

#: Frames of the stimulus that a model is looked at with, and the seed that it is drawn from.
FRAMES = 64
#: Of the stimulus that an adapted model is looked at with.
SEED = 20180412

#: What an error shows of how `input` is written.
INPUT_EXAMPLE = 'input = "b 1 f t -> b t f"'
#: The same for `output`.
OUTPUT_EXAMPLE = 'output = "b t n -> b n 1 t"'


class AdaptError(ValueError):
    """What a model takes or gives is not what its adaptation says."""


def adapt(
    module: nn.Module,
    *,
    bands: int | None = None,
    neurons: int | None = None,
    input: str | None = None,
    output: str | None = None,
    select: str | int | None = None,
) -> nn.Module:
    """A model that keeps the contract, around a module of any layout; the module itself is not changed.

    Parameters
    ----------
    bands
        Frequency bands of the spectrogram; the module's own attribute ``F`` by default.
    neurons
        Outputs; the module's own attribute ``O`` by default, or as many as it gives.
    input
        einops pattern from the contract's spectrogram (batch, 1, frequency, time) to what the module takes, for example
        ``"b 1 f t -> b t f"``; unchanged by default.
    output
        einops pattern from what the module gives to the contract's response (batch, neuron, 1, time), for example
        ``"b t n -> b n 1 t"``; unchanged by default.
    select
        Which output is meant where the module gives several: a key, the name of an attribute, or a position.

    Returns
    -------
    nn.Module
        Shares the module's weights and is in its mode, so ``eval()`` before or after is the same.

    Raises
    ------
    ValueError
        If the module cannot be run with it; the message says what went in and what came out.

    Examples
    --------
    >>> gru = torch.nn.GRU(input_size=8, hidden_size=5, batch_first=True).eval()
    >>> model = adapt(gru, bands=8, input="b 1 f t -> b t f", output="b t n -> b n 1 t", select=0)
    >>> model(torch.zeros(1, 1, 8, 20)).shape
    torch.Size([1, 5, 1, 20])
    """
    adapted = Adapted(module, AdaptConfig(bands=bands, neurons=neurons, input=input, output=output, select=select))
    look_at(adapted)
    return adapted


class Adapted(nn.Module):
    """A module between two changes of layout."""

    def __init__(self, module: nn.Module, layout: AdaptConfig) -> None:
        super().__init__()
        self.module, self.layout = module, layout
        self.F = layout.bands if layout.bands is not None else _attribute(module, "F", "bands")
        self.C_in = 1
        self.train(module.training)
        self.O = layout.neurons if layout.neurons is not None else _own_neurons(self)

    @property
    def stands_for(self) -> str:
        """What messages call it: the class that was written by its author."""
        return type(self.module).__name__

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Response (batch, neuron, 1, time) to a spectrogram (batch, 1, frequency, time)."""
        return self.after(self.module(self.before(spectrogram)))

    def before(self, spectrogram: Tensor) -> Tensor:
        """What the module takes."""
        return _rearranged(spectrogram, self.layout.input, "input", INPUT_EXAMPLE)

    def after(self, given: Any) -> Tensor:
        """The response out of what the module gives."""
        return _rearranged(_selected(given, self.layout.select), self.layout.output, "output", OUTPUT_EXAMPLE)


def _attribute(module: nn.Module, name: str, key: str) -> int:
    size = getattr(module, name, None)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise AdaptError(
            f"{type(module).__name__} has no attribute {name} that says its number of {key}, so no stimulus can be made"
            f" for it; write `{key} = ...` into adapt"
        )
    return size


def _own_neurons(adapted: Adapted) -> int:
    own = getattr(adapted.module, "O", None)
    if isinstance(own, int) and not isinstance(own, bool) and own > 0:
        return own
    return look_at(adapted).response[1]


def _rearranged(tensor: Tensor, pattern: str | None, key: str, example: str) -> Tensor:
    if pattern is None:
        return tensor
    try:
        return rearrange(tensor, pattern)
    except EinopsError as error:
        reason = printable(str(error).strip().splitlines()[-1], 120)
        raise AdaptError(
            f"adapt: {key} = {pattern!r} does not suit a tensor of shape {tuple(tensor.shape)} ({reason}); write"
            f" an einops pattern with one letter for each of its axes, as {example}"
        ) from error


def _selected(given: Any, select: str | int | None) -> Tensor:
    if select is None and isinstance(given, Tensor):
        return given
    if select is not None:
        try:
            found = given[select] if isinstance(select, int) or isinstance(given, Mapping) else getattr(given, select)
            if isinstance(found, Tensor):
                return found
        except (KeyError, IndexError, TypeError, AttributeError):
            pass
    asked = "adapt needs `select`" if select is None else f"adapt: select = {select!r} is no tensor of it"
    if isinstance(given, Tensor):
        raise AdaptError(f"the module gives {_told(given)} and nothing beside it, so {asked}; take `select` out")
    raise AdaptError(
        f"the module gives {_told(given)}, of which one is the response, and {asked}; write one of"
        f" {', '.join(_choices(given)) or 'them'}"
    )


def _choices(given: Any) -> list[str]:
    if isinstance(given, Mapping):
        return [f'select = "{key}"' for key, value in given.items() if isinstance(value, Tensor)]
    if isinstance(given, list | tuple):
        return [f"select = {index}" for index, value in enumerate(given) if isinstance(value, Tensor)]
    return [f'select = "{key}"' for key, value in getattr(given, "__dict__", {}).items() if isinstance(value, Tensor)]


def _told(given: Any) -> str:
    if isinstance(given, Mapping):
        inside = ", ".join(f"{key}: {_told(value)}" for key, value in given.items())
        return f"a {type(given).__name__} of {inside}"
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} of {', '.join(map(_told, given))}"
    return f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"


@dataclass(frozen=True)
class Seen:
    """What went through a model when it was looked at: shapes on the way, and whether it waits for the future."""

    stimulus: tuple[int, ...]
    taken: tuple[int, ...]
    given: str
    response: tuple[int, ...]
    causal: bool
    repeats: bool
    parameters: int

    def text(self) -> str:
        """One line for a person."""
        if self.response[3] != self.stimulus[3]:
            ears = "so lags cannot be counted"
        elif not self.repeats:
            ears = "another response each time"
        else:
            ears = "causal" if self.causal else "hears the future"
        return (
            f"a spectrogram {self.stimulus} goes in as {self.taken}, {self.given} comes out and becomes"
            f" {self.response}: {self.response[1]} neurons, {self.stimulus[2]} bands, {self.response[3]} frames for"
            f" {self.stimulus[3]}, {ears}, {self.parameters:,} parameters"
        )


def _cure(error: BaseException) -> str:
    """What helps a module that cannot be run with what it was given."""
    if isinstance(error, TypeError) and "positional argument" in str(error):
        return "give a `factory` that returns a module whose forward takes the spectrogram alone and fills in the rest"
    return f"mend `bands` or `input`, for example {INPUT_EXAMPLE}"


def look_at(adapted: Adapted) -> Seen:
    """What a model makes of seeded noise, and of the same noise with another end.

    Raises `AdaptError` if the module cannot be run so, or the response is not (batch, neuron, 1, time). The message
    says what went in and what came out.
    """
    noise = torch.randn(1, 1, adapted.F, FRAMES, generator=torch.Generator().manual_seed(SEED))
    like = next((entry for entry in [*adapted.parameters(), *adapted.buffers()] if entry.is_floating_point()), None)
    stimulus = noise if like is None else noise.to(like.device, like.dtype)
    changed = stimulus.clone()
    changed[..., FRAMES // 2 :] *= -1.0
    with torch.no_grad():
        taken = adapted.before(stimulus)
        try:
            given = adapted.module(taken)
            response, again, other = adapted.after(given), adapted(stimulus), adapted(changed)
        except AdaptError:
            raise
        except FOREIGN as error:
            raise AdaptError(
                f"{type(adapted.module).__name__} cannot be run with a tensor of shape {tuple(taken.shape)}, which"
                f" adapt makes of a spectrogram (batch, 1, frequency, time) = {tuple(stimulus.shape)}"
                f" ({type(error).__name__}: {printable(error)}); {_cure(error)}"
            ) from error
    if response.ndim != 4 or response.shape[0] != 1 or response.shape[2] != 1:
        raise AdaptError(
            f"{type(adapted.module).__name__} gives {_told(given)}, which adapt makes {tuple(response.shape)} of, not"
            f" the contract's (batch, neuron, 1, time); write the `output` that does, for example {OUTPUT_EXAMPLE}"
        )
    neurons = adapted.layout.neurons
    if neurons is not None and response.shape[1] != neurons:
        raise AdaptError(
            f"adapt: neurons = {neurons}, but {type(adapted.module).__name__} gives {_told(given)}, of which the"
            f" response {tuple(response.shape)} has {response.shape[1]}; mend `neurons`, `select` or `output`"
        )
    before = slice(0, max(1, response.shape[3] // 2))
    same, repeats = (
        torch.allclose(response[..., before], one[..., before], rtol=1e-4, atol=1e-6) for one in (other, again)
    )
    count = sum(entry.numel() for entry in adapted.parameters())
    return Seen(tuple(stimulus.shape), tuple(taken.shape), _told(given), tuple(response.shape), same, repeats, count)

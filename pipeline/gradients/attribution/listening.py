"""A model as something to be heard with: in its own state, left as it was, whatever is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import check_eval, checked_dtype, has_front_end
from pipeline.gradients.torch_state.arithmetic import quiet
from pipeline.gradients.torch_state.copies import Inventory, converted, twin_of


@dataclass(frozen=True)
class Listener:
    """A copy of a model that shares its weights, with the device and precision it works in."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype

    def response(self, stimuli: Float[Tensor, "stimulus ..."]) -> Float[Tensor, "stimulus neuron time"]:
        """Responses to spectrograms (stimulus, frequency, time) or to sounds (stimulus, sample)."""
        return self.model(stimuli.unsqueeze(1)).squeeze(2)

    def placed(self, tensor: Tensor) -> Tensor:
        """The tensor on the model's device, in its precision, and fit for autograd."""
        return tensor.detach().to(device=self.device, dtype=self.dtype, copy=True)


@contextmanager
def listening(model: nn.Module, dtype: torch.dtype | None, *, front_end: bool = False) -> Iterator[Listener]:
    """The model ready to be heard with; its front-end, if it has one, is left out unless it is asked for.

    Raises
    ------
    ValueError
        If the model is in training mode, or a front-end is asked for and there is none.
    """
    if front_end and not has_front_end(model):
        raise ValueError(
            f"{type(model).__name__} has no front-end in its slot wav2spec, so it hears no waveforms; ask for"
            " spectrograms"
        )
    inventory = Inventory.of(model)
    dtype = checked_dtype(dtype, inventory)
    with quiet(inventory, dtype):
        source = converted(model, inventory, dtype)
        twin = twin_of(source, {"wav2spec": nn.Identity()} if has_front_end(source) and not front_end else {})
        check_eval(twin, model)
        yield Listener(twin, inventory.device, dtype)

"""Maps frame by frame, by backward passes through the whole past: for any model, in time that grows with the square."""

import torch
from torch import Tensor

from pipeline.gradients.dynamic.sound_question import Asked
from pipeline.gradients.objectives import weigh
from pipeline.gradients.passes.forward_pass import ForwardPass, pass_through
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.routes.cheapest import limits_of, take


class Rowwise:
    """One frame after another, by the routes that give gradmaps at one frame."""

    route, first_block = "rows", 1

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._pass: ForwardPass = pass_through(asked.twin, asked.leaf, asked.memory, limits_of(asked.model))
        self._ahead = _hears_ahead(self._pass)
        self.parts: tuple[str, ...] = ()

    def block(self, done: int, most: int | None = None) -> tuple[tuple[int, ...], Tensor]:
        """The frame after those that are done, and its maps (1, neuron, lag, frequency)."""
        asked, frame = self._asked, self._asked.frames[done]
        weighing = weigh({"frame": frame}, self._pass.response)
        ends = weighing.frames[:, :1] if asked.neurons is None else weighing.frames[:, asked.neurons]
        # Only where nothing hears ahead may the way back end with the window.
        lags = max(asked.lags, frame + 1) if self._ahead else asked.lags
        rows = Rows(weighing.weights, asked.neurons, ends, lags, check=done == 0)
        taken = take(asked.model, self._pass, rows, "auto")
        self.parts = (taken.route,)
        return (frame,), taken.values[0, ..., : asked.lags].squeeze(1).transpose(1, 2).unsqueeze(0)


def _hears_ahead(forward_pass: ForwardPass) -> bool:
    """Whether any frame of either half of the sound's middle hears what comes after that half."""
    response, leaf = forward_pass.response, forward_pass.leaf
    generator = torch.Generator().manual_seed(37)
    for share in (1, 2) if response.requires_grad else ():
        end = share * leaf.shape[-1] // 3
        cotangent = torch.rand(response.shape, generator=generator).add(0.5).to(response)
        cotangent[..., end:] = 0
        (gradient,) = torch.autograd.grad(response, leaf, cotangent, retain_graph=True, materialize_grads=True)
        if bool(gradient[..., end:].any()):
            return True
    return False

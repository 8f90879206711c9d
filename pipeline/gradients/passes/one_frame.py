"""The response at a few frames, without the others where the model's readout takes each frame by itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Times the precision of a number: two responses that differ by less, relative to the largest, differ by rounding.
ROUNDING = 64


def response_at(
    model: nn.Module, heard: Float[Tensor, "stimulus ... time"], frames: Sequence[int]
) -> Float[Tensor, "stimulus neuron 1 frame"]:
    """The model's answer to some stimuli at some frames.

    The responses of thousands of neurons at all frames take longer than the features that they follow. So the readout
    is given the features of those frames alone, once it has answered to them for the last stimulus as it answers to the
    features of all frames. Where it does not, or where its answer is not the model's, the model answers at all frames.

    Parameters
    ----------
    model
        The caller's own copy: a hook is put on its readout and taken off again.
    frames
        Frames of the response, in ascending order.
    """
    at = list(frames)
    readout = getattr(model, "readout", None)
    if not isinstance(readout, nn.Module) or isinstance(readout, torch.jit.ScriptModule):
        return model(heard)[..., at]
    cut = _Cut(len(heard), at)
    handles = [readout.register_forward_pre_hook(cut.features), readout.register_forward_hook(cut.answer)]
    try:
        answer = model(heard)
    finally:
        for handle in handles:
            handle.remove()
    if not cut.taken:
        return answer[..., at]
    is_the_readouts = cut.calls == 1 and answer is cut.gave
    return answer if is_the_readouts else model(heard)[..., at]


class _Cut:
    """What a readout is given, cut to a few frames on the way."""

    def __init__(self, n_stimuli: int, frames: list[int]) -> None:
        self.n_stimuli, self.frames = n_stimuli, frames
        self.calls, self.taken = 0, False
        self.gave: object = None

    def features(self, readout: nn.Module, given: tuple[object, ...]) -> tuple[Tensor] | None:
        self.calls += 1
        if self.calls > 1 or len(given) != 1 or not isinstance(given[0], Tensor):
            return None
        features = given[0]
        if features.dim() < 2 or len(features) != self.n_stimuli or features.shape[-1] <= self.frames[-1]:
            return None
        alone = features[..., self.frames]
        try:
            few, whole = readout.forward(alone[-1:].clone()), readout.forward(features[-1:].clone())
        except Exception:  # a readout's own code may raise anything for a length that it was not made for
            return None
        self.taken = _same(few, whole, features.shape[-1], self.frames)
        return (alone,) if self.taken else None

    def answer(self, _: nn.Module, __: object, gave: object) -> None:
        self.gave = gave


def _same(few: object, whole: object, n_frames: int, frames: list[int]) -> bool:
    """Whether a response at some frames alone is what the response at all is there."""
    if not isinstance(few, Tensor) or not isinstance(whole, Tensor) or few.dim() != 4 or whole.dim() != 4:
        return False
    if whole.shape[-1] != n_frames or few.shape != (*whole.shape[:-1], len(frames)) or few.dtype != whole.dtype:
        return False
    expected = whole[..., frames]
    rounding = ROUNDING * torch.finfo(whole.dtype).eps * expected.abs().amax()
    return bool(((few - expected).abs() <= rounding).all())

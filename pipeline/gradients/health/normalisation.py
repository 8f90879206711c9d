"""Normalisations that divide by almost nothing, so that the size of a map tells about their ``eps``."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.gradients.passes.trace import Call

#: Multiple of eps below which a normalisation's gain is set by eps by more than 5 %.
NEAR_EPS = 10.0

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def near_eps(model: nn.Module, stimulus: Tensor) -> bool:
    """Whether a normalisation layer of the model divides by less than its ``eps`` lets it, for this batch of stimuli.

    Where the variance before a normalisation is near its ``eps``, the layer multiplies gradients by up to
    ``1 / sqrt(eps)``, so that the size of a map tells about ``eps`` rather than about the model. Layers of torch and
    any other module named as a normalisation, with an ``eps`` and an output of its input's shape, are looked at.
    """
    found: list[bool] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(_is_near(module, given, output))

    hooks = [part.register_forward_hook(look) for part in model.modules() if _normalises(part)]
    if not hooks:
        return False
    try:
        with torch.no_grad():
            model(stimulus)
    finally:
        for hook in hooks:
            hook.remove()
    return any(found)


def near_eps_in(model: nn.Module, calls: Iterable[Call]) -> bool | None:
    """The same, of what a forward pass through the model's parts left; None where it tells nothing of one of them."""
    names = {name for name, part in model.named_modules() if _normalises(part)}
    looked = [call for call in calls if call.name in names]
    if {call.name for call in looked} != names:
        return None
    return any(_is_near(call.module, (call.given.detach(),), call.gave.detach()) for call in looked)


def _is_near(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> bool:
    """Whether one layer divides by less than its ``eps`` lets it."""
    variance = _variance(module, given, output)
    if variance is None or not variance.numel():
        return False
    eps = getattr(module, "eps", None)
    eps = torch.finfo(variance.dtype).eps if eps is None else float(eps)
    return bool((variance < NEAR_EPS * eps).any())


def _normalises(module: nn.Module) -> bool:
    """A layer that normalises by itself, not one that only wraps a layer that does."""
    named = "norm" in type(module).__name__.lower() and hasattr(module, "eps")
    return named and not any("norm" in type(child).__name__.lower() for child in module.children())


def _variance(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """What the layer divides by, squared, before ``eps`` is added; one number for each group that it normalises."""
    if not given or not isinstance(given[0], Tensor) or not given[0].is_floating_point():
        return None
    x = given[0]
    if isinstance(module, _BATCH_NORMS) and module.running_var is not None:
        return module.running_var
    if isinstance(module, _BATCH_NORMS):
        return x.transpose(0, 1).flatten(1).var(dim=1, correction=0)
    if isinstance(module, _INSTANCE_NORMS):
        tracked = module.running_var if module.track_running_stats else None
        return x.flatten(2).var(dim=2, correction=0) if tracked is None else tracked
    if isinstance(module, nn.GroupNorm):
        return x.reshape(x.shape[0], module.num_groups, -1).var(dim=2, correction=0)
    if not isinstance(output, Tensor) or output.shape != x.shape or x.ndim == 0 or x.shape[-1] < 2:
        return None
    shape = getattr(module, "normalized_shape", x.shape[-1:])
    groups = x.flatten(-len(shape)) if len(shape) > 1 else x
    if "rms" in type(module).__name__.lower():
        return groups.square().mean(dim=-1)
    return groups.var(dim=-1, correction=0)

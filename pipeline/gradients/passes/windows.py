"""The window of each row: as many entries before its own end as are kept, newest first."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def windowed(
    gradient: Float[Tensor, "stimulus neuron ... time"], ends: Int[Tensor, "stimulus neuron"], lags: int
) -> Float[Tensor, "stimulus neuron ... lag"]:
    """The entries at and before each row's end, newest first; 0 where the stimulus had not begun."""
    n_times = gradient.shape[-1]
    end = int(ends.flatten()[0]) if ends.numel() else 0
    if bool((ends == end).all()):
        start = max(0, end + 1 - lags)
        kept = gradient[..., start : end + 1].flip(-1)
        return torch.nn.functional.pad(kept, (0, lags - kept.shape[-1])) if kept.shape[-1] < lags else kept
    times = ends.unsqueeze(-1) - torch.arange(lags, device=ends.device)
    inside = times >= 0
    shape = (*ends.shape, *([1] * (gradient.dim() - 3)), lags)
    index = times.clamp(0, n_times - 1).view(shape).expand(*gradient.shape[:-1], lags)
    return gradient.gather(-1, index) * inside.view(shape)


def before_start(ends: Int[Tensor, "stimulus neuron"], lags: int) -> Bool[Tensor, "stimulus neuron"]:
    """Whether a window of ``lags`` entries that ends there begins before the stimulus did."""
    return ends + 1 < lags

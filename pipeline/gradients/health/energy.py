"""Where along its lags a map holds its energy."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Part of a window that counts as its oldest lags.
OLDEST_PART = 0.1
#: Maps of each stimulus whose squares are held at one time on the processor.
MAPS_AT_ONCE = 32


def oldest_share(values: Float[Tensor, "*maps axis lag"]) -> Float[Tensor, "..."]:
    """Share of each map's energy in the oldest tenth of its window (at least one lag); 0 for an all-zero map.

    The maps are (stimulus, neuron, ..., lag), lag 0 first; NaN counts as zero.
    """
    return share_of_oldest(energy_of(values))


def memory_length(values: Float[Tensor, "*maps axis lag"], share: float = 0.9) -> Int[Tensor, "..."]:
    """How many of the most recent lags hold ``share`` of each map's energy; 0 for an all-zero map.

    The maps are (stimulus, neuron, ..., lag), lag 0 first; NaN counts as zero. A map whose energy all lies at lag 0
    has a memory of 1 lag.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}, of which no map has that much energy; give a number above 0, up to 1")
    held = energy_of(values).nan_to_num(nan=0.0).cumsum(dim=-1)
    total = held[..., -1:]
    # The share of a total is rounded too; without the slack a map might be a lag short of all its energy.
    short = held < share * total * (1.0 - 1e-12)
    return torch.where(total.squeeze(-1) > 0, short.sum(dim=-1) + 1, 0)


def energy_of(values: Tensor) -> Float[Tensor, "stimulus neuron lag"]:
    """Energy at each lag, in double precision; NaN where an entry is."""
    axes = tuple(range(2, values.ndim - 1))
    values = values.detach()
    if not axes:
        return values.double().square()
    energy = values.new_empty((*values.shape[:2], values.shape[-1]), dtype=torch.float64)
    for start in range(0, values.shape[1], MAPS_AT_ONCE):  # their squares stay in the processor's cache
        some = slice(start, start + MAPS_AT_ONCE)
        energy[:, some] = values[:, some].square().sum(dim=axes, dtype=torch.float64)
    total = energy.sum(dim=-1)
    # Squares of very small or large float32 numbers are 0 or infinite; such maps are rare and done with care.
    doubtful = (total < 1e-30) | ~total.isfinite()
    if doubtful.any():
        exact = values[doubtful].double().square()
        energy[doubtful] = exact.sum(dim=tuple(axis - 1 for axis in axes))
    return energy


def share_of_oldest(energy: Float[Tensor, "stimulus neuron lag"]) -> Float[Tensor, "stimulus neuron"]:
    """Share of the energy in the oldest tenth of the window."""
    energy = energy.nan_to_num(nan=0.0)
    oldest = max(1, round(OLDEST_PART * energy.shape[-1]))
    return share_from(energy, energy.shape[-1] - oldest)


def share_from(energy: Float[Tensor, "*maps lag"], lag: int) -> Float[Tensor, "*maps"]:
    """Share of the energy at a lag and older; 0 of an all-zero map."""
    total = energy.sum(dim=-1)
    return (energy[..., lag:].sum(dim=-1) / total.where(total > 0, 1.0)).to(torch.float32)

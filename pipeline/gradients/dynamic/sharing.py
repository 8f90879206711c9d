"""Jacobians of a part that acts on each frame alone, where outputs that hear different inputs share a backward pass.

Layers that are connected locally, as many encoders are along frequency, have outputs of which each hears a few bands.
The gradients of two that hear no band in common are read off one backward pass of their sum.
"""

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.graph import Place

#: Looks at each output's gradient, at frames far apart, that tell which inputs it hears.
LOOKS = 3

#: Passes per output up to which sharing pays for finding out.
WORTH = 0.6


class Pulling(Protocol):
    """What sends cotangents back, and tells what differs by more than rounding."""

    n_frames: int

    def random(self, *shape: int) -> Tensor: ...

    def pull(self, later: Place, earlier: Place, cotangents: Tensor) -> Tensor: ...

    def weights_of(self, place: Place) -> Tensor: ...

    def agree_at_each(self, got: Tensor, expected: Tensor) -> bool: ...


def shared_passes(search: Pulling, later: Place, earlier: Place) -> Float[Tensor, "frame later earlier"] | None:
    """The Jacobians at all frames; None where outputs hear too much in common, or hear elsewhere what was not seen."""
    if search.n_frames < later.width or later.width < 2:
        return None
    heard = _heard(search, later, earlier)
    of = _passes(heard)
    n_passes = int(of.max()) + 1
    if n_passes + LOOKS + 1 > WORTH * later.width:
        return None
    units = torch.zeros(n_passes, 1, later.width, dtype=heard.dtype, device=heard.device)
    units[of, 0, torch.arange(later.width, device=of.device)] = 1.0
    together = search.pull(later, earlier, units.expand(-1, search.n_frames, -1))
    slopes = together.transpose(0, 1)[:, of] * heard
    # What an output hears at other frames than were looked at went to another output of its pass: v J tells.
    vector = search.random(1, search.n_frames, later.width) * search.weights_of(later)
    (expected,) = search.pull(later, earlier, vector)
    got = torch.matmul(vector[0].unsqueeze(1), slopes).squeeze(1)
    return slopes if search.agree_at_each(got, expected) else None


def _heard(search: Pulling, later: Place, earlier: Place) -> Float[Tensor, "later earlier"]:
    """1 where an output hears an input, by its gradient at a few frames, all outputs' at frames of their own."""
    outputs = torch.arange(later.width)
    apart = search.n_frames // later.width
    shift = search.n_frames // LOOKS
    frames = torch.stack([(outputs * apart + look * shift) % search.n_frames for look in range(LOOKS)])
    cotangents = torch.zeros_like(search.random(1).expand(LOOKS, search.n_frames, later.width))
    looks = torch.arange(LOOKS).unsqueeze(1)
    cotangents[looks, frames, outputs] = 1.0
    gradients = search.pull(later, earlier, cotangents)[looks, frames]
    return gradients.ne(0).any(dim=0).to(gradients)


def _passes(heard: Float[Tensor, "later earlier"]) -> Int[Tensor, "later"]:
    """The pass of each output, the first in which no other one hears what it hears."""
    taken: list[Bool[Tensor, "earlier"]] = []
    of = []
    for row in heard.cpu().bool():
        number = next((number for number, others in enumerate(taken) if not bool((others & row).any())), len(taken))
        if number == len(taken):
            taken.append(row.clone())
        else:
            taken[number] |= row
        of.append(number)
    return torch.tensor(of, device=heard.device)

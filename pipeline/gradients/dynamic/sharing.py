"""Jacobians of a part that acts on each frame alone, where outputs that hear different inputs share a backward pass.

Layers that are connected locally, as many encoders are along frequency, have outputs of which each hears a few bands.
The gradients of two that hear no band in common are read off one backward pass of their sum.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.graph import Place
from pipeline.gradients.dynamic.search import Search

#: Looks at each output's gradient, at frames far apart, that tell which inputs it hears.
LOOKS = 3

#: Passes per output up to which sharing pays for finding out.
WORTH = 0.6


@dataclass(frozen=True)
class Sharing:
    """Which inputs each output hears, as 1 or 0, and the backward pass that its gradient is read off."""

    heard: Float[Tensor, "later earlier"]
    of: Int[Tensor, "later"]

    def slopes(self, search: Search, later: Place, earlier: Place) -> Float[Tensor, "frame later earlier"]:
        """The Jacobians at all frames, right where no output hears more than that."""
        units = torch.zeros(int(self.of.max()) + 1, 1, later.width, dtype=self.heard.dtype, device=self.heard.device)
        units[self.of, 0, torch.arange(later.width, device=self.of.device)] = 1.0
        together = search.pull(later, earlier, units.expand(-1, search.n_frames, -1))
        return together.transpose(0, 1)[:, self.of].mul_(self.heard)


def sharing_of(search: Search, later: Place, earlier: Place) -> Sharing | None:
    """Which outputs may share a pass by what they hear at a few frames; None where they hear too much in common.

    An output may hear at other frames what it was not seen to hear: the Jacobians are to be compared with a plain
    backward pass.
    """
    if search.n_frames < later.width or later.width < 2:
        return None
    heard = _heard(search, later, earlier)
    of = _passes(heard)
    return Sharing(heard, of) if int(of.max()) + LOOKS + 2 <= WORTH * later.width else None


def _heard(search: Search, later: Place, earlier: Place) -> Float[Tensor, "later earlier"]:
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

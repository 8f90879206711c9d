"""What a search for the model's steps goes by, and sends back through its graph."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.gradients.dynamic.excerpts import Excerpts
from pipeline.gradients.dynamic.graph import Node, Place, pulled, typical_size
from pipeline.gradients.torch_state.memory import rows_that_fit

#: Units in the last place by which sums within one frame may differ by rounding.
ROUNDINGS = 16

#: Bytes of one tensor of all rows that go back together on a CPU: larger ones leave its cache, and are written to fresh
#: pages.
IN_CACHE = 2**18


@dataclass
class Search:
    """What a search for steps goes by: how much memory it may take, and what the model was found not to allow."""

    n_frames: int
    lags: int
    memory: int
    dtype: torch.dtype
    device: torch.device
    limits: set[str] = field(default_factory=set)
    filters: bool = True
    sizes: dict[tuple[Node, Node], int] = field(default_factory=dict)
    drawn: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    weights: dict[Node, Tensor] = field(default_factory=dict)
    excerpts: Excerpts | None = None

    @property
    def same(self) -> float:
        """Numbers that differ by no more than this, relative to the largest, differ by rounding."""
        return 1e-5 if self.dtype == torch.float32 else 1e-11

    def random(self, *shape: int) -> Tensor:
        """Fixed random numbers, none near 0."""
        if shape not in self.drawn:
            generator = torch.Generator().manual_seed(7)
            size = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
            sign = torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.5).sign()
            self.drawn[shape] = (size * sign).to(dtype=self.dtype, device=self.device)
        return self.drawn[shape]

    def weigh(self, place: Place, factors: Float[Tensor, "number"]) -> None:
        """Let the numbers of a place count for ``factors``, up to powers of two, in what is sent back from there.

        What one of them does counts then as much as what any other does, however small it is.
        """
        known = (factors > 0) & torch.isfinite(factors)
        exponents = torch.where(known, factors, 1.0).log2().round().clamp(-60, 60)
        self.weights[place.edge.node] = torch.exp2(exponents).to(dtype=self.dtype, device=self.device)

    def weights_of(self, place: Place) -> Tensor:
        """What each number of a place counts for."""
        return self.weights.get(place.edge.node, torch.ones(place.width, dtype=self.dtype, device=self.device))

    def pull(self, later: Place, earlier: Place, cotangents: Float[Tensor, "row frame later"]) -> Tensor:
        """Backward passes from one place to an earlier one, as many rows at a time as pay and fit."""
        return pulled(later, earlier, cotangents, self._together(later, earlier, len(cotangents)), self.limits)

    def _together(self, later: Place, earlier: Place, n_rows: int) -> int:
        ends = later.edge.node, earlier.edge.node
        if ends not in self.sizes:
            self.sizes[ends] = typical_size(later.edge, earlier.edge)
        item, between = torch.finfo(self.dtype).bits // 8, self.sizes[ends]
        n_bytes = 4 * item * max(between, self.n_frames * (later.width + earlier.width))
        fitting = rows_that_fit(n_rows, n_bytes, self.memory)
        return min(fitting, max(1, IN_CACHE // (item * between))) if self.device.type == "cpu" else fitting

    def agree(self, got: Tensor, expected: Tensor) -> bool:
        """Whether two tensors differ by rounding only."""
        if not expected.numel():
            return True
        size = expected.abs().amax()
        return bool(torch.isfinite(size)) and bool((got - expected).abs().amax() <= self.same * size)

    def agree_at_each(self, got: Float[Tensor, "frame number"], expected: Float[Tensor, "frame number"]) -> bool:
        """The same for what stays within frames: relative to the largest number of the frame, and of that number."""
        size = expected.abs()
        if not expected.numel() or not bool(torch.isfinite(size).all()):
            return not expected.numel()
        return bool(((got - expected).abs() <= tolerance_at_each(size, size, self.same)).all())

    def along(self, n_frames: int) -> "Search":
        """A search along so many frames in another graph, in which every number counts for the same."""
        return Search(n_frames, self.lags, self.memory, self.dtype, self.device, self.limits)


def tolerance_at_each(
    size: Float[Tensor, "frame number"], whole: Float[Tensor, "all_frames number"], same: float
) -> Float[Tensor, "frame number"]:
    """How far numbers of these sizes may differ by rounding, where they are some frames of a ``whole``."""
    limits = torch.finfo(size.dtype)
    of_frame, of_number = size.amax(dim=1, keepdim=True), whole.amax(dim=0)
    # Terms that cancel at one frame round as they do at others.
    terms = torch.maximum(of_frame, whole.amax(dim=1).median())
    rounding = ROUNDINGS * limits.eps * terms + limits.tiny / limits.eps
    return same * torch.minimum(of_frame, of_number) + rounding

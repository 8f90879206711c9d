"""Mean and standard deviation over frames of maps that nobody needs to hold."""

import math

from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.gradients.torch_state.products import product_less

#: Bytes of one frame's maps that are made together on a CPU: few enough to be in its cache when they are added, and
#: enough for the features' maps to be gone through a few times only.
IN_CACHE = 3 * 2**19


class Moments:
    """Sums over frames of maps, and of their squares, both about the first frame's map.

    About the first map, so that squares of maps that hardly change do not cancel. The sums of a block of frames are in
    the maps' own precision, those over blocks in double precision.
    """

    def __init__(self, first: Float[Tensor, "neuron lag frequency"]) -> None:
        self._shape = first.shape
        self._first = first.flatten(1).clone()
        self._count = 0
        self._sum, self._squares = self._first.new_zeros((2, *self._first.shape)).double()
        n_bytes = self._first.shape[1] * first.element_size()
        parts = math.ceil(len(first) / max(1, IN_CACHE // n_bytes)) if first.device.type == "cpu" else 1
        self._together = math.ceil(len(first) / parts)
        # Written over for every block of frames: fresh pages take longer than the sums.
        self._rooms = self._first.new_empty((2, self._together, self._first.shape[1]))

    def add(self, slopes: Float[Tensor, "frame neuron width"], given: Float[Tensor, "frame width entry"]) -> None:
        """Take in the maps ``slopes @ given``, some neurons at a time."""
        for start in range(0, slopes.shape[1], self._together):
            rows = slice(start, start + self._together)
            first, mine = self._first[rows], slopes[:, rows].contiguous()
            total, squares = self._rooms[:, : len(first)]
            total.zero_()
            squares.zero_()
            for slope, windows in zip(mine, given, strict=True):
                maps = product_less(slope, windows, first)
                total.add_(maps)
                squares.addcmul_(maps, maps)
            self._sum[rows] += total
            self._squares[rows] += squares
        self._count += len(slopes)

    def add_maps(self, maps: Float[Tensor, "frame neuron lag frequency"]) -> None:
        """Take in maps that are there already."""
        for each in maps:
            moved = each.flatten(1) - self._first
            self._sum += moved
            self._squares.addcmul_(moved.double(), moved.double())
        self._count += len(maps)

    def mean_and_sd(self) -> tuple[Float64[Tensor, "neuron frequency lag"], Float64[Tensor, "neuron frequency lag"]]:
        """Mean and standard deviation (n - 1); the deviation of one frame is nan."""
        moved = self._sum / self._count
        variance = (self._squares - self._sum * moved).clamp_min(0) / (self._count - 1)
        mean = self._first.double() + moved
        sd = variance.sqrt() if self._count > 1 else variance * float("nan")
        return mean.view(self._shape).transpose(1, 2), sd.view(self._shape).transpose(1, 2)

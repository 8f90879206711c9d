"""Which axes of a tensor between two parts of a model are the stimulus and the frame."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: Backward passes that differ by no more than this differ by rounding.
SAME = 1e-5


@dataclass(frozen=True)
class Layout:
    """How a tensor holds one vector per stimulus and frame.

    ``order`` says what the leading axis runs over: "stimulus" (frames are axis ``axis``), or both at once, with the
    stimulus ("stimulus-frame") or the frame ("frame-stimulus") as the slower one, or "frame" (stimuli are axis 1).
    """

    order: str
    axis: int
    shape: tuple[int, ...]
    n_stimuli: int
    n_frames: int

    @property
    def width(self) -> int:
        """Numbers per stimulus and frame."""
        size = 1
        for length in self.shape:
            size *= length
        return size // (self.n_stimuli * self.n_frames)

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """The shape of one stimulus's frame."""
        if self.order in ("stimulus", "frame"):
            drop = {0, self.axis if self.order == "stimulus" else 1}
            return tuple(length for axis, length in enumerate(self.shape) if axis not in drop)
        return self.shape[1:]

    def of_frames(self, n_frames: int) -> "Layout":
        """The same layout for another number of frames."""
        shape = list(self.shape)
        if self.order in ("stimulus", "frame"):
            shape[self.axis] = n_frames
        else:
            shape[0] = self.n_stimuli * n_frames
        return Layout(self.order, self.axis, tuple(shape), self.n_stimuli, n_frames)

    def split(self, tensor: Tensor) -> Float[Tensor, "*rows stimulus frame width"]:
        """The tensor, which may have further axes in front, as vectors."""
        lead = tensor.shape[: tensor.dim() - len(self.shape)]
        n_lead = len(lead)
        if self.order == "stimulus":
            moved = tensor.movedim(n_lead + self.axis, n_lead + 1)
        elif self.order == "frame":
            moved = tensor.transpose(n_lead, n_lead + 1)
        elif self.order == "stimulus-frame":
            moved = tensor.unflatten(n_lead, (self.n_stimuli, self.n_frames))
        else:
            moved = tensor.unflatten(n_lead, (self.n_frames, self.n_stimuli)).transpose(n_lead, n_lead + 1)
        return moved.reshape(*lead, self.n_stimuli, self.n_frames, -1)

    def join(self, vectors: Float[Tensor, "*rows stimulus frame width"]) -> Tensor:
        """The tensor back from its vectors, which may be of fewer or more stimuli and frames than it had."""
        n_lead = vectors.dim() - 3
        moved = vectors.unflatten(-1, self.vector_shape) if self.vector_shape != () else vectors.squeeze(-1)
        if self.order == "stimulus":
            return moved.movedim(n_lead + 1, n_lead + self.axis)
        if self.order == "frame":
            return moved.transpose(n_lead, n_lead + 1)
        if self.order == "frame-stimulus":
            moved = moved.transpose(n_lead, n_lead + 1)
        return moved.flatten(n_lead, n_lead + 1)


def layouts(tensor: Tensor, n_stimuli: int, n_frames: int) -> Iterator[Layout]:
    """Every way in which the tensor's axes could be stimulus and frame, the likelier first."""
    shape = tuple(tensor.shape)
    if not shape:
        return

    def layout(order: str, axis: int) -> Layout:
        return Layout(order, axis, shape, n_stimuli, n_frames)

    if shape[0] == n_stimuli:
        for axis in range(len(shape) - 1, 0, -1):
            if shape[axis] == n_frames:
                yield layout("stimulus", axis)
    if len(shape) > 1 and shape[0] == n_frames and shape[1] == n_stimuli:
        yield layout("frame", 0)
    if len(shape) > 1 and shape[0] == n_stimuli * n_frames and (n_stimuli > 1 or shape[0] > 1):
        yield layout("frame-stimulus", 0)
        if n_stimuli > 1:
            yield layout("stimulus-frame", 0)


def acts_on_each_frame(later: Tensor, later_layout: Layout, earlier: Tensor, earlier_layout: Layout) -> bool:
    """Whether ``later`` at each frame depends on ``earlier`` at that frame alone, on the numbers of this very run.

    A cotangent is sent back twice, the second time with every frame scaled by a number of its own: what comes back
    is scaled frame by frame if, and but for accidents of probability zero only if, no frame hears another.
    """
    # With y_t depending on x_t alone, (v s_t) dy/dx = s_t (v dy_t/dx_t); if y_t hears x_u too, s_t and s_u mix.
    vector, scale = probe(later_layout, later)
    cotangent = vector.expand(*scale.shape[:2], -1)
    try:
        plain, scaled = (
            earlier_layout.split(torch.autograd.grad(later, earlier, later_layout.join(weighed), retain_graph=True)[0])
            for weighed in (cotangent, cotangent * scale)
        )
    except RuntimeError:
        return False
    difference = (plain * scale - scaled).abs().amax()
    size = scaled.abs().amax()
    return bool(difference <= SAME * size) and bool(torch.isfinite(size))


def probe(layout: Layout, like: Tensor) -> tuple[Float[Tensor, "1 1 width"], Float[Tensor, "stimulus frame 1"]]:
    """A fixed random vector, and a fixed random factor for each frame that is not near 0."""
    generator = torch.Generator().manual_seed(7)
    vector = torch.rand((1, 1, layout.width), generator=generator) * 2 - 1
    size = torch.rand((layout.n_stimuli, layout.n_frames, 1), generator=generator) + 0.5
    sign = torch.rand((layout.n_stimuli, layout.n_frames, 1), generator=generator).sub(0.5).sign()
    return vector.to(like), (size * sign).to(like)

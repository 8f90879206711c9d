"""From the spectrogram that a front-end gives back to the sound: exact, and no more of the sound than can matter."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.front_end.filterbank import Filterbank, filterbank
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.torch_state.memory import in_blocks, rows_that_fit

#: The piece of sound that frames can hear is found by doubling its context, from this many frames on.
FIRST_CONTEXT = 8
#: Relative difference up to which a piece of the sound makes the same frames.
SAME = 1e-5


@dataclass
class Sound:
    """Sounds and the spectrograms that a front-end makes of them; a source of gradients with respect to samples."""

    front_end: nn.Module
    leaf: Float[Tensor, "stimulus 1 sample"]
    spectrogram: Float[Tensor, "stimulus 1 frequency time"]
    memory: int
    limits: set[str]
    pieces: dict[int, "Piece"] = field(default_factory=dict)

    @property
    def hop(self) -> int:
        return self.leaf.shape[-1] // self.spectrogram.shape[-1]

    def pull_back(
        self, gradient: Float[Tensor, "row stimulus 1 frequency time"], earliest: int
    ) -> Float[Tensor, "row stimulus 1 sample"]:
        """Gradients with respect to the spectrogram, as gradients with respect to the sound.

        Frames at which no row has a gradient are left out, and so are those that end before the sample ``earliest``,
        whose samples are not wanted.
        """
        whole = gradient.new_zeros((len(gradient), *self.leaf.shape))
        busy = gradient.flatten(0, -2).ne(0).any(dim=0)
        busy[: earliest // self.hop] = False
        frames = busy.nonzero().flatten()
        if len(frames) == 0:
            return whole
        piece = self._piece(int(frames[0]))
        rows = gradient[..., piece.first_frame :]

        def block(start: int, stop: int) -> None:
            whole[start:stop, ..., piece.first_sample :] = piece.pull_back(rows[start:stop], self.limits)

        size = self.leaf.element_size() * piece.numbers_per_row
        in_blocks(len(rows), rows_that_fit(len(rows), size, self.memory), block)
        return whole

    def _piece(self, first_frame: int) -> "Piece":
        """The end of the sound from which the front-end makes the frames from ``first_frame`` on, and nothing less."""
        known = [piece for first, piece in self.pieces.items() if first <= first_frame]
        if known:
            return max(known, key=lambda piece: piece.first_frame)
        context = FIRST_CONTEXT
        while context < first_frame:
            piece = Piece.cut(self, first_frame, (first_frame - context) * self.hop)
            if piece is not None:
                break
            context *= 2
        else:
            piece = Piece.cut(self, 0, 0)
            assert piece is not None
        self.pieces[piece.first_frame] = piece
        return piece


@dataclass(frozen=True)
class Piece:
    """The end of a sound, and what the front-end makes of it, from a frame on whose every sample lies in it."""

    first_frame: int
    first_sample: int
    leaf: Float[Tensor, "stimulus 1 sample"]
    spectrogram: Float[Tensor, "stimulus 1 frequency time"]
    bank: Filterbank | None

    @property
    def numbers_per_row(self) -> int:
        """Numbers that one row keeps alive on its way back."""
        bands = self.spectrogram.shape[-2]
        return 4 * self.leaf.numel() if self.bank is not None else (bands + 4) * self.leaf.numel()

    @staticmethod
    def cut(sound: Sound, first_frame: int, first_sample: int) -> "Piece | None":
        """That piece; None if frames from ``first_frame`` on hear sound before ``first_sample``.

        That they do not is seen on the run's own numbers: the front-end makes the same frames of the piece, and a
        backward pass from these frames through the whole sound leaves exact zeros before it.
        """
        leaf = sound.leaf.detach()[..., first_sample:].clone().requires_grad_(True)
        given = leaf.view_as(leaf)
        spectrogram, bank = filterbank(sound.front_end, leaf, given)
        skipped = spectrogram.shape[-1] - (sound.spectrogram.shape[-1] - first_frame)
        if skipped < 0:
            return None
        kept = spectrogram[..., skipped:]
        if first_sample > 0:
            expected = sound.spectrogram[..., first_frame:]
            size = float(expected.detach().abs().amax())
            if not torch.allclose(kept, expected, rtol=SAME, atol=SAME * size):
                return None
            generator = torch.Generator().manual_seed(17)
            weights = torch.randn(kept.shape, generator=generator).to(kept)
            (whole,) = torch.autograd.grad(expected, sound.leaf, weights, retain_graph=True)
            if bool(whole[..., :first_sample].any()):
                return None
        if bank is not None:
            bank = bank.skipping(skipped)
        return Piece(first_frame, first_sample, leaf, kept, bank)

    def pull_back(self, gradient: Float[Tensor, "row stimulus 1 frequency time"], limits: set[str]) -> Tensor:
        """Gradients with respect to these frames, as gradients with respect to the piece."""
        if self.bank is not None:
            return self.bank.pull_back(gradient, limits)
        return vjp(self.spectrogram, self.leaf, gradient, limits)

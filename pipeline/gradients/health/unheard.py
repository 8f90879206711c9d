"""Parts of a sound that a gradient cannot tell of: bins that a front-end clamps, samples that are silent."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.gradients.torch_state.arithmetic import undisturbed
from pipeline.gradients.torch_state.copies import in_double, twin_of

#: Level, relative to the loudest sample, up to which a sample is silent.
SILENT_LEVEL = 1e-6
#: Size of a nudge, relative to the sound's rms; a clamped bin does not move at all.
NUDGE = 1e-6


def clamped_bins(
    front_end: nn.Module, waveforms: Float[Tensor, "stimulus sample"]
) -> Bool[Tensor, "stimulus frequency time"]:
    """Bins of the front-end's spectrogram that no sample of the sound moves, as under the floor of a logarithm.

    They are found by nudging the whole sound in two random directions, in float64: a bin that stays the same to the
    last digit has a gradient of zero, and one that is not a number has no gradient at all.
    """
    try:
        with undisturbed(front_end, torch.float64), torch.no_grad():
            return _unmoved(in_double(front_end), waveforms.double())
    except (RuntimeError, TypeError):
        with undisturbed(front_end, waveforms.dtype), torch.no_grad():
            return _unmoved(twin_of(front_end), waveforms)


def _unmoved(front_end: Callable[[Tensor], Tensor], waveforms: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rms = waveforms.square().mean(dim=-1, keepdim=True).sqrt()
    nudge = NUDGE * rms.where(rms > 0, NUDGE)
    if waveforms.dtype != torch.float64:
        nudge = nudge * 1e3
    still = front_end(waveforms.unsqueeze(1)).squeeze(1)
    unmoved = torch.ones_like(still, dtype=torch.bool)
    for _ in range(2):
        direction = torch.randn(waveforms.shape, generator=generator, dtype=torch.float64).to(waveforms)
        moved = front_end((waveforms + nudge * direction).unsqueeze(1)).squeeze(1)
        unmoved &= (moved == still) | ~moved.isfinite()
    return unmoved | ~still.isfinite()


def silent_samples(waveforms: Float[Tensor, "stimulus sample"], shortest: int) -> Bool[Tensor, "stimulus sample"]:
    """Samples in runs of at least ``shortest`` that are silent: under a millionth of the sound's loudest sample."""
    quiet_enough = waveforms.abs() <= SILENT_LEVEL * waveforms.abs().amax(dim=-1, keepdim=True)
    shortest = max(1, min(shortest, waveforms.shape[-1]))
    total = nn.functional.pad(quiet_enough.double().cumsum(dim=-1), (1, 0))
    whole = (total[:, shortest:] - total[:, :-shortest] == shortest).double()  # a run begins here
    # A sample is in such a run where one begins at most shortest - 1 samples before it.
    begun = nn.functional.pad(whole, (shortest, shortest - 1)).cumsum(dim=-1)
    return begun[:, shortest:] - begun[:, :-shortest] > 0

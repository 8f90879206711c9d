"""Digital silence, where a front-end's magnitude has no derivative and its clamp makes the slope zero."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Small enough that no other sample of a sound changes, large enough that its square is a normal float32.
_FAINT = 2.0**-40


def beside_silence(waveforms: Float[Tensor, "stimulus sample"]) -> Float[Tensor, "stimulus sample"]:
    """The sounds with a faint noise in place of every sample that is exactly zero.

    The magnitude of a Fourier coefficient, sqrt(re^2 + im^2), has no derivative at 0. A front-end that clamps its bands
    to a floor is constant there, so the gradient is 0, but the chain rule as it is computed gives 0 times infinity, a
    NaN. Beside silence, at 1e-12 of full scale, every factor is finite. The noise is the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(waveforms.shape[-1], generator=generator, dtype=torch.float64) + 1.0
    signs = torch.randint(0, 2, noise.shape, generator=generator) * 2 - 1
    faint = (_FAINT * noise * signs).to(device=waveforms.device, dtype=waveforms.dtype)
    return torch.where(waveforms == 0, faint, waveforms)


def has_no_slope(front_end: nn.Module | Tensor, waveforms: Float[Tensor, "stimulus sample"]) -> bool:
    """Whether the chain rule through a front-end gives NaN in a digital silence of these sounds."""
    if not isinstance(front_end, nn.Module) or not bool((waveforms == 0).any()):
        return False
    with torch.enable_grad():
        heard = waveforms.detach().clone().unsqueeze(1).requires_grad_(True)
        (slope,) = torch.autograd.grad(front_end(heard).sum(), heard)
    return not bool(slope.isfinite().all())

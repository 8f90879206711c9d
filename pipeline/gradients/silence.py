"""Digital silence, where a front-end's magnitude has no derivative and its clamp makes the slope zero."""

import torch
from jaxtyping import Float
from torch import Tensor

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

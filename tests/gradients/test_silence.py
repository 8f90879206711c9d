"""Around digital silence a clamped front-end is constant, and the gradmap says so instead of NaN."""

import torch
from torch import nn

from pipeline.gradients.encoding_model import AudioEncodingModel
from pipeline.gradients.front_end.silence import beside_silence
from pipeline.gradients.gradmaps import waveform_gradmaps

HOP, BINS = 8, 5


class LogSpectrum(nn.Module):
    """Log magnitude of each frame's Fourier transform, clamped to a floor."""

    out_channels, hop, audio_fs = BINS, HOP, 800

    def forward(self, waveform):
        spectrum = torch.fft.rfft(waveform.unflatten(-1, (-1, HOP)))
        magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()
        return magnitude.clamp(min=1e-4).log().transpose(-1, -2)


class Reader(nn.Module):
    """A linear readout of each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, BINS))

    def forward(self, x):
        return torch.einsum("nf,bcft->bnct", self.weight, x)


def model() -> AudioEncodingModel:
    torch.manual_seed(0)
    made = AudioEncodingModel(BINS, 1, 2, wav2spec=LogSpectrum())
    made.readout = Reader()
    return made.eval()


def half_silent() -> torch.Tensor:
    sound = torch.randn(6 * HOP, generator=torch.Generator().manual_seed(1))
    sound[2 * HOP : 4 * HOP] = 0.0
    return sound


def test_plain_autograd_is_nan_in_silence():
    sound = half_silent().requires_grad_(True)
    model()(sound[None, None]).sum().backward()
    assert sound.grad.isnan().any()


def test_gradmaps_in_silence_are_those_of_the_constant_that_the_clamp_makes():
    maps = waveform_gradmaps(model(), half_silent(), objective="sum").flip(-1)
    assert maps.isfinite().all()
    assert (maps[:, 2 * HOP : 4 * HOP] == 0).all()
    assert (maps[:, : 2 * HOP] != 0).any()


def test_gradmaps_beside_silence_meet_finite_differences():
    double, sound = model().double(), half_silent().double()
    maps = waveform_gradmaps(double, sound, objective="sum", dtype=torch.float64).flip(-1)
    step = torch.zeros_like(sound)
    step[HOP + 3] = step[2 * HOP + 3] = 1e-7
    with torch.no_grad():
        moved = [double((sound + sign * step)[None, None])[0, :, 0].sum(-1) for sign in (1.0, -1.0)]
    slope = (moved[0] - moved[1]) / 2e-7
    torch.testing.assert_close(slope, maps[:, HOP + 3] + maps[:, 2 * HOP + 3], rtol=1e-5, atol=1e-7)


def test_sounds_without_a_gap_are_not_touched():
    sound = torch.randn(2, 40)
    assert beside_silence(sound) is not sound
    torch.testing.assert_close(beside_silence(sound), sound, rtol=0, atol=0)


def test_the_faint_noise_is_the_same_at_every_call_and_leaves_the_random_state():
    before = torch.get_rng_state()
    sound = torch.zeros(1, 16)
    assert torch.equal(beside_silence(sound), beside_silence(sound))
    assert (beside_silence(sound) != 0).all()
    assert torch.equal(torch.get_rng_state(), before)

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.gradients.front_end import samples as engine
from pipeline.gradients.front_end.filterbank import filterbank
from pipeline.gradients.gradmaps import compute_waveform_gradmaps, waveform_gradmaps
from tests.gradients.small import FrameAverage, Kernels, Recurrent, relative, seeded
from tests.zoo import FRONT_ENDS, HOP, ZOO, hearing, sound

relaxed = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def listening(n_neurons=20, hop=8, taps=5, window=12, n_bands=4, **arguments):
    model = Recurrent(n_neurons=n_neurons, n_bands=n_bands, **arguments)
    model.wav2spec = FrameAverage(n_bands, hop, taps, window)
    return model


def noise(n_samples, n_stimuli=None, seed=0):
    shape = (n_samples,) if n_stimuli is None else (n_stimuli, n_samples)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole_by_autograd(model, waveform, reduce):
    """(neuron, sample), time ascending."""
    free = waveform.clone().requires_grad_(True)
    values = reduce(model(free[None, None])[0, :, 0])
    return torch.stack([torch.autograd.grad(value, free, retain_graph=True)[0] for value in values])


REDUCED = {
    "last": lambda response: response[:, -1],
    "peak": lambda response: response.amax(dim=-1),
    "sum": lambda response: response.sum(dim=-1),
    "mean": lambda response: response.mean(dim=-1),
}


@pytest.mark.parametrize("objective", REDUCED)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_front_end_gives_the_rows_of_plain_autograd(front_end, objective):
    model = hearing(front_end, n_neurons=4)
    waveform = sound(20)
    expected = whole_by_autograd(model, waveform, REDUCED[objective])
    found = compute_waveform_gradmaps(model, waveform[None], None, objective=objective)
    for row, frame, whole in zip(found.values[0], found.frames[0], expected, strict=True):
        past = whole[: (int(frame) + 1) * HOP].flip(0)
        assert relative(row[: len(past)], past) < 2e-5
        assert not row[len(past) :].any()


@relaxed
@given(
    hop=st.integers(1, 9),
    taps=st.integers(1, 12),
    extra=st.integers(0, 14),
    n_frames=st.integers(1, 40),
    n_neurons=st.sampled_from([3, 25]),
    n_stimuli=st.integers(1, 2),
    objective=st.sampled_from(["last", "peak", "sum", {"frame": 0}]),
    data=st.data(),
)
def test_windows_of_sound_are_exact(hop, taps, extra, n_frames, n_neurons, n_stimuli, objective, data):
    model = seeded(lambda: listening(n_neurons, hop, taps, hop + extra))
    sounds = noise(hop * n_frames, n_stimuli)
    window = data.draw(st.one_of(st.none(), st.integers(1, hop * n_frames + 3)))
    expected = compute_waveform_gradmaps(model, sounds, window, objective=objective, route="loop", check=False)
    found = compute_waveform_gradmaps(model, sounds, window, objective=objective)
    assert found.values.shape == (n_stimuli, n_neurons, window or hop * n_frames)
    torch.testing.assert_close(found.values, expected.values, rtol=2e-4, atol=2e-7)
    assert torch.equal(found.before_start, (found.frames + 1) * hop < (window or hop * n_frames))


def test_lag_0_is_the_last_sample_of_the_objectives_frame():
    model = seeded(listening)
    waveform = noise(80)
    whole = whole_by_autograd(model, waveform, lambda response: response[:, 5])
    gradmaps = waveform_gradmaps(model, waveform, objective={"frame": 5}, window=20)
    assert relative(gradmaps, whole[:, 28:48].flip(-1)) < 1e-5
    assert not whole[:, 48:].any()


@pytest.mark.parametrize("route", ["factored", "batched", "replicated", "loop", "forward"])
def test_every_route_gives_the_same_waveform_maps(route):
    model = seeded(listening)
    waveform = noise(160)
    expected = whole_by_autograd(model, waveform, REDUCED["last"]).flip(-1)
    assert relative(waveform_gradmaps(model, waveform, route=route), expected) < 1e-5


def test_blocks_of_rows_do_not_matter():
    model = seeded(listening)
    sounds = noise(160, 2)
    expected = compute_waveform_gradmaps(model, sounds, 50)
    assert relative(compute_waveform_gradmaps(model, sounds, 50, memory_bytes=1).values, expected.values) < 1e-5


def test_only_the_sound_that_can_matter_goes_through_the_front_end():
    """A readout that looks back a few frames: the piece that is differentiated does not grow with the sound."""
    heard = []

    class Noting(FrameAverage):
        def forward(self, x):
            heard.append(x.shape[-1])
            return super().forward(x)

    model = seeded(lambda: Kernels(torch.randn(20, 4, 3)))
    model.wav2spec = Noting(4).eval()
    waveform = noise(8 * 200)
    gradmaps = waveform_gradmaps(model, waveform)
    assert heard[0] == len(waveform)
    assert min(heard) <= 8 * (3 + engine.FIRST_CONTEXT)
    assert relative(gradmaps, whole_by_autograd(model, waveform, REDUCED["last"]).flip(-1)) < 1e-5


def test_a_front_end_with_unlimited_memory_is_not_cut():
    class Running(FrameAverage):
        """Subtracts the running mean, so that every frame hears the whole past."""

        def forward(self, x):
            frames = super().forward(x)
            return frames - frames.cumsum(dim=-1) / torch.arange(1, frames.shape[-1] + 1)

    model = seeded(lambda: Kernels(torch.randn(20, 4, 3)))
    model.wav2spec = Running(4).eval()
    waveform = noise(8 * 100)
    expected = whole_by_autograd(model, waveform, REDUCED["last"]).flip(-1)
    assert expected[:, -8:].any()
    assert relative(waveform_gradmaps(model, waveform), expected) < 1e-5


def test_a_model_that_hears_the_sound_past_its_front_end_is_differentiated_whole():
    class Both(Recurrent):
        def forward(self, x):
            loudness = nn.functional.avg_pool1d(x, 8, 8)
            return super().forward(x) * (1 + loudness.unsqueeze(1))

    model = seeded(lambda: Both(n_neurons=20))
    model.wav2spec = FrameAverage(4).eval()
    waveform = noise(160)
    expected = whole_by_autograd(model, waveform, REDUCED["last"]).flip(-1)
    found = compute_waveform_gradmaps(model, waveform[None], None)
    assert relative(found.values[0], expected) < 1e-5
    assert found.disagreement < 1e-5


@relaxed
@given(
    hop=st.integers(1, 9),
    taps=st.integers(1, 12),
    extra=st.integers(0, 20),
    n_frames=st.integers(1, 20),
    n_rows=st.integers(1, 4),
    n_stimuli=st.integers(1, 2),
)
def test_the_jacobian_of_a_filterbank_is_that_of_autograd(hop, taps, extra, n_frames, n_rows, n_stimuli):
    front_end = seeded(lambda: FrameAverage(3, hop, taps, hop + extra))
    leaf = noise(hop * n_frames, n_stimuli).unsqueeze(1).requires_grad_(True)
    spectrogram, bank = filterbank(front_end, leaf, leaf.view_as(leaf))
    if bank is None:
        return
    rows = torch.randn(n_rows, *spectrogram.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([torch.autograd.grad(spectrogram, leaf, row, retain_graph=True)[0] for row in rows])
    torch.testing.assert_close(bank.pull_back(rows, set()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "is_bank"), [("gammatone", True), ("sincnet", True), ("mel", False), ("leaf", False)])
def test_which_front_ends_are_banks_of_filters(name, is_bank):
    leaf = sound(12).view(1, 1, -1).requires_grad_(True)
    _, bank = filterbank(FRONT_ENDS[name](), leaf, leaf.view_as(leaf))
    assert (bank is not None) == is_bank


class AcrossBands(FrameAverage):
    """Frames of a bank of filters, each less what the other bands have: no band hears its own filter alone."""

    def forward(self, x):
        bands = super().forward(x)
        return bands - 0.9 * bands.mean(dim=2, keepdim=True)


class OnceInAWhile(FrameAverage):
    """Frames of a bank of filters, one of which hears much further back than the others."""

    def forward(self, x):
        bands = super().forward(x)
        return torch.cat([bands[..., :7], bands[..., 7:8] * (1 + bands[..., 2:3]), bands[..., 8:]], dim=-1)


@pytest.mark.parametrize("front_end", [AcrossBands, OnceInAWhile])
def test_what_only_looks_like_a_bank_of_filters_gives_the_rows_of_plain_autograd(front_end):
    model = seeded(listening)
    model.wav2spec = seeded(lambda: front_end(4))
    waveform = noise(160)
    leaf = waveform.view(1, 1, -1).requires_grad_(True)
    assert filterbank(model.wav2spec, leaf, leaf.view_as(leaf))[1] is None
    expected = whole_by_autograd(model, waveform.detach(), REDUCED["last"]).flip(-1)
    found = compute_waveform_gradmaps(model, waveform.detach()[None], None, check=False)
    assert relative(found.values[0], expected) < 1e-5


def test_a_model_whose_front_end_is_most_of_it_works():
    model = ZOO["ICNet"](6)
    waveform = sound(8)
    expected = whole_by_autograd(model, waveform, REDUCED["last"]).flip(-1)
    assert relative(waveform_gradmaps(model, waveform), expected) < 1e-5


def test_the_sum_over_neurons_of_a_waveform_map():
    model = seeded(listening)
    waveform = noise(160)
    expected = whole_by_autograd(model, waveform, REDUCED["last"]).sum(dim=0, keepdim=True).flip(-1)
    assert relative(waveform_gradmaps(model, waveform, neurons="sum"), expected) < 1e-5


def test_float64_waveform_maps():
    model = seeded(listening)
    waveform = noise(160)
    exact = waveform_gradmaps(model, waveform, dtype=torch.float64)
    assert exact.dtype == torch.float64
    assert relative(waveform_gradmaps(model, waveform).double(), exact) < 1e-5

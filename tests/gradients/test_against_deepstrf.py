"""Spectrogram gradmaps equal those of deepSTRF's own method, up to sign and order of time, for its whole zoo."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gradients.gradmaps import compute_strf_gradmaps, strf_gradmaps
from tests.zoo import LAGS, PREFILTERED, ZOO, spectrogram

TOLERANCE = 1e-5
TOLERANCES = {"StateNet-LMU": 2e-5}


def relative_difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def by_deepstrf(model, lags):
    """deepSTRF's maps in our convention: it gives the negative gradient, (neuron, 1, frequency, time)."""
    maps = -model.STRF_gradmap(lags)[:, 0].flip(-1).detach()
    model.zero_grad(set_to_none=True)
    return maps


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("n_neurons", "seed"), [(7, 0), (1, 1)])
def test_maps_are_the_negative_of_deepstrfs_with_time_reversed(name, n_neurons, seed):
    model = ZOO[name](n_neurons, seed)
    before, modes = state(model), [part.training for part in model.modules()]
    ours = strf_gradmaps(model, LAGS)
    assert unchanged(model, before)
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    theirs = by_deepstrf(model, LAGS)
    assert ours.shape == theirs.shape == (n_neurons, model.F, LAGS)
    assert relative_difference(ours, theirs) < TOLERANCES.get(name, TOLERANCE)


@pytest.mark.parametrize("name", ZOO)
def test_a_step_along_the_map_raises_the_response(name):
    model = ZOO[name](4, 2)
    gradmap = strf_gradmaps(model, LAGS, neurons=[2])[0]
    listener = model if name != "ICNet" else Decoder(model)
    step = (1e-2 / gradmap.norm()) * gradmap.flip(-1)[None, None]
    with torch.no_grad():
        before, after = (listener(x)[0, 2, 0, -1] for x in (torch.zeros_like(step), step))
    assert (after - before).item() == pytest.approx(1e-2 * gradmap.norm().item(), rel=0.1)


class Decoder(torch.nn.Module):
    """ICNet without its front-end, from latent channels to responses."""

    def __init__(self, model):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, latent):
        return torch.nn.functional.softplus(self.decoder(latent[:, 0].mT)).mT.unsqueeze(-2)


@pytest.mark.parametrize("name", ["Linear", "StateNet-GRU", "Transformer"])
@settings(max_examples=6, deadline=None)
@given(n_neurons=st.integers(1, 12), lags=st.integers(1, 30), n_bands=st.integers(7, 20), seed=st.integers(0, 100))
def test_maps_equal_deepstrfs_at_any_size(name, n_neurons, lags, n_bands, seed):
    model = ZOO[name](n_neurons, seed, n_bands=n_bands)
    theirs = by_deepstrf(model, lags)
    assert relative_difference(strf_gradmaps(model, lags), theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["LinearNonlinear", "ConvNet2D", "StateNet-LSTM", "StateNet-Mamba", "DNet"])
def test_any_neurons_in_any_order_are_rows_of_deepstrfs(name):
    model = ZOO[name](9, 3)
    theirs = by_deepstrf(model, LAGS)
    for neurons in ([4], [8, 0, 3], range(2, 6)):
        assert relative_difference(strf_gradmaps(model, LAGS, neurons=neurons), theirs[list(neurons)]) < TOLERANCE
    assert relative_difference(strf_gradmaps(model, LAGS, neurons="sum")[0], theirs.sum(0)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("StateNet-GRU", {"connectivity": "FC"}),
        ("StateNet-GRU", {"connectivity": "CONV"}),
        ("StateNet-GRU", {"output_activation": torch.nn.Identity()}),
        ("Linear", {"output_activation": torch.nn.Sigmoid()}),
        ("Linear", {"temporal_window_size": 3}),
        ("ConvNet2D", {"kernel_size": (5, 3), "c_hidden": 4, "n_hidden": 6}),
        ("Transformer", {"context_window": 8}),
        ("Transformer", {"freq_patch_size": 4, "embedding_dim": 8}),
        ("DNet", {"init_tau": 4.0, "decay_input": False}),
        ("NetworkReceptiveField", {"n_hidden": 3, "temporal_window_size": 12}),
    ],
)
def test_maps_equal_deepstrfs_for_other_settings_of_its_classes(name, arguments):
    model = ZOO[name](5, 4, **arguments)
    assert relative_difference(strf_gradmaps(model, LAGS), by_deepstrf(model, LAGS)) < TOLERANCE


@pytest.mark.parametrize("name", PREFILTERED)
def test_a_rectifying_prefilter_gives_maps_of_exactly_zero_at_null_as_deepstrfs_are(name):
    model = PREFILTERED[name](3, 0)
    assert not model.STRF_gradmap(LAGS).any()
    assert not strf_gradmaps(model, LAGS).any()


@pytest.mark.parametrize("name", PREFILTERED)
def test_a_rectifying_prefilter_gives_maps_around_a_sound(name):
    model, around = PREFILTERED[name](3, 0), spectrogram(LAGS)
    ours = strf_gradmaps(model, LAGS, around=around)
    heard = around[None, None].clone().requires_grad_(True)
    rows = [torch.autograd.grad(model(heard)[0, n, 0, -1], heard)[0][0, 0].flip(-1) for n in range(3)]
    assert ours.any()
    assert relative_difference(ours, torch.stack(rows)) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in ZOO if name != "ICNet"])
@pytest.mark.parametrize("objective", ["last", "peak", "sum"])
def test_maps_around_a_sound_are_the_gradients_of_one_neuron_at_a_time(name, objective):
    model, around, lags = ZOO[name](3, 5), spectrogram(26, seed=6), 12
    found = compute_strf_gradmaps(model, around[None], lags, objective=objective)
    heard = around[None, None].clone().requires_grad_(True)
    for neuron in range(3):
        response = model(heard)[0, neuron, 0]
        number = {"last": response[-1], "peak": response.max(), "sum": response.sum()}[objective]
        (gradient,) = torch.autograd.grad(number, heard)
        end = int(response.argmax()) if objective == "peak" else 25
        expected = torch.nn.functional.pad(gradient[0, 0], (lags, 0))[:, end + 1 : end + 1 + lags].flip(-1)
        assert found.frames[0, neuron] == end
        assert bool(found.before_start[0, neuron]) == (end + 1 < lags)
        difference = (found.values[0, neuron] - expected).abs().max() / gradient.abs().max()
        assert difference < TOLERANCES.get(name, TOLERANCE)


def test_s4_that_has_heard_nothing_is_left_as_it_was_and_equals_deepstrf():
    # On its first forward pass S4 finishes one of its weights in place, and again for every longer sound.
    model, reference = (ZOO["StateNet-S4"](3, 0, heard_before=False) for _ in range(2))
    before = state(model)
    for lags in (10, 30):
        ours = strf_gradmaps(model, lags)
        assert unchanged(model, before)
        assert relative_difference(ours, by_deepstrf(reference, lags)) < TOLERANCE

"""The window found is the planted memory, and the search always ends."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gradients.gradmaps import strf_gradmaps
from pipeline.gradients.window import find_window
from tests.gradients.planted import Linear, Refusing, leaky, ticking
from tests.zoo import PREFILTERED, ZOO


@settings(max_examples=12, deadline=None)
@given(memory=st.integers(1, 100), seed=st.integers(0, 100))
def test_the_window_of_a_kernel_is_its_length(memory, seed):
    generator = torch.Generator().manual_seed(seed)
    kernels = 1.0 + torch.rand(3, 2, memory, generator=generator)
    window = find_window(Linear(kernels).eval(), tolerance=1e-6)
    assert window.lags == memory
    assert window.converged
    assert not window.window_dependent
    energy = kernels.square().sum(1).double()
    for share, found in ((0.9, window.memory_lags_90), (0.99, window.memory_lags_99)):
        expected = ((energy.cumsum(1) / energy.sum(1, keepdim=True)) < share - 1e-9).sum(1) + 1
        assert torch.equal(found, expected)


@pytest.mark.parametrize("tau", [2.0, 9.0, 30.0])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_the_window_of_a_leaky_integrator_follows_from_its_time_constant(tau, tolerance):
    window = find_window(leaky([math.exp(-1 / tau), math.exp(-2 / tau)]), tolerance=tolerance)
    # the energy beyond L lags is exp(-2 L / tau)
    assert window.lags == math.ceil(-tau / 2 * math.log(tolerance))
    assert window.converged
    assert window.memory_lags_90.tolist() == [math.ceil(-tau / k * math.log(0.1)) for k in (2, 4)]
    assert window.memory_lags_99.tolist() == [math.ceil(-tau / k * math.log(0.01)) for k in (2, 4)]


def test_a_memory_longer_than_the_longest_window_is_said():
    window = find_window(leaky([math.exp(-1 / 400.0)]), maximum=100)
    assert window.lags == 100
    assert not window.converged
    assert "memory is longer than the longest window of 100 frames" in window.reason
    assert not window.window_dependent
    assert window.oldest_share.item() > 0.05


def test_a_model_that_counts_frames_is_told_from_one_with_long_memory():
    window = find_window(ticking(torch.rand(2, 3, 6) + 1.0))
    assert window.lags == 6
    assert window.window_dependent
    assert not window.converged
    assert "absolute positions" in window.reason


def test_absolute_positions_of_a_transformer_are_told_and_its_own_window_given():
    for name in ("Transformer", "adaptrans-Transformer"):
        model = {**ZOO, **PREFILTERED}[name](3, 0)
        window = find_window(model, maximum=128)
        assert window.lags == model.T
        assert window.window_dependent


@pytest.mark.parametrize("name", ["Linear", "DNet", "ConvNet2D", "StateNet-GRU", "adaptrans-Linear"])
def test_a_window_twice_as_long_changes_no_map_of_a_converged_model(name):
    model = {**ZOO, **PREFILTERED}[name](4, 0)
    window = find_window(model)
    assert window.converged
    maps, longer = (strf_gradmaps(model, lags, around=0.3) for lags in (window.lags, 2 * window.lags))
    change = (longer[..., : window.lags] - maps).flatten(1).norm(dim=1) / maps.flatten(1).norm(dim=1)
    beyond = longer[..., window.lags :].flatten(1).norm(dim=1) / longer.flatten(1).norm(dim=1)
    assert change.max() < 0.1
    assert beyond.max() < 0.1


def test_a_prefilter_that_is_silent_at_null_is_heard_in_noise():
    window = find_window(PREFILTERED["icadaptation-Linear"](3, 0))
    assert window.lags == 9 + 5  # the kernel's frames, and five more that the prefilter looks back
    assert window.converged


@pytest.mark.parametrize("memory", [10, 30])
def test_a_model_that_refuses_longer_stimuli_is_not_asked_again(memory):
    window = find_window(Refusing(torch.ones(2, 2, memory)).eval())
    # Beyond the 40 frames that it takes it cannot hear anything.
    assert (window.lags, window.converged) == (memory, True)
    assert "takes 40 frames at most" in window.reason


def test_a_model_of_short_stimuli_is_tried_with_its_own_window():
    model = Refusing(torch.ones(2, 2, 5)).eval()
    model.longest = 5
    assert find_window(model).lags == 5
    model.longest = 4
    with pytest.raises(ValueError, match="at most 4 frames"):
        find_window(model)


def test_maps_of_zero_have_no_window():
    window = find_window(Linear(torch.zeros(2, 2, 5)).eval())
    assert not window.converged
    assert "every map is zero" in window.reason
    assert window.memory_lags_99.tolist() == [0, 0]


def test_maps_that_are_no_numbers_end_the_search():
    model = Linear(torch.ones(2, 2, 5)).eval()
    with torch.no_grad():
        model.readout.kernels[1, 0, 0, 3] = math.nan
    window = find_window(model)
    assert not window.converged
    assert "not finite" in window.reason


def test_every_neuron_is_looked_at():
    kernels = torch.ones(250, 2, 60)
    kernels[:, :, 4:] *= torch.arange(250)[:, None, None] == 57
    window = find_window(Linear(kernels).eval())
    assert (window.lags, window.converged) == (60, True)
    assert len(window.memory_lags_90) == 250
    assert find_window(Linear(torch.rand(250, 2, 4)).eval(), neurons=[7]).memory_lags_90.shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": 1.5}, "tolerance is 1.5"),
        ({"start": 0}, "start is 0"),
        ({"start": 9, "maximum": 8}, "start is 9 and maximum 8"),
    ],
)
def test_a_search_that_cannot_find_anything_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_window(leaky([0.5]), **arguments)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        find_window(leaky([0.5]).train())


@pytest.mark.parametrize("held", [range(20, 40), (*range(10), *range(40, 50)), (0, 255), range(100, 110)])
def test_lobes_after_a_gap_and_pure_delays_are_within_the_window(held):
    kernels = torch.zeros(4, 3, 256)
    kernels[..., list(held)] = 1.0 + torch.rand(4, 3, len(held))
    window = find_window(Linear(kernels).eval())
    assert window.lags == max(held) + 1
    assert window.converged


def test_a_lobe_in_the_older_half_of_the_longest_window_is_no_convergence():
    kernels = torch.zeros(2, 2, 100)
    kernels[..., [0, 99]] = 1.0
    window = find_window(Linear(kernels).eval(), maximum=128)
    assert not window.converged
    assert window.lags == 128

"""Each flag is raised by what it names and by nothing else."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.gradients.encoding_model import AudioEncodingModel
from pipeline.gradients.gradmaps import compute_strf_gradmaps, compute_waveform_gradmaps
from pipeline.gradients.health.assessment import assess, map_flags
from pipeline.gradients.health.energy import memory_length, oldest_share
from pipeline.gradients.health.flags import FLAGS
from pipeline.gradients.health.normalisation import near_eps, near_eps_in
from pipeline.gradients.health.unheard import clamped_bins, silent_samples
from pipeline.gradients.passes.trace import traced
from pipeline.gradients.question import Question
from tests.gradients.planted import Kernels, Linear, leaky, ticking
from tests.zoo import FRONT_ENDS, HOP, PREFILTERED, ZOO, hearing, sound, spectrogram


def raised(health):
    """Names of the flags raised for any map."""
    return {name for name, bit in FLAGS.items() if (health.flags & bit).any()}


def finite_difference_error(model, maps, stimuli, objective="last", **arguments):
    """Largest relative error of a few maps against central differences."""
    return assess(model, maps, stimuli, Question(objective=objective), **arguments).finite_difference_error


def around_null(model, lags, **arguments):
    return assess(model, compute_strf_gradmaps(model, None, lags), None, lags, **arguments)


def test_every_flag_is_a_bit_of_its_own_and_fits_16():
    assert sorted(FLAGS.values()) == [1 << position for position in range(len(FLAGS))]
    assert len(FLAGS) <= 16


@settings(max_examples=40, deadline=None)
@given(n_lags=st.integers(1, 60), axes=st.integers(0, 2), share=st.floats(0.05, 0.99), seed=st.integers(0, 1000))
def test_memory_is_the_shortest_run_of_lags_that_holds_the_energy(n_lags, axes, share, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, *[2] * axes, n_lags, generator=generator)
    energy = values.double().square().flatten(2, -2).sum(2) if axes else values.double().square()
    memory = memory_length(values, share)
    for stimulus in range(2):
        for neuron in range(3):
            kept, total = int(memory[stimulus, neuron]), energy[stimulus, neuron].sum()
            assert energy[stimulus, neuron, :kept].sum() >= share * total * (1 - 1e-9)
            assert energy[stimulus, neuron, : kept - 1].sum() < share * total
    oldest = max(1, round(n_lags / 10))
    torch.testing.assert_close(oldest_share(values), (energy[..., -oldest:].sum(-1) / energy.sum(-1)).float())


def test_a_map_of_zero_has_no_memory_and_lags_before_the_stimulus_count_as_zero():
    values = torch.zeros(1, 2, 3, 10)
    values[0, 1, :, 4] = 1.0
    values[0, 1, :, 6:] = math.nan
    assert memory_length(values, 0.9).tolist() == [[0, 5]]
    assert oldest_share(values).tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        memory_length(values, 1.5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_maps_of_any_size_have_a_memory(scale):
    values = torch.zeros(1, 2, 3, 10)
    values[0, 0, :, :4] = scale
    values[0, 1, :, :7] = 1.0
    assert memory_length(values, 1.0).tolist() == [[4, 7]]
    assert not (map_flags(values, torch.zeros(1, 2, dtype=torch.bool)) & FLAGS["all_zero_map"]).any()


def test_maps_without_lags_are_refused():
    with pytest.raises(ValueError, match="no stimulus, neuron and lag"):
        map_flags(torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool))


def test_a_healthy_model_raises_nothing():
    for name in ("Linear", "LinearNonlinear", "StateNet-GRU", "ConvNet2D", "NetworkReceptiveField"):
        model = ZOO[name](4, 0)
        health = around_null(model, 30)
        assert raised(health) == set()
        assert health.flags.shape == health.future_share.shape == (1, 4)
        assert health.finite_difference_error < 1e-5


def test_a_window_shorter_than_the_kernel_is_truncated_and_its_own_window_is_not():
    kernels = 1.0 + torch.rand(4, 3, 20)
    model = Linear(kernels).eval()
    assert raised(around_null(model, 10)) == {"truncated_window"}
    assert raised(around_null(model, 20)) == set()
    assert (oldest_share(compute_strf_gradmaps(model, None, 20).values) > 0.05).all()
    assert raised(around_null(model, 40)) == set()


@pytest.mark.parametrize(("lags", "truncated"), [(10, True), (15, True), (60, False)])
def test_a_leaky_integrator_is_truncated_where_its_tail_is_cut(lags, truncated):
    model = leaky([math.exp(-1 / 10.0)])
    assert raised(around_null(model, lags)) == ({"truncated_window"} if truncated else set())
    oldest, decay = round(lags / 10), math.exp(-2 / 10.0)
    expected = decay ** (lags - oldest) * (1 - decay**oldest) / (1 - decay**lags)
    assert oldest_share(compute_strf_gradmaps(model, None, lags).values).item() == pytest.approx(expected, rel=1e-4)


def test_a_rectifying_prefilter_at_null_is_all_zero_and_off_its_finite_difference():
    model = PREFILTERED["adaptrans-Linear"](3, 0)
    health = around_null(model, 20, sample=3)
    assert raised(health) == {"all_zero_map", "finite_difference_off"}
    assert (health.flags & FLAGS["all_zero_map"]).all()
    assert raised(around_null(model, 20, sample=0)) == {"all_zero_map"}


def test_absolute_positions_and_frame_counters_are_told_from_recurrence():
    assert "window_dependent_model" in raised(around_null(ticking(torch.rand(2, 3, 5)), 10))
    assert "window_dependent_model" in raised(around_null(ZOO["Transformer"](3, 0), 20))
    for model in (ZOO["StateNet-GRU"](3, 0), ZOO["DNet"](3, 0), leaky([0.9])):
        assert "window_dependent_model" not in raised(around_null(model, 30))


def test_a_window_that_reaches_before_the_stimulus_is_flagged_per_neuron():
    model, stimuli = Linear(torch.rand(3, 4, 6)).eval(), torch.stack([spectrogram(30, seed, 4) for seed in range(2)])
    maps = compute_strf_gradmaps(model, stimuli, 12, objective="peak")
    health = assess(model, maps, stimuli, Question(12, objective="peak"))
    before = (health.flags & FLAGS["window_before_stimulus"]) > 0
    assert torch.equal(before, maps.frames < 11)
    short = compute_strf_gradmaps(model, stimuli[..., :8], 12)
    assert raised(assess(model, short, stimuli[..., :8], 12)) == {"window_before_stimulus"}


def test_routes_that_disagree_are_flagged():
    model = ZOO["Linear"](3, 0)
    maps = compute_strf_gradmaps(model, None, 9)
    for disagreement, names in ((1e-6, set()), (math.nan, set()), (1e-3, {"routes_disagree"})):
        assert raised(assess(model, replace(maps, disagreement=disagreement), None, 9)) == names


@pytest.mark.parametrize("name", ["LinearNonlinear", "StateNet-LSTM", "Transformer", "ICNet"])
def test_finite_differences_confirm_right_maps_and_find_wrong_ones(name):
    model = ZOO[name](4, 1)
    maps = compute_strf_gradmaps(model, None, 12)
    assert finite_difference_error(model, maps, None, sample=4) < 1e-5
    for wrong in (1.01 * maps.values, -maps.values, maps.values.roll(1, -1), maps.values.roll(1, 1)):
        health = assess(model, replace(maps, values=wrong), None, 12, sample=2)
        assert health.finite_difference_error > 2e-3
        # What is wrong in the maps drawn is wrong in their like.
        assert (health.flags & FLAGS["finite_difference_off"]).all()


def test_one_wrong_map_is_found_along_the_direction_that_all_share():
    model = ZOO["StateNet-GRU"](40, 1)
    maps = compute_strf_gradmaps(model, None, 12)
    wrong = maps.values.clone()
    wrong[0, 17] *= 1.05
    flags = assess(model, replace(maps, values=wrong), None, 12, sample=1).flags[0] & FLAGS["finite_difference_off"]
    assert flags.nonzero().flatten().tolist() == [17]


def test_maps_of_zero_among_others_are_compared_along_the_shared_direction_alone():
    model = ZOO["LinearNonlinear"](4, 1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.shape[0] == 4:
                weight[2] = 0.0
    maps = compute_strf_gradmaps(model, None, 12)
    assert not maps.values[0, 2].any()
    for neurons in (None, [2]):
        asked = Question(12, neurons)
        health = assess(model, compute_strf_gradmaps(model, None, 12, neurons=neurons), None, asked)
        assert health.finite_difference_error < 1e-5
        assert not (health.flags & FLAGS["finite_difference_off"]).any()


@pytest.mark.parametrize("objective", ["last", "peak", "sum", "mean", {"frame": 17}, {"mean_over": [9, 14]}])
def test_finite_differences_confirm_maps_around_sounds(objective):
    stimuli = torch.stack([spectrogram(30, seed) for seed in range(2)])
    for name in ("StateNet-GRU", "adaptrans-Linear"):
        model = {**ZOO, **PREFILTERED}[name](4, 2)
        maps = compute_strf_gradmaps(model, stimuli, 30, objective=objective)
        assert finite_difference_error(model, maps, stimuli, objective, sample=6) < 1e-4


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_finite_differences_confirm_waveform_maps(front_end):
    model, sounds = hearing(front_end, n_neurons=3, seed=3), torch.stack([sound(12, seed) for seed in range(2)])
    for objective in ("last", "peak"):
        maps = compute_waveform_gradmaps(model, sounds, 8 * HOP, objective=objective)
        assert finite_difference_error(model, maps, sounds, objective) < 2e-3
    assert finite_difference_error(model, replace(maps, values=maps.values.roll(7, -1)), sounds, "peak") > 1e-2


def test_maps_of_some_neurons_of_the_sum_and_of_prefiltered_channels_are_assessed_as_such():
    model, stimuli = PREFILTERED["adaptrans-StateNet-GRU"](5, 4), spectrogram(30)[None]
    for chosen in ([3, 0], 2, "sum"):
        for space in ("spectrogram", "prefiltered"):
            maps = compute_strf_gradmaps(model, stimuli, 30, neurons=chosen, space=space)
            health = assess(model, maps, stimuli, Question(30, chosen, space=space))
            assert health.flags.shape == maps.values.shape[:2]
            assert health.finite_difference_error < 1e-4
    maps = compute_strf_gradmaps(model, None, 30, space="prefiltered")
    assert raised(assess(model, maps, None, Question(30, space="prefiltered"))) == set()


def test_a_constant_stimulus_is_a_baseline_and_not_a_clamped_sound():
    model = Linear(torch.rand(3, 4, 12)).eval()
    mean = torch.arange(4.0)[:, None].expand(4, 8)[None]
    assert raised(assess(model, compute_strf_gradmaps(model, mean, 8), mean, 8)) == {"truncated_window"}
    silence = compute_strf_gradmaps(model, None, 12, level=-9.2)
    assert raised(assess(model, silence, None, Question(12, level=-9.2))) == set()


def test_maps_that_belong_to_something_else_are_refused():
    model, stimuli = ZOO["Linear"](3, 0), spectrogram(20)[None]
    maps = compute_strf_gradmaps(model, stimuli, 9)
    for wrong in ({"stimuli": stimuli.expand(2, -1, -1)}, {"stimuli": stimuli, "question": Question(neurons=[0])}):
        with pytest.raises(ValueError, match="cannot be those of"):
            assess(model, maps, **wrong)
    with pytest.raises(ValueError, match="and 8 lags"):
        assess(model, maps, stimuli, 8)
    heard = hearing("mel", n_neurons=2)
    waveform_maps = compute_waveform_gradmaps(heard, sound(8)[None], 100)
    with pytest.raises(ValueError, match="give the sounds"):
        assess(heard, waveform_maps, None)


def test_nothing_of_the_model_or_of_torch_is_changed():
    model, sounds = hearing("leaf", "StateNet-LSTM", n_neurons=3), sound(12)[None]
    maps = compute_waveform_gradmaps(model, sounds, 6 * HOP)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, default = torch.get_rng_state(), torch.get_default_dtype()
    assess(model, maps, sounds)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_default_dtype() == default


def test_the_same_seed_draws_the_same_maps():
    model = ZOO["StateNet-GRU"](30, 0)
    maps = compute_strf_gradmaps(model, None, 9)
    errors = [finite_difference_error(model, maps, None, sample=1, seed=seed) for seed in (1, 1, 2)]
    assert errors[0] == errors[1] != errors[2]


class OwnNorm(nn.Module):
    """A normalisation over bands that is no class of torch."""

    eps = 1e-5

    def forward(self, x):
        x = x.mT
        return ((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + self.eps).sqrt()).mT


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.Sequential(nn.Flatten(1, 2), Turned(nn.LayerNorm(4)), nn.Unflatten(1, (1, 4))),
        lambda: nn.Sequential(nn.Flatten(1, 2), Turned(nn.RMSNorm(4, eps=1e-5)), nn.Unflatten(1, (1, 4))),
        lambda: nn.GroupNorm(1, 1),
        lambda: nn.InstanceNorm2d(1),
        lambda: Transposed(OwnNorm()),
    ],
)
def test_a_normalisation_of_almost_nothing_is_noticed(norm):
    model = AudioEncodingModel(4, 6, 2)
    model.core, model.readout = norm(), Kernels(torch.rand(2, 1, 4, 6))
    model.eval()
    for heard, expected in (
        (torch.zeros(1, 1, 4, 9), True),
        (1e-3 * torch.randn(1, 1, 4, 9), True),
        (torch.randn(1, 1, 4, 9) * torch.tensor([1.0, 2.0, -3.0, 4.0])[:, None] + 3.0, False),
    ):
        assert near_eps(model, heard) is expected
        assert near_eps_in(model, traced(model, heard.requires_grad_())[1].calls) is expected
    assert near_eps_in(model, ()) is None  # which layers were not heard nothing is known of
    assert not any(part._forward_hooks for part in model.modules())


class Turned(nn.Sequential):
    """A layer over the last axis, applied to the axis of bands."""

    def forward(self, x):
        return super().forward(x.mT).mT


class Transposed(nn.Sequential):
    """A layer that turns its input itself."""

    def forward(self, x):
        return super().forward(x.mT).mT


def test_a_batch_norm_of_a_dead_channel_is_noticed():
    model = ZOO["Linear"](3, 0)
    assert not near_eps(model, torch.zeros(1, 1, 16, 9))
    model.readout.bn.running_var[1] = 1e-7
    assert near_eps(model, torch.zeros(1, 1, 16, 9))


def test_hooks_are_removed_when_the_forward_pass_fails():
    model = ZOO["NetworkReceptiveField"](3, 0)
    with pytest.raises(RuntimeError):
        near_eps(model, torch.zeros(1, 1, 3, 9))
    assert not any(part._forward_hooks for part in model.modules())


def test_zero_biases_before_a_layer_norm_are_flagged_at_null_only():
    model = ZOO["ConvNet2D"](3, 0)
    with torch.no_grad():
        for layer in model.core:
            if isinstance(layer, nn.Conv2d):
                layer.bias.zero_()
    stimuli = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0))
    assert "near_eps_normalisation" in raised(around_null(model, 25))
    for name in ("Transformer", "StateNet-GRU", "ConvNet2D"):
        whole = ZOO[name](3, 0)
        maps = compute_strf_gradmaps(whole, stimuli, 25)
        assert "near_eps_normalisation" not in raised(assess(whole, maps, stimuli, 25))


@pytest.mark.parametrize("front_end", ["mel", "gammatone", "gammatone-pcen"])
def test_clamped_bins_are_those_without_gradient(front_end):
    module, waveform = FRONT_ENDS[front_end](), sound(12)
    waveform[6 * HOP :] = 1e-9 * waveform[6 * HOP :]
    found = clamped_bins(module, waveform[None])[0]
    exact, heard = FRONT_ENDS[front_end]().double(), waveform.double().requires_grad_(True)
    spec = exact(heard[None, None])[0, 0]
    rows = torch.stack([torch.autograd.grad(bin, heard, retain_graph=True)[0] for bin in spec.flatten()])
    expected = ~(rows.nan_to_num(nan=0.0).abs().amax(1) > 0).reshape(spec.shape)
    assert torch.equal(found, expected)
    assert found[:, 9:].all() == (front_end != "gammatone-pcen")
    assert not found[:, :6].all(dim=0).any()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n_samples=st.integers(1, 60), shortest=st.integers(1, 12))
def test_silent_runs_are_found_sample_by_sample(data, n_samples, shortest):
    on = data.draw(st.lists(st.booleans(), min_size=n_samples, max_size=n_samples))
    waveform = torch.tensor([1.0 if sample else 0.0 for sample in on])
    shortest_run, expected, start = min(shortest, n_samples), [False] * n_samples, 0
    silent = [not sample for sample in on] if any(on) else [True] * n_samples
    while start < n_samples:
        stop = start
        while stop < n_samples and silent[stop]:
            stop += 1
        if stop - start >= shortest_run:
            expected[start:stop] = [True] * (stop - start)
        start = max(stop, start + 1)
    assert silent_samples(waveform[None], shortest)[0].tolist() == expected


def test_a_silent_end_is_flagged_where_a_window_looks_at_it():
    model, loud = hearing("mel", n_neurons=3), sound(20)
    quiet = loud.clone()
    quiet[16 * HOP :] = 0.0
    early = loud.clone()
    early[: 6 * HOP] = 0.0
    sounds, window = torch.stack([loud, quiet, early]), 8 * HOP
    maps = compute_waveform_gradmaps(model, sounds + 1e-7 * sound(20, seed=1), window)
    flags = assess(model, maps, sounds, window, sample=0).flags & FLAGS["clamped_or_silent_stimulus"]
    assert (flags > 0).all(dim=1).tolist() == [False, True, False]
    assert (flags > 0).any(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize(("bins", "flagged"), [(3, True), (1, False)])
def test_the_share_at_the_floor_is_that_of_the_window_alone(bins, flagged):
    model, loud = Linear(torch.rand(3, 4, 6)).eval(), spectrogram(30, 0, 4)
    loud[0, 25 : 25 + bins] = loud.min() - 1.0  # of the 40 bins of the window, which ends with the stimulus
    maps = compute_strf_gradmaps(model, loud[None], 10)
    flags = assess(model, maps, loud[None], 10).flags & FLAGS["clamped_or_silent_stimulus"]
    assert (flags > 0).all() == (flags > 0).any() == flagged


def test_a_spectrogram_at_its_floor_is_flagged():
    model, loud = Linear(torch.rand(3, 4, 6)).eval(), spectrogram(30, 0, 4)
    floored = loud.clamp(min=loud.quantile(0.4))
    stimuli = torch.stack([loud, floored])
    maps = compute_strf_gradmaps(model, stimuli, 10)
    flags = assess(model, maps, stimuli, 10).flags & FLAGS["clamped_or_silent_stimulus"]
    assert (flags > 0).tolist() == [[False] * 3, [True] * 3]

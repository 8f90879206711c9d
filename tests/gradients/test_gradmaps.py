import copy
import threading
import warnings

import pytest
import torch
from torch import nn

from pipeline.gradients.gradmaps import (
    compute_strf_gradmaps,
    compute_waveform_gradmaps,
    strf_gradmaps,
    waveform_gradmaps,
)
from pipeline.gradients.torch_state.process_flags import (
    attention_in_steps,
    full_precision,
    slow_batching,
    without_onednn,
)
from tests.gradients.small import FrameAverage, Kernels, OnOff, Recurrent, by_autograd, relative, seeded

N, F, T = 6, 4, 7


@pytest.fixture
def kernels():
    return torch.randn(N, F, T, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def stimulus():
    return torch.randn(F, 12, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("neurons", [None, [0], [2, 0], [3, 3, 1], range(N)])
def test_gradmap_of_a_linear_model_is_its_kernel(kernels, neurons):
    gradmaps = strf_gradmaps(Kernels(kernels).eval(), T, neurons=neurons)
    torch.testing.assert_close(gradmaps, kernels if neurons is None else kernels[list(neurons)])


def test_gradmap_of_a_linear_nonlinear_model_is_slope_times_kernel(kernels, stimulus):
    linear = (kernels.flip(-1) * stimulus[:, -T:]).sum(dim=(1, 2))
    slope = torch.sigmoid(linear).view(-1, 1, 1)
    gradmaps = strf_gradmaps(Kernels(kernels, nn.Softplus()).eval(), T, around=stimulus)
    torch.testing.assert_close(gradmaps, slope * kernels)


def test_a_single_neuron_keeps_the_neuron_axis(kernels):
    torch.testing.assert_close(strf_gradmaps(Kernels(kernels).eval(), T, neurons=2), kernels[2:3])


@pytest.mark.parametrize("route", ["auto", "batched", "loop", "replicated", "forward"])
@pytest.mark.parametrize("objective", ["last", "sum", "mean", {"frame": 6}, {"mean_over": [3, 9]}])
def test_the_sum_over_neurons_is_the_sum_of_their_maps(stimulus, route, objective):
    model = seeded(Recurrent)
    whole = strf_gradmaps(model, 8, neurons="sum", around=stimulus, objective=objective, route=route)
    each = strf_gradmaps(model, 8, around=stimulus, objective=objective)
    torch.testing.assert_close(whole, each.sum(dim=0, keepdim=True), rtol=1e-4, atol=1e-6)


def test_lags_beyond_the_kernel_are_zero(kernels):
    gradmaps = strf_gradmaps(Kernels(kernels).eval(), T + 3)
    torch.testing.assert_close(gradmaps[..., :T], kernels)
    assert not gradmaps[..., T:].any()


def test_a_window_that_reaches_before_the_stimulus_is_zero_there_and_says_so(kernels, stimulus):
    found = compute_strf_gradmaps(
        Kernels(kernels).eval(), stimulus[None, :, :5], 7, objective={"frame": 3}, neurons=[0, 1]
    )
    torch.testing.assert_close(found.values[0, ..., :4], kernels[:2, :, :4])
    assert not found.values[..., 4:].any()
    assert found.before_start.tolist() == [[True, True]]
    assert found.frames.tolist() == [[3, 3]]
    assert not compute_strf_gradmaps(Kernels(kernels).eval(), stimulus[None], 7).before_start.any()


OBJECTIVES = {
    "last": lambda response: response[:, -1],
    "peak": lambda response: response.amax(dim=-1),
    "sum": lambda response: response.sum(dim=-1),
    "mean": lambda response: response.mean(dim=-1),
}


@pytest.mark.parametrize("objective", [*OBJECTIVES, {"frame": 5}, {"mean_over": [2, 6]}], ids=str)
@pytest.mark.parametrize("n_neurons", [3, 40])
def test_objectives_equal_plain_autograd(objective, n_neurons, stimulus):
    model = seeded(lambda: Recurrent(n_neurons=n_neurons))
    plain = OBJECTIVES.get(objective) if isinstance(objective, str) else None
    if plain is None:
        span = objective.get("mean_over", [objective.get("frame", 0), objective.get("frame", 0) + 1])
        plain = lambda response: response[:, span[0] : span[1]].mean(dim=-1)  # noqa: E731
    expected = by_autograd(model, stimulus, plain)
    found = compute_strf_gradmaps(model, stimulus[None], 12, objective=objective)
    for neuron, (frame, gradmap) in enumerate(zip(found.frames[0], found.values[0], strict=True)):
        kept = expected[neuron, :, : int(frame) + 1].flip(-1)
        assert relative(gradmap[:, : kept.shape[-1]], kept) < 1e-5
    assert found.disagreement < 1e-5
    assert relative(found.responses[0], plain(model(stimulus[None, None])[0, :, 0])) < 1e-5


def test_a_function_is_an_objective(stimulus):
    model = seeded(Recurrent)

    def contrast(response):
        return (response[:, -4:] ** 2).mean(dim=-1) - response[:, 0]

    expected = by_autograd(model, stimulus, contrast).flip(-1)
    assert relative(strf_gradmaps(model, 12, around=stimulus, objective=contrast), expected) < 1e-5


@pytest.mark.parametrize("route", ["auto", "factored", "batched", "replicated", "loop", "forward"])
def test_an_objective_that_mixes_neurons_keeps_the_mixed_terms(stimulus, route):
    model = seeded(lambda: Recurrent(n_neurons=20))

    def share(response):
        return response[:, -1] / response[:, -1].sum()

    expected = by_autograd(model, stimulus, share).flip(-1)
    got = strf_gradmaps(model, 12, around=stimulus, objective=share, neurons=[1, 4, 19], route=route)
    assert relative(got, expected[[1, 4, 19]]) < 2e-5


def test_a_step_along_the_gradmap_raises_the_response(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=1))
    step = strf_gradmaps(model, 12, around=stimulus)[0].flip(-1)
    with torch.no_grad():
        before, after = (model(x[None, None])[0, 0, 0, -1].item() for x in (stimulus, stimulus + 0.1 * step))
    assert after > before


def test_float64_gradmaps_equal_finite_differences(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=20))
    exact = strf_gradmaps(model, 12, around=stimulus, dtype=torch.float64)
    assert exact.dtype == torch.float64
    double = copy.deepcopy(model).double()
    step = 1e-5
    for band, lag in [(0, 0), (2, 3), (3, 9)]:
        moved = []
        for sign in (1, -1):
            x = stimulus.double().clone()
            x[band, -1 - lag] += sign * step
            moved.append(double(x[None, None])[0, :, 0, -1])
        difference = (moved[0] - moved[1]) / (2 * step)
        torch.testing.assert_close(exact[:, band, lag], difference, rtol=1e-5, atol=1e-9)


def test_float32_equals_float64_within_1e_5(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=20))
    exact = strf_gradmaps(model, 12, around=stimulus, dtype=torch.float64)
    assert relative(strf_gradmaps(model, 12, around=stimulus).double(), exact) < 1e-5


def test_a_constant_level_is_a_constant_spectrogram():
    model = seeded(Recurrent)
    level = strf_gradmaps(model, 9, around=-1.5)
    torch.testing.assert_close(level, strf_gradmaps(model, 9, around=torch.full((F, 9), -1.5)), rtol=1e-4, atol=1e-7)


def test_several_stimuli_give_what_each_gives_alone(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=20))
    stimuli = torch.stack([stimulus, 0.5 * stimulus, stimulus.flip(-1)])
    for objective in ("last", "peak", "sum"):
        together = compute_strf_gradmaps(model, stimuli, 8, objective=objective)
        for one, gradmaps in zip(stimuli, together.values, strict=True):
            alone = compute_strf_gradmaps(model, one[None], 8, objective=objective)
            assert relative(gradmaps, alone.values[0]) < 1e-5


def test_prefiltered_gradmaps_have_a_channel_each_and_chain_to_the_spectrogram(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=20))
    model.prefiltering = OnOff().eval()
    gradmaps = strf_gradmaps(model, 12, around=stimulus, space="prefiltered")
    assert gradmaps.shape == (20, 2, F, 12)
    expected = strf_gradmaps(model, 12, around=stimulus)
    free = stimulus.clone().requires_grad_(True)
    channels = model.prefiltering(free[None, None])[0]
    chained = [torch.autograd.grad(channels, free, one.flip(-1), retain_graph=True)[0].flip(-1) for one in gradmaps]
    assert relative(torch.stack(chained), expected) < 1e-5
    assert isinstance(model.prefiltering, OnOff)


def hearing(n_neurons=20):
    model = Recurrent(n_neurons=n_neurons)
    model.wav2spec = FrameAverage(model.F)
    return model


def state_of(model):
    return {
        "training": [part.training for part in model.modules()],
        "slots": {name: id(part) for name, part in model.named_modules()},
        "grads": [parameter.grad for parameter in model.parameters()],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "values": [tensor.clone() for tensor in model.state_dict().values()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()],
        "random": torch.get_rng_state(),
        "flags": (
            torch.backends.cudnn.enabled,
            torch.backends.mkldnn.enabled,
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        ),
    }


@pytest.mark.parametrize("route", ["auto", "factored", "batched", "replicated", "loop", "per_neuron", "forward"])
def test_nothing_of_the_model_or_of_torch_is_changed(route):
    model = seeded(hearing)
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = state_of(model)
    strf_gradmaps(model, 9, route=route)
    strf_gradmaps(model, 9, route=route, dtype=torch.float64)
    waveform_gradmaps(model, torch.randn(80, generator=torch.Generator().manual_seed(0)), route=route)
    after = state_of(model)
    values = zip(before.pop("values"), after.pop("values"), strict=True)
    assert all(torch.equal(old, new) for old, new in values)
    assert torch.equal(before.pop("random"), after.pop("random"))
    assert before == after


class Counting(nn.Module):
    """Counts its calls in a buffer and in an attribute, as careless models do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.calls += 1
        self.last = x
        return x


def test_what_a_forward_pass_writes_into_the_model_does_not_stay():
    model = seeded(Recurrent)
    model.prefiltering = Counting().eval()
    strf_gradmaps(model, 9)
    assert model.prefiltering.calls == 0
    assert model.prefiltering.last is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(context):
    model = seeded(lambda: Recurrent(n_neurons=20))
    expected = strf_gradmaps(model, 9)
    with context():
        inside = strf_gradmaps(model, 9, around=torch.zeros(F, 9))
    assert torch.equal(inside, expected)


def test_a_model_made_in_inference_mode_works():
    with torch.inference_mode():
        model = seeded(Recurrent)
    assert torch.equal(strf_gradmaps(model, 9), strf_gradmaps(seeded(Recurrent), 9))


def test_autocast_around_the_call_does_not_matter():
    model = seeded(lambda: Recurrent(n_neurons=20))
    expected = strf_gradmaps(model, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(strf_gradmaps(model, 9), expected)


def test_two_threads_may_share_a_model():
    model = seeded(hearing)
    sound = torch.randn(80, generator=torch.Generator().manual_seed(0))
    expected = strf_gradmaps(model, 9), waveform_gradmaps(model, sound)
    got = [[], []]

    def spectrograms():
        got[0].extend(strf_gradmaps(model, 9) for _ in range(5))

    def waveforms():
        got[1].extend(waveform_gradmaps(model, sound) for _ in range(5))

    threads = [threading.Thread(target=spectrograms), threading.Thread(target=waveforms)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, all_of_them in zip(expected, got, strict=True):
        assert len(all_of_them) == 5
        assert all(relative(each, one) < 1e-6 for each in all_of_them)


def test_switches_stay_moved_until_the_last_of_two_overlapping_computations_ends():
    mkldnn, filters = torch.backends.mkldnn, list(warnings.filters)
    enabled, precision = mkldnn.enabled, mkldnn.matmul.fp32_precision
    mkldnn.matmul.fp32_precision = "bf16"
    try:
        switches = [full_precision, without_onednn, slow_batching, attention_in_steps]
        for _ in range(2):
            for switch in switches:
                switch.__enter__()
        for users in (1, 0):
            for switch in reversed(switches):
                switch.__exit__(None, None, None)
            assert mkldnn.matmul.fp32_precision == ("ieee" if users else "bf16")
            assert mkldnn.enabled == (enabled and not users)
            assert (list(warnings.filters) == filters) == (not users)
    finally:
        mkldnn.matmul.fp32_precision = precision


def test_the_same_call_gives_the_same_bytes(stimulus):
    model = seeded(lambda: Recurrent(n_neurons=20))
    first, second = (strf_gradmaps(model, 9, around=stimulus) for _ in range(2))
    assert torch.equal(first, second)


def test_a_front_end_is_left_out_of_a_spectrogram_map():
    model, silent = seeded(hearing), seeded(hearing)
    silent.wav2spec = nn.Identity()
    assert torch.equal(strf_gradmaps(model, 9), strf_gradmaps(silent, 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lags": 0}, "lags = 0"),
        ({"lags": 2.5}, "lags = 2.5"),
        ({"neurons": []}, "neurons is empty"),
        ({"neurons": [5]}, "not among the model's 5"),
        ({"neurons": -1}, "not among the model's 5"),
        ({"neurons": "all"}, "names no neurons"),
        ({"around": torch.zeros(3, 9)}, "3 bands but the model hears 4"),
        ({"around": torch.zeros(9)}, "not one spectrogram"),
        ({"around": torch.full((4, 9), float("nan"))}, "not finite"),
        ({"around": float("inf")}, "level inf"),
        ({"objective": {"frame": 9}}, "frames 0 to 8"),
        ({"objective": "first"}, "not known"),
        ({"route": "shortest"}, "route 'shortest' is not known"),
        ({"space": "cochlea"}, "space 'cochlea' is not known"),
        ({"dtype": torch.float16}, "cannot hold a gradient"),
        ({"memory_bytes": 0}, "memory_bytes = 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        strf_gradmaps(seeded(Recurrent), **{"lags": 9, **arguments})


def test_a_model_in_training_mode_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="batch statistics mix"):
        strf_gradmaps(seeded(Recurrent).train(), 9)


def test_a_part_in_training_mode_is_refused_unless_it_cannot_matter():
    model = seeded(Recurrent)
    model.encoder[0].train()
    strf_gradmaps(model, 9)
    model.prefiltering = nn.Dropout(0.5).train()
    with pytest.raises(ValueError, match=r"prefiltering \(Dropout\)"):
        strf_gradmaps(model, 9)


def test_a_response_of_another_shape_is_refused():
    class Flat(Recurrent):
        def forward(self, x):
            return super().forward(x).squeeze(2)

    with pytest.raises(ValueError, match=r"\(batch, neuron, 1, time\)"):
        strf_gradmaps(seeded(Flat), 9)


def test_a_waveform_map_without_a_front_end_is_refused():
    with pytest.raises(ValueError, match="no front-end"):
        waveform_gradmaps(seeded(Recurrent), torch.randn(80))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.ones(81), "no whole number of frames"),
        (torch.ones(2, 80), "not one mono sound"),
        (torch.full((80,), float("nan")), "not finite"),
    ],
)
def test_sounds_that_do_not_fit_are_refused(waveform, message):
    with pytest.raises(ValueError, match=message):
        waveform_gradmaps(seeded(hearing), waveform)


def test_no_stimuli_are_refused():
    with pytest.raises(ValueError, match="holds no spectrograms"):
        compute_strf_gradmaps(seeded(Recurrent), torch.zeros(0, F, 9), 9)
    with pytest.raises(ValueError, match="holds no sounds"):
        compute_waveform_gradmaps(seeded(hearing), torch.zeros(0, 80), None)

"""Attribution along a path, the best sound, and checks of a map, on models whose answers are known."""

import pytest
import torch
from torch import nn

from pipeline.gradients.attribution import (
    infidelity,
    integrated_gradients,
    randomised_maps,
    smoothed_gradients,
    synthesise,
)
from pipeline.gradients.encoding_model import AudioEncodingModel
from pipeline.gradients.gradmaps import strf_gradmaps
from pipeline.gradients.question import Question
from tests.gradients.planted import Linear
from tests.gradients.small import Recurrent, by_autograd, relative, seeded

BANDS, LAGS = 4, 6


def kernels(n_neurons=3, seed=0):
    return torch.randn(n_neurons, BANDS, LAGS, generator=torch.Generator().manual_seed(seed))


def a_sound(n_frames=40, seed=1):
    return torch.randn(BANDS, n_frames, generator=torch.Generator().manual_seed(seed))


class Energy(AudioEncodingModel):
    """Neurons that sum the weighted squares of two filters each."""

    def __init__(self, filters, weights):
        super().__init__(filters.shape[2], filters.shape[3], len(filters))
        self.readout = _Squares(filters, weights)


class _Squares(nn.Module):
    def __init__(self, filters, weights):
        super().__init__()
        self.kernels, self.weights = nn.Parameter(filters), nn.Parameter(weights)

    def forward(self, x):
        n, pair, bands, lags = self.kernels.shape
        flat = self.kernels.reshape(n * pair, 1, bands, lags).flip(-1)
        heard = nn.functional.conv2d(nn.functional.pad(x, (lags - 1, 0)), flat)
        squares = heard.square().reshape(len(x), n, pair, 1, -1)
        return (squares * self.weights[:, :, None, None]).sum(dim=2)


def energy(n_neurons=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.linalg.qr(torch.randn(n_neurons, BANDS * LAGS, 2, generator=generator))[0]
    filters = flat.transpose(1, 2).reshape(n_neurons, 2, BANDS, LAGS)
    return Energy(filters, torch.tensor([[1.0, 0.4]]).repeat(n_neurons, 1)).eval()


@pytest.mark.parametrize("baseline", [0.0, 0.7, "sound"])
def test_contributions_to_a_linear_response_are_kernel_times_stimulus(baseline):
    given, model = kernels(), Linear(kernels()).eval()
    sound = a_sound()
    start = a_sound(seed=2) if baseline == "sound" else torch.full_like(sound, baseline)
    found = integrated_gradients(model, sound, LAGS, baseline=start if baseline == "sound" else baseline, nodes=2)
    step = (sound - start)[:, -LAGS:].flip(-1)
    torch.testing.assert_close(found.values, given * step)
    assert found.completeness.max() < 1e-5
    assert found.outside.abs().max() == 0
    assert found.nodes.tolist() == [2, 2, 2]


def test_contributions_to_an_answer_in_double_are_those_of_the_same_sums():
    model, sound = Linear(kernels()).eval(), a_sound()
    whole = integrated_gradients(model, sound, LAGS, nodes=2).values
    model.readout.register_forward_hook(lambda _, __, y: y.double())
    torch.testing.assert_close(integrated_gradients(model, sound, LAGS, nodes=2).values, whole)


def test_contributions_to_an_energy_model_are_half_the_gradient_times_stimulus():
    model, sound = energy(), a_sound()
    found = integrated_gradients(model, sound, LAGS, nodes=2)
    gradient = strf_gradmaps(model, LAGS, around=sound)
    torch.testing.assert_close(found.values, 0.5 * gradient * sound[:, -LAGS:].flip(-1))
    torch.testing.assert_close(found.values.sum(dim=(1, 2)), model(sound[None, None])[0, :, 0, -1].detach())


@pytest.mark.parametrize("objective", ["last", "peak", "sum", {"frame": 25}, {"mean_over": [10, 30]}])
def test_a_recurrent_model_is_complete_and_what_the_window_leaves_is_told(objective):
    model, sound = seeded(lambda: Recurrent("GRU")), a_sound()
    found = integrated_gradients(model, sound, Question(5, objective=objective, dtype=torch.float64), completeness=1e-6)
    assert found.completeness.max() < 1e-6
    total = found.values.sum(dim=(1, 2)) + found.outside * found.scale
    torch.testing.assert_close(total, found.difference, rtol=1e-5, atol=1e-9)
    with torch.no_grad():
        ends = model.double()(torch.stack([sound, torch.zeros_like(sound)])[:, None].double())[:, :, 0]
    span = {"last": slice(39, 40), "sum": slice(0, 40)}.get(objective if isinstance(objective, str) else "")
    if span is not None:
        torch.testing.assert_close(found.difference, (ends[0] - ends[1])[:, span].sum(dim=1))
    if objective == "peak":
        assert found.frames.tolist() == ends[0].argmax(dim=1).tolist()


def test_nodes_are_doubled_only_where_they_are_needed_and_a_limit_is_told():
    model = Linear(kernels())
    model.readout = nn.Sequential(model.readout, _Kink())
    model.eval()
    sound = a_sound()
    found = integrated_gradients(model, sound, LAGS, nodes=4, completeness=1e-3, most_nodes=64)
    assert found.nodes[0] == 4  # this neuron is left linear
    assert found.nodes.max() > 4
    few = integrated_gradients(model, sound, LAGS, nodes=4, completeness=1e-9, most_nodes=8)
    assert few.completeness[1:].max() > 1e-9
    assert few.nodes.max() <= 8


class _Kink(nn.Module):
    def forward(self, x):
        return torch.cat([x[:, :1], torch.sin(9.0 * x[:, 1:])], dim=1)


@pytest.mark.parametrize("objective", ["last", "peak"])
def test_noisy_copies_are_averaged_at_the_frames_of_the_sound_itself(objective):
    model, sound = seeded(lambda: Recurrent("GRU")), a_sound()
    found = smoothed_gradients(model, sound, Question(8, [2, 0], objective), samples=3, noise=0.2, seed=5)
    noise = torch.randn(3, *sound.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    frames = integrated_gradients(model, sound, Question(8, [2, 0], objective)).frames
    assert found.frames.tolist() == frames.tolist()
    for row, (neuron, frame) in enumerate(zip([2, 0], frames.tolist(), strict=True)):
        copies = [
            integrated_gradients(model, sound + 0.2 * one.float(), Question(8, [neuron], {"frame": frame})).values[0]
            for one in noise
        ]
        torch.testing.assert_close(found.values[row], torch.stack(copies).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_the_best_sound_of_an_ln_neuron_is_its_kernel():
    given = kernels()
    model = Linear(given)
    model.readout = nn.Sequential(model.readout, nn.Softplus())
    model.eval()
    found = synthesise(model, torch.zeros(BANDS, LAGS), norm=2.0, steps=60)
    expected = 2.0 * given.flip(-1) / given.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(found.sounds, expected, atol=1e-4, rtol=1e-4)
    assert (found.trace.diff(dim=1) >= -1e-5).all()
    torch.testing.assert_close(
        found.trace[:, -1], nn.functional.softplus(2.0 * given.flatten(1).norm(dim=1)), atol=1e-5, rtol=1e-5
    )


def test_the_best_sound_of_an_energy_model_is_its_strongest_filter():
    model = energy()
    found = synthesise(model, torch.zeros(BANDS, LAGS), steps=200)
    strongest = model.readout.kernels.detach()[:, 0].flip(-1)
    cosine = (found.sounds * strongest).sum(dim=(1, 2))
    torch.testing.assert_close(cosine.abs(), torch.ones(3), atol=1e-3, rtol=0)


def test_bounds_are_kept_and_best_of_a_box_is_its_corner():
    given = kernels(1)
    model = Linear(given).eval()
    found = synthesise(model, torch.zeros(BANDS, LAGS), norm=100.0, lowest=-0.5, highest=1.0, steps=80)
    corner = torch.where(given > 0, 1.0, -0.5).flip(-1)
    torch.testing.assert_close(found.sounds, corner)
    bounded = synthesise(model, torch.zeros(BANDS, LAGS), norm=1.0, lowest=-0.1, highest=0.3, steps=80).sounds
    assert bounded.norm() <= 1.0 + 1e-6
    assert bounded.min() >= -0.1
    assert bounded.max() <= 0.3 + 1e-6


def test_a_neurons_best_sound_does_not_depend_on_its_neighbours_and_repeats():
    model = energy()
    together = synthesise(model, torch.zeros(BANDS, LAGS), steps=20)
    alone = synthesise(model, torch.zeros(BANDS, LAGS), Question(neurons=[2]), steps=20)
    torch.testing.assert_close(alone.sounds[0], together.sounds[2], atol=1e-5, rtol=1e-4)
    other = synthesise(model, torch.zeros(BANDS, LAGS), Question(neurons=[2]), steps=1, seed=1)
    assert not torch.equal(other.sounds[0], alone.sounds[0])


def test_the_map_of_shuffled_weights_is_another_and_the_model_is_left_alone():
    model = seeded(lambda: Recurrent("GRU", hidden_readout=5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = randomised_maps(model, lambda one: strf_gradmaps(one, 8))
    assert found.parts == ("readout", "rnn", "encoder")
    assert found.correlation.shape == (3, model.O)
    assert found.correlation[-1].abs().max() < 0.9
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_infidelity_is_nothing_for_a_linear_model_and_one_for_a_map_of_zeros():
    given = kernels()
    model, sound = Linear(given).eval(), a_sound()
    assert infidelity(model, given, sound).max() < 1e-6
    torch.testing.assert_close(infidelity(model, torch.zeros_like(given), sound), torch.ones(3))
    torch.testing.assert_close(infidelity(model, 0.5 * given, sound), torch.full((3,), 0.25), atol=1e-5, rtol=0)


def test_infidelity_of_a_curved_model_grows_with_the_perturbation():
    model, sound = energy(), a_sound()
    maps = strf_gradmaps(model, LAGS, around=sound)
    small, large = (infidelity(model, maps, sound, scale=scale).max() for scale in (3e-4, 1.0))
    assert small < 1e-3 < large


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: integrated_gradients(m, a_sound(), Question(5, "sum")), "one by one"),
        (lambda m: integrated_gradients(m, a_sound(), 5, baseline=a_sound(20)), r"\(4, 20\).*\(4, 40\)"),
        (lambda m: integrated_gradients(m, a_sound(), 5, nodes=0), "nodes"),
        (lambda m: synthesise(m, a_sound(), norm=0.0), "norm = 0.0"),
        (lambda m: synthesise(m, a_sound(), lowest=1.0, highest=0.0), "no level"),
        (lambda m: synthesise(m, a_sound(), highest=0.0), "above the bound 0.0"),
        (lambda m: synthesise(m, torch.zeros(100)), "no front-end"),
        (lambda m: synthesise(m.train(), a_sound()), "training mode"),
    ],
)
def test_what_cannot_be_asked_is_refused(call, words):
    model = seeded(lambda: Recurrent("GRU"))
    model.dropout = nn.Dropout(0.5)
    model.eval()
    with pytest.raises(ValueError, match=words):
        call(model)


def test_the_gradient_of_integrated_gradients_is_plain_autograds():
    model, sound = seeded(lambda: Recurrent("LSTM")).double(), a_sound().double()
    found = integrated_gradients(model, sound, 40, nodes=3, completeness=1.0)
    nodes, weights = torch.tensor([0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5]), torch.tensor([5.0, 8.0, 5.0]) / 18
    direct = sum(w * by_autograd(model, a * sound, lambda r: r[:, -1]) for a, w in zip(nodes, weights, strict=True))
    assert relative(found.values, (direct * sound).flip(-1)) < 1e-6


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_outside_the_parts_of_a_model_are_shuffled_last():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.F, self.O = 4, 3
            self.weight = nn.Parameter(torch.randn(3, 4))
            self.gain = nn.Linear(4, 4)

        def forward(self, x):
            return (self.weight @ self.gain(x[:, 0].mT).mT).unsqueeze(2)

    model = seeded(Bare)
    found = randomised_maps(model, lambda one: strf_gradmaps(one, 2))
    assert found.parts == ("gain", "itself")
    assert (found.correlation[1] != found.correlation[0]).any()


def test_a_model_whose_weights_follow_others_can_be_shuffled():
    model = seeded(lambda: Recurrent("GRU", hidden_readout=5))
    torch.nn.utils.weight_norm(model.encoder[0])
    model(a_sound()[None, None])  # from now on the layer holds a weight that autograd's graph leads to
    found = randomised_maps(model, lambda one: strf_gradmaps(one, 8))
    assert found.parts == ("readout", "rnn", "encoder")
    assert found.correlation[-1].abs().max() < 0.9

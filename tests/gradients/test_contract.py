"""A model that breaks what every gradmap takes for granted is told so; one that keeps it is let pass, unchanged."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.gradients.contract import ContractError, NotFiniteError, check_contract
from pipeline.gradients.dynamic.strfs import dynamic_strfs
from pipeline.gradients.encoding_model import AudioEncodingModel
from pipeline.gradients.front_end.hop import stated_hop
from pipeline.gradients.gradmaps import (
    compute_strf_gradmaps,
    compute_waveform_gradmaps,
    strf_gradmaps,
    waveform_gradmaps,
)
from pipeline.gradients.health.assessment import assess
from pipeline.gradients.health.flags import FLAGS
from pipeline.gradients.question import Question
from tests.gradients.small import FrameAverage, Kernels, OnOff, Recurrent, relative, seeded
from tests.zoo import FRONT_ENDS, PREFILTERED, ZOO, hearing

KERNELS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


def changed(forward):
    """A model that keeps the contract but for what ``forward`` makes of its response."""

    class Changed(Kernels):
        def forward(self, x):
            return forward(self, x, super().forward(x))

    return Changed(KERNELS).eval()


class Remembering(Kernels):
    def __init__(self):
        super().__init__(KERNELS)
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x):
        self.gain.mul_(0.9).add_(0.1 * x.std())
        return super().forward(x) * self.gain


def delayed(y, frames):
    """Responses that come ``frames`` too early."""
    return torch.cat([y[..., frames:], y[..., :1].expand(*y.shape[:-1], frames)], dim=-1)


BROKEN = {
    "shorter": (lambda model, x, y: y[..., 4:], "60 response frames for a stimulus of 64 frames"),
    "strided": (lambda model, x, y: y[..., ::2], "32 response frames for a stimulus of 64 frames"),
    "one more": (lambda model, x, y: torch.cat([y, y[:, :1]], 1), "3 neurons .* gave 4 outputs"),
    "flat": (lambda model, x, y: y[:, :, 0], r"shape \(1, 3, 64\)"),
    "random": (lambda model, x, y: nn.functional.dropout(y, 0.5, True), "same stimulus twice"),
    "faint noise": (lambda model, x, y: y + 1e-3 * torch.randn_like(y), "same stimulus twice"),
    "over the batch": (lambda model, x, y: y - y.mean(0, keepdim=True), "alone and among others"),
    "one frame ahead": (lambda model, x, y: delayed(y, 1), "hears the future"),
    "far ahead": (lambda model, x, y: y + 1e-3 * delayed(y, 20), "hears the future"),
    "mean over time": (lambda model, x, y: y - y.mean(-1, keepdim=True), "hears the future"),
    "louder sounds only": (lambda model, x, y: y + torch.relu(delayed(y, 2) - 20), "hears the future"),
    "on a pedestal": (lambda model, x, y: 1e-2 * delayed(y, 3) + 100, "hears the future"),
    "tiny": (lambda model, x, y: 1e-12 * delayed(y, 3), "hears the future"),
    "detached gain": (lambda model, x, y: y / (1 + y.detach().abs().amax((1, 2, 3), keepdim=True)), "hears the future"),
    "blocks of frames": (lambda model, x, y: y.unflatten(-1, (-1, 8)).cumsum(-2).flip(-1).flatten(-2), "the future"),
    "one neuron": (lambda model, x, y: torch.cat([y[:, :2], delayed(y, 2)[:, 2:]], 1), "neuron 2"),
    "faintly in one": (lambda model, x, y: torch.cat([y[:, :2], (y + 0.01 * delayed(y, 1))[:, 2:]], 1), "neuron 2"),
    "every third call": (lambda model, x, y: y * (1 + (called(model) % 3 == 0)), "forward keeps over several calls"),
    "as many as before": (lambda model, x, y: y * (1 + (counted_before(model, x) == len(x))), "same stimulus twice"),
    "first of a batch": (lambda model, x, y: torch.cat([2 * y[:1], y[1:]]), "alone and among others"),
    "training only": (lambda model, x, y: y * (1 + torch.is_grad_enabled()), "while gradients are recorded"),
    "no way back": (lambda model, x, y: y.detach(), "no gradient leads back"),
    "numbers of another library": (lambda model, x, y: torch.from_numpy(y.detach().numpy() * 2), "leads back"),
    "writes into its input": (lambda model, x, y: (y, x.mul_(2))[0], r"x \*= 2"),
    "whole numbers": (lambda model, x, y: y.int(), "int32 numbers"),
    "complex": (lambda model, x, y: torch.complex(y, y), "complex64 numbers"),
    "several outputs": (lambda model, x, y: {"rates": y}, "dict .* `adapt`"),
}


def called(model):
    """How often a model was called."""
    model.calls = getattr(model, "calls", 0) + 1
    return model.calls


def counted_before(model, x):
    """How many stimuli the last call had, as a hidden state that fits only as many tells."""
    before = getattr(model, "count", 0)
    model.count = len(x)
    return before


def test_an_answer_in_more_digits_than_the_sums_before_it_is_judged_by_theirs():
    model = changed(lambda model, x, y: y.double())
    assert not check_contract(model, frames=400).hears_future.any()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_contract_is_named(kind):
    forward, message = BROKEN[kind]
    with pytest.raises(ContractError, match=message):
        check_contract(changed(forward))


def test_state_from_one_call_to_the_next_is_named_and_left_alone():
    model = Remembering().eval()
    with pytest.raises(ContractError, match="keeps state"):
        check_contract(model)
    assert model.gain == 1


@pytest.mark.parametrize("name", ["Linear", "Transformer", "StateNet-S4", "StateNet-Mamba", "ConvNet2D", "ICNet"])
def test_models_that_keep_it_pass(name):
    model = ZOO[name](4, 0)
    found = check_contract(model, frames=23, weigh=True)
    assert not found.hears_future.any()
    assert not found.unchecked.any()
    assert found.frame_bytes > 4 * 16


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_front_ends_pass_and_a_centred_one_does_not(front_end):
    model = hearing(front_end, n_neurons=3)
    assert not check_contract(model, hears="waveform", frames=30).hears_future.any()
    assert not check_contract(model, torch.randn(16, 30)).unchecked.any()


def one_at_a_time(model, x, y):
    if len(x) > 1:
        raise RuntimeError("one sound, please")
    return y


def test_what_takes_one_stimulus_at_a_time_is_checked_but_for_what_stimuli_do_to_each_other():
    model = changed(one_at_a_time)
    found = check_contract(model)
    assert found.unchecked.all()
    assert not found.hears_future.any()
    flags = assess(model, compute_strf_gradmaps(model, None, 5, route="loop"), None, 5, contract=found).flags
    assert ((flags & FLAGS["not_checked"]) > 0).all()
    for kind in ("shorter", "random", "far ahead"):
        forward, message = BROKEN[kind]
        broken = changed(lambda model, x, y, forward=forward: forward(model, x, one_at_a_time(model, x, y)))
        with pytest.raises(ContractError, match=message):
            check_contract(broken, frames=64)


class Hearing(AudioEncodingModel):
    def __init__(self, front_end):
        super().__init__(4, 5, 3, wav2spec=front_end)
        self.readout = Kernels(KERNELS).readout


class Centred(FrameAverage):
    """Frames around their middle, with as many frames as hops."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x[..., self.hop // 2 :], (0, self.hop // 2)))


class Nameless(FrameAverage):
    """A front-end that does not say its hop."""

    def __init__(self):
        super().__init__(4)
        del self.hop
        self._every = 8

    def forward(self, x):
        heard = torch.relu(nn.functional.conv1d(nn.functional.pad(x, (4, 0)), self.filters))
        return torch.log1p(nn.functional.avg_pool1d(nn.functional.pad(heard, (4, 0)), 12, 8)).unsqueeze(1)


def test_a_front_end_that_looks_ahead_is_named():
    with pytest.raises(ContractError, match="center=True"):
        check_contract(seeded(lambda: Hearing(Centred(4))), hears="waveform", frames=20)


def test_no_gradient_is_where_the_response_to_the_stimulus_is_no_number():
    model = changed(lambda model, x, y: y / x.abs().amax((1, 2, 3), keepdim=True))
    with pytest.raises(NotFiniteError, match="NaN or infinity to the stimulus"):
        check_contract(model)
    assert not check_contract(model, torch.randn(4, 30).cumsum(-1).abs() + 5, causal=False).unchecked.any()


@pytest.mark.parametrize(("hop", "said"), [(8, 8), (np.int64(8), 8), (True, None), (0, None), (-8, None), (8.5, None)])
def test_what_is_no_number_of_samples_is_no_hop(hop, said):
    front_end = FrameAverage(4)
    front_end.hop = hop
    assert stated_hop(front_end) == said


def test_a_hop_that_is_not_said_is_measured():
    model = seeded(lambda: Hearing(Nameless()))
    said = seeded(lambda: Hearing(FrameAverage(4)))
    said.load_state_dict(model.state_dict())
    wave = torch.randn(20 * 8)
    got, expected = (waveform_gradmaps(one, wave, objective={"frame": 9}) for one in (model, said))
    assert relative(got, expected) < 1e-6
    assert not check_contract(model, hears="waveform", frames=20).hears_future.any()


def test_frames_that_are_no_whole_hops_are_refused_with_the_hop():
    class Padded(FrameAverage):
        def forward(self, x):
            return super().forward(nn.functional.pad(x, (0, 8)))

    with pytest.raises(ValueError, match=r"21 response frames for 160 samples .* hop of 8 samples makes 20.*center"):
        waveform_gradmaps(seeded(lambda: Hearing(Padded(4))), torch.randn(160))


def test_direct_calls_refuse_other_numbers_of_frames_and_neurons():
    for kind in ("shorter", "strided", "one more"):
        model = changed(BROKEN[kind][0])
        around = torch.randn(4, 64)
        for call in (
            lambda model=model, around=around: strf_gradmaps(model, 64, around=around),
            lambda model=model: strf_gradmaps(model, 64),
            lambda model=model, around=around: list(dynamic_strfs(model, around, 6, frames=[20])),
        ):
            with pytest.raises(ValueError, match=r"response frames|gave 4 outputs"):
                call()


def test_what_a_model_hears_ahead_is_measured_where_it_is_let_pass():
    kernels = torch.rand(3, 4, 9) + 0.5
    kernels[2, :, :4] = 0.0  # this neuron hears nothing ahead

    class Ahead(Kernels):
        def forward(self, x):
            return delayed(super().forward(nn.functional.pad(x, (0, 4))), 4)[..., :-4]

    model = Ahead(kernels).eval()
    found = check_contract(model, causal=False)
    assert found.hears_future.tolist() == [True, True, False]
    expected = kernels[..., :4].square().sum((1, 2)) / kernels.square().sum((1, 2))
    stimuli = torch.randn(2, 4, 40)
    for heard, objective in ((None, "last"), (stimuli, {"frame": 20})):
        maps = compute_strf_gradmaps(model, heard, 6, objective=objective)
        health = assess(model, maps, heard, Question(6, objective=objective), contract=found)
        torch.testing.assert_close(health.future_share, expected.expand_as(health.future_share))
        assert ((health.flags & FLAGS["hears_the_future"]) > 0).tolist() == [[True, True, False]] * len(health.flags)


class BothWays(nn.Module):
    """A recurrence that also comes back from the end of the sound."""

    def __init__(self):
        super().__init__()
        self.F, self.O = 4, 3
        self.cells = nn.GRU(4, 5, batch_first=True, bidirectional=True)
        self.readout = nn.Linear(10, 3)

    def forward(self, x):
        return self.readout(self.cells(x[:, 0].transpose(1, 2))[0]).transpose(1, 2).unsqueeze(2)


def test_a_bidirectional_layer_is_refused_or_every_map_at_a_peak_says_so():
    model, sounds = seeded(BothWays), torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ContractError, match="bidirectional"):
        check_contract(model, sounds[0])
    kept = check_contract(model, sounds[0], causal=False)
    maps = compute_strf_gradmaps(model, sounds, 30, objective="peak")
    health = assess(model, maps, sounds, Question(30, objective="peak"), contract=kept)
    assert ((health.flags & FLAGS["hears_the_future"]) > 0).all()
    free = sounds[:1].clone().requires_grad_(True)
    frame = int(maps.frames[0, 1])
    (whole,) = torch.autograd.grad(model(free[:, None])[0, 1, 0, frame], free)
    energy = whole[0].square().sum(0)
    expected = energy[frame + 1 :].sum() / energy.sum()
    torch.testing.assert_close(health.future_share[0, 1], expected, rtol=1e-4, atol=1e-6)


def test_a_second_lobe_beyond_the_window_is_truncated_and_its_neighbours_are_not():
    kernels = torch.zeros(40, 4, 60)
    kernels[..., :8] = torch.randn(40, 4, 8)
    kernels[[3, 17], :, 45:50] = torch.randn(2, 4, 5)
    model, stimulus = Kernels(kernels).eval(), torch.randn(1, 4, 120)
    for heard in (None, stimulus, torch.full((1, 4, 20), 1e4)):
        for seed in range(3):
            flags = assess(model, compute_strf_gradmaps(model, heard, 20), heard, 20, seed=seed).flags[0]
            assert (flags & FLAGS["truncated_window"]).nonzero().flatten().tolist() == [3, 17]


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return 1.3 * slope


def in_bfloat16(model, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        return nn.functional.linear(WrongBackward.apply(y).transpose(1, 3), torch.eye(3)).transpose(1, 3).float()


@pytest.mark.parametrize(
    "forward",
    [
        lambda model, x, y: WrongBackward.apply(y).float(),
        lambda model, x, y: WrongBackward.apply(y).to(torch.float32),
        lambda model, x, y: torch.from_numpy(y.detach().numpy().astype("f4")) + WrongBackward.apply(y - y.detach()),
        in_bfloat16,
    ],
)
def test_a_wrong_backward_behind_a_cast_is_found_on_every_map(forward):
    model = changed(forward)
    for heard in (None, torch.randn(2, 4, 20)):
        flags = assess(model, compute_strf_gradmaps(model, heard, 6), heard, 6, sample=1).flags
        assert (flags & (FLAGS["finite_difference_off"] | FLAGS["not_checked"])).all()


@pytest.mark.parametrize("heard", [None, torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(1))])
def test_a_wrong_backward_of_one_neuron_is_found_though_others_were_drawn(heard):
    model = changed(lambda model, x, y: torch.cat([y[:, :2], WrongBackward.apply(y[:, 2:])], 1))
    for seed in range(6):
        maps = compute_strf_gradmaps(model, heard, 6)
        flags = assess(model, maps, heard, 6, sample=1, seed=seed).flags & FLAGS["finite_difference_off"]
        assert flags[:, 2].all()
        assert bool(flags[:, :2].any()) == bool(flags[:, :2].all())
    right = changed(lambda model, x, y: y)
    assert not assess(right, compute_strf_gradmaps(right, heard, 6), heard, 6, sample=1).flags.any()


def test_a_compiled_part_is_no_obstacle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own compiler
        compiled = torch.jit.script(nn.Softplus().eval())
    model = changed(lambda model, x, y: model.compiled(y))
    model.compiled = compiled
    assert check_contract(model, weigh=True).frame_bytes > 0
    plain = changed(lambda model, x, y: nn.functional.softplus(y))
    torch.testing.assert_close(strf_gradmaps(model, 5), strf_gradmaps(plain, 5))


def test_a_cast_before_a_recurrent_layer_is_checked_in_double():
    class Cast(Recurrent):
        def forward(self, x):
            return super().forward(x).float()

    model = seeded(lambda: Cast("LSTM"))
    health = assess(model, compute_strf_gradmaps(model, None, 8), None, 8)
    assert health.finite_difference_error < 1e-5


def test_a_mask_names_the_neurons_where_it_is_true():
    model = Kernels(KERNELS).eval()
    expected = strf_gradmaps(model, 5, neurons=[0, 2])
    for mask in ([True, False, True], np.array([True, False, True]), torch.tensor([True, False, True])):
        assert torch.equal(strf_gradmaps(model, 5, neurons=mask), expected)
    for wrong in ([True, False], True, [True, 0, 1]):
        with pytest.raises(ValueError, match="no mask over the model's 3 neurons"):
            strf_gradmaps(model, 5, neurons=wrong)
    with pytest.raises(ValueError, match="neurons is empty"):
        strf_gradmaps(model, 5, neurons=[False] * 3)


@pytest.mark.parametrize("route", ["auto", "rows"])
def test_the_first_maps_of_a_sound_are_checked_against_plain_autograd(route):
    blocks = dynamic_strfs(Kernels(KERNELS).eval(), torch.randn(4, 20), 5, frames=[3, 9, 12], route=route)
    frames, _ = next(blocks)
    assert set(blocks.record.checked) & set(frames)
    assert blocks.record.disagreement < 1e-6


def test_many_stimuli_stay_within_the_memory_they_are_given():
    sizes = []

    class Counting(Kernels):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    model, stimuli = Counting(KERNELS).eval(), torch.randn(12, 4, 50)
    whole = compute_strf_gradmaps(model, stimuli, 5).values
    assert max(sizes) >= 12
    sizes.clear()
    some = compute_strf_gradmaps(model, stimuli, 5, memory_bytes=40_000, route="loop").values
    assert max(sizes) < 12
    torch.testing.assert_close(some, whole)


def test_many_sounds_stay_within_the_memory_they_are_given():
    sizes = []

    class Counting(FrameAverage):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    model, sounds = seeded(lambda: Hearing(Counting(4))), torch.randn(12, 30 * 8)
    whole = compute_waveform_gradmaps(model, sounds, 40, route="loop").values
    assert max(sizes) >= 12
    sizes.clear()
    some = compute_waveform_gradmaps(model, sounds, 40, memory_bytes=40_000, route="loop").values
    assert max(sizes) < 12
    torch.testing.assert_close(some, whole)


def test_prefiltered_and_waveform_maps_see_beyond_their_window():
    model = seeded(lambda: Hearing(FrameAverage(4)))
    sounds = torch.randn(2, 30 * 8)
    maps = compute_waveform_gradmaps(model, sounds, 16)
    assert (assess(model, maps, sounds, 16).flags & FLAGS["truncated_window"]).all()
    whole = compute_waveform_gradmaps(model, sounds, 80)
    assert not (assess(model, whole, sounds, 80).flags & FLAGS["truncated_window"]).any()
    onoff = Kernels(KERNELS, n_channels=2)
    onoff.prefiltering = OnOff()
    for stimuli in (torch.randn(1, 4, 30), torch.full((1, 4, 3), 0.5)):
        short = compute_strf_gradmaps(onoff.eval(), stimuli, 3, space="prefiltered")
        flags = assess(onoff, short, stimuli, Question(3, space="prefiltered")).flags
        assert (flags & FLAGS["truncated_window"]).all()


def test_a_dead_null_does_not_hide_randomness():
    model = PREFILTERED["adaptrans-Linear"](3, 0)
    model.readout.register_forward_hook(lambda _, __, y: y * (1 + 0.1 * torch.randn_like(y)))
    with pytest.raises(ContractError, match="twice"):
        check_contract(model)


def test_a_dead_neuron_is_no_breach_and_is_not_called_unchecked():
    kernels = KERNELS.clone()
    kernels[1] = 0.0
    model = Kernels(kernels).eval()
    found = check_contract(model)
    assert found.unchecked.tolist() == [False, True, False]
    flags = assess(model, compute_strf_gradmaps(model, None, 5), None, 5, contract=found).flags
    assert flags.tolist() == [[0, FLAGS["all_zero_map"], 0]]
    whole = compute_strf_gradmaps(model, None, 5, neurons="sum")
    assert assess(model, whole, None, Question(5, neurons="sum"), contract=found).flags.tolist() == [[0]]

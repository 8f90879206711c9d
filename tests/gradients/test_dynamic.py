"""Maps along a sound against plain autograd, one backward pass per neuron and frame."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.gradients.dynamic import search, sharing, slopes
from pipeline.gradients.dynamic.graph import NoWayError
from pipeline.gradients.dynamic.strfs import dynamic_strfs
from pipeline.gradients.gradmaps import strf_gradmaps
from tests.gradients.small import Kernels, OnOff, Recurrent, one_backward_per_frame, relative, seeded, together
from tests.zoo import PREFILTERED, ZOO, audio, hearing, make, prefiltering, spectrogram
from tests.zoo import seeded as zoo_seeded

EXACT = 1e-12
N_FRAMES, LAGS = 30, 9


def reference(model: nn.Module, stimulus: Tensor, lags: int) -> Tensor:
    """The same in float64, for a model in float32.

    Three things stay in float32 in a model that was only converted: constants that its code makes by default, what its
    code casts (Mamba the decays of its states), and tensors that it keeps as plain attributes, which ``double`` passes
    over (S4 the nodes of its Fourier transform). Each leaves up to 1e-8 of rounding.
    """
    model = copy.deepcopy(model).double()
    for part in model.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.complex64):
                setattr(part, name, value.to(torch.complex128 if value.is_complex() else torch.float64))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Tensor, "float", Tensor.double)
            return one_backward_per_frame(model, stimulus.double(), lags)
    finally:
        torch.set_default_dtype(before)


STACKED = {
    f"{kind}-{n_layers}": lambda n_neurons=5, kind=kind, n_layers=n_layers: seeded(
        lambda: Recurrent(kind, n_neurons, 16, n_layers=n_layers, batch_first=n_layers < 3, hidden_readout=4)
    )
    for kind, n_layers in (("GRU", 2), ("LSTM", 3), ("RNN", 2))
}


@pytest.mark.parametrize("name", [*ZOO, *PREFILTERED, *STACKED])
def test_every_frame_is_one_backward_pass(name):
    build = {**ZOO, **PREFILTERED, **STACKED}[name]
    model = build(2)
    stimulus = spectrogram(N_FRAMES)
    expected = reference(model, stimulus, LAGS)
    exact = dynamic_strfs(model, stimulus, LAGS, dtype=torch.float64)
    assert relative(together(exact), expected) < EXACT
    assert exact.record.disagreement < EXACT
    assert relative(together(dynamic_strfs(model, stimulus, LAGS)).double(), expected) < 1e-5


ONE_PASS = {
    "Linear": "slope",
    "LinearNonlinear": "slope",
    "NetworkReceptiveField": "windows",
    "DNet": "windows",
    "StateNet-GRU": "sweep",
    "StateNet-LSTM": "sweep",
    "StateNet-RNN": "sweep",
    "StateNet-S4": "windows",
    "StateNet-LMU": "windows",
    "StateNet-Mamba": "windows",
    "Transformer": "windows",
    "adaptrans-Transformer": "windows",
    "ICNet": "slope",
    "adaptrans-LinearNonlinear": "windows",
    "icadaptation-StateNet-GRU": "sweep",
    "GRU-2": "sweep",
    "LSTM-3": "sweep",
}


@pytest.mark.parametrize("name", ONE_PASS)
def test_the_sound_is_gone_through_once(name):
    record = dynamic_strfs({**ZOO, **PREFILTERED, **STACKED}[name](), spectrogram(N_FRAMES), LAGS).record
    assert record.route == ONE_PASS[name]


@pytest.mark.parametrize("name", ["StateNet-GRU", "StateNet-LSTM"])
def test_a_recurrence_lag_by_lag_is_the_one_frame_by_frame(name):
    model, stimulus = ZOO[name](), spectrogram(N_FRAMES)
    sweep, windows = (
        together(dynamic_strfs(model, stimulus, LAGS, route=route, dtype=torch.float64))
        for route in ("sweep", "windows")
    )
    assert relative(windows, sweep) < EXACT


@given(
    n_frames=st.integers(1, 50),
    lags=st.integers(1, 30),
    n_hidden=st.integers(3, 7),
    n_bands=st.integers(1, 5),
    kind=st.sampled_from(["GRU", "LSTM", "RNN"]),
    every=st.integers(1, 7),
    memory=st.sampled_from([None, 1, 100_000]),
)
@settings(max_examples=12)
def test_maps_do_not_depend_on_lengths_and_blocks(n_frames, lags, n_hidden, n_bands, kind, every, memory):
    model = seeded(lambda: Recurrent(kind, n_neurons=2, n_hidden=n_hidden, n_bands=n_bands))
    stimulus = torch.randn(n_bands, n_frames, generator=torch.Generator().manual_seed(n_frames))
    blocks = list(dynamic_strfs(model, stimulus, lags, every=every, dtype=torch.float64, memory_bytes=memory))
    assert [frame for frames, _ in blocks for frame in frames] == list(range(0, n_frames, every))
    expected = one_backward_per_frame(model.double(), stimulus.double(), lags)[:, ::every]
    assert relative(together(blocks), expected) < EXACT


def test_filters_and_nonlinearities_of_any_length_are_followed():
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.sum(dim=2, keepdim=True).cumsum(dim=-1) * 0.1).sin().cumsum(dim=-1)

    stimulus = spectrogram(30, n_bands=3).double()
    blocks = dynamic_strfs(Sums().eval(), stimulus, 8, dtype=torch.float64)
    assert relative(together(blocks), one_backward_per_frame(Sums().eval(), stimulus, 8)) < EXACT
    assert blocks.record.parts == ("filter", "filter")


def test_a_linear_filter_has_one_kernel_at_every_frame():
    kernels = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = together(dynamic_strfs(Kernels(kernels).eval(), spectrogram(50, n_bands=4).double(), 8))
    torch.testing.assert_close(maps[:, 8:, :, :6], kernels.unsqueeze(1).expand(-1, 42, -1, -1), rtol=1e-12, atol=1e-12)
    assert not maps[..., 6:].any()
    for frame in range(8):
        assert not maps[:, frame, :, frame + 1 :].any()


def test_a_nonlinearity_after_a_filter_scales_its_kernel():
    kernels = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, stimulus = Kernels(kernels, nn.Softplus()).eval(), spectrogram(50, n_bands=4).double()
    drive = Kernels(kernels).eval()(stimulus[None, None])[0, :, 0].detach()
    blocks = dynamic_strfs(model, stimulus, 6, skip=5)
    expected = torch.sigmoid(drive)[:, 5:, None, None] * kernels.unsqueeze(1)
    torch.testing.assert_close(together(blocks), expected, rtol=1e-12, atol=1e-12)
    assert blocks.record.route == "slope"


@pytest.mark.parametrize("neurons", [[3, 1], 2, "sum"])
@pytest.mark.parametrize("name", ["LinearNonlinear", "StateNet-GRU", "adaptrans-LinearNonlinear", "StateNet-Mamba"])
def test_some_neurons_are_those_rows_of_all(name, neurons):
    model, stimulus = ZOO[name]() if name in ZOO else PREFILTERED[name](), spectrogram(30)
    everything = together(dynamic_strfs(model, stimulus, 8, dtype=torch.float64))
    some = dynamic_strfs(model, stimulus, 8, neurons=neurons, dtype=torch.float64)
    expected = (
        everything.sum(0, keepdim=True) if neurons == "sum" else everything[[neurons] if neurons == 2 else neurons]
    )
    assert relative(together(some), expected) < EXACT
    assert some.record.disagreement < EXACT


def test_frames_asked_for_come_in_order_and_are_those_of_all():
    model, stimulus = ZOO["StateNet-GRU"](), spectrogram(200)
    everything = together(dynamic_strfs(model, stimulus, 10))
    blocks = list(dynamic_strfs(model, stimulus, 10, frames=[150, 3, 64, 63]))
    assert [frame for frames, _ in blocks for frame in frames] == [3, 63, 64, 150]
    torch.testing.assert_close(together(blocks), everything[:, [3, 63, 64, 150]])


@pytest.mark.parametrize("neurons", [None, [3, 1], "sum"])
def test_each_frame_is_the_gradmap_of_that_frame(neurons):
    model, stimulus = ZOO["StateNet-GRU"](20), spectrogram(30)
    for (frame,), maps in dynamic_strfs(model, stimulus, 8, neurons=neurons, frames=[0, 12, 29], route="rows"):
        expected = strf_gradmaps(model, 8, around=stimulus, objective={"frame": frame}, neurons=neurons, route="loop")
        assert relative(maps[:, 0], expected) < 1e-5


def test_a_block_that_is_kept_is_not_written_over():
    model, stimulus = ZOO["StateNet-GRU"](), spectrogram(200)
    blocks = dynamic_strfs(model, stimulus, 10)
    kept = [(maps, maps.clone()) for _, maps in blocks]
    assert len(kept) > 1
    for maps, then in kept:
        assert torch.equal(maps, then)


def test_a_front_end_is_left_out():
    model = hearing("mel")
    blocks = dynamic_strfs(model, spectrogram(N_FRAMES), LAGS, dtype=torch.float64)
    expected = reference(hearing("mel"), spectrogram(N_FRAMES), LAGS)
    assert relative(together(blocks), expected) < EXACT


class Echo(nn.Module):
    """A recurrence written as a plain loop: no part of its own to take apart, no filter, no short field."""

    def forward(self, x: Tensor) -> Tensor:
        heard = [torch.zeros(1, 1, 1, dtype=x.dtype)]
        for frame in x.sum(dim=2, keepdim=True).unbind(dim=-1):
            heard.append((frame + heard[-1] + 0.3 * frame * heard[-1]).sin())
        return torch.stack(heard[1:], dim=-1)


def test_any_other_model_takes_a_backward_pass_per_frame_and_says_so():
    stimulus = spectrogram(30, n_bands=3)
    blocks = dynamic_strfs(Echo().eval(), stimulus, 8, dtype=torch.float64)
    assert relative(together(blocks), one_backward_per_frame(Echo().eval(), stimulus.double(), 8)) < EXACT
    assert blocks.record.route == "rows"
    with pytest.raises(NoWayError):
        dynamic_strfs(Echo().eval(), stimulus, 8, route="sweep")


def test_a_route_by_name_that_the_model_does_not_allow_is_refused():
    with pytest.raises(NoWayError, match="'sweep', not by 'slope'"):
        dynamic_strfs(ZOO["StateNet-GRU"](), spectrogram(30), 8, route="slope")


class Pretending(Recurrent):
    def __init__(self) -> None:
        super().__init__("GRU")
        self.rnn.forward = lambda x: ((2.0 * nn.GRU.forward(self.rnn, x)[0]).sin(), None)


def test_a_rule_that_does_not_give_what_its_part_gave_is_not_taken():
    model, stimulus = seeded(Pretending).double(), torch.randn(4, 30, dtype=torch.float64)
    blocks = dynamic_strfs(model, stimulus, 8)
    maps = together(blocks)
    assert blocks.record.route == "rows"
    assert relative(maps, one_backward_per_frame(model, stimulus, 8)) < EXACT


class Corner(nn.Module):
    """Frame by frame but for one frame, at which the past counts as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sum(dim=2, keepdim=True)
        past = torch.zeros_like(y)
        past[..., 25] = y[..., :25].sin().sum(dim=-1)
        return y.tanh() + past


def test_a_part_that_mixes_frames_at_one_frame_only_is_not_taken_as_frame_by_frame():
    stimulus = spectrogram(40, n_bands=3).double()
    maps = together(dynamic_strfs(Corner().eval(), stimulus, 12, dtype=torch.float64))
    assert relative(maps, one_backward_per_frame(Corner().eval(), stimulus, 12)) < EXACT


def test_nothing_global_is_held_between_blocks_and_the_model_is_untouched():
    model, stimulus = seeded(lambda: Recurrent(n_neurons=20)), torch.randn(4, 300)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks = dynamic_strfs(model, stimulus, 8)
    with torch.no_grad():
        next(blocks)
        assert not torch.is_grad_enabled()
        state = torch.get_rng_state()
        next(blocks)
        assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        next(blocks)
        assert torch.is_inference_mode_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())


def test_a_stream_that_passes_a_mixer_by_is_added_to_what_the_mixer_gives():
    class Residual(Recurrent):
        """What is heard passes the recurrence by, and is narrower before it than after."""

        def __init__(self) -> None:
            super().__init__("GRU", n_bands=3, n_hidden=6)
            self.wide, self.encoder = nn.Linear(3, 6), nn.Identity()

        def forward(self, x):
            heard = self.wide(x.sum(dim=1).transpose(-1, -2)).tanh()
            return self.readout((heard + self.rnn(heard)[0] * heard).transpose(-1, -2))

    model, stimulus = seeded(Residual).double(), torch.randn(3, 30, dtype=torch.float64)
    blocks = dynamic_strfs(model, stimulus, 9)
    assert relative(together(blocks), one_backward_per_frame(model, stimulus, 9)) < EXACT
    assert blocks.record.route == "sweep"


@pytest.mark.parametrize("arguments", [{"n_layers": 1}, {"context_window": 5}, {"n_heads": 4, "freq_patch_size": 8}])
def test_attention_of_every_shape(arguments):
    model = make("Transformer", 2, embedding_dim=20, **arguments)
    blocks = dynamic_strfs(model, spectrogram(N_FRAMES), LAGS, dtype=torch.float64)
    assert relative(together(blocks), reference(model, spectrogram(N_FRAMES), LAGS)) < EXACT
    assert "attention" in blocks.record.parts


@pytest.mark.parametrize("prefilter", [None, "adaptrans", "icadaptation"])
def test_frames_one_field_apart_share_a_backward_pass(prefilter):
    model = make("ConvNet2D", 2, kernel_size=(3, 3), c_hidden=3, n_hidden=4, prefilter=prefilter)
    blocks = dynamic_strfs(model, spectrogram(50), LAGS, dtype=torch.float64)
    assert relative(together(blocks), reference(model, spectrogram(50), LAGS)) < EXACT
    assert blocks.record.route == "comb"


def test_a_filter_may_be_followed_as_a_band_if_asked_for_by_name():
    model = make("NetworkReceptiveField", 2, temporal_window_size=4)
    comb, windows = (
        together(dynamic_strfs(model, spectrogram(40), LAGS, route=route, dtype=torch.float64))
        for route in ("comb", "windows")
    )
    assert relative(comb, windows) < EXACT


@pytest.mark.parametrize("kind", ["adaptrans", "icadaptation"])
@pytest.mark.parametrize("n_frames", [15, 40])
def test_adaptation_over_more_frames_than_the_sound_has(kind, n_frames):
    front = prefiltering.make_prefiltering(kind, 16, 5.0)
    assert front.K > 500
    model = zoo_seeded(lambda: audio.StateNet(16, out_neurons=2, rnn_type="RNN", prefiltering=front), 0)
    blocks = dynamic_strfs(model, spectrogram(n_frames), LAGS, dtype=torch.float64)
    assert relative(together(blocks), reference(model, spectrogram(n_frames), LAGS)) < EXACT
    assert blocks.record.parts == ("filter", "recurrence")


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "RNNCell"])
def test_cells_that_a_model_calls_frame_by_frame(kind):
    class Loops(Recurrent):
        """Two cells, the second of which hears the first."""

        def __init__(self) -> None:
            super().__init__("GRU")
            self.first, self.second = getattr(nn, kind)(6, 5), getattr(nn, kind)(5, 6)

        def forward(self, x):
            frames = self.encoder(x.sum(dim=1).transpose(-1, -2))
            states, heard = [None, None], []
            for frame in frames.unbind(dim=1):
                for number, cell in enumerate((self.first, self.second)):
                    if states[number] is None:
                        blank = frames.new_zeros(1, cell.hidden_size)
                        states[number] = (blank, blank) if kind == "LSTMCell" else blank
                    states[number] = cell(frame, states[number])
                    frame = states[number][0] if kind == "LSTMCell" else states[number]
                heard.append(frame)
            return self.readout(torch.stack(heard, dim=-1))

    model, stimulus = seeded(Loops).double(), torch.randn(4, 30, dtype=torch.float64)
    blocks = dynamic_strfs(model, stimulus, 9)
    assert relative(together(blocks), one_backward_per_frame(model, stimulus, 9)) < EXACT
    assert blocks.record.parts == ("cell", "cell")


@pytest.mark.parametrize("lags", [1, 9])
@pytest.mark.parametrize("n_frames", [1, 2, 5])
@pytest.mark.parametrize(
    "name", ["Linear", "DNet", "ConvNet2D", "StateNet-LSTM", "StateNet-LMU", "StateNet-S4", "Transformer"]
)
def test_sounds_shorter_than_the_window_and_models_of_one_neuron(name, n_frames, lags):
    model, stimulus = ZOO[name](1), spectrogram(n_frames)
    blocks = dynamic_strfs(model, stimulus, lags, dtype=torch.float64)
    maps = together(blocks)
    assert maps.shape == (1, n_frames, len(stimulus), lags)
    assert relative(maps, reference(model, stimulus, lags)) < EXACT


def test_one_band_is_a_spectrogram_too():
    model, stimulus = seeded(lambda: Recurrent("GRU", 1, 1)).double(), torch.randn(1, 7, dtype=torch.float64)
    assert relative(together(dynamic_strfs(model, stimulus, 9)), one_backward_per_frame(model, stimulus, 9)) < EXACT


def test_a_model_that_does_not_hear_has_maps_of_zero():
    model = seeded(lambda: Recurrent("GRU")).double()
    with torch.no_grad():
        model.rnn.weight_ih_l0.zero_()
    maps = together(dynamic_strfs(model, torch.randn(4, 30, dtype=torch.float64), 9))
    assert maps.shape == (5, 30, 4, 9)
    assert not maps.any()


def test_silence_at_the_start_and_dead_units_are_no_obstacle():
    model, stimulus = ZOO["StateNet-RNN"](), torch.zeros(16, 40)
    expected = reference(model, stimulus, LAGS)
    assert relative(together(dynamic_strfs(model, stimulus, LAGS, dtype=torch.float64)), expected) < EXACT


def test_channels_after_a_prefilter_are_no_obstacle():
    class Onsets(Kernels):
        def __init__(self) -> None:
            super().__init__(torch.randn(3, 4, 5), n_channels=2)
            self.prefiltering = OnOff()

    model, stimulus = seeded(Onsets).double(), torch.randn(4, 40, dtype=torch.float64)
    assert relative(together(dynamic_strfs(model, stimulus, 9)), one_backward_per_frame(model, stimulus, 9)) < EXACT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lags": 0}, "whole number of frames"),
        ({"every": 0}, "whole number of frames"),
        ({"skip": -1}, "skip = -1"),
        ({"skip": 30}, "no frame is left"),
        ({"frames": [30]}, "frames 0 to 29"),
        ({"frames": []}, "no frame is left"),
        ({"neurons": [9]}, "not among the model's 5"),
        ({"route": "fast"}, "give one of auto, slope"),
        ({"stimulus": torch.zeros(2, 4, 30)}, "one sound at a time"),
        ({"stimulus": torch.full((4, 30), torch.nan)}, "not finite"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(arguments, message):
    given = {"stimulus": torch.randn(4, 30), "lags": 8, **arguments}
    with pytest.raises(ValueError, match=message):
        dynamic_strfs(seeded(Recurrent), **given)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        dynamic_strfs(seeded(Recurrent).train(), torch.randn(4, 30), 8)


def rows_sent_back(monkeypatch, model, stimulus) -> tuple[int, Tensor]:
    """Cotangents that a search for the way along a sound sends back, and all maps."""
    counts = []
    plain = search.pulled

    def counting(later, earlier, cotangents, *rest):
        counts.append(len(cotangents))
        return plain(later, earlier, cotangents, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(search, "pulled", counting)
        maps = together(dynamic_strfs(model, stimulus, LAGS, dtype=torch.float64))
    return sum(counts), maps


@pytest.mark.parametrize("size", [64, 16])
def test_a_sound_of_as_many_frames_as_there_are_neurons_or_bands_costs_no_more(size, monkeypatch):
    model = ZOO["StateNet-GRU"](64)
    usual, _ = rows_sent_back(monkeypatch, model, spectrogram(size + 5))
    square, maps = rows_sent_back(monkeypatch, model, spectrogram(size))
    assert square <= usual + 16
    some = dynamic_strfs(model, spectrogram(size), LAGS, neurons=[1, 5], dtype=torch.float64, route="rows")
    assert relative(maps[[1, 5]], together(some)) < EXACT


class Local(nn.Module):
    """Responses to three neighbouring bands each, of which neighbours share one."""

    def forward(self, x: Tensor) -> Tensor:
        bands = x[:, 0].unfold(1, 3, 2)  # (batch, neuron, frame, 3)
        return torch.tanh((bands * torch.tensor([0.5, -1.0, 0.75])).sum(dim=-1) + bands.prod(dim=-1)).unsqueeze(2)


def test_outputs_that_hear_different_bands_share_backward_passes(monkeypatch):
    stimulus = spectrogram(60, n_bands=41)
    sent, maps = rows_sent_back(monkeypatch, Local().eval(), stimulus)
    assert relative(maps, one_backward_per_frame(Local().eval(), stimulus.double(), LAGS)) < EXACT
    monkeypatch.setattr(slopes, "sharing_of", lambda *_: None)
    alone, same = rows_sent_back(monkeypatch, Local().eval(), stimulus)
    assert sent <= alone - 20 + 2 + sharing.LOOKS + 1
    assert torch.equal(maps, same)


def test_what_an_output_hears_at_rare_frames_only_is_not_lost():
    class Rare(nn.Module):
        """Outputs of one band each, and of their neighbour where that is loud."""

        def forward(self, x: Tensor) -> Tensor:
            return (torch.tanh(x) + torch.relu(x.roll(1, dims=2) - 0.99) * x.square())[:, 0].unsqueeze(2)

    stimulus = torch.rand(12, 50, generator=torch.Generator().manual_seed(5)) * 0.9
    stimulus[3, 31] = 1.5
    maps = together(dynamic_strfs(Rare().eval(), stimulus, LAGS, dtype=torch.float64))
    assert relative(maps, one_backward_per_frame(Rare().eval(), stimulus.double(), LAGS)) < EXACT

import gc
import weakref

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.gradients.gradmaps import compute_strf_gradmaps, strf_gradmaps
from pipeline.gradients.passes.forward_pass import ForwardPass, pass_through
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.passes.windows import windowed
from pipeline.gradients.routes import cheapest
from pipeline.gradients.routes.backward import _encoder_before
from pipeline.gradients.torch_state import memory
from tests.gradients.small import FrameReadout, Kernels, OnOff, Recurrent, relative, seeded
from tests.zoo import LAGS, ZOO

ANY_ROUTE = ["factored", "batched", "replicated", "forward"]
TOLERANCE = {"StateNet-LMU": 2e-5}

# One warm-up of a route loads torch's parts; hypothesis would call that slow.
relaxed = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(
    kind=st.sampled_from(["GRU", "LSTM", "RNN"]),
    n_neurons=st.integers(2, 30),
    n_bands=st.integers(1, 6),
    n_frames=st.integers(1, 9),
    n_hidden=st.integers(2, 8),
    n_layers=st.integers(1, 2),
    batch_first=st.booleans(),
    n_stimuli=st.integers(1, 3),
    hidden_readout=st.sampled_from([None, 3]),
    objective=st.sampled_from(["last", "peak", "sum", {"frame": 0}]),
    data=st.data(),
)
def test_all_routes_give_the_rows_of_one_backward_pass_each(
    kind, n_neurons, n_bands, n_frames, n_hidden, n_layers, batch_first, n_stimuli, hidden_readout, objective, data
):
    model = seeded(
        lambda: Recurrent(kind, n_neurons, n_bands, n_hidden, n_layers, hidden_readout, batch_first)
    ).double()
    neurons = data.draw(st.lists(st.integers(0, n_neurons - 1), min_size=1, max_size=n_neurons))
    lags = data.draw(st.integers(1, n_frames + 2))
    bytes_for_blocks = data.draw(st.integers(1, 20000))
    # In double precision: the slope of a unit that is all but saturated is rounded away in float32 by any route.
    stimuli = torch.randn(n_stimuli, n_bands, n_frames, generator=torch.Generator().manual_seed(3)).double()
    expected = compute_strf_gradmaps(model, stimuli, lags, neurons=neurons, objective=objective, route="loop")
    for route in ["auto", "factored", "batched", "replicated"]:
        found = compute_strf_gradmaps(
            model, stimuli, lags, neurons=neurons, objective=objective, route=route, memory_bytes=bytes_for_blocks
        )
        assert found.values.shape == (n_stimuli, len(neurons), n_bands, lags)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-13)
        assert torch.equal(found.frames, expected.frames)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("n_neurons", [4, 60])
def test_routes_agree_over_the_zoo(name, n_neurons):
    model = ZOO[name](n_neurons)
    stimulus = torch.randn(1, model.F, LAGS, generator=torch.Generator().manual_seed(5))
    expected = compute_strf_gradmaps(model, stimulus, LAGS, route="loop", check=False).values
    best = compute_strf_gradmaps(model, stimulus, LAGS)
    assert relative(best.values, expected) < TOLERANCE.get(name, 1e-5)
    assert best.disagreement < 1e-5
    for route in ANY_ROUTE if n_neurons == 4 else ["replicated"]:
        try:
            values = compute_strf_gradmaps(model, stimulus, LAGS, route=route, check=False).values
        except RuntimeError:
            # Not every model allows every route; auto then takes another.
            continue
        assert relative(values, expected) < TOLERANCE.get(name, 1e-5), route


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("Linear", "per_neuron"),
        ("LinearNonlinear", "per_neuron"),
        ("NetworkReceptiveField", "factored"),
        ("DNet", "factored"),
        ("ConvNet2D", "factored"),
        ("Transformer", "factored"),
        ("StateNet-GRU", "factored"),
        ("StateNet-LMU", "factored"),
        ("StateNet-Mamba", "factored"),
        ("StateNet-S4", "factored"),
    ],
)
def test_auto_takes_the_route_that_does_not_grow_with_the_square_of_the_population(name, route):
    found = compute_strf_gradmaps(ZOO[name](60), None, LAGS)
    assert found.route == route
    assert found.disagreement < 1e-5


class NeverBatched(torch.autograd.Function):
    """An identity whose backward pass cannot be vmapped."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(gradient.numpy().copy())


class Stubborn(nn.Module):
    def forward(self, x):
        return NeverBatched.apply(x)


def test_a_route_that_raises_is_left_once_and_remembered():
    model = seeded(lambda: Kernels(torch.randn(12, 3, 4)))
    model.core = Stubborn().eval()
    model.readout.extra = nn.Parameter(torch.zeros(2))
    first = compute_strf_gradmaps(model, None, 4)
    assert first.route == "loop"
    assert cheapest.limits_of(model) >= {"batched", "factored"}
    assert compute_strf_gradmaps(model, None, 4).route == "loop"
    expected = Kernels(model.readout.kernels.detach().flip(-1)).eval()
    torch.testing.assert_close(first.values[0], strf_gradmaps(expected, 4))


@pytest.mark.parametrize("objective", ["last", "peak", "sum", {"mean_over": [2, 5]}])
@pytest.mark.parametrize("name", ["StateNet-GRU", "Linear", "DNet"])
def test_a_route_that_gives_wrong_numbers_is_left_for_one_that_does_not(monkeypatch, name, objective):
    model = ZOO[name](200)
    stimulus = torch.randn(1, model.F, LAGS, generator=torch.Generator().manual_seed(5))
    right = compute_strf_gradmaps(model, stimulus, LAGS, objective=objective)
    assert right.disagreement < 1e-5
    honest = cheapest.ROUTES[right.route]

    def wrong(forward_pass, rows):
        values, block = honest(forward_pass, rows)
        return values * 1.001, block

    monkeypatch.setitem(cheapest.ROUTES, right.route, wrong)
    found = compute_strf_gradmaps(ZOO[name](200), stimulus, LAGS, objective=objective)
    assert found.route != right.route
    torch.testing.assert_close(found.values, right.values, rtol=1e-3, atol=1e-5 * float(right.values.abs().max()))
    told = compute_strf_gradmaps(ZOO[name](200), stimulus, LAGS, objective=objective, route=right.route)
    assert 5e-4 < told.disagreement < 2e-3


def test_what_is_remembered_of_a_model_goes_with_it():
    model = seeded(Recurrent)
    compute_strf_gradmaps(model, None, 4)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("name", ["LinearNonlinear", "StateNet-GRU", "StateNet-LMU", "Transformer"])
def test_what_a_pass_held_is_freed_at_once(name):
    compute_strf_gradmaps(ZOO[name](30), None, LAGS)  # the first call leaves what torch's own parts leave
    gc.collect()
    gc.disable()
    try:
        compute_strf_gradmaps(ZOO[name](30), None, LAGS)
        assert not [held for held in gc.get_objects() if type(held) is ForwardPass]
    finally:
        gc.enable()


def test_a_model_that_cannot_be_vmapped_still_factors():
    model = seeded(lambda: Recurrent(n_neurons=30))
    model.prefiltering = Stubborn().eval()
    found = compute_strf_gradmaps(model, None, 6)
    assert found.route == "factored"
    assert found.disagreement < 1e-5


class Skipping(Recurrent):
    """Its response also hears the sound past the readout's input."""

    def forward(self, x):
        return super().forward(x) + x.mean(dim=2, keepdim=True)


class Smeared(Recurrent):
    """Its readout mixes frames."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.readout = nn.Sequential(Smear(), self.readout)


class Smear(nn.Module):
    def forward(self, x):
        return x + 0.5 * nn.functional.pad(x, (1, 0))[..., :-1]


@pytest.mark.parametrize("model_class", [Skipping, Smeared])
def test_a_model_that_does_not_factor_there_is_not_factored_wrongly(model_class):
    model = seeded(lambda: model_class(n_neurons=30))
    stimulus = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(4))
    expected = compute_strf_gradmaps(model, stimulus, 9, route="loop", check=False).values
    found = compute_strf_gradmaps(model, stimulus, 9)
    assert relative(found.values, expected) < 1e-5
    assert found.disagreement < 1e-5


class Gated(nn.Module):
    """Its readout is given one half of a tensor, and the other half multiplies the response."""

    F, C_in, T = 6, 1, 8

    def __init__(self):
        super().__init__()
        self.wav2spec, self.prefiltering = nn.Identity(), nn.Identity()
        self.mix, self.readout = nn.Conv1d(6, 14, 3), nn.Conv1d(7, 100, 1)

    def forward(self, x):
        signal, gate = torch.tanh(self.mix(nn.functional.pad(x[:, 0], (2, 0)))).chunk(2, dim=1)
        return (self.readout(signal) * torch.sigmoid(gate.sum(dim=1, keepdim=True))).unsqueeze(2)


@pytest.mark.parametrize("neurons", [None, [3, 5, 60]])
def test_one_half_of_a_split_tensor_is_not_the_only_way_to_the_stimulus(neurons):
    model = seeded(Gated)
    heard = torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(2))
    expected = compute_strf_gradmaps(model, heard, 8, neurons=neurons, route="loop").values
    found = compute_strf_gradmaps(model, heard, 8, neurons=neurons)
    assert found.disagreement < 1e-5
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    assert "batched" not in cheapest.limits_of(model)
    with pytest.raises(RuntimeError, match="does not factor"):
        compute_strf_gradmaps(model, heard, 8, neurons=neurons, route="factored")


class Delayed(nn.Module):
    """Its readout hears the present frame, but for a few neurons, which hear earlier ones too."""

    F, C_in, T = 6, 1, 8
    LATE = (3, 500, 777)

    def __init__(self):
        super().__init__()
        self.wav2spec, self.prefiltering = nn.Identity(), nn.Identity()
        self.mix = nn.Conv1d(6, 7, 3, bias=False)
        self.readout = nn.Sequential(nn.ZeroPad2d((2, 0, 0, 0)), nn.Conv1d(7, 1000, 3, bias=False))
        weight = self.readout[1].weight.detach()
        present = [neuron for neuron in range(1000) if neuron not in self.LATE]
        weight[present, :, :2] = 0

    def forward(self, x):
        return self.readout(torch.tanh(self.mix(nn.functional.pad(x[:, 0], (2, 0))))).unsqueeze(2)


def test_a_few_neurons_that_hear_other_frames_are_not_overlooked():
    model = seeded(Delayed)
    expected = compute_strf_gradmaps(model, None, 8, route="batched").values
    found = compute_strf_gradmaps(model, None, 8)
    assert found.disagreement < 1e-5
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["StateNet-GRU", "Linear"])
def test_one_wrong_map_among_hundreds_is_found(monkeypatch, name):
    right = compute_strf_gradmaps(ZOO[name](700), None, LAGS)
    honest = cheapest.ROUTES[right.route]

    def wrong(forward_pass, rows):
        values, block = honest(forward_pass, rows)
        values[:, 123] *= -1
        return values, block

    monkeypatch.setitem(cheapest.ROUTES, right.route, wrong)
    found = compute_strf_gradmaps(ZOO[name](700), None, LAGS)
    assert found.route != right.route


def test_a_state_given_to_a_recurrent_layer_is_not_forgotten():
    class Primed(Recurrent):
        def forward(self, x):
            frames = self.encoder(x.sum(dim=1).transpose(-1, -2))
            start = torch.tanh(x.mean(dim=(1, 2, 3))).view(1, -1, 1).expand(1, -1, self.rnn.hidden_size)
            return self.readout(self.rnn(frames, start.contiguous())[0].transpose(-1, -2))

    model = seeded(lambda: Primed(n_neurons=30))
    stimulus = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(4))
    expected = compute_strf_gradmaps(model, stimulus, 9, route="loop", check=False).values
    assert relative(compute_strf_gradmaps(model, stimulus, 9).values, expected) < 1e-5


def test_sums_factor_where_the_readout_is_affine_and_not_where_it_is_not():
    stimulus = torch.randn(1, 4, 30, generator=torch.Generator().manual_seed(4))
    for affine in (True, False):
        model = seeded(lambda affine=affine: Recurrent(n_neurons=40, affine_output=affine))
        expected = compute_strf_gradmaps(model, stimulus, 30, objective="sum", route="loop", check=False).values
        found = compute_strf_gradmaps(model, stimulus, 30, objective="sum", route="factored", memory_bytes=10**9)
        assert relative(found.values, expected) < 1e-5
        assert found.block == (6 if affine else 40)


@pytest.mark.parametrize("level", [0.0, 0.3, None])
@pytest.mark.parametrize("name", ["StateNet-LMU", "StateNet-Mamba", "StateNet-GRU"])
def test_long_windows_of_recurrent_models_equal_plain_backward_passes(name, level):
    model, n_frames = ZOO[name](70), 40
    generator = torch.Generator().manual_seed(8)
    heard = torch.randn(1, model.F, n_frames, generator=generator) if level is None else None
    settings = {"level": level or 0.0, "neurons": [0, 33, 69]}
    expected = compute_strf_gradmaps(model, heard, n_frames, route="loop", check=False, **settings).values
    found = compute_strf_gradmaps(model, heard, n_frames, level=level or 0.0)
    assert found.route == "factored"
    assert found.disagreement < 1e-5
    assert relative(found.values[:, [0, 33, 69]], expected) < 2e-5


def test_a_recurrence_in_steps_is_left_at_the_end_of_its_encoder():
    model = ZOO["StateNet-LMU"](70)
    for level, known in ((torch.zeros(1, 1, model.F, 40), True), (torch.randn(1, 1, model.F, 40), False)):
        forward_pass = pass_through(model, level, 2**30, set())
        readout = next(call for call in forward_pass.trace.calls if call.name == "readout")
        assert (_encoder_before(forward_pass, readout.given) is not None) == known


def test_long_recurrent_memory_fades_to_exact_zeros_as_autograd_has_it():
    model = seeded(lambda: Recurrent("RNN", n_neurons=30))
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(0.05)
    stimulus = torch.randn(1, 4, 120, generator=torch.Generator().manual_seed(4))
    expected = compute_strf_gradmaps(model, stimulus, 120, route="loop", check=False).values
    found = compute_strf_gradmaps(model, stimulus, 120)
    assert found.route == "factored"
    assert relative(found.values, expected) < 1e-5
    assert not found.values[..., 80:].any()


def test_per_neuron_parameters_are_checked_not_assumed():
    class Shared(Kernels):
        def forward(self, x):
            return super().forward(x) + self.readout.kernels.sum()

    model = seeded(lambda: Shared(torch.randn(12, 3, 4)))
    with pytest.raises(RuntimeError, match="answers otherwise"):
        compute_strf_gradmaps(model, None, 4, route="per_neuron")
    assert compute_strf_gradmaps(model, None, 4).route != "per_neuron"


class Limited(nn.Module):
    """An allocator that has room for so many numbers at once."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.refused = numbers, []

    def forward(self, x):
        if x.numel() > self.numbers:
            self.refused.append(x.shape[0])
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {4 * x.numel()} bytes")
        return x


def test_after_an_out_of_memory_error_the_block_halves_and_the_rows_are_the_same():
    model = seeded(lambda: Recurrent(n_neurons=30))
    expected = strf_gradmaps(model, 6, route="replicated")
    limited = Limited(7 * 4 * 6).eval()
    model.prefiltering = limited
    found = compute_strf_gradmaps(model, None, 6, route="replicated")
    assert relative(found.values[0], expected) < 1e-6
    assert found.block == 7
    assert limited.refused == [30, 15]


def test_stimuli_are_taken_fewer_at_a_time_when_memory_runs_out():
    model = seeded(lambda: Recurrent(n_neurons=30))
    stimuli = torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(4))
    expected = compute_strf_gradmaps(model, stimuli, 6)
    model.prefiltering = Limited(2 * 4 * 6).eval()
    found = compute_strf_gradmaps(model, stimuli, 6)
    assert relative(found.values, expected.values) < 1e-5


def test_one_row_that_does_not_fit_raises():
    model = seeded(Recurrent)
    model.prefiltering = Limited(3).eval()
    with pytest.raises(torch.OutOfMemoryError):
        compute_strf_gradmaps(model, None, 6)


@settings(max_examples=30)  # memory is given back after every refusal, which takes a while
@given(n_rows=st.integers(1, 40), block=st.integers(1, 50), limit=st.integers(1, 50))
def test_blocks_cover_every_row_once_whatever_fits(n_rows, block, limit):
    done = []

    def run(start, stop):
        if stop - start > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        done.extend(range(start, stop))

    final = memory.in_blocks(n_rows, block, run)
    assert done == list(range(n_rows))
    assert final <= max(limit, 1) or final >= n_rows


@given(shape=st.lists(st.integers(0, 40), max_size=4), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_room_for_results_is_aligned_as_torch_aligns_it(shape, dtype):
    room = memory.room(tuple(shape), torch.zeros(1, dtype=dtype))
    assert (room.shape, room.dtype, room.is_contiguous()) == (torch.Size(shape), dtype, True)
    assert room.numel() == 0 or room.data_ptr() % 64 == 0
    assert room.fill_(3.0).eq(3.0).all()


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    def run(start, stop):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        memory.in_blocks(4, 4, run)


@given(n_times=st.integers(1, 6), lags=st.integers(1, 8), data=st.data())
def test_windows_hold_each_rows_own_past(n_times, lags, data):
    ends = torch.tensor([data.draw(st.lists(st.integers(0, n_times - 1), min_size=2, max_size=2))])
    gradient = torch.arange(2.0 * 3 * n_times).view(1, 2, 3, n_times) + 1
    kept = windowed(gradient, ends, lags)
    for row in range(2):
        for lag in range(lags):
            time = int(ends[0, row]) - lag
            expected = gradient[0, row, :, time] if time >= 0 else torch.zeros(3)
            assert torch.equal(kept[0, row, :, lag], expected)


def test_hidden_layer_readouts_are_cut_at_their_narrowest():
    model = seeded(lambda: Recurrent(n_neurons=30, n_hidden=12, hidden_readout=3))
    assert compute_strf_gradmaps(model, None, 6, memory_bytes=10**9).block == 3


def test_on_and_off_channels_factor_too():
    model = seeded(lambda: Recurrent(n_neurons=30))
    model.prefiltering = OnOff().eval()
    stimulus = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(4))
    for space in ("spectrogram", "prefiltered"):
        expected = compute_strf_gradmaps(model, stimulus, 9, route="loop", space=space, check=False).values
        found = compute_strf_gradmaps(model, stimulus, 9, space=space)
        assert found.route == "factored"
        assert relative(found.values, expected) < 1e-5


def test_a_readout_that_is_not_a_slot_is_found_all_the_same():
    class Unslotted(Recurrent):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.head = self.readout
            self.readout = nn.Identity()

        def forward(self, x):
            features = self.rnn(self.encoder(x.sum(dim=1).transpose(-1, -2)))[0]
            return self.head(features.transpose(-1, -2))

    model = seeded(lambda: Unslotted(n_neurons=30))
    found = compute_strf_gradmaps(model, None, 9)
    assert found.route == "factored"
    assert found.disagreement < 1e-5
    assert isinstance(model.head, FrameReadout)


@pytest.mark.slow
def test_five_thousand_neurons_stay_under_a_gibibyte():
    import resource

    model = seeded(lambda: Recurrent("GRU", n_neurons=5000, n_bands=34, n_hidden=70))
    strf_gradmaps(model, 2, neurons=[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradmaps = strf_gradmaps(model, 64)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert gradmaps.shape == (5000, 34, 64)
    assert grown < 2**30


class _Reversed(torch.autograd.Function):
    """The same numbers, and the gradient with the other sign."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -gradient


def test_numbers_turned_round_and_back_have_the_gradient_of_themselves_unless_a_step_changes_it():
    leaf = torch.randn(3, 4, requires_grad=True)
    inside = leaf * 2.0
    cotangents = torch.randn(5, 3, 4)
    assert vjp(inside.transpose(0, 1).permute(1, 0), inside, cotangents) is cotangents
    changed = _Reversed.apply(inside.transpose(0, 1)).transpose(0, 1)
    assert changed.data_ptr() == inside.data_ptr()
    torch.testing.assert_close(vjp(changed, inside, cotangents, {"vmap"}), -cotangents)

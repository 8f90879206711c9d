"""Models that look like what a way along a sound knows, and are not; all against one backward pass per frame."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.strfs import dynamic_strfs
from tests.gradients.small import Kernels, Recurrent, one_backward_per_frame, relative, seeded, together

EXACT = 1e-12


def loud(n_frames: int = 60, n_bands: int = 3) -> Tensor:
    return torch.randn(n_bands, n_frames, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class AlikeButOnce(nn.Module):
    """A linear model that hears the past at one frame only."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sum(dim=2, keepdim=True)
        past = torch.zeros_like(y)
        past[..., 25] = y[..., 20]
        return y + past


class LoudOnly(nn.Module):
    """Silent but at a few loud frames, at which it hears the past."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sum(dim=2, keepdim=True)
        return torch.relu(y + 0.5 * nn.functional.pad(y, (3, 0))[..., :-3] - 0.9 * y.amax().detach())


class FurtherBackWhereLoud(nn.Module):
    """Hears one frame back, and twelve at loud frames."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sum(dim=2, keepdim=True)
        near, far = (nn.functional.pad(y, (shift, 0))[..., :-shift] for shift in (1, 12))
        return torch.tanh(y) * near + torch.relu(y - 0.9 * y.amax().detach()) * far


@pytest.mark.parametrize("kind", [AlikeButOnce, LoudOnly, FurtherBackWhereLoud])
def test_what_holds_at_most_frames_only_is_not_taken_for_a_rule(kind):
    maps = together(dynamic_strfs(kind().eval(), loud(), 14, dtype=torch.float64))
    assert relative(maps, one_backward_per_frame(kind().eval(), loud(), 14)) < EXACT


def test_a_model_that_hears_ahead_before_a_recurrence_goes_back_through_the_whole_sound():
    class Normalised(Recurrent):
        """Each band's mean and spread over the whole sound are taken out of it first."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.instance_norm(x[:, 0]).unsqueeze(1))

    model = seeded(Normalised).double()
    blocks = dynamic_strfs(model, loud(40, 4), 5)
    assert relative(together(blocks), one_backward_per_frame(model, loud(40, 4), 5)) < EXACT
    assert blocks.record.route == "rows"


def test_what_a_model_draws_from_a_seed_is_the_same_in_double_precision():
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            drawn = torch.rand(x.shape[-1], generator=torch.Generator().manual_seed(0))
            return x.sum(dim=2, keepdim=True).tanh() * (drawn > 0.5).to(x)

    maps = together(dynamic_strfs(Masked().eval(), loud(), 4, dtype=torch.float64))
    assert relative(maps, one_backward_per_frame(Masked().eval(), loud(), 4)) < EXACT


def test_parts_in_torchscript_and_normalised_weights_are_no_obstacle():
    class Compiled(Recurrent):
        def __init__(self) -> None:
            super().__init__("GRU")
            self.encoder = torch.jit.script(self.encoder)
            nn.utils.parametrizations.weight_norm(self.rnn, "weight_hh_l0")

    model = seeded(Compiled).double()
    blocks = dynamic_strfs(model, loud(40, 4), 9)
    assert relative(together(blocks), together(dynamic_strfs(model, loud(40, 4), 9, route="rows"))) < EXACT
    assert blocks.record.route == "sweep"


class Products(nn.Module):
    """Each band times what it was three frames before."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * nn.functional.pad(x, (3, 0))[..., :-3])[:, 0].unsqueeze(2)


class Forgetful(nn.Module):
    """A cell that is called frame by frame, whose state no gradient passes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.readout = nn.GRUCell(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        state, heard = x.new_zeros(1, 6), []
        for frame in x[:, 0].unbind(dim=-1):
            state = self.cell(frame, state.detach())
            heard.append(self.readout(state))
        return torch.stack(heard, dim=-1).unsqueeze(2)


MOMENTS = {
    "sweep": lambda: Recurrent("LSTM"),
    "slope": lambda: Kernels(torch.randn(3, 4, 6), nn.Softplus()),
    "comb": lambda: Products(),
    "rows": lambda: Forgetful(),
}


@pytest.mark.parametrize("neurons", [None, "sum"])
@pytest.mark.parametrize("route", MOMENTS)
def test_mean_and_deviation_are_those_of_the_blocks(route, neurons):
    model, stimulus = seeded(MOMENTS[route]), loud(24 if route == "rows" else 80, 4)
    maps = together(dynamic_strfs(model, stimulus, 5, neurons=neurons, skip=4, dtype=torch.float64))
    blocks = dynamic_strfs(model, stimulus, 5, neurons=neurons, skip=4, dtype=torch.float64)
    mean, sd = blocks.mean_and_sd()
    assert blocks.record.route == route
    torch.testing.assert_close(mean, maps.mean(dim=1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sd, maps.std(dim=1), rtol=1e-9, atol=1e-12)
    with pytest.raises(StopIteration):
        next(blocks)


@pytest.mark.parametrize("skip", [0, 70])
def test_no_block_is_handed_out_before_a_frame_of_it_was_checked(skip):
    model, stimulus = seeded(Forgetful).double(), loud(140, 4)
    blocks = dynamic_strfs(model, stimulus, 5, skip=skip)
    assert blocks.record.route == "windows"
    frames, maps = next(blocks)
    assert blocks.record.route == "rows"
    assert relative(maps, together(dynamic_strfs(model, stimulus, 5, frames=frames, route="rows"))) < EXACT


def test_deviations_of_maps_that_hardly_change_do_not_cancel():
    model = Kernels(1000 * torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2)), nn.Softplus()).eval()
    with torch.no_grad():
        model.readout.kernels.abs_().add_(100.0)
    mean, sd = dynamic_strfs(model, loud(150, 4).abs() + 1.0, 6, skip=5).mean_and_sd()
    assert float((sd / mean.abs()).max()) < 1e-6


def test_only_the_frames_left_are_averaged():
    blocks = dynamic_strfs(seeded(Recurrent).double(), loud(40, 4), 5, frames=[7])
    assert torch.isnan(blocks.mean_and_sd()[1]).all()
    with pytest.raises(ValueError, match="frames that were asked for is left"):
        blocks.mean_and_sd()


def test_the_last_state_of_a_recurrence_is_not_taken_for_a_constant():
    class Ending(Recurrent):
        """The state at the end of the sound counts at every frame."""

        def forward(self, x: Tensor) -> Tensor:
            states, last = self.rnn(self.encoder(x.sum(dim=1).transpose(-1, -2)))
            return self.readout((states + last.transpose(0, 1)).transpose(-1, -2))

    model = seeded(Ending).double()
    blocks = dynamic_strfs(model, loud(60, 4), 5, frames=[0, 8, 30, 55, 59])
    assert blocks.record.route == "rows"
    expected = one_backward_per_frame(model, loud(60, 4), 5)[:, [0, 8, 30, 55, 59]]
    assert relative(together(blocks), expected) < EXACT


class Logarithm(nn.Module):
    """Slopes ten million times as steep in silence as elsewhere, where a neighbour or the past counts as well."""

    def __init__(self, past: bool) -> None:
        super().__init__()
        self.past = past

    def forward(self, x: Tensor) -> Tensor:
        other = nn.functional.pad(x, (1, 0))[..., :-1] if self.past else x.roll(1, dims=2).square()
        return (torch.log(x + 1e-7) + torch.relu(x - 0.9) * other)[:, 0].unsqueeze(2)


class OneFaint(nn.Module):
    """One neuron of a ten millionth of the others' size does what no other does: hears its neighbour, or the past."""

    def __init__(self, past: bool) -> None:
        super().__init__()
        self.past = past

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x[:, 0])
        other = y[:, 2].cumsum(dim=-1) if self.past else x[:, 0, 3]
        return torch.cat([y[:, :2], (1e-7 * x[:, 0, 2] * other).unsqueeze(1), y[:, 3:]], dim=1).unsqueeze(2)


@pytest.mark.parametrize("past", [True, False])
@pytest.mark.parametrize("kind", [Logarithm, OneFaint])
def test_every_map_is_exact_by_its_own_size(kind, past):
    stimulus = torch.rand(8, 60, generator=torch.Generator().manual_seed(5))
    stimulus[:, 20:30] = 0
    maps = together(dynamic_strfs(kind(past).eval(), stimulus, 5)).double()
    expected = one_backward_per_frame(kind(past).eval(), stimulus.double(), 5)
    size = expected.abs().amax(dim=(2, 3))
    assert float(((maps - expected).abs().amax(dim=(2, 3)) / size.clamp_min(1e-30)).max()) < 1e-5


class Weighted(Recurrent):
    """By its weights alone frame by frame, a filter, of a short field, or a recurrence."""

    def __init__(self, past: float, product: float, state: float) -> None:
        super().__init__("GRU", 4, 4, 4)
        self.shares = nn.Parameter(torch.tensor([past, product, state]))

    def forward(self, x: Tensor) -> Tensor:
        heard = x[:, 0].transpose(-1, -2)
        before = nn.functional.pad(heard, (0, 0, 2, 0))[:, :-2]
        mixed = heard.tanh() + self.shares[0] * before + self.shares[1] * heard * before
        return (mixed + self.shares[2] * self.rnn(heard)[0]).transpose(-1, -2).unsqueeze(2)


SHARES = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.5, 0.0, 0.5), (0.5, 0.5, 0.5)]


def test_what_one_model_is_like_says_nothing_of_another_of_its_class():
    def maps_in(order: list[int]) -> dict[int, Tensor]:
        models = {number: seeded(lambda number=number: Weighted(*SHARES[number])).double() for number in order}
        return {number: together(dynamic_strfs(model, loud(24, 4), 6)) for number, model in models.items()}

    forwards, backwards = maps_in([0, 1, 2, 3, 4]), maps_in([4, 3, 2, 1, 0])
    for number, shares in enumerate(SHARES):
        assert torch.equal(forwards[number], backwards[number])
        expected = one_backward_per_frame(seeded(lambda shares=shares: Weighted(*shares)), loud(24, 4), 6)
        assert relative(forwards[number], expected) < EXACT


class Begun(Recurrent):
    """A recurrence that begins with states of its own, or with what the sound's first frame makes of them."""

    def __init__(self, kind: str, follows: bool = False) -> None:
        super().__init__(kind, n_layers=2)
        self.begins = nn.Parameter(torch.randn(2, 2, 1, self.rnn.hidden_size))
        self.follows = follows

    def forward(self, x: Tensor) -> Tensor:
        begins = self.begins * x[..., 0].sum() if self.follows else self.begins
        frames = self.encoder(x.sum(dim=1).transpose(-1, -2))
        states = (begins[0], begins[1]) if isinstance(self.rnn, nn.LSTM) else begins[0]
        return self.readout(self.rnn(frames, states)[0].transpose(-1, -2))


@pytest.mark.parametrize(
    ("kind", "follows", "route"), [("GRU", False, "sweep"), ("LSTM", False, "sweep"), ("RNN", True, "rows")]
)
def test_a_recurrence_may_begin_with_states_of_its_own(kind, follows, route):
    model = seeded(lambda: Begun(kind, follows)).double()
    blocks = dynamic_strfs(model, loud(24, 4), 6)
    assert blocks.record.route == route
    assert relative(together(blocks), one_backward_per_frame(model, loud(24, 4), 6)) < EXACT


class Hinted(nn.Module):
    """A cell, or attention, that hears a faint hint of the sound beside what it hears frame by frame."""

    def __init__(self, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.cell, self.attention = _WithContext(), nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        frames, hint = x[:, 0].transpose(-1, -2), 1e-6 * x[..., 0].sum()
        if self.attends:
            count = frames.shape[1]
            mask = torch.full((count, count), -torch.inf).triu(1).to(x) + hint * torch.eye(count).to(x)
            return self.attention(frames, frames, frames, attn_mask=mask)[0].transpose(-1, -2).unsqueeze(2)
        state, heard = x.new_zeros(1, 4), []
        for frame in frames.unbind(dim=1):
            state = self.cell(frame, state, hint.view(1, 1))
            heard.append(state)
        return torch.stack(heard, dim=-1).unsqueeze(2)


class _WithContext(nn.Module):
    def forward(self, frame: Tensor, state: Tensor, context: Tensor) -> Tensor:
        return torch.tanh(frame + 0.5 * state.roll(1, dims=1) + context)


@pytest.mark.parametrize("attends", [True, False])
def test_a_part_that_hears_more_than_its_frames_is_not_taken_by_a_rule(attends):
    model = seeded(lambda: Hinted(attends))
    assert dynamic_strfs(model, loud(24, 4).float(), 30).record.route == "rows"

"""Slopes along a sound that are computed excerpt by excerpt; maps against plain backward passes."""

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic import excerpt_slopes, excerpts
from pipeline.gradients.dynamic.strfs import DynamicStrfs, dynamic_strfs
from tests.gradients.small import Recurrent, one_backward_per_frame, relative, seeded, together

EXACT = 1e-12
N_FRAMES, LAGS = 90, 6

#: Frames at the ends of the sound and of excerpts, and some between.
LOOKED_AT = (0, 3, 31, 32, 47, 63, 64, 80, 89)


def sound(n_bands: int = 4, n_frames: int = N_FRAMES) -> Tensor:
    return torch.randn(n_bands, n_frames, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def error(model: nn.Module, blocks: DynamicStrfs) -> float:
    """How far maps lie from those of plain backward passes at the frames that are looked at."""
    maps = together(blocks)[:, list(LOOKED_AT)]
    return relative(maps, one_backward_per_frame(model, sound(), LAGS, LOOKED_AT))


@pytest.fixture
def computed(monkeypatch) -> Iterator[list[tuple[int, int]]]:
    """Excerpts that slopes were computed around, each of some frames of the sound, however few slopes there are."""
    done: list[tuple[int, int]] = []
    plain = excerpt_slopes.ByExcerpt.computed

    def counted(self: excerpt_slopes.ByExcerpt, start: int, stop: int) -> Tensor:
        slopes = plain(self, start, stop)
        done.append((start, stop))
        return slopes

    monkeypatch.setattr(excerpt_slopes.ByExcerpt, "computed", counted)
    monkeypatch.setattr(excerpt_slopes, "FEW_BYTES", 0)
    monkeypatch.setattr(excerpts, "FRAMES", 32)
    return done


class Placed(Recurrent):
    """What the encoder hears is added to by the frame's place in the sound, in a part of its own."""

    class Place(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.sin(torch.arange(x.shape[1]).to(x) / 7).unsqueeze(-1)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(self.Place(), *self.encoder)


class Smoothed(Recurrent):
    """The past is added to the present before the encoder, in no part of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.5 * nn.functional.pad(x, (5, 0))[..., :-5])


class WrittenOver(Recurrent):
    """What the first part gives is written over by the next."""

    def __init__(self) -> None:
        super().__init__()
        first, *rest = self.encoder
        self.encoder = nn.Sequential(first, nn.LeakyReLU(0.3, inplace=True), *rest)


class Squared(nn.Module):
    """Products of the present and of two frames before: a few frames only, differently at each."""

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x, (2, 0))[..., :-2]
        return torch.tanh(x * before + before.roll(1, dims=2).square()).sum(dim=2, keepdim=True)


class Counted(Recurrent):
    """Frames are weighed by how many there are after them, which no excerpt tells."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype))


KINDS = {
    "GRU": lambda: Recurrent("GRU"),
    "LSTM of two layers": lambda: Recurrent("LSTM", n_layers=2, batch_first=False),
    "hidden readout": lambda: Recurrent("RNN", hidden_readout=7),
    "counted frames": Placed,
    "the past": Smoothed,
    "written over": WrittenOver,
    "a few frames": Squared,
}


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_around_excerpts_are_those_of_the_whole_sound(kind, computed):
    model = seeded(KINDS[kind]).double()
    blocks = dynamic_strfs(model, sound(), LAGS, dtype=torch.float64)
    assert error(model, blocks) < EXACT
    assert blocks.record.route != "rows"
    assert {(0, 64), (64, 90)} <= set(computed)


def test_a_model_that_answers_excerpts_otherwise_goes_by_slopes_of_the_whole_sound(computed):
    model = seeded(Counted).double()
    blocks = dynamic_strfs(model, sound(), LAGS, dtype=torch.float64)
    assert error(model, blocks) < EXACT
    assert blocks.record.route == "sweep"
    assert not computed


class LateOnly(Recurrent):
    """Frames late in a sound are heard otherwise, which an excerpt of its middle does not show."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.where(torch.arange(x.shape[-1]) < 80, x, 3 * x))


@pytest.mark.parametrize("averaged", [False, True])
def test_where_a_late_excerpt_turns_out_not_to_do_no_map_is_wrong(averaged, computed):
    model = seeded(LateOnly).double()
    blocks = dynamic_strfs(model, sound(), LAGS, dtype=torch.float64)
    if averaged:
        mean, sd = blocks.mean_and_sd()
        held = together(dynamic_strfs(model, sound(), LAGS))
        assert relative(mean, held.mean(dim=1)) < EXACT
        assert relative(sd, held.std(dim=1)) < EXACT
    else:
        assert error(model, blocks) < EXACT
    assert blocks.record.route == "sweep"
    assert computed
    before = len(computed)
    assert error(model, dynamic_strfs(model, sound(), LAGS)) < EXACT
    assert len(computed) == before


def alive() -> int:
    """Bytes of all tensors that are held."""
    gc.collect()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), Tensor)
    }
    return sum(storages.values())


def held_along(model: nn.Module, n_frames: int) -> int:
    stimulus = sound(24, n_frames)
    before = alive()
    blocks = dynamic_strfs(model, stimulus, LAGS)
    next(blocks)
    return alive() - before


def test_what_is_held_along_a_sound_is_less_than_its_activations(monkeypatch):
    monkeypatch.setattr(excerpt_slopes, "FEW_BYTES", 2**18)
    monkeypatch.setattr(excerpts, "FRAMES", 64)
    model = seeded(lambda: Recurrent("GRU", n_bands=24, n_hidden=20)).double()
    more = held_along(model, 900) - held_along(model, 300)
    # Each frame holds its sound, the recurrence's own numbers and the responses: not a slope for each band and unit.
    assert more < 600 * 8 * 24 * 20 / 2

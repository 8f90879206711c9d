"""Rows at frames of their own, by a recurrence resumed where each window begins, against one backward pass each."""

import pytest
import torch
from torch import nn

from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.gradients.routes import resumed
from pipeline.gradients.routes.resumed import NotResumableError
from tests.gradients.small import Kernels, Recurrent, relative, seeded
from tests.zoo import LAGS, make, spectrogram

EXACT = {torch.float64: 1e-12, torch.float32: 2e-6}


def sounds(count: int, n_frames: int, n_bands: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, n_bands, n_frames, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_peaks_of_many_sounds_are_those_of_one_backward_pass_each(kind, n_layers, dtype):
    model = seeded(lambda: Recurrent(kind, 12, n_layers=n_layers, batch_first=n_layers == 1, hidden_readout=5))
    stimuli = sounds(5, 40, 4)
    found, expected = (
        compute_strf_gradmaps(model, stimuli, 9, objective="peak", route=route, dtype=dtype)
        for route in ("resumed", "loop")
    )
    assert relative(found.values, expected.values) < EXACT[dtype]
    assert torch.equal(found.frames, expected.frames)
    assert bool(found.before_start.any())
    assert found.disagreement < EXACT[dtype]


def test_the_encoder_of_statenet_is_no_obstacle_and_the_memory_may_be_small():
    model = make("StateNet", 20, rnn_type="GRU")
    stimuli = torch.stack([spectrogram(60).roll(7 * number, dims=1) for number in range(4)])
    neurons = [3, 0, 19, 7]
    found, expected = (
        compute_strf_gradmaps(
            model,
            stimuli,
            LAGS,
            neurons=neurons,
            objective="peak",
            route=route,
            dtype=torch.float64,
            memory_bytes=100_000,
        )
        for route in ("resumed", "loop")
    )
    assert relative(found.values, expected.values) < 1e-12


def test_it_is_taken_where_many_rows_look_at_many_frames_of_long_sounds(monkeypatch):
    model, stimuli = seeded(lambda: Recurrent("GRU", 60)), sounds(5, 40, 4)
    many = compute_strf_gradmaps(model, stimuli, 9, objective="peak")
    assert many.route == "resumed"
    assert compute_strf_gradmaps(model, stimuli, 9, objective="last").route == "factored"
    assert compute_strf_gradmaps(model, stimuli[:1], 9, objective="peak").route == "factored"
    assert compute_strf_gradmaps(model, stimuli, 30, objective="peak").route == "factored"
    monkeypatch.setattr(resumed, "MANY_ROWS", 10**9)
    few = compute_strf_gradmaps(seeded(lambda: Recurrent("GRU", 60)), stimuli, 9, objective="peak")
    assert few.route == "factored"
    assert relative(many.values, few.values) < EXACT[torch.float32]


class Averaging(Recurrent):
    """Frames mix after the recurrence."""

    def forward(self, x):
        return super().forward(x).cumsum(dim=-1)


@pytest.mark.parametrize("build", [Averaging, lambda: Kernels(torch.randn(5, 4, 3), nn.Softplus())])
def test_models_that_are_no_recurrence_between_frames_go_another_way(build):
    model, stimuli = seeded(build), sounds(60, 40, 4)
    found = compute_strf_gradmaps(model, stimuli, 9, objective="peak", dtype=torch.float64)
    expected = compute_strf_gradmaps(model, stimuli, 9, objective="peak", dtype=torch.float64, route="loop")
    assert found.route != "resumed"
    assert relative(found.values, expected.values) < 1e-12
    with pytest.raises(NotResumableError):
        compute_strf_gradmaps(model, stimuli, 9, objective="peak", route="resumed")


def test_an_objective_of_several_frames_is_refused():
    with pytest.raises(NotResumableError, match="one frame each"):
        compute_strf_gradmaps(seeded(Recurrent), sounds(2, 40, 4), 9, objective="sum", route="resumed")

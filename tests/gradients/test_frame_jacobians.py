import pytest
import torch

from pipeline.gradients.frame_jacobians import frame_gradmaps
from pipeline.gradients.gradmaps import strf_gradmaps
from tests.gradients.small import Recurrent, relative, seeded

STIMULUS = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("neurons", [None, [3, 1], "sum"])
def test_each_frame_is_the_gradmap_of_that_frame(neurons):
    model = seeded(lambda: Recurrent(n_neurons=20))
    for frame, gradmaps in frame_gradmaps(model, STIMULUS, [29, 0, 12], 8, neurons=neurons):
        expected = strf_gradmaps(model, 8, around=STIMULUS, objective={"frame": frame}, neurons=neurons, route="loop")
        assert relative(gradmaps, expected) < 1e-5


def test_the_model_hears_the_stimulus_once():
    calls = []

    class Counted(Recurrent):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x)

    model = seeded(lambda: Counted(n_neurons=20))
    assert len(list(frame_gradmaps(model, STIMULUS, range(30), 8, route="batched"))) == 30
    assert len(calls) == 1


def test_a_frame_that_the_stimulus_does_not_have_is_refused_before_any_is_computed():
    with pytest.raises(ValueError, match="frames 0 to 29"):
        next(frame_gradmaps(seeded(Recurrent), STIMULUS, [0, 30], 8))


def test_nothing_global_is_held_between_frames():
    gradmaps = frame_gradmaps(seeded(lambda: Recurrent(n_neurons=20)), STIMULUS, [3, 4], 8)
    with torch.no_grad():
        next(gradmaps)
        assert not torch.is_grad_enabled()
        state = torch.get_rng_state()
        next(gradmaps)
        assert torch.equal(torch.get_rng_state(), state)

"""Waveform gradmaps equal those of deepSTRF's own method, up to the order of time, behind each of its front-ends."""

import pytest
import torch

from pipeline.gradients.gradmaps import waveform_gradmaps
from tests.zoo import FRONT_ENDS, HOP, MISSING, ZOO, hearing, sound

TOLERANCE = 1e-5
OBJECTIVES = ["last", "peak", "sum"]


def relative_difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def by_deepstrf(model, waveform, neuron, reduce):
    """deepSTRF's map in our convention: lag 0 is the last sample of the objective's frame."""
    gradient = model.waveform_gradmap(waveform, neuron, reduce)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        peaks = model(waveform[None, None])[0, :, 0].argmax(-1)
    last = len(waveform) // HOP - 1
    frame = last if reduce != "peak" else int(peaks.max() if neuron is None else peaks[neuron])
    end = (frame + 1) * HOP
    assert (gradient[end:].abs() <= 1e-6 * gradient.abs().max()).all()  # S4 convolves by FFT
    return torch.nn.functional.pad(gradient[:end].flip(-1), (0, len(waveform) - end))


def check(model, waveform, objective, tolerance=TOLERANCE):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = waveform_gradmaps(model, waveform, objective=objective)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    theirs = torch.stack([by_deepstrf(model, waveform, n, objective) for n in range(model.O)])
    assert ours.shape == theirs.shape
    assert relative_difference(ours, theirs) < tolerance
    population = waveform_gradmaps(model, waveform, objective=objective, neurons="sum")
    assert relative_difference(population[0], by_deepstrf(model, waveform, None, objective)) < tolerance
    window = 3 * HOP
    short = waveform_gradmaps(model, waveform, objective=objective, window=window)
    assert relative_difference(short, theirs[:, :window]) < tolerance


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_maps_equal_deepstrfs_behind_every_front_end(front_end, objective):
    check(hearing(front_end, n_neurons=3, seed=1), sound(20, seed=2), objective)


@pytest.mark.parametrize(
    "name", ["Linear", "Transformer", *(name for name in ZOO if name.startswith("StateNet") and "GRU" not in name)]
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_maps_equal_deepstrfs_for_every_class_that_hears_sound(name, objective):
    tolerance = 2e-5 if name == "StateNet-LMU" else TOLERANCE
    check(hearing("mel", name, n_neurons=3, seed=3), sound(16, seed=4), objective, tolerance)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_maps_of_icnet_equal_deepstrfs(objective):
    check(ZOO["ICNet"](3, 5), sound(20, seed=6), objective)


@pytest.mark.parametrize("prefilter", ["adaptrans", "icadaptation"])
def test_maps_behind_a_prefilter_equal_deepstrfs(prefilter):
    check(hearing("gammatone", "StateNet-GRU", n_neurons=3, seed=7, prefilter=prefilter), sound(20, seed=8), "last")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_step_along_the_map_raises_the_response(front_end):
    model, waveform = hearing(front_end, n_neurons=3, seed=9), sound(20, seed=10)
    gradmap = waveform_gradmaps(model, waveform, neurons=[1])[0]
    step = 1e-4 * waveform.norm() / gradmap.norm() * gradmap.flip(-1)
    with torch.no_grad():
        before, after = (model.double()(x.double()[None, None])[0, 1, 0, -1] for x in (waveform, waveform + step))
    assert (after - before).item() == pytest.approx((step.norm() * gradmap.norm()).item(), rel=0.1)


def test_every_front_end_is_here_or_has_a_reason():
    assert set(FRONT_ENDS) | set(MISSING) >= {"mel", "gammatone", "gammatone-pcen", "gammatonegram", "sincnet", "leaf"}
    for reason in MISSING.values():
        assert reason.endswith("is not installed")

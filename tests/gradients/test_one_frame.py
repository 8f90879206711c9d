"""The response at a few frames is the whole response's, and the readout hears only those where it may."""

import pytest
import torch
from torch import nn

from pipeline.gradients.passes.one_frame import response_at
from tests.gradients.small import Recurrent, seeded
from tests.zoo import ZOO


class Heard(nn.Module):
    """A readout that notes how many frames it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.frames = inner, []

    def forward(self, x):
        self.frames.append(x.shape[-1])
        return self.inner(x)


class Smoothing(nn.Module):
    """A readout that hears earlier frames, ever so little."""

    def forward(self, x):
        return (x + 1e-9 * x.cumsum(dim=-1))[:, :3].unsqueeze(2)


class Numbered(nn.Module):
    """A readout whose gain depends on the position of the frame."""

    def forward(self, x):
        return (x * torch.arange(1, x.shape[-1] + 1).to(x)).unsqueeze(2)


class Long(nn.Module):
    """A readout that takes no single frame."""

    def forward(self, x):
        assert x.shape[-1] > 1
        return x.unsqueeze(2)


class Afterwards(Recurrent):
    """Frames mix after the readout."""

    def forward(self, x):
        return super().forward(x).cumsum(dim=-1)


def model_with(readout: nn.Module | None, kind: type = Recurrent) -> nn.Module:
    model = seeded(lambda: kind("GRU", 6)).double()
    model.readout = Heard(model.readout if readout is None else readout)
    if readout is not None:
        del model.O
    return model


@pytest.mark.parametrize("frames", [[0], [7], [19], [3, 9, 19], [0, 1]], ids=str)
def test_a_readout_of_single_frames_hears_only_those_asked_for(frames):
    model, heard = model_with(None), torch.randn(5, 1, 4, 20, dtype=torch.float64)
    expected = model(heard)[..., frames]
    model.readout.frames.clear()
    torch.testing.assert_close(response_at(model, heard, frames), expected, rtol=1e-13, atol=1e-15)
    few = len(frames)
    assert sorted(model.readout.frames) == [few, few, 20]  # the last stimulus both ways, then all of them
    assert not model.readout._forward_pre_hooks
    assert not model.readout._forward_hooks


@pytest.mark.parametrize("readout", [Smoothing(), Numbered(), Long()], ids=lambda readout: type(readout).__name__)
def test_a_readout_that_needs_other_frames_hears_them(readout):
    model, heard = model_with(readout), torch.randn(5, 1, 4, 20, dtype=torch.float64)
    for frames in ([12], [4, 12]):
        assert torch.equal(response_at(model, heard, frames), model(heard)[..., frames])


def test_what_mixes_frames_after_the_readout_is_the_models():
    model, heard = model_with(None, Afterwards), torch.randn(5, 1, 4, 20, dtype=torch.float64)
    assert torch.equal(response_at(model, heard, [12]), model(heard)[..., [12]])


@pytest.mark.parametrize("name", ZOO)
def test_every_model_answers_at_one_frame_as_at_all(name):
    model, heard = ZOO[name]().double(), torch.randn(3, 1, 16, 20, dtype=torch.float64)
    model.wav2spec = nn.Identity()
    with torch.no_grad():
        expected = model(heard)[..., [9, 15]]
        torch.testing.assert_close(response_at(model, heard, [9, 15]), expected, rtol=1e-12, atol=1e-14)

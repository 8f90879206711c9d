"""Models that look like what a way along a sound knows, and are not; all against one backward pass per frame."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.strfs import dynamic_strfs
from tests.gradients.small import one_backward_per_frame, relative, together

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

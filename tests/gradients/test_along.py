"""Models that look like what a way along a sound knows, and are not; all against one backward pass per frame."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.strfs import dynamic_strfs
from tests.gradients.small import Recurrent, one_backward_per_frame, relative, seeded, together

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

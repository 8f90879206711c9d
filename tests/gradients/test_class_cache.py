"""What is found of one model is used for the next of its class and shape, and only where it holds for that one too."""

import pytest
import torch
from torch import nn

from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.gradients.passes import class_cache
from pipeline.gradients.routes import backward, factored
from tests.gradients.small import Recurrent, relative, seeded


@pytest.fixture(autouse=True)
def nothing_known():
    class_cache.forget_all()


@pytest.fixture
def searches(monkeypatch):
    """Names of the searches that were made."""
    made = []
    for module, name in ((factored, "_narrowest"), (backward, "_find_encoder"), (backward, "_last_recurrent")):
        search = getattr(module, name)

        def counted(*arguments, search=search, name=name):
            made.append(name)
            return search(*arguments)

        monkeypatch.setattr(module, name, counted)
    return made


def second(model: nn.Module) -> nn.Module:
    """The same class and shape with other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("around", ["null", "sounds"])
def test_a_second_model_of_its_class_is_not_searched(kind, around, searches):
    stimuli = None if around == "null" else torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(3))
    compute_strf_gradmaps(seeded(lambda: Recurrent(kind, 30)), stimuli, 40)
    assert set(searches) == {"_narrowest", "_find_encoder", "_last_recurrent"}
    searches.clear()
    other = second(seeded(lambda: Recurrent(kind, 30)))
    found = compute_strf_gradmaps(other, stimuli, 40)
    assert not searches
    assert found.disagreement < 2e-6
    class_cache.forget_all()
    assert torch.equal(found.values, compute_strf_gradmaps(other, stimuli, 40).values)


class Switched(Recurrent):
    """Of one class and shape whether or not frames mix before and after the recurrence."""

    def __init__(self, mixing: bool) -> None:
        super().__init__("GRU", 30)
        self.mixing = mixing

    def forward(self, x):
        if not self.mixing:
            return super().forward(x)
        return super().forward(0.5 * x.cumsum(dim=-1)) + 0.1 * x.cumsum(dim=-1).sum(dim=2, keepdim=True)


@pytest.mark.parametrize("first", [False, True])
def test_what_does_not_hold_for_a_model_is_not_used_for_it(first):
    stimuli = torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(3))
    compute_strf_gradmaps(seeded(lambda: Switched(first)), stimuli, 12, dtype=torch.float64)
    other = seeded(lambda: Switched(not first))
    found = compute_strf_gradmaps(other, stimuli, 12, dtype=torch.float64)
    expected = compute_strf_gradmaps(other, stimuli, 12, dtype=torch.float64, route="loop")
    assert relative(found.values, expected.values) < 1e-12


def test_what_cannot_be_checked_is_searched_for_itself(searches):
    for _ in range(2):
        searches.clear()
        compute_strf_gradmaps(seeded(lambda: Recurrent("GRU", 30)), None, 40, check=False)
        assert "_narrowest" in searches


def test_few_classes_are_remembered(monkeypatch):
    monkeypatch.setattr(class_cache, "REMEMBERED", 2)
    for n_bands in (2, 3, 4):
        compute_strf_gradmaps(seeded(lambda n_bands=n_bands: Recurrent("GRU", 30, n_bands)), None, 12)
    assert len(class_cache._kept) == 2

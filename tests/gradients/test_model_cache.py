"""What is computed for one block of a model's neurons serves the next, and changes no bit of it."""

import copy
from dataclasses import replace

import pytest
import torch

from pipeline.gradients.gradmaps import compute_strf_gradmaps, gradmaps_around_spectrograms
from pipeline.gradients.health.assessment import assess
from pipeline.gradients.objectives import weigh
from pipeline.gradients.passes import class_cache
from pipeline.gradients.passes.model_cache import kept_of
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.question import Question
from pipeline.gradients.routes.cheapest import TOLERANCE
from pipeline.gradients.routes.factored import _for_all_neurons, find_cut, patterns_of
from tests.gradients.small import Recurrent, relative, seeded
from tests.zoo import LAGS, PREFILTERED, ZOO

# Routes by a basis, by rows, through each neuron's own parameters and through state that is finished when first heard.
NAMES = ("LinearNonlinear", "Transformer", "StateNet-GRU", "StateNet-S4", "ICNet")
BUILDERS = {name: ZOO[name] for name in NAMES} | {"adaptrans-StateNet-GRU": PREFILTERED["adaptrans-StateNet-GRU"]}
BLOCKS = {"first": [0, 1, 2], "second": [3, 4]}


def computed(model, neurons, kept, space="spectrogram"):
    question = Question(LAGS, neurons, level=0.1, space=space, kept=kept)
    maps = gradmaps_around_spectrograms(model, None, question)
    return maps, assess(model, maps, None, question)


def same(one, other):
    (maps, health), (other_maps, other_health) = one, other
    return (
        torch.equal(maps.values, other_maps.values)
        and maps.disagreement == other_maps.disagreement
        and maps.route == other_maps.route
        and torch.equal(health.flags, other_health.flags)
        and health.finite_difference_error == other_health.finite_difference_error
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_a_block_of_neurons_is_the_same_whichever_block_came_before(name):
    model = BUILDERS[name]()
    before = copy.deepcopy(model.state_dict())
    class_cache.forget_all()
    computed(model, BLOCKS["first"], None)  # all below rest on what is known of the class
    alone = {block: computed(model, neurons, kept_of(copy.deepcopy(model))) for block, neurons in BLOCKS.items()}
    for block, (maps, health) in alone.items():
        unkept, unkept_health = computed(model, BLOCKS[block], None)
        assert torch.equal(maps.values, unkept.values)
        assert torch.equal(health.flags, unkept_health.flags)
    for order in (("first", "second"), ("second", "first")):
        kept = kept_of(copy.deepcopy(model))
        for block in order:
            assert same(computed(model, BLOCKS[block], kept), alone[block])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_what_depends_on_the_space_is_kept_for_each():
    model = BUILDERS["adaptrans-StateNet-GRU"]()
    kept = kept_of(model)
    for space in ("spectrogram", "prefiltered", "spectrogram"):
        assert same(computed(model, [3, 4], kept, space), computed(model, [3, 4], None, space))


class Counted(Recurrent):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


def test_the_second_block_takes_fewer_passes():
    model = seeded(lambda: Counted("GRU", 30))
    calls = []
    for neurons in (list(range(15)), list(range(15, 30))):
        before = Counted.calls
        computed(model, neurons, kept_of(model))
        calls.append(Counted.calls - before)
    assert calls[1] <= calls[0] - 3  # the maps, a longer window, and what lies before normalisations


def test_a_model_that_was_written_to_keeps_nothing():
    model = seeded(lambda: Recurrent("GRU", 30))
    kept = kept_of(model)
    computed(model, None, kept)
    assert kept_of(model) is kept
    with torch.no_grad():
        model.readout.layers[0].weight.mul_(2.0)
    assert kept_of(model) is not kept
    (maps, health), (unkept, unkept_health) = computed(model, None, kept_of(model)), computed(model, None, None)
    assert torch.equal(maps.values, unkept.values)
    assert torch.equal(health.flags, unkept_health.flags)
    kept = kept_of(model)
    readout = model.readout.layers[0]
    readout.bias = torch.nn.Parameter(readout.bias.detach().clone())
    assert kept_of(model) is not kept
    kept = kept_of(model)
    model.double()
    assert kept_of(model) is not kept


def test_rows_of_one_block_at_most_are_held():
    model = seeded(lambda: Recurrent("GRU", 60, n_hidden=6))
    kept = kept_of(model)
    for neurons in (list(range(30)), list(range(30, 60))):
        for frame in (LAGS - 1, LAGS - 2):
            question = Question(LAGS, neurons, {"frame": frame}, level=0.1, kept=kept)
            alone = Question(LAGS, neurons, {"frame": frame}, level=0.1)
            values = gradmaps_around_spectrograms(model, None, question).values
            assert torch.equal(values, gradmaps_around_spectrograms(model, None, alone).values)
    [(_, forward_pass)] = kept._answers.values()
    assert len(forward_pass.bases) == 1


class Bypassed(Recurrent):
    """Of one class and shape whether or not some neurons hear the stimulus past the recurrence."""

    def __init__(self, past: float) -> None:
        super().__init__("GRU", 30, n_hidden=6)
        self.past = past

    def forward(self, x):
        direct = self.past * x.cumsum(dim=-1).sum(dim=2, keepdim=True).transpose(1, 2)
        return super().forward(x) + direct * (torch.arange(30) >= 15)[:, None, None]


def test_a_way_past_what_is_kept_for_all_neurons_is_noticed():
    """Models of the class that were met before have no such way, and the first block of neurons does not take it."""
    class_cache.forget_all()
    computed(seeded(lambda: Bypassed(0.0)), None, None)
    model = seeded(lambda: Bypassed(0.3))
    kept = kept_of(model)
    for neurons in (list(range(15)), list(range(15, 30))):
        maps, health = computed(model, neurons, kept)
        expected = compute_strf_gradmaps(model, None, LAGS, neurons=neurons, level=0.1, route="loop")
        assert relative(maps.values, expected.values) < 1e-5
        assert maps.disagreement < 1e-5
        assert not health.flags.any() or maps.route != "factored"


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_blocks_of_neurons_are_compared_with_plain_backward_passes_in_two_parts(size):
    model = seeded(lambda: Recurrent("GRU", 30, n_hidden=6))
    with torch.no_grad():
        model.readout.layers[0].weight[15:] *= size
    kept = kept_of(model)
    for neurons in (list(range(15)), list(range(15, 30))):
        maps, _ = computed(model, neurons, kept)
        assert maps.route == "factored"
        assert maps.disagreement < 1e-5
    [(_, forward_pass)] = [answer for answer in kept._answers.values() if isinstance(answer, tuple)]
    [basis] = forward_pass.bases.values()
    assert basis.disagreement < 1e-5
    weighing = weigh("last", forward_pass.response)
    rows = Rows(weighing.weights, torch.arange(15, 30), weighing.frames[:, 15:], LAGS, check=True)
    cut, patterns = find_cut(forward_pass, rows), patterns_of(rows)
    for feature in range(basis.rows.shape[1]):
        wrong = basis.rows.clone()
        wrong[:, feature] *= 1.01
        told = _for_all_neurons(forward_pass, rows, cut, patterns, replace(basis, rows=wrong))
        assert told.disagreement > TOLERANCE

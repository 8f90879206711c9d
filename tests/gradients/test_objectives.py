import pytest
import torch

from pipeline.gradients.objectives import check_objective, evaluate, objective_name, weigh

RESPONSE = torch.tensor([[[0.0, 3.0, 1.0, 3.0], [2.0, 1.0, 0.0, -1.0]]])


@pytest.mark.parametrize(
    ("objective", "weights", "frames"),
    [
        ("last", [[0, 0, 0, 1], [0, 0, 0, 1]], [3, 3]),
        ("peak", [[0, 1, 0, 0], [1, 0, 0, 0]], [1, 0]),
        ("sum", [[1, 1, 1, 1]] * 2, [3, 3]),
        ("mean", [[0.25] * 4] * 2, [3, 3]),
        ({"frame": 2}, [[0, 0, 1, 0]] * 2, [2, 2]),
        ({"mean_over": [1, 3]}, [[0, 0.5, 0.5, 0]] * 2, [2, 2]),
    ],
)
def test_built_in_objectives_weigh_the_frames_they_name(objective, weights, frames):
    weighing = weigh(objective, RESPONSE)
    torch.testing.assert_close(weighing.weights[0], torch.tensor(weights, dtype=torch.float32))
    assert weighing.frames[0].tolist() == frames
    assert not weighing.couples
    torch.testing.assert_close(weighing.values, (weighing.weights * RESPONSE).sum(-1))
    torch.testing.assert_close(evaluate(objective, RESPONSE), weighing.values)


def test_a_function_is_weighed_by_its_derivative():
    weighing = weigh(lambda response: (response**2).sum(dim=-1), RESPONSE)
    torch.testing.assert_close(weighing.weights, 2 * RESPONSE)
    assert not weighing.couples


def test_a_function_that_mixes_neurons_is_seen_to_couple_them():
    assert weigh(lambda response: (response - response.mean(dim=0)).sum(dim=-1), RESPONSE).couples


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("first", "not known"),
        ({"frames": 3}, "not known"),
        ({"frame": -1}, "not a frame number"),
        ({"frame": True}, "not a frame number"),
        ({"frame": 4}, "frames 0 to 3"),
        ({"mean_over": [2, 2]}, "span"),
        ({"mean_over": 3}, "span"),
        ({"mean_over": [1, 9]}, "frames 0 to 3"),
        (3, "not known"),
    ],
)
def test_what_is_not_an_objective_is_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        check_objective(objective, 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda response: response.detach().sum(dim=-1), "do not follow the response"),
        (lambda response: response.sum(), "one number per neuron"),
        (lambda response: 3.0, "one number per neuron"),
    ],
)
def test_functions_that_cannot_be_differentiated_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        weigh(function, RESPONSE)


def test_objectives_have_names():
    assert objective_name("peak") == "peak"
    assert objective_name({"mean_over": [1, 3]}) == "mean_over [1, 3]"
    assert "squared" in objective_name(squared)


def squared(response):
    return (response**2).sum(dim=-1)

"""Planted neurons with moving fields: closed forms against autograd, numbers against what was planted."""

import numpy as np
import torch

from pipeline.demo.ear import log_frequencies
from pipeline.demo.nonlinear import KINDS, MovingModel, plant_moving_population, planted_dynamic_strfs
from pipeline.demo.simulate import EAR_BANDS, HIGH_HZ, LAGS, LOW_HZ
from pipeline.numbers.dynamic import complexity, gain, gain_change

FREQUENCIES = log_frequencies(LOW_HZ, HIGH_HZ, EAR_BANDS)
POPULATION = plant_moving_population(FREQUENCIES)


def a_sound(frames=120, seed=0):
    steps = np.random.default_rng(seed).standard_normal((EAR_BANDS, frames + 4))
    return np.lib.stride_tricks.sliding_window_view(steps, 5, axis=1).mean(axis=2) * 2.0


def planted_model():
    model = MovingModel(EAR_BANDS, LAGS, len(POPULATION.labels))
    model.readout.plant(POPULATION)
    return model.double().eval()


def test_closed_forms_are_the_models_own_derivatives():
    model = planted_model()
    # What was planted is kept in single precision.
    kept = type(POPULATION)(POPULATION.labels, POPULATION.kinds, model.readout.kernels.numpy())
    sound = a_sound()
    maps = planted_dynamic_strfs(kept, sound)
    free = torch.from_numpy(sound).requires_grad_(True)
    response = model(free[None, None])[0, :, 0]
    for frame in (0, 7, 55, 119):
        for neuron in range(len(POPULATION.labels)):
            (gradient,) = torch.autograd.grad(response[neuron, frame], free, retain_graph=True)
            window = np.zeros((LAGS, EAR_BANDS))
            reach = min(LAGS, frame + 1)
            window[:reach] = gradient.numpy()[:, frame - reach + 1 : frame + 1].T[::-1]
            expected = maps[neuron, frame].copy()
            expected[reach:] = 0.0  # nothing was heard before the sound
            np.testing.assert_allclose(window, expected, atol=1e-6)


def test_each_kind_has_the_numbers_that_it_was_planted_for():
    sound = a_sound(300)
    maps = planted_dynamic_strfs(POPULATION, sound, skip=LAGS)
    found = {kind: [] for kind in KINDS}
    for kind, one, change, strength in zip(
        POPULATION.kinds, complexity(maps), gain_change(maps), gain(maps), strict=True
    ):
        found[kind].append((one, change / strength.mean()))
    complexities = {kind: np.array(rows)[:, 0] for kind, rows in found.items()}
    changes = {kind: np.array(rows)[:, 1] for kind, rows in found.items()}
    np.testing.assert_allclose(complexities["linear-nonlinear"], 1.0, atol=1e-6)
    assert (changes["linear-nonlinear"] > 0.1).all()
    assert ((complexities["energy"] > 1.2) & (complexities["energy"] <= 2.0)).all()
    assert (complexities["gain-controlled"] > 1.2).all()
    assert (changes["gain-controlled"] > 0.05).all()
    loud = (maps[POPULATION.kinds.index("two-state")] == POPULATION.kernels[3, 0].T).all(axis=(1, 2)).mean()
    np.testing.assert_allclose(complexities["two-state"], 1 + np.sqrt(min(loud, 1 - loud) / max(loud, 1 - loud)))
    np.testing.assert_allclose(changes["two-state"], 0.0, atol=1e-9)


def test_kernels_stand_at_right_angles():
    flat = POPULATION.kernels.reshape(len(POPULATION.labels), 2, -1)
    np.testing.assert_allclose(flat @ flat.transpose(0, 2, 1), np.broadcast_to(np.eye(2), (8, 2, 2)), atol=1e-12)

"""Maps as filters and fitted STRFs, against direct convolution, refits and scikit-learn."""

import doctest
import importlib

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.numbers import prediction

BANDS, LAGS = 5, 6


def sounds(count=4, frames=50, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((BANDS, frames + 7 * k)).cumsum(axis=1) * 0.3 for k in range(count)]


def convolved(kernel, sound):
    """Response (time,) of a linear neuron, sample by sample."""
    frames = sound.shape[1]
    return np.array([sum(kernel[:, lag] @ sound[:, t - lag] for lag in range(LAGS) if t >= lag) for t in range(frames)])


def linear_responses(kernels, given):
    return [np.stack([convolved(kernel, sound) for kernel in kernels]) for sound in given]


def test_the_filter_test_of_a_linear_model_is_one_and_that_of_another_map_is_its_correlation():
    rng = np.random.default_rng(1)
    kernels, given = rng.standard_normal((3, BANDS, LAGS)), sounds()
    windows = prediction.windows_of(given, LAGS)
    responses = windows.of(linear_responses(kernels, given))
    np.testing.assert_allclose(prediction.filter_r(kernels, windows, responses), 1.0)
    others = rng.standard_normal((3, BANDS, LAGS))
    found = prediction.filter_r(others, windows, responses + 5.0)
    for one, other, r in zip(kernels, others, found, strict=True):
        made = [np.concatenate([convolved(k, s)[LAGS - 1 :] for s in given]) for k in (one, other)]
        assert r == pytest.approx(np.corrcoef(*made)[0, 1])


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e5])
def test_a_response_that_does_not_change_has_no_filter_test(constant):
    windows = prediction.windows_of(sounds(), LAGS)
    flat = np.full((1, len(windows.values)), constant)
    assert np.isnan(prediction.filter_r(np.ones((1, BANDS, LAGS)), windows, flat)).all()


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1e4])
def test_ridge_is_that_of_scikit_learn(penalty):
    rng = np.random.default_rng(2)
    windows = prediction.windows_of(sounds(), LAGS)
    responses = rng.standard_normal((3, len(windows.values)))
    found = prediction.fit_strf(prediction.ridge_basis(windows), responses, penalty)
    expected = Ridge(penalty).fit(windows.values, responses.T)
    np.testing.assert_allclose(found.maps.reshape(3, -1), expected.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.intercept, expected.intercept_, rtol=1e-6)


@pytest.mark.parametrize("given", [sounds(), sounds(1, 90)])
def test_cross_validation_is_that_of_refits_without_each_sound(given):
    rng = np.random.default_rng(3)
    windows = prediction.windows_of(given, LAGS)
    basis = prediction.ridge_basis(windows)
    responses = windows.of(linear_responses(rng.standard_normal((2, BANDS, LAGS)), given))
    responses = responses + responses.std() * rng.standard_normal(responses.shape)
    found = prediction.fit_strf(basis, responses)
    assert len(basis.folds) == max(len(given), 5 if len(given) == 1 else 0)
    for neuron, response in enumerate(responses):
        errors = []
        for penalty in basis.penalties:
            predicted = np.empty_like(response)
            for fold in basis.folds:
                kept = np.ones(len(response), dtype=bool)
                kept[fold] = False
                fitted = Ridge(penalty).fit(windows.values[kept], response[kept])
                predicted[fold] = fitted.predict(windows.values[fold])
            errors.append((((predicted - response) ** 2).sum(), np.corrcoef(predicted, response)[0, 1], penalty))
        best = min(errors)
        assert found.penalty[neuron] == pytest.approx(best[2])
        assert found.r[neuron] == pytest.approx(best[1], abs=1e-6)


def test_a_planted_strf_is_found_again_in_what_it_predicts():
    rng = np.random.default_rng(4)
    kernels, given = rng.standard_normal((4, BANDS, LAGS)), sounds(6, 120)
    windows = prediction.windows_of(given, LAGS)
    found = prediction.fit_strf(prediction.ridge_basis(windows), windows.of(linear_responses(kernels, given)))
    np.testing.assert_allclose(prediction.stimulus_weighted_r(found.maps, kernels, windows), 1.0, atol=1e-4)
    np.testing.assert_allclose(found.r, 1.0, atol=1e-3)


def test_the_ceiling_is_what_the_noise_free_response_reaches():
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((1, 1, 20000))
    repeats = truth + 2.0 * rng.standard_normal((1, 6, 20000))
    reached = np.corrcoef(truth[0, 0], repeats[0].mean(axis=0))[0, 1]
    assert prediction.ceiling(repeats)[0] == pytest.approx(reached, abs=0.01)
    assert np.isnan(prediction.ceiling(repeats[:, :1])).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w: prediction.windows_of([np.ones((3, 4))], 6), "4 frames, of which 5 are skipped"),
        (lambda w: prediction.windows_of([np.ones((3, 9)), np.ones((4, 9))], 2), r"\[3, 4\] bands"),
        (lambda w: prediction.ridge_basis(prediction.windows_of([np.ones((3, 9))], 2)), "do not change"),
        (lambda w: prediction.fit_strf(prediction.ridge_basis(w), np.ones((2, 3))), r"\(2, 3\)"),
        (lambda w: prediction.filter_r(np.ones((2, 3, 3)), w, np.ones((2, 9))), r"\(2, 3, 3\)"),
        (lambda w: w.of([np.ones((1, 3))] * 4), r"\(1, 3\)"),
        (lambda w: w.of([np.ones((1, 99))]), "responses to 1 sounds, but 4"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    windows = prediction.windows_of(sounds(), LAGS)
    with pytest.raises(ValueError, match=words):
        call(windows)


@pytest.mark.parametrize("room", ["filtering", "spectrograms"])
def test_examples(room):
    found = doctest.testmod(importlib.import_module(f"pipeline.numbers.prediction.{room}"))
    assert found.attempted > 0
    assert found.failed == 0

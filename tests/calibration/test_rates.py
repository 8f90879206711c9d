"""A few trials of each kind of case; `make calibrate` runs hundreds of all."""

import numpy as np
import pytest

from tests.calibration import nulls
from tests.calibration.cases import Case, cases
from tests.calibration.rates import Rate, rate_of

QUICK = (
    ("reliability, p <= .05", "smooth, 4 maps of 10 neurons"),
    ("reliability, p <= .05", "own truth, SNR 1, 3 maps"),
    ("reliability, any above chance", "decaying, 3 maps of 20 neurons"),
    ("reliability, p <= .05", "untrained StateNet-GRU, 2 maps of 40 neurons"),
    ("significant", "smooth, decaying, 8 x 10"),
    ("sparse", "white, 16 x 20"),
    ("inseparable", "a field, noise of 10 %"),
    ("compare, p <= .05", "10 sites, 4 + 4 checkpoints, seeds 1, sites 1"),
    ("compare, p <= .05", "effect 1, 10 sites, 5 + 5 checkpoints"),
    ("compare, p <= .05", "6 cohorts of 2 + 2 checkpoints"),
    ("rank-sum between sites", "4 against 8 sites"),
    ("interval of site means misses", "3 sites"),
)


@pytest.mark.parametrize(("test", "data"), QUICK)
def test_a_rate_is_as_promised(test, data):
    (case,) = [case for case in cases() if (case.test, case.data) == (test, data)]
    rate = rate_of(case, 30)
    assert not rate.verdict.isupper(), f"{rate.share:.3f} ({rate.low:.3f} to {rate.high:.3f})"


@pytest.mark.slow
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.test}: {case.data}")
def test_every_rate_is_as_promised(case):
    # of a hundred intervals of 95 % some miss what is right: here they are those of 99.9 %
    rate = rate_of(case, 100)
    slack = 3.3 * np.sqrt(0.05 * 0.95 / rate.counted)
    assert rate.share >= case.least - slack if case.planted else rate.share <= case.most + slack


def test_a_test_that_says_yes_too_often_or_too_seldom_is_named():
    def says_yes(share):
        return lambda rng: rng.random(50) < share

    assert rate_of(Case("t", "d", says_yes(0.25), clustered=False), 40).verdict == "TOO OFTEN"
    assert rate_of(Case("t", "d", says_yes(0.05), clustered=False), 40).verdict == "as promised"
    assert rate_of(Case("t", "d", says_yes(0.01), clustered=False), 40).verdict.startswith("seldom")
    assert rate_of(Case("t", "d", says_yes(0.5), True, 1.0, 0.9, False), 40).verdict == "TOO SELDOM"


def test_trials_whose_tests_agree_count_for_less():
    def alike(rng):
        return np.full(50, rng.random() < 0.3)

    rate = rate_of(Case("t", "d", alike), 60)
    assert isinstance(rate, Rate)
    assert rate.counted <= 90


def test_planted_truth_and_noise_are_of_one_energy():
    rng = np.random.default_rng(0)
    one, other = nulls.with_truth(rng, 2, 200)
    shared = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)])
    assert shared == pytest.approx(0.5, abs=0.03)

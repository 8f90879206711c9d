"""A short storm over a real run."""

import pytest

from tests.chaos import SHORT, chaos
from tests.tasks.conftest import forget_ray


@pytest.mark.slow
def test_nothing_is_lost_in_a_short_storm(tmp_path):
    outcome = chaos(tmp_path, SHORT, seed=1)
    forget_ray()
    assert outcome.good, outcome
    assert outcome.kills == SHORT.kills

"""One Ray per test module, started as `gradmap run` starts its own."""

import gc
import warnings
from collections.abc import Iterator

import pytest

from tasks.session import local_ray


def forget_ray() -> None:
    """Collect what Ray leaves open after its shutdown, before it warns in the middle of another test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A Ray of this process with two slots."""
    with local_ray(2):
        yield
    forget_ray()

"""Code of a lab, which may raise anything and draw random numbers: what is caught, and what is put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: What code of a lab may raise that concerns one checkpoint only; ``sys.exit`` in it ends nothing but that checkpoint.
FOREIGN: tuple[type[BaseException], ...] = (Exception, SystemExit)


@contextmanager
def private_randomness(seed: int = 0) -> Iterator[None]:
    """Random numbers that are the same each time, and leave the global generators where they were."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset a GPU's generator as well
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)

"""What was found of a model's parts, kept for other models of the same class and shape.

Where a model can be cut and which of its parts act on each frame alone follow from its class and the shapes of its
weights, and looking for it takes as long as the gradients themselves. What is kept names parts by their positions and
holds no number of any model; each model's rows are compared with a plain backward pass whether they rest on it or not.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.gradients.torch_state.copies import Inventory

# Classes and shapes that are remembered; of more, those that were not met for longest are forgotten.
REMEMBERED = 64

# Rows that rest on what was found for another model may differ from plain autograd by rounding alone.
SAME = {torch.float32: 1e-5, torch.float64: 1e-10}

Answer = TypeVar("Answer")

_kept: "OrderedDict[Hashable, dict[str, Any]]" = OrderedDict()


class Known:
    """Answers that earlier models of this class and shape gave, and those that this one gave anew."""

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        self._kept = {} if kept is None else kept
        self._found: dict[str, Any] = {}
        self.reused = False

    def answer(self, question: str, find: Callable[[], Answer]) -> Answer:
        """What is known about this, or what is found now."""
        if question in self._kept:
            self.reused = True
            known: Answer = self._kept[question]
            return known
        if question not in self._found:
            self._found[question] = find()
        found: Answer = self._found[question]
        return found

    def keep(self) -> None:
        """Let later models of this class and shape have what was found now, once it has been checked."""
        self._kept.update(self._found)

    def forget(self) -> None:
        """Drop what earlier models left, which does not hold for this one."""
        self._kept.clear()
        self._found.clear()
        self.reused = False


def known_of(inventory: Inventory | None, leaf: Tensor) -> Known:
    """What is known of models with these parts, around a stimulus of this shape."""
    if inventory is None:
        return Known()
    key = (
        tuple(map(type, inventory.parts)),
        tuple((tensor.shape, tensor.dtype) for tensor in inventory.tensors),
        (leaf.shape, leaf.dtype, leaf.device),
        # Around a constant stimulus one frame stands for all.
        bool((leaf == leaf[:1, ..., :1]).all()),
    )
    kept = _kept.setdefault(key, {})
    _kept.move_to_end(key)
    while len(_kept) > REMEMBERED:
        _kept.popitem(last=False)
    return Known(kept)


def forget_all() -> None:
    """Forget what was found of every class and shape, as in a process that has met none."""
    _kept.clear()

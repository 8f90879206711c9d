"""What was computed of one model whichever of its neurons were asked for, kept for the next of them."""

import operator
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.gradients.torch_state.copies import Inventory

#: Bytes of the tensors of one answer, up to which it is kept.
KEPT_BYTES = 64 * 2**20

Answer = TypeVar("Answer")

_of_models: "weakref.WeakKeyDictionary[nn.Module, tuple[State, Kept]]" = weakref.WeakKeyDictionary()


class Kept:
    """Answers about one model that hold for all of its neurons.

    A population that is cut into blocks of neurons asks the same of its model for each block. What is kept is what the
    block would have computed itself, so no number depends on which block came first.
    """

    def __init__(self) -> None:
        self._answers: dict[Hashable, Any] = {}

    def answer(
        self, question: Hashable, find: Callable[[], Answer], size: Callable[[Answer], int] | None = None
    ) -> Answer:
        """What was found before, or what is found now.

        Parameters
        ----------
        size
            Bytes that an answer holds on to; those above ``KEPT_BYTES`` are found anew each time.
        """
        if question in self._answers:
            known: Answer = self._answers[question]
            return known
        found = find()
        if size is None or size(found) <= KEPT_BYTES:
            self._answers[question] = found
        return found

    def held(self, question: Hashable) -> Any:
        """What was found before; None where nothing is kept of it."""
        return self._answers.get(question)

    def within(self, *about: Hashable) -> "Kept":
        """The same, for answers that hold under these circumstances alone."""
        return _Within(self, about)


class _Within(Kept):
    def __init__(self, whole: Kept, about: tuple[Hashable, ...]) -> None:
        super().__init__()
        self._whole, self._about = whole, about

    def answer(
        self, question: Hashable, find: Callable[[], Answer], size: Callable[[Answer], int] | None = None
    ) -> Answer:
        return self._whole.answer((self._about, question), find, size)


def kept_of(model: nn.Module) -> Kept:
    """What is kept of a model for as long as it lives and none of its tensors is exchanged, converted or written to.

    Torch does not count what is written through ``.data``: forward may do so only where it changes no answer, which the
    contract asks of every model.
    """
    state, kept = _of_models.get(model, (None, Kept()))
    if state is None or not state.is_of(model):
        kept = Kept()
        _of_models[model] = (State.of(model), kept)
    return kept


@dataclass(frozen=True)
class State:
    """The tensors that a model holds, what each is made of, and how often it has been written to."""

    tensors: tuple[Tensor, ...]
    kinds: tuple[tuple[torch.dtype, torch.device], ...]
    versions: tuple[int | None, ...]

    @staticmethod
    def of(model: nn.Module) -> "State":
        tensors = Inventory.of(model).tensors
        # `.double()` keeps each parameter, and how often it was written to.
        kinds = tuple((tensor.dtype, tensor.device) for tensor in tensors)
        return State(tensors, kinds, tuple(None if tensor.is_inference() else tensor._version for tensor in tensors))

    def is_of(self, model: nn.Module) -> bool:
        """Whether the model is in this state; False where torch does not count what is written to its tensors."""
        now = State.of(model)
        same = len(now.tensors) == len(self.tensors) and all(map(operator.is_, now.tensors, self.tensors))
        return same and now.kinds == self.kinds and now.versions == self.versions and None not in self.versions

"""What the parts of a model were given and gave during one forward pass."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.gradients.torch_state.copies import parts_of


@dataclass(frozen=True)
class Call:
    """One call of one part of the model: the first tensor it was given, and the first that it returned.

    ``alone`` says that it was given that tensor only, so that what it gave depends on the stimulus through it alone.
    """

    name: str
    module: nn.Module
    given: Tensor
    gave: Tensor
    alone: bool


@dataclass(frozen=True)
class Trace:
    """The calls of one forward pass in the order in which they ended, and the node that stands for the stimulus."""

    calls: tuple[Call, ...]
    stimulus: Tensor

    def position(self, call: Call) -> int:
        """Where a call stands among all."""
        return next(number for number, other in enumerate(self.calls) if other is call)

    @property
    def largest(self) -> int:
        """Numbers in the largest tensor between two parts."""
        return max([self.stimulus.numel(), *(call.gave.numel() for call in self.calls)])

    @property
    def total(self) -> int:
        """Numbers in all the tensors between parts."""
        return self.stimulus.numel() + sum(call.gave.numel() for call in self.calls)


def traced(model: nn.Module, leaf: Tensor) -> tuple[Any, Trace]:
    """The model's answer to ``leaf``, and the trace of it.

    ``model`` must be the caller's own copy: hooks are put on its parts and taken off again.
    """
    stimulus = leaf.view_as(leaf)
    calls: list[Call] = []
    handles = []
    for name, module in parts_of(model):

        def note(module: nn.Module, given: Any, named: Any, gave: Any, name: str = name) -> None:
            first, last = first_tensor(given), first_tensor(gave)
            if first is not None and last is not None:
                alone = first is given[0] and not any(entry is not None for entry in (*given[1:], *named.values()))
                calls.append(Call(name, module, first, last, alone))

        handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        answer = model(stimulus)
    finally:
        for handle in handles:
            handle.remove()
    return answer, Trace(tuple(calls), stimulus)


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in what a module was given or gave."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)):
        for entry in value:
            found = first_tensor(entry)
            if found is not None:
                return found
    return None


def nodes_between(later: Tensor, earlier: Tensor, source: Tensor) -> int | None:
    """How many nodes of autograd's graph lie after ``earlier``; None where ``later`` has another way to ``source``.

    The walk is over the graph's structure, so that a number says for certain that everything which ``later`` takes
    from ``source`` passes through ``earlier``. Another output of the node that gave ``earlier``, as of a tensor split
    in two, is another way.
    """
    if later.grad_fn is None or earlier.grad_fn is None:
        return None
    if later is earlier:
        return 0
    target = earlier.grad_fn
    origin = source.grad_fn
    if origin is None or (target is origin and earlier is not source):
        return None
    if later.grad_fn is target and later.output_nr != earlier.output_nr:
        return None
    seen = {target}
    waiting = [later.grad_fn]
    reached = later.grad_fn is target
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        if node is origin:
            return None
        seen.add(node)
        for following, output in node.next_functions:
            if following is target:
                if output != earlier.output_nr:
                    return None
                reached = True
            elif following is not None and following not in seen:
                waiting.append(following)
    return len(seen) if reached else None


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor can carry a gradient."""
    return tensor.grad_fn is not None and tensor.is_floating_point()

"""Backward passes from one tensor of a forward pass to an earlier one, many cotangents at once where torch can."""

import torch
from torch import Tensor

from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.gradients.torch_state.process_flags import slow_batching

#: Steps of autograd's graph that lay the same numbers out in another order of axes.
TURNS = ("TransposeBackward0", "PermuteBackward0", "AliasBackward0")


def vjp(outputs: Tensor, inputs: Tensor, cotangents: Tensor, limits: set[str] | None = None) -> Tensor:
    """Backward passes from ``outputs`` to ``inputs``, one per entry of the first axis of ``cotangents``.

    All together under ``vmap``; one at a time where ``limits`` holds "vmap", or where that is found out now.
    """
    if outputs is inputs or _is_same(outputs, inputs):
        return cotangents
    if len(cotangents) > 1 and (limits is None or "vmap" not in limits):
        try:
            return _grad(outputs, inputs, cotangents, True)
        except (RuntimeError, NotImplementedError) as error:
            if limits is None or is_out_of_memory(error):
                raise
            limits.add("vmap")
    return torch.stack([_grad(outputs, inputs, cotangent, False) for cotangent in cotangents])


def _is_same(outputs: Tensor, inputs: Tensor) -> bool:
    """Whether one tensor is the other turned round and back, so that its gradient is that of the other."""
    alike = outputs.shape == inputs.shape and outputs.stride() == inputs.stride()
    if not alike or outputs.data_ptr() != inputs.data_ptr() or inputs.grad_fn is None:
        return False
    # Other nodes may hand on the same numbers and change the gradient, as one that turns it round does.
    node, position = outputs.grad_fn, outputs.output_nr
    while node is not None and node is not inputs.grad_fn:
        if node.name() not in TURNS or len(node.next_functions) != 1:
            return False
        node, position = node.next_functions[0]
    return node is not None and position == inputs.output_nr


def _grad(outputs: Tensor, inputs: Tensor, cotangents: Tensor, together: bool) -> Tensor:
    def pulled(cotangent: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True, allow_unused=True)
        return torch.zeros_like(inputs) if gradient is None else gradient

    if not together:
        return pulled(cotangents)
    with slow_batching:
        # Not by is_grads_batched, whose vmap takes many operations, convolutions among them, one row at a time.
        return torch.func.vmap(pulled)(cotangents)

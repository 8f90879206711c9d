"""Rows by autograd alone: batched, one at a time, or of a stimulus replicated once per row."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.gradients.objectives import Objective, check_objective, only_frame, weigh
from pipeline.gradients.passes.forward_pass import ForwardPass, check_frames, frames_of
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.passes.windows import windowed
from pipeline.gradients.torch_state.memory import in_blocks, room, rows_that_fit

#: Tensors of the size of the largest activation that one row keeps alive during its backward pass.
LIVE_TENSORS = 4


def batched(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """One forward pass, then blocks of backward passes under ``vmap``."""
    return _by_blocks(forward_pass, rows, _batched_block, _bytes_per_row(forward_pass))


def loop(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """One forward pass, then one backward pass per row."""
    values = _empty(forward_pass, rows)
    for row in range(len(rows)):
        values[:, row : row + 1] = _row_by_row(forward_pass, rows.part(row, row + 1))
    return values, 1


def replicated(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """The stimulus once per row: one forward and one backward pass over a block of replicas."""
    n_bytes = forward_pass.leaf.element_size() * 2 * forward_pass.trace.total
    return _by_blocks(forward_pass, rows, _replicated_block, n_bytes)


def few_rows(model: nn.Module, leaf: Tensor, neurons: Tensor, objective: Objective, lags: int) -> Tensor | None:
    """Rows (neuron, ..., lag) of few neurons around one stimulus, replicated, in a single forward pass.

    For a handful of neurons any look at the model's inside costs more than it saves. None where the objective of one
    neuron depends on another's response.
    """
    n_rows = len(neurons)
    replicas = leaf.detach().repeat(n_rows, *([1] * (leaf.dim() - 1))).requires_grad_(True)
    answer = model(replicas)
    response = frames_of(answer.detach(), n_rows, model)
    check_frames(response.shape[-1], leaf.shape[-1], 1, model)
    check_objective(objective, response.shape[-1])
    frame = only_frame(objective, response.shape[-1])
    cotangents = torch.zeros_like(answer)
    each = torch.arange(n_rows, device=neurons.device)
    if frame is not None:
        cotangents[each, neurons, 0, frame] = 1.0
        (gradient,) = torch.autograd.grad(answer, replicas, cotangents)
        past = gradient[..., max(0, frame + 1 - lags) : frame + 1].flip(-1)
        return nn.functional.pad(past, (0, lags - past.shape[-1])) if past.shape[-1] < lags else past
    weighing = weigh(objective, response[:1])
    if weighing.couples:
        return None
    cotangents[each, neurons, 0] = weighing.weights[0, neurons]
    (gradient,) = torch.autograd.grad(answer, replicas, cotangents)
    return windowed(gradient.unsqueeze(0), weighing.frames[:, neurons], lags)[0]


def _by_blocks(
    forward_pass: ForwardPass, rows: Rows, run: Callable[[ForwardPass, Rows], Tensor], bytes_per_row: int
) -> tuple[Tensor, int]:
    values = _empty(forward_pass, rows)

    def block(start: int, stop: int) -> None:
        values[:, start:stop] = run(forward_pass, rows.part(start, stop))

    return values, in_blocks(len(rows), rows_that_fit(len(rows), bytes_per_row, forward_pass.memory), block)


def _batched_block(forward_pass: ForwardPass, rows: Rows) -> Tensor:
    gradient = vjp(forward_pass.response, forward_pass.leaf, rows.cotangents(forward_pass.response))
    return forward_pass.finish(gradient, rows.ends, rows.lags)


def _row_by_row(forward_pass: ForwardPass, rows: Rows) -> Tensor:
    gradient = vjp(forward_pass.response, forward_pass.leaf, rows.cotangents(forward_pass.response), {"vmap"})
    return forward_pass.finish(gradient, rows.ends, rows.lags)


def _replicated_block(forward_pass: ForwardPass, rows: Rows) -> Tensor:
    n_rows, n_stimuli = len(rows), forward_pass.n_stimuli
    shape = forward_pass.leaf.shape
    replicas = forward_pass.leaf.detach().repeat(n_rows, *([1] * (len(shape) - 1))).requires_grad_(True)
    response = frames_of(forward_pass.model(replicas), n_rows * n_stimuli, forward_pass.model)
    cotangents = rows.cotangents(forward_pass.response).flatten(0, 1)
    (gradient,) = torch.autograd.grad(response, replicas, cotangents)
    return forward_pass.finish(gradient.view(n_rows, *shape), rows.ends, rows.lags)


def _bytes_per_row(forward_pass: ForwardPass) -> int:
    return (
        forward_pass.leaf.element_size() * LIVE_TENSORS * max(forward_pass.trace.largest, forward_pass.response.numel())
    )


def _empty(forward_pass: ForwardPass, rows: Rows) -> Tensor:
    return room((forward_pass.n_stimuli, len(rows), *forward_pass.given_shape, rows.lags), forward_pass.leaf)

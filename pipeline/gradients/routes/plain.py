"""Rows by autograd alone: batched, one at a time, or of a stimulus replicated once per row."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.gradients.objectives import Objective, check_objective, only_frame, weigh
from pipeline.gradients.routes.memory import in_blocks, is_out_of_memory, room, rows_that_fit
from pipeline.gradients.routes.problem import Problem, Rows, check_frames, frames_of, windowed
from pipeline.gradients.routes.switches import slow_batching

# Tensors of the size of the largest activation that one row keeps alive during its backward pass.
LIVE_TENSORS = 4


def batched(problem: Problem, rows: Rows) -> tuple[Tensor, int]:
    """One forward pass, then blocks of backward passes under ``vmap``."""
    return _by_blocks(problem, rows, _batched_block, _bytes_per_row(problem))


def loop(problem: Problem, rows: Rows) -> tuple[Tensor, int]:
    """One forward pass, then one backward pass per row."""
    values = _empty(problem, rows)
    for row in range(len(rows)):
        values[:, row : row + 1] = _row_by_row(problem, rows.part(row, row + 1))
    return values, 1


def replicated(problem: Problem, rows: Rows) -> tuple[Tensor, int]:
    """The stimulus once per row: one forward and one backward pass over a block of replicas."""
    n_bytes = problem.leaf.element_size() * 2 * problem.trace.total
    return _by_blocks(problem, rows, _replicated_block, n_bytes)


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


def vjp(outputs: Tensor, inputs: Tensor, cotangents: Tensor, limits: set[str] | None = None) -> Tensor:
    """Backward passes from ``outputs`` to ``inputs``, one per entry of the first axis of ``cotangents``.

    All together under ``vmap``; one at a time where ``limits`` holds "vmap", or where that is found out now.
    """
    if outputs is inputs:
        return cotangents
    if len(cotangents) > 1 and (limits is None or "vmap" not in limits):
        try:
            return _grad(outputs, inputs, cotangents, True)
        except (RuntimeError, NotImplementedError) as error:
            if limits is None or is_out_of_memory(error):
                raise
            limits.add("vmap")
    return torch.stack([_grad(outputs, inputs, cotangent, False) for cotangent in cotangents])


def _grad(outputs: Tensor, inputs: Tensor, cotangents: Tensor, together: bool) -> Tensor:
    def pulled(cotangent: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True, allow_unused=True)
        return torch.zeros_like(inputs) if gradient is None else gradient

    if not together:
        return pulled(cotangents)
    with slow_batching:
        # Not by is_grads_batched, whose vmap takes many operations, convolutions among them, one row at a time.
        return torch.func.vmap(pulled)(cotangents)


def _by_blocks(
    problem: Problem, rows: Rows, run: Callable[[Problem, Rows], Tensor], bytes_per_row: int
) -> tuple[Tensor, int]:
    values = _empty(problem, rows)

    def block(start: int, stop: int) -> None:
        values[:, start:stop] = run(problem, rows.part(start, stop))

    return values, in_blocks(len(rows), rows_that_fit(len(rows), bytes_per_row, problem.memory), block)


def _batched_block(problem: Problem, rows: Rows) -> Tensor:
    gradient = vjp(problem.response, problem.leaf, rows.cotangents(problem.response))
    return problem.finish(gradient, rows.ends, rows.lags)


def _row_by_row(problem: Problem, rows: Rows) -> Tensor:
    gradient = vjp(problem.response, problem.leaf, rows.cotangents(problem.response), {"vmap"})
    return problem.finish(gradient, rows.ends, rows.lags)


def _replicated_block(problem: Problem, rows: Rows) -> Tensor:
    n_rows, n_stimuli = len(rows), problem.n_stimuli
    shape = problem.leaf.shape
    replicas = problem.leaf.detach().repeat(n_rows, *([1] * (len(shape) - 1))).requires_grad_(True)
    response = frames_of(problem.model(replicas), n_rows * n_stimuli, problem.model)
    cotangents = rows.cotangents(problem.response).flatten(0, 1)
    (gradient,) = torch.autograd.grad(response, replicas, cotangents)
    return problem.finish(gradient.view(n_rows, *shape), rows.ends, rows.lags)


def _bytes_per_row(problem: Problem) -> int:
    return problem.leaf.element_size() * LIVE_TENSORS * max(problem.trace.largest, problem.response.numel())


def _empty(problem: Problem, rows: Rows) -> Tensor:
    return room((problem.n_stimuli, len(rows), *problem.given_shape, rows.lags), problem.leaf)

"""Rows by forward mode: one tangent per entry of the stimulus, for models with more neurons than inputs."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from pipeline.gradients.passes.forward_pass import ForwardPass, frames_of
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.torch_state.memory import in_blocks, rows_that_fit
from pipeline.gradients.torch_state.process_flags import attention_in_steps, slow_batching, without_onednn


def forward(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """The Jacobian column by column: how every response changes with each entry inside the windows."""
    load_forward_mode()
    leaf = forward_pass.leaf.detach()
    first, last = rows.earliest(forward_pass), leaf.shape[-1] - 1
    n_times = last + 1 - first
    per_time = leaf[0, ..., 0].numel()
    n_columns = per_time * n_times
    gradient = leaf.new_zeros((forward_pass.n_stimuli, len(rows), per_time, leaf.shape[-1]))
    weights = rows.weights if rows.neurons is None else rows.weights[:, rows.neurons]
    coupled = None if rows.coupled is None else rows.cotangents(forward_pass.response)

    # The objectives (stimulus, row) as a function of the stimulus, the weights of frames held fixed.
    def answer(stimulus: Tensor) -> Tensor:
        response = frames_of(forward_pass.model(stimulus), forward_pass.n_stimuli, forward_pass.model)
        if coupled is not None:
            return (coupled * response).sum(dim=(2, 3)).transpose(0, 1)
        if rows.neurons is None:
            return (weights * response).sum(dim=(1, 2)).unsqueeze(1)
        return (weights * response[:, rows.neurons]).sum(dim=-1)

    # The derivative of all of them along one entry (band, time) of the stimulus: a column of the Jacobian.
    def along(column: Tensor) -> Tensor:
        tangent = torch.nn.functional.one_hot(column, per_time * leaf.shape[-1]).to(leaf)
        return torch.func.jvp(answer, (leaf,), (tangent.view(1, *leaf.shape[1:]).expand_as(leaf),))[1]

    def columns(start: int, stop: int) -> None:
        index = torch.arange(start, stop, device=leaf.device)
        entry, time = index // n_times, first + index % n_times
        with decomposed(forward_pass.model):
            found = torch.func.vmap(along)(entry * leaf.shape[-1] + time).detach()
        gradient[:, :, entry, time] = found.permute(1, 2, 0)

    size = leaf.element_size() * 2 * max(forward_pass.trace.largest, forward_pass.response.numel())
    block = in_blocks(n_columns, rows_that_fit(n_columns, size, forward_pass.memory), columns)
    rows_first = gradient.unflatten(2, leaf.shape[1:-1]).transpose(0, 1)
    return forward_pass.finish(rows_first, rows.ends, rows.lags), block


@contextmanager
def decomposed(model: nn.Module) -> Iterator[None]:
    """Attention and LSTM layers in small steps: their fused kernels know neither forward mode nor ``vmap``."""
    fused = any(isinstance(part, nn.LSTM) for part in model.modules())
    with attention_in_steps, slow_batching, without_onednn if fused else nullcontext():
        yield


def load_forward_mode() -> None:
    """Load torch's forward mode, which warns about torch's own deprecated parts when it is loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")

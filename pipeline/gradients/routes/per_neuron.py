"""Rows of models in which each neuron has parameters of its own: one neuron's model under ``vmap`` over neurons."""

import torch
from torch import Tensor, nn

from pipeline.gradients.passes.forward_pass import ForwardPass
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.routes.forward import decomposed
from pipeline.gradients.torch_state.memory import in_blocks, room, rows_that_fit

#: Relative difference up to which one neuron's parameters answer as the whole model does.
SAME = 1e-4


class NoOwnParametersError(RuntimeError):
    """The model cannot be taken apart into one small model per neuron."""


def per_neuron(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """As many one-neuron models as there are rows, each with its slice of the parameters.

    Which parameters are a neuron's own is guessed from their first axis, and checked on the responses.
    """
    if rows.neurons is None or rows.coupled is not None:
        raise NoOwnParametersError("a sum over neurons belongs to no one neuron's parameters; use another route")
    neurons = rows.neurons
    leaf = forward_pass.leaf.detach()
    own, shared = _split(forward_pass)
    shape = (forward_pass.n_stimuli, len(rows), *forward_pass.given_shape, rows.lags)
    values = room(shape, leaf)

    # One neuron's model: its slices of the parameters, everything else shared; objective sum_t w[t] r[t].
    def one(mine: dict[str, Tensor], weights: Tensor, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        answer = torch.func.functional_call(forward_pass.model, {**shared, **mine}, (stimulus,))
        if answer.dim() != 4 or answer.shape[1:3] != (1, 1):
            raise NoOwnParametersError(
                f"{type(forward_pass.model).__name__} with one neuron's parameters answers with shape"
                f" {tuple(answer.shape)}, not that of one neuron; use another route"
            )
        return (answer[:, 0, 0] * weights).sum(), answer[:, 0, 0]

    derivative = torch.func.grad(one, argnums=2, has_aux=True)

    def block(start: int, stop: int) -> None:
        # vmap over neurons: parameters (neuron, 1, ...), weights (neuron, stimulus, frame), one stimulus for all;
        # gradient (neuron, stimulus, ..., time).
        chosen = neurons[start:stop]
        mine = {name: tensor[chosen].unsqueeze(1) for name, tensor in own.items()}
        weights = rows.weights[:, chosen].transpose(0, 1)
        with decomposed(forward_pass.model):
            gradient, response = torch.func.vmap(derivative, in_dims=(0, 0, None))(mine, weights, leaf)
        _check_same(forward_pass, response.transpose(0, 1), chosen)
        values[:, start:stop] = forward_pass.finish(gradient, rows.ends[:, start:stop], rows.lags)

    size = leaf.element_size() * 4 * max(leaf.numel(), forward_pass.trace.total // forward_pass.response.shape[1])
    return values, in_blocks(len(rows), rows_that_fit(len(rows), size, forward_pass.memory), block)


def has_own_parameters(forward_pass: ForwardPass) -> bool:
    """Whether every parameter of the readout could be the neurons' own."""
    readout = getattr(forward_pass.model, "readout", None)
    if not isinstance(readout, nn.Module):
        return False
    tensors = [tensor for tensor in (*readout.parameters(), *readout.buffers()) if tensor.dim() > 0]
    return bool(tensors) and all(len(tensor) == forward_pass.response.shape[1] for tensor in tensors)


def shares_nothing(forward_pass: ForwardPass) -> bool:
    """Whether neurons have no trained features in common: all weights but a prefilter's are the readout's."""
    readout = getattr(forward_pass.model, "readout", None)
    if not isinstance(readout, nn.Module):
        return False
    own = {id(tensor) for tensor in readout.parameters()}
    return all(
        id(tensor) in own or name.startswith(("wav2spec.", "prefiltering."))
        for name, tensor in forward_pass.model.named_parameters()
    )


def _split(forward_pass: ForwardPass) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that are the neurons' own, by name, and the others."""
    n_neurons = forward_pass.response.shape[1]
    readout = getattr(forward_pass.model, "readout", None)
    tensors = (*readout.parameters(), *readout.buffers()) if isinstance(readout, nn.Module) else ()
    inside = {id(tensor) for tensor in tensors}
    everything = {**dict(forward_pass.model.named_parameters()), **dict(forward_pass.model.named_buffers())}
    own = {
        name: tensor.detach()
        for name, tensor in everything.items()
        if id(tensor) in inside and tensor.dim() > 0 and len(tensor) == n_neurons
    }
    if not own:
        raise NoOwnParametersError(
            f"{type(forward_pass.model).__name__} has no readout parameters whose first axis is its {n_neurons}"
            " neurons; use another route"
        )
    return own, {name: tensor.detach() for name, tensor in everything.items() if name not in own}


def _check_same(forward_pass: ForwardPass, response: Tensor, chosen: Tensor) -> None:
    expected = forward_pass.response.detach()[:, chosen]
    if not torch.allclose(response, expected, rtol=SAME, atol=SAME * float(expected.abs().amax()) + 1e-30):
        raise NoOwnParametersError(
            f"{type(forward_pass.model).__name__} with one neuron's parameters answers otherwise than whole, so its"
            " neurons share what seemed to be their own; use another route"
        )

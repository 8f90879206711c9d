"""Rows through the narrowest place before the response, where each frame is described by a few numbers.

Where everything after that place acts on each frame alone, the chain rule gives all rows from as many backward passes
as the place is wide, however many neurons there are.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.passes.forward_pass import Basis, ForwardPass
from pipeline.gradients.passes.layout import Layout, acts_on_each_frame, layouts
from pipeline.gradients.passes.model_cache import KEPT_BYTES
from pipeline.gradients.passes.rows import Rows, relative_difference
from pipeline.gradients.passes.trace import Call, is_plain, nodes_between
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.passes.windows import windowed
from pipeline.gradients.routes.autograd import LIVE_TENSORS
from pipeline.gradients.routes.backward import pull_back
from pipeline.gradients.routes.forward import load_forward_mode
from pipeline.gradients.torch_state.memory import in_blocks, room, rows_that_fit

#: Size of a neuron's slopes, relative to the largest, from which on it has its full part in the mixture of all.
SMALLEST = 1e-6

#: An affine readout may differ between frames by rounding, not by more.
AFFINE_TOLERANCE = 1e-5


class DoesNotFactorError(RuntimeError):
    """The model has no place that separates the response from the stimulus frame by frame."""


@dataclass(frozen=True)
class Cut:
    """A tensor on which the response depends frame by frame, and through which alone it hears the stimulus."""

    call: Call
    tensor: Tensor
    layout: Layout

    @property
    def width(self) -> int:
        return self.layout.width


@dataclass(frozen=True)
class Patterns:
    """The few ways in which the rows weigh frames, per stimulus: row r of stimulus s weighs them as ``of[s, r]``."""

    weights: Float[Tensor, "stimulus pattern frame"]
    ends: Int[Tensor, "stimulus pattern"]
    of: Int[Tensor, "stimulus neuron"]

    def __len__(self) -> int:
        return self.weights.shape[1]


def factored(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """As many backward passes as the cut is wide, or as there are rows where those are fewer."""
    cut = find_cut(forward_pass, rows)
    if cut is None:
        raise DoesNotFactorError(
            f"{type(forward_pass.model).__name__} has no part whose output describes each frame of the response by"
            ' itself, so its gradient does not factor; use route="auto" or another route'
        )
    if rows.coupled is None and rows.neurons is not None:
        patterns = patterns_of(rows)
        if cut.width * len(patterns) < len(rows) and _affine_where_needed(forward_pass, cut, patterns):
            return _by_basis(forward_pass, rows, cut, patterns)
    return _by_rows(forward_pass, rows, cut)


def find_cut(forward_pass: ForwardPass, rows: Rows) -> Cut | None:
    """The narrowest cut in or right before the readout, or anywhere in a model that has no such part; None if none.

    Where only one frame is asked for, it is enough that the response at that frame depends on the cut at that frame
    alone.
    """
    trace, frame = forward_pass.trace, rows.only_frame

    def find() -> tuple[int, Layout] | None:
        calls = _calls_to_cut_at(forward_pass)
        n_neurons = forward_pass.response.shape[1]
        cut = _narrowest(forward_pass, calls, rows, n_neurons) or _narrowest(forward_pass, calls, rows, None)
        return None if cut is None else (trace.position(cut.call), cut.layout)

    where = f"cut at frame {frame}" if frame is not None else "cut at every frame"
    known = forward_pass.known.answer(where, find)
    return None if known is None else Cut(trace.calls[known[0]], trace.calls[known[0]].given, known[1])


def _narrowest(forward_pass: ForwardPass, calls: list[Call], rows: Rows, below: int | None) -> Cut | None:
    """The narrowest cut among what these calls were given, narrower than ``below``; None if none."""
    response = forward_pass.response
    n_stimuli, _, n_frames = response.shape
    whole = Layout("stimulus", 2, tuple(response.shape), n_stimuli, n_frames)
    best: Cut | None = None
    tried: set[int] = set()
    frame = rows.only_frame
    candidates = [call.given for call in calls if is_plain(call.given)]
    gradients = {} if frame is None else rows.plain_gradients(forward_pass, candidates)
    for call in calls:
        tensor = call.given
        if id(tensor) in tried or not is_plain(tensor):
            continue
        tried.add(id(tensor))
        narrower = [
            one
            for one in layouts(tensor, n_stimuli, n_frames)
            if (below is None or one.width < below) and (best is None or one.width < best.width)
        ]
        if not narrower or nodes_between(response, tensor, forward_pass.trace.stimulus) is None:
            continue
        fitting = [
            one
            for one in narrower
            if (
                acts_on_each_frame(response, whole, tensor, one)
                if frame is None
                else _hears_only(gradients[id(tensor)], frame, one)
            )
        ]
        if not fitting:
            # What lies before a place that mixes frames mixes them too.
            break
        best = Cut(call, tensor, fitting[0])
    return best


def _hears_only(gradient: Tensor, frame: int, layout: Layout) -> bool:
    """Whether responses at ``frame`` depend on a tensor at that frame alone: gradients at others are exactly 0."""
    others = layout.split(gradient).clone()
    others[:, frame] = 0
    return not bool(others.any())


def _calls_to_cut_at(forward_pass: ForwardPass) -> list[Call]:
    """The calls of the readout's parts, the last first, and of the readout; all calls if it was not called."""
    readout = getattr(forward_pass.model, "readout", None)
    parts = {id(part) for part in readout.modules()} if isinstance(readout, nn.Module) else set()
    backwards = [call for call in reversed(forward_pass.trace.calls) if id(call.module) in parts]
    # A part is nearer to the response than the whole that it belongs to, which ends after it.
    inner_first = sorted(backwards, key=lambda call: call.module is readout)
    return inner_first or list(reversed(forward_pass.trace.calls))


def patterns_of(rows: Rows) -> Patterns:
    """The distinct ways in which these rows weigh frames."""
    assert rows.neurons is not None
    weights = rows.distinct_weights
    chosen = weights if weights.shape[1] == 1 else weights[:, rows.neurons]
    if bool((chosen == chosen[:, :1]).all()) and bool((rows.ends == rows.ends[:, :1]).all()):
        of = torch.zeros(rows.ends.shape, dtype=torch.long, device=chosen.device)
        return Patterns(chosen[:, :1], rows.ends[:, :1], of)
    each = [_distinct(weights, ends) for weights, ends in zip(chosen, rows.ends, strict=True)]
    n_patterns = max(len(ends) for _, ends, _ in each)
    weights = torch.stack([torch.nn.functional.pad(w, (0, 0, 0, n_patterns - len(w))) for w, _, _ in each])
    ends = torch.stack([torch.nn.functional.pad(e, (0, n_patterns - len(e))) for _, e, _ in each])
    return Patterns(weights, ends, torch.stack([of for _, _, of in each]))


def _distinct(weights: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    both = torch.cat([weights, ends.to(weights).unsqueeze(-1)], dim=-1)
    unique, of = torch.unique(both, dim=0, return_inverse=True)
    return unique[:, :-1], unique[:, -1].round().long(), of


def _by_basis(forward_pass: ForwardPass, rows: Rows, cut: Cut, patterns: Patterns) -> tuple[Tensor, int]:
    """Backward passes for the unit vectors of the cut, then one product with the readout's own Jacobian."""
    assert rows.neurons is not None
    n_patterns, width = len(patterns), cut.width
    # 1. For unit vector e_k of the cut and pattern p: d (sum_t w_p[t] cut[t, k]) / d stimulus, windowed.
    #    basis (stimulus, pattern * width, ..., lag); width backward passes per pattern, whatever the neurons.
    kept = _basis_of(forward_pass, rows, cut, patterns)
    basis = kept.rows
    # 2. d response[n] / d cut[k] at one frame of each pattern: slopes (stimulus, pattern, neuron, width).
    if kept.slopes is None:
        slopes = _slopes(forward_pass, cut, patterns, rows.neurons).detach()
    else:
        slopes = kept.slopes[:, :, rows.neurons]
    # 3. The chain rule: values[s, n] = sum_k slopes[s, p(n), n, k] basis[s, p(n), k],
    #    one product (neuron, width) @ (width, everything else) for each stimulus and pattern.
    flat = basis.view(forward_pass.n_stimuli, n_patterns, width, -1)
    values = room((forward_pass.n_stimuli, len(rows), flat.shape[-1]), basis)
    for stimulus in range(forward_pass.n_stimuli):
        for pattern in range(n_patterns):
            if n_patterns == 1:
                torch.matmul(slopes[stimulus, 0], flat[stimulus, 0], out=values[stimulus])
                continue
            mine = (patterns.of[stimulus] == pattern).nonzero().squeeze(-1)
            values[stimulus, mine] = slopes[stimulus, pattern, mine] @ flat[stimulus, pattern]
    return values.view(forward_pass.n_stimuli, len(rows), *basis.shape[2:]), kept.block


def _basis_of(forward_pass: ForwardPass, rows: Rows, cut: Cut, patterns: Patterns) -> Basis:
    """Rows of the cut's unit vectors."""

    def made() -> Basis:
        return Basis(*_basis(forward_pass, cut, patterns, rows.lags, rows.earliest(forward_pass)))

    if forward_pass.bases is None:
        return made()
    # The unit vectors are the same whichever neurons are asked for.
    about = _about(forward_pass, rows, cut, patterns)
    if about in forward_pass.bases:
        return forward_pass.bases[about]
    forward_pass.bases.clear()  # where neurons look at frames of their own, each block of them has rows of its own
    found = made()
    if found.rows.nbytes <= KEPT_BYTES:
        if rows.check and rows.only_frame is not None and forward_pass.n_stimuli == 1:
            found = _for_all_neurons(forward_pass, rows, cut, patterns, found)
        forward_pass.bases[about] = found
    return found


def _about(forward_pass: ForwardPass, rows: Rows, cut: Cut, patterns: Patterns) -> Hashable:
    """What rows of the cut's unit vectors are kept under."""
    weighed = tuple((tuple(one.shape), one.cpu().numpy().tobytes()) for one in (patterns.weights, patterns.ends))
    return (forward_pass.trace.position(cut.call), cut.layout, rows.lags, weighed)


def _for_all_neurons(forward_pass: ForwardPass, rows: Rows, cut: Cut, patterns: Patterns, basis: Basis) -> Basis:
    """The same with the slopes of every neuron, compared with a plain backward pass for a mixture of them all.

    Each neuron has about the same part in the mixture, whatever the size of its map, down to a millionth.
    """
    everyone = torch.arange(forward_pass.response.shape[1], device=basis.rows.device)
    slopes = _slopes(forward_pass, cut, patterns, everyone).detach()
    sizes = slopes[0, 0].norm(dim=1)
    shares = torch.rand(len(sizes), generator=torch.Generator().manual_seed(17)).add(0.5).to(sizes)
    shares /= sizes.clamp_min(max(SMALLEST * float(sizes.amax()), torch.finfo(sizes.dtype).tiny))
    mixture = shares[None, :, None] * rows.distinct_weights
    at_cut, at_leaf = _plain(forward_pass, mixture.expand_as(forward_pass.response), cut.tensor, forward_pass.leaf)
    expected = windowed(at_leaf.unsqueeze(1), patterns.ends, rows.lags)
    return replace(basis, slopes=slopes, disagreement=_apart(rows, cut, patterns, basis, at_cut, expected))


def disagreement_in_parts(forward_pass: ForwardPass, rows: Rows, values: Tensor) -> float | None:
    """Largest difference of rows from plain backward passes in two parts, relative to the largest entry.

    From the response to the cut for a mixture of these very rows, and all the way once for all neurons. None where
    these rows do not rest on what is kept for all of them.
    """
    if not forward_pass.bases or rows.neurons is None or rows.coupled is not None or rows.only_frame is None:
        return None
    cut, patterns = find_cut(forward_pass, rows), patterns_of(rows)
    basis = None if cut is None else forward_pass.bases.get(_about(forward_pass, rows, cut, patterns))
    if cut is None or basis is None or math.isnan(basis.disagreement):
        return None
    (at_cut,) = _plain(forward_pass, rows.mixture(forward_pass.response), cut.tensor)
    mixed = torch.matmul(rows.shares, values.flatten(2)).view(1, 1, *values.shape[2:])
    return max(basis.disagreement, _apart(rows, cut, patterns, basis, at_cut, mixed))


def _plain(forward_pass: ForwardPass, mixture: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """One plain backward pass for a mixture of responses, to some tensors that it follows."""
    return torch.autograd.grad(
        forward_pass.response,
        tensors,
        mixture.expand_as(forward_pass.response),
        retain_graph=True,
        materialize_grads=True,
    )


def _apart(rows: Rows, cut: Cut, patterns: Patterns, basis: Basis, at_cut: Tensor, mixed: Tensor) -> float:
    """How far a mixture of rows is from what its gradient at the cut makes of the basis; inf if other frames count."""
    frame = rows.only_frame
    assert frame is not None
    if not _hears_only(at_cut, frame, cut.layout):
        return math.inf
    features = cut.layout.split(at_cut)[0, frame] / patterns.weights[0, 0, frame]
    return relative_difference(mixed, torch.matmul(features, basis.rows[0].flatten(1)).view_as(mixed))


def _basis(forward_pass: ForwardPass, cut: Cut, patterns: Patterns, lags: int, earliest: int) -> tuple[Tensor, int]:
    n_patterns, width = len(patterns), cut.width
    n_basis = n_patterns * width
    basis = room((forward_pass.n_stimuli, n_basis, *forward_pass.given_shape, lags), forward_pass.leaf)

    def backward(start: int, stop: int) -> None:
        unit = torch.arange(start, stop, device=basis.device)
        pattern, feature = unit // width, unit % width
        vectors = basis.new_zeros((stop - start, *patterns.weights.shape[::2], width))
        vectors[torch.arange(stop - start), :, :, feature] = patterns.weights[:, pattern].transpose(0, 1)
        gradient = pull_back(forward_pass, cut.tensor, cut.layout.join(vectors), earliest)
        basis[:, start:stop] = forward_pass.finish(gradient, patterns.ends[:, pattern], lags)

    at_once = rows_that_fit(n_basis, _bytes_per_row(forward_pass), forward_pass.memory)
    return basis, in_blocks(n_basis, at_once, backward)


def _by_rows(forward_pass: ForwardPass, rows: Rows, cut: Cut) -> tuple[Tensor, int]:
    """Each row to the cut, which is cheap, then through the rest of the model together."""
    shape = (forward_pass.n_stimuli, len(rows), *forward_pass.given_shape, rows.lags)
    values = room(shape, forward_pass.leaf)

    def backward(start: int, stop: int) -> None:
        part = rows.part(start, stop)
        vectors = vjp(forward_pass.response, cut.tensor, part.cotangents(forward_pass.response), forward_pass.limits)
        gradient = pull_back(forward_pass, cut.tensor, vectors, rows.earliest(forward_pass))
        values[:, start:stop] = forward_pass.finish(gradient, part.ends, rows.lags)

    return values, in_blocks(
        len(rows), rows_that_fit(len(rows), _bytes_per_row(forward_pass), forward_pass.memory), backward
    )


def _slopes(
    forward_pass: ForwardPass, cut: Cut, patterns: Patterns, neurons: Tensor
) -> Float[Tensor, "stimulus pattern neuron feature"]:
    """d response / d cut at one frame of each pattern."""
    # The cut's own vector at the first frame that each pattern weighs: points (stimulus * pattern, 1, width).
    frames = patterns.weights.ne(0).to(torch.uint8).argmax(dim=-1)
    vectors = cut.layout.split(cut.tensor.detach())
    points = vectors.gather(1, frames.unsqueeze(-1).expand(-1, -1, cut.width)).flatten(0, 1).unsqueeze(1)
    tail = Tail(forward_pass, cut)
    expected = forward_pass.response.detach().transpose(1, 2)
    expected = expected.gather(1, frames.unsqueeze(-1).expand(-1, -1, expected.shape[-1])).flatten(0, 1)
    slopes = _slopes_of_linear(tail, cut, points, expected, neurons)
    if slopes is None:
        slopes = _slopes_by_tangents(tail, cut, points, expected, neurons)
    return slopes.view(*frames.shape, len(neurons), cut.width)


def _slopes_of_linear(tail: "Tail", cut: Cut, points: Tensor, expected: Tensor, neurons: Tensor) -> Tensor | None:
    """The same where the cut is a linear layer's input, and each neuron's response follows one of its outputs."""
    layer = cut.call.module
    if type(layer) is not nn.Linear or layer.out_features != expected.shape[1]:
        return None
    gave: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: gave.append(output))
    try:
        response = tail(points.clone().requires_grad_(True))[:, :, 0]
    finally:
        handle.remove()
    if len(gave) != 1 or gave[0].numel() != expected.numel():
        return None
    _check_tail(tail, response.detach(), expected)

    # response[n] = f_n(W_n . x): the slope is f_n' W_n if each response follows its own output of the layer alone,
    # which holds where cotangents scaled neuron by neuron give gradients scaled neuron by neuron.
    def back(weights: Tensor) -> Tensor:
        return torch.autograd.grad(response, gave[0], weights, retain_graph=True)[0].reshape(expected.shape)

    def one_each() -> bool:
        scale = (torch.rand(expected.shape[1], generator=torch.Generator().manual_seed(13)) + 0.5).to(expected)
        scaled = back(scale.expand_as(expected))
        return bool((plain * scale - scaled).abs().amax() <= AFFINE_TOLERANCE * scaled.abs().amax())

    plain = back(torch.ones_like(expected))
    if not tail.forward_pass.known.answer("each neuron follows one output of the cut's layer", one_each):
        return None
    return plain[:, neurons].unsqueeze(-1) * layer.weight.detach()[neurons]


def _slopes_by_tangents(tail: "Tail", cut: Cut, points: Tensor, expected: Tensor, neurons: Tensor) -> Tensor:
    """The same by forward mode, for anything that may follow the cut."""
    _check_tail(tail, tail(points)[:, :, 0], expected)
    load_forward_mode()
    # One tangent e_k per feature: column k of the Jacobian (point, neuron, feature), all of them under vmap.
    units = torch.eye(cut.width, dtype=points.dtype, device=points.device).view(-1, 1, 1, cut.width)

    def along(unit: Tensor) -> Tensor:
        return torch.func.jvp(tail, (points,), (unit.expand_as(points),))[1][:, neurons, 0]

    return torch.func.vmap(along)(units).permute(1, 2, 0).contiguous()


def _check_tail(tail: "Tail", got: Tensor, expected: Tensor) -> None:
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().amax()) + 1e-30):
        raise DoesNotFactorError(
            f"the part of {type(tail.forward_pass.model).__name__} after {tail.cut.call.name} answers otherwise to one"
            ' frame than to many, so its slope at one frame says nothing; use route="batched"'
        )


class Tail:
    """What the model does after the cut, to vectors of its own."""

    def __init__(self, forward_pass: ForwardPass, cut: Cut) -> None:
        self.forward_pass, self.cut = forward_pass, cut
        self.inside: Call | None = None
        for call in reversed(forward_pass.trace.calls):
            whole = (
                call.gave.dim() == 4 and call.gave.shape[2] == 1 and _same(call.gave[:, :, 0], forward_pass.response)
            )
            if whole and (call.name == cut.call.name or cut.call.name.startswith(call.name + ".")):
                self.inside = call
                break

    def __call__(self, vectors: Float[Tensor, "stimulus frame width"]) -> Float[Tensor, "stimulus neuron frame"]:
        given = self.cut.layout.join(vectors)
        model: nn.Module = self.inside.module if self.inside is not None else self.forward_pass.model
        if self.inside is not None and self.inside.module is self.cut.call.module:
            return model(given)[:, :, 0]
        handle = self.cut.call.module.register_forward_pre_hook(lambda _, arguments: (given, *arguments[1:]))
        try:
            if self.inside is not None:
                blank = self.inside.given[..., :1].detach()
            else:
                hop = self.forward_pass.leaf.shape[-1] // self.forward_pass.response.shape[-1]
                blank = self.forward_pass.leaf.detach()[:1, ..., : hop * vectors.shape[1]]
            return model(blank)[:, :, 0]
        finally:
            handle.remove()


def _same(left: Tensor, right: Tensor) -> bool:
    return left.data_ptr() == right.data_ptr() and left.shape == right.shape and left.stride() == right.stride()


def _affine_where_needed(forward_pass: ForwardPass, cut: Cut, patterns: Patterns) -> bool:
    """Whether the response's slope is the same at all frames that a pattern weighs."""
    support = patterns.weights.ne(0)
    if bool((support.sum(dim=-1) <= 1).all()):
        return True
    if len(patterns) > 1:
        return False
    # One random cotangent v, the same at every frame: v . d response[t] / d cut[t] must not depend on t.
    generator = torch.Generator().manual_seed(11)
    shape = forward_pass.response.shape
    cotangent = torch.randn((shape[0], shape[1], 1), generator=generator).to(forward_pass.response)
    (gradient,) = torch.autograd.grad(
        forward_pass.response, cut.tensor, cotangent.expand(shape).contiguous(), retain_graph=True
    )
    vectors = cut.layout.split(gradient)
    frames = support[:, 0]
    first = vectors.gather(1, frames.to(torch.uint8).argmax(dim=-1).view(-1, 1, 1).expand(-1, 1, cut.width))
    difference = ((vectors - first) * frames.unsqueeze(-1)).abs().amax()
    return bool(difference <= AFFINE_TOLERANCE * first.abs().amax())


def _bytes_per_row(forward_pass: ForwardPass) -> int:
    return forward_pass.leaf.element_size() * LIVE_TENSORS * forward_pass.trace.largest

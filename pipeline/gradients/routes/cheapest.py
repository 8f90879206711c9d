"""The route taken: the one predicted to be cheapest that the model allows."""

import math
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.gradients.passes.class_cache import SAME
from pipeline.gradients.passes.forward_pass import ForwardPass
from pipeline.gradients.passes.rows import Rows, relative_difference
from pipeline.gradients.passes.windows import windowed
from pipeline.gradients.routes.autograd import batched, loop, replicated
from pipeline.gradients.routes.factored import disagreement_in_parts, factored
from pipeline.gradients.routes.forward import forward
from pipeline.gradients.routes.per_neuron import has_own_parameters, per_neuron, shares_nothing
from pipeline.gradients.routes.resumed import pays, resumed
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.gradients.torch_state.process_flags import without_onednn

#: A way to the rows: (stimulus, neuron, ..., lag) with lag 0 first, and the rows per backward pass at the end.
WayToJacobian = Callable[[ForwardPass, Rows], tuple[Tensor, int]]

#: The ways to the rows, by name.
ROUTES: dict[str, WayToJacobian] = {
    "factored": factored,
    "batched": batched,
    "replicated": replicated,
    "loop": loop,
    "per_neuron": per_neuron,
    "forward": forward,
    "resumed": resumed,
}

#: A route that differs by more from plain autograd is wrong for this model, not merely rounded. The difference is one
#: of mixtures of all rows, so that of one row alone counts for less the more rows there are.
TOLERANCE = 1e-4

# Routes that raised for a model and what else it does not allow, not tried again for as long as it lives.
_limits: "weakref.WeakKeyDictionary[nn.Module, set[str]]" = weakref.WeakKeyDictionary()


def limits_of(model: nn.Module) -> set[str]:
    """What the model was found not to allow: names of routes, and "vmap"."""
    return _limits.setdefault(model, set())


@dataclass(frozen=True)
class Taken:
    """Rows, the route that gave them, the rows per backward pass at its end, and its difference from another route."""

    values: Tensor
    route: str
    block: int
    disagreement: float


def take(model: nn.Module, forward_pass: ForwardPass, rows: Rows, route: str) -> Taken:
    """The rows, by the route asked for or by the first one that the model allows.

    ``model`` is the caller's own object: what it does not allow is remembered for it. Of rows that are to be checked a
    mixture is compared with plain autograd, and a route that was not asked for by name is left if it disagrees.
    """
    if route != "auto":
        return _taken(forward_pass, rows, route)
    left = limits_of(model)
    candidates = [name for name in order(forward_pass, rows) if name not in left or name == "loop"]
    for name in candidates:
        last = name == candidates[-1]
        try:
            taken = _taken(forward_pass, rows, name)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, IndexError) as error:
            if last or is_out_of_memory(error):
                raise
            left.add(name)
            continue
        if taken.disagreement > TOLERANCE and not last:
            left.add(name)
            continue
        return taken
    raise AssertionError("the last route is always taken or raises")


def _taken(forward_pass: ForwardPass, rows: Rows, route: str) -> Taken:
    """The rows by one route; anew by what this very model is like where what others were like does not hold for it."""
    known = forward_pass.known
    try:
        taken = _by_route(forward_pass, rows, route)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, IndexError) as error:
        if not known.reused or is_out_of_memory(error):
            raise
        taken = None
    if taken is not None and (taken.disagreement <= SAME[taken.values.dtype] or not known.reused):
        if taken.disagreement <= SAME[taken.values.dtype]:
            known.keep()
        return taken
    known.forget()
    forward_pass.stages.clear()
    if forward_pass.bases is not None:
        forward_pass.bases.clear()
    return _by_route(forward_pass, rows, route)


def _by_route(forward_pass: ForwardPass, rows: Rows, route: str) -> Taken:
    values, block = ROUTES[route](forward_pass, rows)
    return Taken(values, route, block, disagreement(forward_pass, rows, values, route) if rows.check else math.nan)


def disagreement(forward_pass: ForwardPass, rows: Rows, values: Tensor, route: str) -> float:
    """Largest difference from a plain backward pass for a mixture of rows, relative to the largest entry."""
    in_parts = disagreement_in_parts(forward_pass, rows, values) if route == "factored" else None
    if in_parts is not None:
        return in_parts
    if route == "loop" and forward_pass.whole is None:
        expected, _ = replicated(forward_pass, rows.pick([0]))
        got = values[:, :1]
    else:
        # Backward through a convolution with one filter per neuron, oneDNN takes four times as long as torch itself.
        with without_onednn if route == "per_neuron" else nullcontext():
            expected, got = _mixtures(forward_pass, rows, values)
    return relative_difference(got, expected)


def _mixtures(forward_pass: ForwardPass, rows: Rows, values: Tensor) -> tuple[Tensor, Tensor]:
    """One backward pass for a mixture of the rows, and the same mixture of the rows that a route gave."""
    if forward_pass.whole is not None and forward_pass.source is not None:
        mixed = rows.mixture(forward_pass.response)
        (gradient,) = torch.autograd.grad(forward_pass.whole, forward_pass.source.leaf, mixed, retain_graph=True)
    else:
        gradient = rows.plain_gradients(forward_pass, [forward_pass.leaf])[id(forward_pass.leaf)]
    # expected = d (sum_r share_r objective_r) / d stimulus, which must equal sum_r share_r values_r.
    expected = windowed(gradient.unsqueeze(1), rows.ends[:, :1], rows.lags)
    return expected, torch.matmul(rows.shares, values.flatten(2)).view_as(expected)


def order(forward_pass: ForwardPass, rows: Rows) -> list[str]:
    """Names of routes, the one predicted to be cheapest first and the one that always works last."""
    if len(rows) == 1:
        return ["loop"]
    names = ["factored", "batched", "loop"]
    if rows.coupled is None and rows.neurons is not None:
        place = forward_pass.known.answer("place of per_neuron", lambda: _place_of_per_neuron(forward_pass))
        if place is not None:
            names.insert(place, "per_neuron")
    if pays(forward_pass, rows):
        names.insert(0, "resumed")
    return names


def _place_of_per_neuron(forward_pass: ForwardPass) -> int | None:
    """Before all other routes, after the first, or nowhere."""
    if not has_own_parameters(forward_pass):
        return None
    return 0 if shares_nothing(forward_pass) else 1

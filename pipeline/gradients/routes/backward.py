"""Many cotangents at once from a tensor between two parts of a model back to the stimulus."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.passes.forward_pass import ForwardPass, Stage
from pipeline.gradients.passes.layout import SAME, Layout, acts_on_each_frame, layouts, probe
from pipeline.gradients.passes.trace import Call, first_tensor, is_plain, nodes_between
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.routes.recurrent import Linearised, linearised

#: How many tensors before a recurrent layer are tried as the start of a part that acts on each frame alone.
TRIES = 6

#: With fewer frames, looking for affine steps costs more than it saves.
FEW_FRAMES = 32

#: A recurrence written out step by step has more nodes in autograd's graph; with fewer, a search costs what it saves.
MANY_STEPS = 500


def pull_back(forward_pass: ForwardPass, tensor: Tensor, cotangents: Tensor, earliest: int = 0) -> Tensor:
    """Backward passes from ``tensor`` to the leaf, one per entry of the first axis of ``cotangents``.

    Entries of the result that lie before the leaf's time ``earliest`` need not be right.
    """
    stage = forward_pass.stages.get(id(tensor))
    if stage is None:
        stage = forward_pass.stages[id(tensor)] = _stage(forward_pass, tensor)
    return stage(forward_pass, cotangents, earliest)


def _stage(forward_pass: ForwardPass, tensor: Tensor) -> Stage:
    """The way from ``tensor`` to the leaf."""
    call = recurrent_call(forward_pass, tensor)
    layers = linearised(call.module, call.given, call.gave) if call is not None else None
    if call is None or layers is None:
        return _down_to_encoder(forward_pass, tensor)
    return _through_recurrent(forward_pass, tensor, call, layers)


def _down_to_encoder(forward_pass: ForwardPass, tensor: Tensor) -> Stage:
    """Plain backward passes, the first part of the model by its Jacobian where it acts on each frame alone."""
    trace, made = forward_pass.trace, list[Tensor]()

    def find() -> tuple[int, Layout, Layout] | None:
        found = _encoder_before(forward_pass, tensor)
        if found is None:
            return None
        made.append(found[3])
        return trace.position(found[0]), found[1], found[2]

    known = forward_pass.known.answer("encoder before the cut", find)
    if known is None:
        return lambda passed, cotangents, _: vjp(tensor, passed.leaf, cotangents, passed.limits)
    call, layout, begun = trace.calls[known[0]], known[1], known[2]
    slopes = made[0] if made else _slopes_of_few_frames(forward_pass, call, layout)
    if slopes is None:
        raise RuntimeError("one frame does not stand for all here")
    slope = slopes[0, 0]

    def back(passed: ForwardPass, cotangents: Tensor, _: int) -> Tensor:
        return begun.join(layout.split(vjp(tensor, call.given, cotangents, passed.limits)) @ slope)

    return back


def _encoder_before(
    forward_pass: ForwardPass, tensor: Tensor
) -> tuple[Call, Layout, Layout, Float[Tensor, "frame stimulus output input"]] | None:
    """The model's largest part, the layouts of what it is given and of the stimulus, and the slopes that lead to it.

    None where ``tensor`` hears the stimulus past that, where frames mix before it or differ in their slope, and where
    too little follows for the search to pay.
    """
    source, n_stimuli, n_frames = forward_pass.trace.stimulus, forward_pass.n_stimuli, forward_pass.response.shape[-1]
    if n_frames < FEW_FRAMES:
        return None
    names = [call.name for call in forward_pass.trace.calls]
    size = {name: sum(other.startswith(f"{name}.") for other in names) for name in set(names)}
    for call in sorted(forward_pass.trace.calls, key=lambda call: -size[call.name]):
        given = call.given
        if given is source or given is tensor or not is_plain(given):
            continue
        steps = nodes_between(tensor, given, source)
        if steps is None:
            continue
        if steps < MANY_STEPS:
            return None
        for layout in layouts(given, n_stimuli, n_frames):
            slopes = _slopes_of_few_frames(forward_pass, call, layout)
            if slopes is None:
                continue
            for begun in layouts(source, n_stimuli, n_frames):
                if _slopes_hold(given, layout, source, begun, slopes):
                    return call, layout, begun, slopes
        return None
    return None


def recurrent_call(forward_pass: ForwardPass, tensor: Tensor) -> Call | None:
    """The last recurrent layer before ``tensor`` through which alone it hears the stimulus."""
    trace = forward_pass.trace

    def find() -> int | None:
        call = _last_recurrent(forward_pass, tensor)
        return None if call is None else trace.position(call)

    position = forward_pass.known.answer("recurrence" if tensor is forward_pass.response else "recurrence of cut", find)
    return None if position is None else trace.calls[position]


def _last_recurrent(forward_pass: ForwardPass, tensor: Tensor) -> Call | None:
    source = forward_pass.trace.stimulus
    for call in reversed(forward_pass.trace.calls):
        if not isinstance(call.module, nn.RNNBase) or not is_plain(call.gave) or not is_plain(call.given):
            continue
        if nodes_between(tensor, call.gave, source) is None:
            return None
        if not call.alone and nodes_between(call.gave, call.given, source) is None:
            return None
        return call
    return None


def _through_recurrent(forward_pass: ForwardPass, tensor: Tensor, call: Call, layers: list[Linearised]) -> Stage:
    n_stimuli, n_frames = forward_pass.n_stimuli, forward_pass.response.shape[-1]
    batch_first = bool(getattr(call.module, "batch_first", False))
    order, axis = ("stimulus", 1) if batch_first else ("frame", 0)
    if call.given.shape[1 if batch_first else 0] != n_frames or call.given.shape[0 if batch_first else 1] != n_stimuli:
        return lambda passed, cotangents, _: vjp(tensor, passed.leaf, cotangents, passed.limits)
    given = Layout(order, axis, tuple(call.given.shape), n_stimuli, n_frames)
    gave = Layout(order, axis, tuple(call.gave.shape), n_stimuli, n_frames)
    encoder = _frame_wise_encoder(forward_pass, call, given)
    if encoder is not None and encoder.slopes is not None:
        layers = [*layers[:-1], layers[-1].feeding(encoder.slopes)]
    on_frames = forward_pass.leaf.shape[-1] == n_frames

    def back(passed: ForwardPass, cotangents: Tensor, earliest: int) -> Tensor:
        # 1. From the tensor to what the recurrent layer gave: rows (frame, stimulus, row, hidden).
        at_output = vjp(tensor, call.gave, cotangents, passed.limits)
        rows = gave.split(at_output).permute(2, 1, 0, 3)
        # 2. Through the layers, the last first, by their written-out recursion; frames before ``earliest`` stay 0.
        for layer in layers:
            rows = layer.pull_back(rows, earliest if on_frames else 0)
        vectors = rows.permute(2, 1, 0, 3)
        # 3. From the layer's input to the stimulus: where a part acts on each frame alone its Jacobian
        #    (output, input) has already been multiplied into the last feed, or is applied frame by frame now.
        if encoder is None:
            return vjp(call.given, passed.leaf, given.join(vectors), passed.limits)
        joined = (
            encoder.layout.join(vectors)
            if encoder.slopes is not None
            else _through_encoder(passed, call, given, encoder, vectors)
        )
        if encoder.tensor is passed.trace.stimulus:
            return joined
        return vjp(encoder.tensor, passed.leaf, joined, passed.limits)

    return back


@dataclass(frozen=True)
class Encoder:
    """A part that acts on each frame alone: where it starts, and its Jacobian at each frame where that is known."""

    tensor: Tensor
    layout: Layout
    slopes: Float[Tensor, "frame stimulus output input"] | None
    affine: "Affine | None" = None


@dataclass(frozen=True)
class Affine:
    """The first steps of an encoder, with the same slope at every frame: where they end, and that slope."""

    call: Call
    layout: Layout
    slope: Float[Tensor, "output input"]


def _through_encoder(
    forward_pass: ForwardPass,
    call: Call,
    given: Layout,
    encoder: Encoder,
    vectors: Float[Tensor, "row stimulus frame output"],
) -> Tensor:
    """Rows back through the encoder, at the frames where any of them is not zero."""
    busy = vectors.flatten(0, 1).ne(0).any(dim=-1).any(dim=0).nonzero().flatten()
    if encoder.tensor is not forward_pass.trace.stimulus or len(busy) == 0:
        return vjp(call.given, encoder.tensor, given.join(vectors), forward_pass.limits)
    start, stop = int(busy[0]), int(busy[-1]) + 1
    piece = forward_pass.leaf.detach()[..., start:stop].clone().requires_grad_(True)
    affine = encoder.affine
    through = affine.call.module if affine is not None else None
    reached, passed = partial_run(forward_pass.model, call.module, piece.view_as(piece), through)
    joined = given.join(vectors[:, :, start:stop])
    if reached is None or reached.shape != joined.shape[1:]:
        return vjp(call.given, encoder.tensor, given.join(vectors), forward_pass.limits)
    gradient = joined.new_zeros((len(vectors), *encoder.tensor.shape))
    if affine is None or passed is None:
        gradient[..., start:stop] = vjp(reached, piece, joined, forward_pass.limits)
    else:
        middle = affine.layout.of_frames(stop - start).split(vjp(reached, passed, joined, forward_pass.limits))
        gradient[..., start:stop] = encoder.layout.of_frames(stop - start).join(middle @ affine.slope)
    return gradient


@dataclass(frozen=True)
class _Place:
    """Where an encoder begins and its affine steps end, by positions in the trace, without any number of the model."""

    start: int
    layout: Layout
    from_one_frame: bool
    affine: tuple[int, Layout] | None


def _frame_wise_encoder(forward_pass: ForwardPass, call: Call, layout: Layout) -> Encoder | None:
    """The longest part that ends where ``call`` begins and acts on each frame alone; None if there is none."""
    trace, made = forward_pass.trace, list[Encoder]()

    def find() -> _Place | None:
        encoder = _find_encoder(forward_pass, call, layout)
        if encoder is None:
            return None
        made.append(encoder)
        start = next(number for number, one in enumerate(_starts(forward_pass)) if one is encoder.tensor)
        affine = None if encoder.affine is None else (trace.position(encoder.affine.call), encoder.affine.layout)
        return _Place(start, encoder.layout, encoder.slopes is not None, affine)

    place = forward_pass.known.answer("encoder before the recurrence", find)
    if made or place is None:
        return made[0] if made else None
    start = _starts(forward_pass)[place.start]
    if place.from_one_frame:
        slopes = _slopes_of_few_frames(forward_pass, call, layout)
        if slopes is None:
            raise RuntimeError("one frame does not stand for all here")
        return Encoder(start, place.layout, slopes)
    if place.affine is None:
        return Encoder(start, place.layout, None)
    step, step_layout = trace.calls[place.affine[0]], place.affine[1]
    slope = _slope_at_one_frame(forward_pass, step, step_layout)
    if slope is None:
        raise RuntimeError("a step of one frame is of another shape here")
    return Encoder(start, place.layout, None, Affine(step, step_layout, slope))


def _starts(forward_pass: ForwardPass) -> list[Tensor]:
    """Tensors at which a part may begin, the earliest first."""
    starts: list[Tensor] = [forward_pass.trace.stimulus]
    seen = {id(starts[0])}
    for call in forward_pass.trace.calls:
        for candidate in (call.given, call.gave):
            if id(candidate) not in seen:
                seen.add(id(candidate))
                starts.append(candidate)
    return starts


def _find_encoder(forward_pass: ForwardPass, call: Call, layout: Layout) -> Encoder | None:
    tensor, source = call.given, forward_pass.trace.stimulus
    starts = [start for start in _starts(forward_pass) if start is not tensor and is_plain(start)]
    for start in starts[:TRIES]:
        if nodes_between(tensor, start, source) is None:
            continue
        for begun in layouts(start, layout.n_stimuli, layout.n_frames):
            if begun.width * 4 < layout.width:
                continue
            few = _slopes_of_few_frames(forward_pass, call, layout) if start is source else None
            if few is not None and _slopes_hold(tensor, layout, start, begun, few):
                return Encoder(start, begun, few)
            if few is None and acts_on_each_frame(tensor, layout, start, begun):
                return Encoder(start, begun, None, _affine_start(forward_pass, call, start, begun))
    return None


def _slopes_of_few_frames(
    forward_pass: ForwardPass, call: Call, layout: Layout
) -> Float[Tensor, "frame stimulus output input"] | None:
    """The Jacobian at every frame where one frame stands for all, as it does in a constant stimulus."""
    # In a constant stimulus every frame is the same, so the Jacobian of one frame is that of all.
    leaf = forward_pass.leaf.detach()
    if leaf.shape[-1] != layout.n_frames or not bool((leaf == leaf[:1, ..., :1]).all()):
        return None
    one = leaf[:1, ..., :1].clone().requires_grad_(True)
    reached, _ = partial_run(forward_pass.model, call.module, one.view_as(one))
    if reached is None or reached.numel() != layout.width or not reached.requires_grad:
        return None
    units = torch.eye(layout.width, dtype=leaf.dtype, device=leaf.device).view(layout.width, *reached.shape)
    slopes = vjp(reached, one, units, forward_pass.limits).flatten(1)
    return slopes.expand(layout.n_frames, layout.n_stimuli, *slopes.shape)


def _slopes_hold(tensor: Tensor, layout: Layout, start: Tensor, begun: Layout, slopes: Tensor) -> bool:
    """Whether one backward pass through all frames agrees with these Jacobians of single frames."""
    # Gradients of cotangents s_t v must be s_t v J_t at every frame t: no frame hears another, and each J_t is right.
    vector, scale = probe(layout, tensor)
    weighed = vector * scale
    (gradient,) = torch.autograd.grad(tensor, start, layout.join(weighed), retain_graph=True)
    expected = begun.split(gradient)
    got = torch.matmul(weighed.transpose(0, 1).unsqueeze(-2), slopes).squeeze(-2).transpose(0, 1)
    size = expected.abs().amax()
    return bool(torch.isfinite(size)) and bool((got - expected).abs().amax() <= SAME * size)


def _affine_start(forward_pass: ForwardPass, call: Call, start: Tensor, begun: Layout) -> Affine | None:
    """The longest affine run of steps from ``start`` on, found at the parts that the encoder is made of."""
    source = forward_pass.trace.stimulus
    if start is not source or begun.n_frames < FEW_FRAMES:
        return None
    found: Affine | None = None
    for step in forward_pass.trace.calls:
        if step is call:
            break
        if not is_plain(step.gave) or step.gave is start or nodes_between(call.given, step.gave, source) is None:
            continue
        for layout in layouts(step.gave, begun.n_stimuli, begun.n_frames):
            slope = _slope_of_affine(forward_pass, step, layout, start, begun)
            if slope is not None:
                found = Affine(step, layout, slope)
                break
        else:
            # After a step that is not affine, none is affine from the start.
            break
    return found


def _slope_of_affine(
    forward_pass: ForwardPass, step: Call, layout: Layout, start: Tensor, begun: Layout
) -> Float[Tensor, "output input"] | None:
    """The slope of what ``step`` gave, from one frame; None if it is not the same at every frame."""
    slope = _slope_at_one_frame(forward_pass, step, layout)
    if slope is None:
        return None
    vector, scale = probe(layout, step.gave)
    (gradient,) = torch.autograd.grad(step.gave, start, layout.join(vector * scale), retain_graph=True)
    expected = begun.split(gradient)
    got = (vector * scale) @ slope
    return slope if bool((got - expected).abs().amax() <= SAME * expected.abs().amax()) else None


def _slope_at_one_frame(forward_pass: ForwardPass, step: Call, layout: Layout) -> Float[Tensor, "output input"] | None:
    """The Jacobian of what ``step`` gives to the first frame alone; None if that is of another shape than of many."""
    one = forward_pass.leaf.detach()[:1, ..., :1].clone().requires_grad_(True)
    reached, passed = partial_run(forward_pass.model, None, one.view_as(one), step.module)
    if passed is None or passed.numel() != layout.width or reached is not None or not passed.requires_grad:
        return None
    units = torch.eye(layout.width, dtype=passed.dtype, device=passed.device).view(layout.width, *passed.shape)
    return vjp(passed, one, units, forward_pass.limits).flatten(1)


class _PartReachedError(Exception):
    """Carries what a part is about to be given out of a forward pass that need not go on."""


def partial_run(
    model: nn.Module, part: nn.Module | None, stimulus: Tensor, through: nn.Module | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """What ``part`` is given when the model hears ``stimulus``, and what ``through`` gave on the way.

    Nothing after ``part`` is run; without one, nothing after ``through``.
    """
    found: dict[str, Tensor | None] = {}

    def stop(_: nn.Module, given: tuple[object, ...]) -> None:
        found["given"] = first_tensor(given)
        raise _PartReachedError

    def note(_: nn.Module, __: object, gave: object) -> None:
        found["gave"] = first_tensor(gave)
        if part is None:
            raise _PartReachedError

    handles = []
    if part is not None:
        handles.append(part.register_forward_pre_hook(stop))
    if through is not None:
        handles.append(through.register_forward_hook(note))
    try:
        model(stimulus)
    except _PartReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found.get("given"), found.get("gave")

"""Gradmaps: how each neuron's response changes with the sound it hears, spectrogram or waveform."""

import math
from collections.abc import Hashable, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.gradients.arguments import (
    check_count,
    check_eval,
    check_question,
    checked_dtype,
    chosen_rows,
    has_front_end,
    sounds,
    spectrograms,
)
from pipeline.gradients.front_end.hop import hop_of
from pipeline.gradients.front_end.silence import beside_silence, has_no_slope
from pipeline.gradients.front_end.spectrogram import pass_after_front_end
from pipeline.gradients.objectives import Objective, Weighing, weigh
from pipeline.gradients.passes.class_cache import known_of
from pipeline.gradients.passes.forward_pass import ForwardPass, check_frames, pass_through
from pipeline.gradients.passes.model_cache import Kept, State
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.passes.windows import before_start
from pipeline.gradients.question import Neurons, Question
from pipeline.gradients.routes.autograd import few_rows
from pipeline.gradients.routes.cheapest import TOLERANCE, limits_of, take
from pipeline.gradients.torch_state.arithmetic import quiet
from pipeline.gradients.torch_state.copies import Inventory, converted, twin_of
from pipeline.gradients.torch_state.memory import budget, in_blocks

#: Up to here, replicating the stimulus once per neuron is quicker than any look at the model's inside.
FEW_ROWS = 16
#: Numbers in all replicas of a stimulus, up to which the same holds.
FEW_ENTRIES = 64 * 1024


@dataclass(frozen=True)
class Gradmaps:
    """Gradmaps of some neurons around some stimuli, with what is recorded about how they were computed."""

    #: +d objective / d stimulus: (stimulus, neuron, frequency, lag), (stimulus, neuron, channel, frequency, lag) after
    #: a prefilter, or (stimulus, neuron, waveform_lag). Lag 0 is first and the newest. The null stimulus is one
    #: stimulus.
    values: Float[Tensor, "stimulus neuron ..."]
    #: The response frame at lag 0, for ``peak`` each neuron's own.
    frames: Int[Tensor, "stimulus neuron"]
    #: Whether the window reaches back to before the stimulus began, where entries are 0.
    before_start: Bool[Tensor, "stimulus neuron"]
    #: The objective's own value.
    responses: Float[Tensor, "stimulus neuron"]
    #: The route taken; "factored+loop" where stimuli took different ones.
    route: str
    #: Rows per backward pass at the end, after halving where memory ran out.
    block: int
    #: Largest difference from plain autograd, of a mixture of all rows, relative to its largest entry; nan where not
    #: checked.
    disagreement: float
    #: Frames of the response.
    n_frames: int


def strf_gradmaps(
    model: nn.Module,
    lags: int = 40,
    *,
    neurons: Neurons = None,
    around: float | Float[Tensor, "frequency time"] | None = None,
    objective: Objective = "last",
    route: str = "auto",
    space: str = "spectrogram",
    dtype: torch.dtype | None = None,
    memory_bytes: int | None = None,
) -> Float[Tensor, "neuron *channel frequency lag"]:
    """Gradient of each neuron's objective with respect to a spectrogram.

    Entry ``[n, f, k]`` is the change in the objective of ``neurons[n]`` per unit change of the spectrogram in band
    ``f``, ``k`` frames before the frame that the objective looks at. Positive means that more energy there raises
    the response; lag 0 comes first and is the newest frame. A front-end is left out. Neither the weights nor their
    ``.grad``, nor anything else of the model, is touched.

    Parameters
    ----------
    model
        Maps spectrograms (batch, 1, frequency, time) to responses (batch, neuron, 1, time), causally; in eval mode.
        Whether it does is not asked here; :func:`~pipeline.gradients.contract.check_contract` asks.
    lags
        Frames kept, lag 0 included.
    neurons
        Indices of neurons, one index, None for all, or "sum" for the sum over all of them as one map (whose lag 0
        is the last frame that any neuron's objective looks at).
    around
        Where the gradient is taken: None for a spectrogram of ``lags`` frames of zeros, a number for a constant
        level, or a spectrogram in the units that the model was trained on.
    objective
        "last", "peak" (each neuron's own first maximum), "sum", "mean", {"frame": k}, {"mean_over": [a, b]} (frames
        a to b - 1), or a function from responses (neuron, time) to one number per neuron.
    route
        The way to the Jacobian; "auto" takes the one predicted to be cheapest that the model allows.
    space
        "spectrogram", or "prefiltered" for the gradient with respect to what the model's prefilter gives, which has
        a channel axis after the neuron axis.
    dtype
        torch.float64 to compute in double precision on a copy of the model. None: the model's own precision.
    memory_bytes
        What temporary tensors may take. None: a share of the device's memory.

    Raises
    ------
    ValueError
        If the model is in training mode or does not give responses (batch, neuron, 1, time), or if an argument does
        not fit the model.

    Examples
    --------
    >>> import torch
    >>> from pipeline import load_checkpoint, strf_gradmaps
    >>> model = load_checkpoint("checkpoints/seed0", class_name="my_lab.LabModel")
    >>> strf_gradmaps(model, lags=6).shape
    torch.Size([3, 4, 6])
    >>> strf_gradmaps(model, lags=6, neurons=[2], around=torch.ones(4, 10), objective="mean").shape
    torch.Size([1, 4, 6])
    """
    stimuli, level = None, 0.0
    if around is not None and not isinstance(around, (int, float)):
        around = torch.as_tensor(around)
        if around.dim() != 2:
            raise ValueError(
                f"around has shape {tuple(around.shape)}, which is not one spectrogram; give (frequency, time), or use"
                " compute_strf_gradmaps for several"
            )
        stimuli = around.unsqueeze(0)
    elif around is not None:
        level = float(around)
    question = Question(lags, neurons, objective, space, level, route, dtype, memory_bytes, check=route == "auto")
    values, _ = _around_spectrograms(model, stimuli, question, few=True)
    return values[0]


def waveform_gradmaps(
    model: nn.Module,
    waveform: Float[Tensor, "sample"],
    *,
    neurons: Neurons = None,
    objective: Objective = "last",
    window: int | None = None,
    route: str = "auto",
    dtype: torch.dtype | None = None,
    memory_bytes: int | None = None,
) -> Float[Tensor, "neuron waveform_lag"]:
    """Gradient of each neuron's objective with respect to the samples of a sound, back through the front-end.

    Entry ``[n, k]`` is the change in the objective of ``neurons[n]`` per unit change of the sample ``k`` samples
    before the last one that belongs to the objective's frame: frame ``j`` of a front-end with hop ``h`` ends at
    sample ``(j + 1) * h - 1``. For ``sum``, ``mean`` and functions the window ends with the sound.

    Parameters
    ----------
    model
        A model with a front-end in its slot ``wav2spec``, in eval mode.
    waveform
        The sound to take the gradient around, of a whole number of frames.
    neurons, objective, route, dtype, memory_bytes
        As for :func:`strf_gradmaps`.
    window
        Samples kept, lag 0 included. None: as many as the sound has.

    Raises
    ------
    ValueError
        As :func:`strf_gradmaps` does, and if the model has no front-end or the sound is no whole number of frames.

    Examples
    --------
    >>> import torch
    >>> from pipeline import load_checkpoint, waveform_gradmaps
    >>> model = load_checkpoint("checkpoints/seed0", class_name="my_lab.LabModel")
    >>> waveform_gradmaps(model, torch.randn(80), neurons=[0, 1], window=40).shape
    torch.Size([2, 40])
    """
    waveform = torch.as_tensor(waveform)
    if waveform.dim() != 1:
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, which is not one mono sound; give (sample,), or use"
            " compute_waveform_gradmaps for several of one length"
        )
    question = Question(
        window, neurons, objective, route=route, dtype=dtype, memory_bytes=memory_bytes, check=route == "auto"
    )
    return gradmaps_around_sounds(model, waveform.unsqueeze(0), question).values[0]


def compute_strf_gradmaps(
    model: nn.Module, stimuli: Float[Tensor, "stimulus frequency time"] | None, lags: int, **asked: Any
) -> Gradmaps:
    """Gradmaps around several spectrograms, with what is recorded about them.

    As :func:`strf_gradmaps`; ``asked`` are further fields of :class:`~pipeline.gradients.question.Question`.
    ``stimuli`` None means one spectrogram of ``lags`` frames at the question's ``level``.
    """
    return gradmaps_around_spectrograms(model, stimuli, Question(lags, **asked))


def gradmaps_around_spectrograms(
    model: nn.Module, stimuli: Float[Tensor, "stimulus frequency time"] | None, question: Question
) -> Gradmaps:
    """Answer to a question around spectrograms of one length; None for a constant one of the window's length."""
    values, found = _around_spectrograms(model, stimuli, question, few=False)
    assert found is not None
    return replace(found, values=values)


def _around_spectrograms(
    model: nn.Module, stimuli: Float[Tensor, "stimulus frequency time"] | None, question: Question, *, few: bool
) -> tuple[Tensor, Gradmaps | None]:
    """Gradmaps around spectrograms, and what is recorded of them.

    With ``few`` a handful of neurons may be computed in one plain pass, of which nothing is recorded.
    """
    lags = question.lags if stimuli is None or question.lags is not None else stimuli.shape[-1]
    check_count(lags, "lags", "frames")
    check_question(model, question)
    inventory = Inventory.of(model)
    dtype, device = checked_dtype(question.dtype, inventory), inventory.device
    given, stimuli = stimuli, spectrograms(model, stimuli, lags or 0, question.level).to(device=device, dtype=dtype)
    with quiet(inventory, dtype):
        source = converted(model, inventory, dtype)
        silent = {"wav2spec": nn.Identity()} if has_front_end(source) else {}
        leaf = _fresh(stimuli).unsqueeze(1)
        if question.space == "prefiltered":
            leaf = _prefiltered(source, leaf)
            silent["prefiltering"] = nn.Identity()
        values, found = None, None
        if few and question.route == "auto" and _are_few(source, leaf, question.neurons):
            twin = twin_of(source, silent, light=True)
            check_eval(twin, model)
            values = _few(twin, leaf, question)
        if values is None:
            twin = twin_of(source, silent)
            check_eval(twin, model)
            memory = budget(device, question.memory_bytes)
            # What cannot be checked is not taken over from another model.
            shared = inventory if question.check else None
            kept = question.kept if given is None else None
            found = _answer(_Asked(model, twin, question, 1, memory, inventory=shared, kept=kept), leaf)
            values = found.values
    return values if question.space == "prefiltered" else values.squeeze(2), found


def compute_waveform_gradmaps(
    model: nn.Module, waveforms: Float[Tensor, "stimulus sample"], window: int | None, **asked: Any
) -> Gradmaps:
    """Waveform gradmaps around several sounds of one length, with what is recorded about them.

    As :func:`waveform_gradmaps`; ``asked`` are further fields of :class:`~pipeline.gradients.question.Question`.
    """
    return gradmaps_around_sounds(model, waveforms, Question(window, **asked))


def gradmaps_around_sounds(
    model: nn.Module, waveforms: Float[Tensor, "stimulus sample"], question: Question
) -> Gradmaps:
    """Answer to a question around several sounds of one length, with respect to their samples.

    Where a front-end has no derivative at digital silence, as behind the magnitude of a Fourier transform, it is taken
    beside silence (see :func:`~pipeline.gradients.silence.beside_silence`).
    """
    if question.lags is not None:
        check_count(question.lags, "window", "samples")
    check_question(model, question)
    inventory = Inventory.of(model)
    dtype, device = checked_dtype(question.dtype, inventory), inventory.device
    waveforms = sounds(model, waveforms).to(device=device, dtype=dtype)
    with quiet(inventory, dtype):
        source = converted(model, inventory, dtype)
        twin = twin_of(source)
        check_eval(twin, model)
        if has_no_slope(twin.wav2spec, waveforms):
            waveforms = beside_silence(waveforms)
        leaf = _fresh(waveforms).unsqueeze(1)
        memory = budget(device, question.memory_bytes)
        found = _answer(_Asked(model, twin, question, hop_of(twin.wav2spec, leaf), memory, _silent(twin)), leaf)
    return replace(found, values=found.values.squeeze(2))


def _silent(twin: nn.Module) -> nn.Module:
    """The same model without its front-end."""
    return twin_of(twin, {"wav2spec": nn.Identity()})


@dataclass(frozen=True)
class _Asked:
    """A question to one model, made ready.

    Attributes
    ----------
    twin, silent
        The module to differentiate, and the same without its front-end where it has one.
    hop
        Positions of the stimulus in one frame of the response.
    memory
        Bytes that temporary tensors may take.
    kept
        What other neurons of the model left around the same stimulus.
    """

    model: nn.Module
    twin: nn.Module
    question: Question
    hop: int
    memory: int
    silent: nn.Module | None = None
    inventory: Inventory | None = None
    kept: Kept | None = None


def _answer(asked: _Asked, leaf: Float[Tensor, "stimulus ... time"]) -> Gradmaps:
    """Gradmaps around all stimuli, as many stimuli at a time as the memory allows."""
    twin, memory = asked.twin, asked.memory
    n_stimuli = len(leaf)
    together = n_stimuli
    if n_stimuli > 1:
        alone = pass_through(twin, leaf[:1], memory, set(), graph=False)
        together = max(1, min(n_stimuli, memory // (4 * alone.trace.total * leaf.element_size())))
    parts: list[Gradmaps] = []

    limits = limits_of(asked.model)

    def some(start: int, stop: int) -> None:
        if asked.silent is not None and "front-end" not in limits:
            forward_pass = pass_after_front_end(twin, asked.silent, leaf[start:stop], memory, limits)
            part = _solve(asked, forward_pass) if forward_pass is not None else None
            if part is not None and not part.disagreement > TOLERANCE:
                parts.append(part)
                return
            limits.add("front-end")
        parts.append(_solve(asked, _passed(asked, leaf[start:stop], limits)))

    in_blocks(n_stimuli, together, some)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _passed(asked: _Asked, leaf: Tensor, limits: set[str]) -> ForwardPass:
    """One forward pass around these stimuli, or the one that was kept."""
    known = known_of(asked.inventory, leaf)

    def passed() -> ForwardPass:
        return pass_through(asked.twin, leaf, asked.memory, limits, known=known)

    if asked.kept is None:
        return passed()
    about = _about(asked.question, leaf, asked.memory)
    state, kept = asked.kept.answer(about, lambda: _with_state(replace(passed(), bases={})), _bytes_of)
    # A route may leave other tensors in the module that it differentiates.
    return replace(kept, known=known) if state.is_of(kept.model) else passed()


def kept_pass(question: Question, leaf: Float[Tensor, "1 channel frequency time"]) -> ForwardPass | None:
    """The forward pass that maps around a constant spectrogram were taken from; None where it was not kept."""
    if question.kept is None:
        return None
    held = question.kept.held(_about(question, leaf, budget(leaf.device, question.memory_bytes)))
    return None if held is None else held[1]


def _about(question: Question, leaf: Tensor, memory: int) -> Hashable:
    """What a forward pass around a constant spectrogram is kept under."""
    return ("pass", leaf.shape, leaf.dtype, question.level, question.space, memory)


def _with_state(forward_pass: ForwardPass) -> tuple[State, ForwardPass]:
    return State.of(forward_pass.model), forward_pass


def _bytes_of(kept: tuple[State, ForwardPass]) -> int:
    """What a forward pass holds between the parts of its model."""
    return kept[1].trace.total * kept[1].leaf.element_size()


def _joined(parts: list[Gradmaps]) -> Gradmaps:
    """The maps around some stimuli after those around others."""
    checked = [part.disagreement for part in parts if not math.isnan(part.disagreement)]
    return Gradmaps(
        values=torch.cat([part.values for part in parts]),
        frames=torch.cat([part.frames for part in parts]),
        before_start=torch.cat([part.before_start for part in parts]),
        responses=torch.cat([part.responses for part in parts]),
        route="+".join(sorted({part.route for part in parts})),
        block=min(part.block for part in parts),
        disagreement=max(checked, default=math.nan),
        n_frames=parts[0].n_frames,
    )


def _are_few(model: nn.Module, leaf: Tensor, neurons: Neurons) -> bool:
    """Whether these are a handful of neurons around one short spectrogram."""
    count = getattr(model, "O", None)
    if not isinstance(count, int) or isinstance(neurons, str) or len(leaf) > 1:
        return False
    n_rows = count if neurons is None else len(neurons) if isinstance(neurons, Sized) else 1
    return n_rows <= FEW_ROWS and n_rows * leaf.numel() <= FEW_ENTRIES


def _few(twin: nn.Module, leaf: Tensor, question: Question) -> Float[Tensor, "1 neuron channel frequency lag"] | None:
    """Their rows, in one plain pass; None where that cannot give them."""
    count = int(getattr(twin, "O"))  # noqa: B009  (an attribute of the contract, which nn.Module does not declare)
    chosen = chosen_rows(question.neurons, count, leaf.device)
    if chosen is None:
        return None
    values = few_rows(twin, leaf, chosen, question.objective, question.window(leaf.shape[-1]))
    return None if values is None else values.unsqueeze(0)


def _solve(asked: _Asked, forward_pass: ForwardPass) -> Gradmaps:
    """Rows around the stimuli of one forward_pass."""
    question, hop = asked.question, asked.hop
    response = forward_pass.response.detach()
    n_frames = response.shape[-1]
    given = forward_pass.leaf if forward_pass.source is None else forward_pass.source.leaf
    check_frames(n_frames, given.shape[-1], hop, asked.model)
    weighing = weigh(question.objective, response)
    chosen = chosen_rows(question.neurons, response.shape[1], response.device)
    frames, values = _of_rows(weighing, chosen)
    ends = (torch.full_like(frames, n_frames - 1) if question.whole else frames) * hop + hop - 1
    lags = question.window(given.shape[-1])
    coupled = question.objective if weighing.couples else None
    taken = take(
        asked.model, forward_pass, Rows(weighing.weights, chosen, ends, lags, coupled, question.check), question.route
    )
    return Gradmaps(
        taken.values, frames, before_start(ends, lags), values, taken.route, taken.block, taken.disagreement, n_frames
    )


def _of_rows(weighing: Weighing, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Frame at lag 0 and value of the objective, of each row."""
    if chosen is None:
        return weighing.frames.amax(dim=1, keepdim=True), weighing.values.sum(dim=1, keepdim=True)
    return weighing.frames[:, chosen], weighing.values[:, chosen]


def _prefiltered(model: nn.Module, leaf: Tensor) -> Tensor:
    prefilter = getattr(model, "prefiltering", None)
    if not isinstance(prefilter, nn.Module):
        raise ValueError(
            f'{type(model).__name__} has no part "prefiltering", so there is no prefiltered space to differentiate in;'
            ' use space="spectrogram"'
        )
    with torch.no_grad():
        return twin_of(prefilter)(leaf)


def _fresh(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save, also where the caller made it in inference mode."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()

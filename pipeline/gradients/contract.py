"""Whether a model does what every gradmap takes for granted, found out by three forward passes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.gradients.arguments import bands_of, check_eval, has_front_end
from pipeline.gradients.front_end.hop import hop_of
from pipeline.gradients.naming import name_of
from pipeline.gradients.passes.forward_pass import check_frames, frames_of
from pipeline.gradients.torch_state.arithmetic import quiet
from pipeline.gradients.torch_state.copies import Inventory, parts_of, twin_of
from pipeline.gradients.torch_state.memory import is_out_of_memory

#: Change of a response before the stimulus changes, relative to its change afterwards.
AHEAD = 1e-4
#: Difference of two responses to one stimulus, relative to their range.
SAME = 1e-4
#: Times the precision of a number: a change of a response by less is none.
ROUNDING = 64
#: Standard deviation of the noise that stands for a sound.
SOUND_LEVEL = 0.1

#: Where the stimulus changes, as shares of its length, and by how many times its own size. Neighbouring frames tell
#: models that work in blocks of frames, small changes those that saturate, large ones those behind a threshold.
CHANGES = ((0.1, 1.0), (0.4, 0.1), (0.5, 30.0), (0.7, 1.0), (1.0, 10.0))


class ContractError(ValueError):
    """A model does not do what every gradmap takes for granted, so that its maps would be wrong."""


class NotFiniteError(ContractError):
    """A model answers a stimulus with NaN or infinity."""


@dataclass(frozen=True)
class Contract:
    """What was found out about a model that keeps the contract."""

    #: Neurons whose response moved before the stimulus did; any only where such models were let pass.
    hears_future: Bool[Tensor, " neuron"]
    #: Neurons of which something could not be checked: they answered to no change, or the model takes one stimulus at a
    #: time only.
    unchecked: Bool[Tensor, " neuron"]
    #: What the model keeps of one frame of one stimulus, in bytes, between its parts; 0 where that was not wanted.
    frame_bytes: int


def check_contract(
    model: nn.Module,
    heard: Float[Tensor, "*frequency time"] | None = None,
    *,
    frames: int = 64,
    level: float = 0.0,
    hears: Literal["spectrogram", "waveform"] = "spectrogram",
    causal: bool = True,
    weigh: bool = False,
    seed: int = 0,
) -> Contract:
    """What three forward passes tell of a model: with a stimulus alone, among others, and alone with gradients on.

    One response frame for each of the stimulus (or for each hop of a front-end), one output for each neuron, no
    response that moves before the stimulus does, the same response to the same stimulus again, alone as among others,
    and a way back from it to the stimulus. Nothing of the model is changed.

    Parameters
    ----------
    heard
        A stimulus in the units that the model was trained on: a spectrogram, or a waveform (sample,) for a model with a
        front-end. None: a spectrogram of ``level``, or a faint noise for a waveform, and seeded noise beside it.
    frames
        The length of the stimulus where none is given.
    hears
        What is given to the model: its front-end is left out for a spectrogram.
    causal
        Whether a model that hears the future is refused.
    weigh
        Whether ``frame_bytes`` is wanted, and a backward pass tried.

    Raises
    ------
    ContractError
        With the frame, the sizes and what to do.
    """
    inventory = Inventory.of(model)
    whole = hears == "waveform"
    twin = twin_of(model, {"wav2spec": nn.Identity()} if has_front_end(model) and not whole else {})
    with _broken_if_refused():
        check_eval(twin, model)
    with quiet(inventory, inventory.dtype), torch.no_grad():
        like = torch.zeros((), device=inventory.device, dtype=inventory.dtype)
        with _broken_if_refused():
            hop = _hop_of(twin, heard, like) if whole else 1
            shape = () if heard is not None else (frames * hop,) if whole else (bands_of(model), frames)
        if heard is not None:
            trials = _Trials.around(heard.to(like), SOUND_LEVEL if whole else 1.0, hop, seed)
        else:
            trials = _of_nothing(shape, None if whole else level, hop, seed, like.dtype, like.device)
        return _checked(model, twin, trials, causal, weigh)


@dataclass(frozen=True)
class _Trials:
    """Stimuli that are heard together: changed copies of two originals, loud ones among them, and these after all."""

    stimuli: Float[Tensor, "trial 1 *frequency time"]
    hop: int
    #: Rows that differ from an original from some frame on, and the row of that original for each.
    changed: tuple[int, ...]
    originals: tuple[int, ...]
    #: The last frame up to which they are the same; -1 where no frame is.
    last: tuple[int, ...]
    #: The row of the stimulus that the maps are taken around. The one in the last row is also heard by itself.
    given: int

    @staticmethod
    def around(heard: Float[Tensor, "*frequency time"], otherwise: float, hop: int, seed: int) -> "_Trials":
        """Trials about a stimulus, by noise of its own size; of the size ``otherwise`` where it has none."""
        size = float(heard.std(correction=0))
        size = size if size > 0 and math.isfinite(size) else otherwise
        return _Trials._laid_out(heard.unsqueeze(0), size, hop, seed, lively=not bool((heard == heard[..., :1]).all()))

    @staticmethod
    def _laid_out(
        given: Float[Tensor, "1 *frequency time"], size: float, hop: int, seed: int, lively: bool
    ) -> "_Trials":
        generator = torch.Generator().manual_seed(seed)

        def noise() -> Tensor:
            return size * torch.randn(given.shape, generator=generator, dtype=torch.float64).to(given)

        # Around a stimulus of one level a rectifier may be dead and noise inside a model may not show.
        pair = [noise(), given] if lively else [given, given + noise()]
        n_frames = given.shape[-1] // hop
        rows, originals, lasts = [], [], []
        for number, (share, times) in enumerate(CHANGES):
            last = min(max(0, round(share * (n_frames - 1)) - 1 + number % 2), n_frames - 2)
            changed = pair[(number + lively) % 2].clone()
            changed[..., (last + 1) * hop :] += times * noise()[..., (last + 1) * hop :]
            rows.append(changed)
            originals.append((number + lively) % 2)
            lasts.append(last)
        first = len(rows)
        return _Trials(
            torch.stack([*rows, *pair]),
            hop,
            tuple(range(first)),
            tuple(first + original for original in originals),
            tuple(lasts),
            first + int(lively),
        )


@lru_cache(maxsize=4)
def _of_nothing(
    shape: tuple[int, ...], level: float | None, hop: int, seed: int, dtype: torch.dtype, device: torch.device
) -> _Trials:
    """Trials about a spectrogram of one level, or about a faint noise in place of a sound; the same for each model."""
    if level is None:
        generator = torch.Generator().manual_seed(seed + 1)
        faint = 1e-3 * SOUND_LEVEL * torch.randn((1, *shape), generator=generator, dtype=torch.float64)
        return _Trials._laid_out(faint.to(device, dtype), SOUND_LEVEL, hop, seed, lively=False)
    given = torch.full((1, *shape), level, dtype=dtype, device=device)
    return _Trials._laid_out(given, 1.0, hop, seed, lively=False)


def _hop_of(twin: nn.Module, heard: Tensor | None, like: Tensor) -> int:
    return hop_of(twin.wav2spec, like.new_zeros(1, 1, 4096) if heard is None else heard.to(like)[None, None])


@contextmanager
def _broken_if_refused() -> Iterator[None]:
    """What is refused of any model's answer breaks the contract here."""
    try:
        yield
    except ContractError:
        raise
    except ValueError as error:
        raise ContractError(str(error)) from error


def _checked(model: nn.Module, twin: nn.Module, trials: _Trials, causal: bool, weigh: bool) -> Contract:
    name, n_trials = name_of(model), len(trials.stimuli)
    given = trials.stimuli[-1:].clone()  # forward may write into what it is given
    alone, numbers = _measured(twin, given) if weigh else (twin(given), 0)
    first = _response(alone, 1, trials, model)
    # At once, and alike: what forward keeps from one call to the next may depend on how many stimuli were heard.
    again = _again(name, twin, trials, model, backward=weigh)
    singly = False
    try:
        answer = twin(trials.stimuli.clone())
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        # One stimulus at a time: whether stimuli mix cannot be asked, and the rest is asked one by one.
        singly = True
        answer = torch.cat([twin(one[None].clone()) for one in trials.stimuli])
    together = _response(answer, n_trials, trials, model)
    if not bool(together[trials.given].isfinite().all()):
        raise NotFiniteError(
            f"{name} answers with NaN or infinity to the stimulus that its maps are taken around, so there is no"
            " gradient; look for a logarithm or a square root of what is not positive, or take another baseline"
        )
    _check_same(name, first[0], together[-1], again)
    early, late = _changes(together, trials)
    if causal and bool(early.any()):
        trial = int(early.any(dim=1).nonzero()[0])
        pair = together[[trials.changed[trial], trials.originals[trial]]]
        raise ContractError(_future(name, pair, early[trial], trials.last[trial], trials.hop))
    answered = late.any(dim=0).cpu()
    unchecked = torch.ones_like(answered) if singly else ~answered
    return Contract(early.any(dim=0).cpu(), unchecked, 4 * numbers // first.shape[-1])


def _measured(twin: nn.Module, stimulus: Tensor) -> tuple[Tensor, int]:
    """The answer to one stimulus, and how many numbers the model's parts gave on the way."""
    counts = [stimulus.numel()]

    def count(_: nn.Module, __: object, gave: object) -> None:
        counts.append(gave.numel() if isinstance(gave, Tensor) else 0)

    handles = [part.register_forward_hook(count) for _, part in parts_of(twin)]
    try:
        return twin(stimulus), sum(counts)
    finally:
        for handle in handles:
            handle.remove()


def _response(answer: Tensor, n_stimuli: int, trials: _Trials, model: nn.Module) -> Tensor:
    with _broken_if_refused():
        response = frames_of(answer, n_stimuli, model)
        check_frames(response.shape[-1], trials.stimuli.shape[-1], trials.hop, model)
    # A wider answer than what was heard is no more exact: the sums before it were rounded as that is.
    heard = trials.stimuli.dtype
    return response.to(heard) if torch.finfo(response.dtype).eps < torch.finfo(heard).eps else response


def _again(name: str, twin: nn.Module, trials: _Trials, model: nn.Module, backward: bool) -> Tensor:
    """The response to the stimulus alone once more, as it is when maps are computed: with gradients recorded."""
    with torch.enable_grad():
        leaf = trials.stimuli[-1:].clone().requires_grad_()
        try:
            response = _response(twin(leaf.view_as(leaf)), 1, trials, model)[0]
            if backward and response.requires_grad:
                torch.autograd.grad(response.sum(), leaf, allow_unused=True)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).partition(". ")[0]
            raise ContractError(
                f"{name} can be called, and not differentiated ({reason}), so it has no maps; look in its"
                " forward for what writes into the stimulus (x *= 2, x.clamp_()), for checkpoint(use_reentrant=True),"
                " and for .numpy(), and take it out"
            ) from error
    if not response.requires_grad:
        raise ContractError(
            f"{name} gives a response that no gradient leads back from, so it has no maps; look in its forward for"
            " .detach(), .numpy(), torch.no_grad() or inference_mode(), and take it out"
        )
    return response.detach()


def _check_same(name: str, alone: Tensor, among: Tensor, again: Tensor) -> None:
    """Refuse a model that gives two responses to one stimulus."""
    if (difference := _difference(alone, again)) > SAME:
        raise ContractError(
            f"{name} answers to the same stimulus twice with responses that differ by {difference:.2g} of their range,"
            " so its maps would be random or depend on what was heard before; look for dropout or noise that is on in"
            " eval mode, for a buffer or an attribute in which forward keeps state from one call to the next, and for a"
            " forward that does something else while gradients are recorded"
        )
    if (difference := _difference(alone, among)) > SAME:
        raise ContractError(
            f"{name} answers to the same stimulus alone and among others with responses that differ by {difference:.2g}"
            " of their range, so a map would depend on which stimuli it is computed with; look for statistics over the"
            " batch, as of a BatchNorm without running statistics, and take them per stimulus, or for state that"
            " forward keeps over several calls"
        )


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two responses of a neuron, relative to its range; 0 within rounding."""
    if not bool(one.isfinite().all() and other.isfinite().all()):
        return 0.0
    apart = (one - other).abs().amax(dim=-1)
    span = torch.maximum(one.amax(dim=-1) - one.amin(dim=-1), other.amax(dim=-1) - other.amin(dim=-1))
    apart = apart * (apart > _rounding(torch.stack([one, other])))
    return float((apart / torch.maximum(span, apart).clamp(min=torch.finfo(torch.float32).tiny)).amax())


def _rounding(responses: Float[Tensor, "trial neuron frame"]) -> Float[Tensor, " neuron"]:
    return ROUNDING * torch.finfo(responses.dtype).eps * responses.abs().amax(dim=(0, 2))


def _changes(
    together: Float[Tensor, "trial neuron frame"], trials: _Trials
) -> tuple[Bool[Tensor, "change neuron"], Bool[Tensor, "change neuron"]]:
    """For each change, whether a neuron's response moved up to the last unchanged frame, and whether it did later.

    Changes that are answered with what is no number tell nothing.
    """
    largest, rounding = together.abs().amax(dim=-1), ROUNDING * torch.finfo(together.dtype).eps
    early, late = [], []
    for changed, original, last in zip(trials.changed, trials.originals, trials.last, strict=True):
        moved = (together[changed] - together[original]).abs()
        before = moved[:, : last + 1].amax(dim=-1) if last >= 0 else moved.new_zeros(len(moved))
        after = moved[:, last + 1 :].amax(dim=-1)
        # The largest of numbers is itself none where one of them is none.
        finite = before.isfinite().all() & after.isfinite().all()
        least = rounding * torch.maximum(largest[changed], largest[original])
        early.append((before > AHEAD * after) & (before > least) & finite)
        late.append((after > least) & finite)
    return torch.stack(early), torch.stack(late)


def _future(name: str, pair: Tensor, early: Tensor, last: int, hop: int) -> str:
    neuron = int(early.nonzero()[0])
    moved = (pair[0, neuron] - pair[1, neuron]).abs()
    frame = int((moved[: last + 1] > 0.5 * moved[: last + 1].amax()).nonzero()[0])
    centred = ", a front-end with center=True" if hop > 1 else ""
    return (
        f"{name} hears the future, so it is not causal: where the stimulus changes from frame {last + 1} on, the"
        f" response of neuron {neuron} has moved at frame {frame} already, by"
        f" {float(moved[: last + 1].amax() / moved.amax()):.2g} of its largest change. What comes after a frame lies"
        f" outside the lags of its map. Look for a convolution that is padded on both sides{centred}, a bidirectional"
        " layer, attention without a causal mask or a mean over time; or set causal = false for the cohort, and its"
        " maps say how much they leave out"
    )

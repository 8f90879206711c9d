"""What a stimulus does inside a model: normalisations that divide by almost nothing, bins that are clamped, silence."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.gradients.routes.scope import Inventory, converted, quiet, twin_of

NEAR_EPS = 10.0  # times eps: below it a normalisation's gain is set by eps by more than 5 %
SILENT_LEVEL = 1e-6  # of the loudest sample
NUDGE = 1e-6  # of the sound's rms; a clamped bin does not move at all

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def undisturbed(model: nn.Module, dtype: torch.dtype) -> AbstractContextManager[None]:
    """The engine's exact arithmetic for this model, with everything put back at the end."""
    return quiet(Inventory.of(model), dtype)


def in_double(model: nn.Module) -> nn.Module:
    """The model in float64: itself where it is that already, a converted copy otherwise."""
    return converted(model, Inventory.of(model), torch.float64)


def home_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device that the model lives on, and its own precision."""
    inventory = Inventory.of(model)
    return inventory.device, inventory.dtype


def near_eps(model: nn.Module, stimulus: Tensor) -> bool:
    """Whether a normalisation layer of the model divides by less than its ``eps`` lets it, for this batch of stimuli.

    Where the variance before a normalisation is near its ``eps``, the layer multiplies gradients by up to
    ``1 / sqrt(eps)``, so that the size of a map tells about ``eps`` rather than about the model. Layers of torch and
    any other module named as a normalisation, with an ``eps`` and an output of its input's shape, are looked at.
    """
    found: list[bool] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        variance = _variance(module, given, output)
        if variance is not None and variance.numel():
            eps = getattr(module, "eps", None)
            eps = torch.finfo(variance.dtype).eps if eps is None else float(eps)
            found.append(bool((variance < NEAR_EPS * eps).any()))

    hooks = [part.register_forward_hook(look) for part in model.modules() if _normalises(part)]
    if not hooks:
        return False
    try:
        with torch.no_grad():
            model(stimulus)
    finally:
        for hook in hooks:
            hook.remove()
    return any(found)


def _normalises(module: nn.Module) -> bool:
    """A layer that normalises by itself, not one that only wraps a layer that does."""
    named = "norm" in type(module).__name__.lower() and hasattr(module, "eps")
    return named and not any("norm" in type(child).__name__.lower() for child in module.children())


def _variance(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """What the layer divides by, squared, before ``eps`` is added; one number for each group that it normalises."""
    if not given or not isinstance(given[0], Tensor) or not given[0].is_floating_point():
        return None
    x = given[0]
    if isinstance(module, _BATCH_NORMS) and module.running_var is not None:
        return module.running_var
    if isinstance(module, _BATCH_NORMS):
        return x.transpose(0, 1).flatten(1).var(dim=1, correction=0)
    if isinstance(module, _INSTANCE_NORMS):
        tracked = module.running_var if module.track_running_stats else None
        return x.flatten(2).var(dim=2, correction=0) if tracked is None else tracked
    if isinstance(module, nn.GroupNorm):
        return x.reshape(x.shape[0], module.num_groups, -1).var(dim=2, correction=0)
    if not isinstance(output, Tensor) or output.shape != x.shape or x.ndim == 0 or x.shape[-1] < 2:
        return None
    shape = getattr(module, "normalized_shape", x.shape[-1:])
    groups = x.flatten(-len(shape)) if len(shape) > 1 else x
    if "rms" in type(module).__name__.lower():
        return groups.square().mean(dim=-1)
    return groups.var(dim=-1, correction=0)


def clamped_bins(
    front_end: nn.Module, waveforms: Float[Tensor, "stimulus sample"], seed: int = 0
) -> Bool[Tensor, "stimulus frequency time"]:
    """Bins of the front-end's spectrogram that no sample of the sound moves, as under the floor of a logarithm.

    They are found by nudging the whole sound in two random directions, in float64: a bin that stays the same to the
    last digit has a gradient of zero, and one that is not a number has no gradient at all.
    """
    try:
        with undisturbed(front_end, torch.float64), torch.no_grad():
            return _unmoved(in_double(front_end), waveforms.double(), seed)
    except (RuntimeError, TypeError):
        with undisturbed(front_end, waveforms.dtype), torch.no_grad():
            return _unmoved(twin_of(front_end), waveforms, seed)


def _unmoved(front_end: Callable[[Tensor], Tensor], waveforms: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rms = waveforms.square().mean(dim=-1, keepdim=True).sqrt()
    nudge = NUDGE * rms.where(rms > 0, NUDGE)
    if waveforms.dtype != torch.float64:
        nudge = nudge * 1e3
    still = front_end(waveforms.unsqueeze(1)).squeeze(1)
    unmoved = torch.ones_like(still, dtype=torch.bool)
    for _ in range(2):
        direction = torch.randn(waveforms.shape, generator=generator, dtype=torch.float64).to(waveforms)
        moved = front_end((waveforms + nudge * direction).unsqueeze(1)).squeeze(1)
        unmoved &= (moved == still) | ~moved.isfinite()
    return unmoved | ~still.isfinite()


def silent_samples(waveforms: Float[Tensor, "stimulus sample"], shortest: int) -> Bool[Tensor, "stimulus sample"]:
    """Samples in runs of at least ``shortest`` that are silent: under a millionth of the sound's loudest sample."""
    quiet_enough = waveforms.abs() <= SILENT_LEVEL * waveforms.abs().amax(dim=-1, keepdim=True)
    shortest = max(1, min(shortest, waveforms.shape[-1]))
    total = nn.functional.pad(quiet_enough.double().cumsum(dim=-1), (1, 0))
    whole = (total[:, shortest:] - total[:, :-shortest] == shortest).double()  # a run begins here
    # A sample is in such a run where one begins at most shortest - 1 samples before it.
    begun = nn.functional.pad(whole, (shortest, shortest - 1)).cumsum(dim=-1)
    return begun[:, shortest:] - begun[:, :-shortest] > 0

"""What deepSTRF imports from packages that do not load beside a CPU build of torch.

Its front-ends import torchaudio, whose compiled part may refuse to load or be missing, and whose filter in pure torch
edits tensors that the backward pass still needs; its S4 imports one decorator from pytorch_lightning, which fails with
torchvision. The filters here follow the published formulas, never edit in place, and pass gradients of any order,
forward mode and ``torch.func.vmap``.
"""

import importlib
import math
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: Version by which the stand-in is told from torchaudio itself.
STANDIN_VERSION = "0.0.0+gradmap.standin"

_import_lock = threading.Lock()

#: Packages that were found to work, so that they are asked once.
_working: dict[str, ModuleType] = {}


def ensure_torchaudio() -> bool:
    """Whether ``import torchaudio`` now gives torchaudio itself rather than a stand-in.

    torchaudio is imported where it can be, and kept where its filter passes gradients. Where it does neither, what it
    left behind is removed and a module of the same name is registered that offers ``functional.melscale_fbanks`` and
    ``functional.lfilter``; anything else it is asked for raises with the reason. A second call changes nothing.
    """
    offered = {"functional": {"lfilter": lfilter, "melscale_fbanks": melscale_fbanks}}
    return _ensure("torchaudio", offered, leftovers=("torchaudio",), works=_check_gradient)


def ensure_lightning() -> bool:
    """Whether ``import pytorch_lightning`` now gives the package itself rather than a stand-in.

    The stand-in offers ``utilities.rank_zero_only``, which is all that deepSTRF's S4 asks for. The import takes
    seconds, so call this only before an S4 model is built.
    """
    # A process of ours is never one rank of a distributed training: the function itself.
    offered: dict[str, dict[str, Any]] = {"utilities": {"rank_zero_only": lambda function: function}}
    leftovers = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision")
    return _ensure("pytorch_lightning", offered, leftovers)


def is_standin(module: ModuleType) -> bool:
    """Whether a module is a stand-in of this file rather than the package whose name it has."""
    return getattr(module, "__version__", None) == STANDIN_VERSION


def _check_gradient(torchaudio: ModuleType) -> None:
    """Raise unless the gradient of a decaying filter, y[n] = x[n] + y[n-1] / 2, is the known one.

    Without its compiled part torchaudio imports and filters, and only the backward pass fails.
    """
    with torch.enable_grad():
        sound = torch.ones(4, requires_grad=True)
        heard = torchaudio.functional.lfilter(sound, torch.tensor([1.0, -0.5]), torch.tensor([1.0, 0.0]), clamp=False)
        (gradient,) = torch.autograd.grad(heard[-1], sound)
    if not torch.allclose(gradient, torch.tensor([0.125, 0.25, 0.5, 1.0])):
        raise RuntimeError(f"its lfilter has the gradient {gradient.tolist()} where 1/8, 1/4, 1/2, 1 is right")


def _ensure(
    package: str,
    offered: dict[str, dict[str, Any]],
    leftovers: tuple[str, ...],
    works: Callable[[ModuleType], None] = lambda package: None,
) -> bool:
    """Import a package with the parts that are offered, or register a stand-in for it if that, or ``works``, raises."""
    with _import_lock:
        present = sys.modules.get(package)
        if present is not None and (is_standin(present) or present is _working.get(package)):
            return not is_standin(present)
        before = set(sys.modules)
        try:
            for part in offered:
                importlib.import_module(f"{package}.{part}")
            works(sys.modules[package])
        except Exception as error:  # each of these libraries fails in its own way
            for name in list(sys.modules):
                if name.split(".")[0] in (leftovers if name not in before else (package,)):
                    del sys.modules[name]
            _register(package, offered, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return False
        _working[package] = sys.modules[package]
        return True


def _register(package: str, offered: dict[str, dict[str, Any]], reason: str) -> None:
    names = [f"{part}.{name}" for part, content in offered.items() for name in content]
    root = _module(package, names, reason)
    root.__dict__.update(__version__=STANDIN_VERSION, __path__=[])
    sys.modules[package] = root
    for part, content in offered.items():
        module = _module(f"{package}.{part}", names, reason)
        module.__dict__.update(content)
        setattr(root, part, module)
        sys.modules[module.__name__] = module


def _module(name: str, offered: list[str], reason: str) -> ModuleType:
    package = name.split(".")[0]
    module = ModuleType(name, f"Stand-in for {name}, which did not load here ({reason}).")
    # Without a spec, importlib.util.find_spec raises for whoever asks whether the package is there.
    module.__spec__ = ModuleSpec(name, loader=None, is_package=name == package)

    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise AttributeError(
            f"{name}.{attribute} is not there: {package} does not load on this machine ({reason}), and its stand-in"
            f" offers only {' and '.join(offered)}; install a {package} that matches this build of torch"
            f" {torch.__version__}, or do this step beforehand (read and resample sounds with soundfile and scipy)"
        )

    module.__dict__["__getattr__"] = missing
    return module


def melscale_fbanks(
    n_freqs: int,
    f_min: float,
    f_max: float,
    n_mels: int,
    sample_rate: int,
    norm: str | None = None,
    mel_scale: str = "htk",
) -> Tensor:
    """Triangular mel filters, (n_freqs, n_mels): column ``m`` weighs the bins of a spectrum for band ``m``.

    The bins lie evenly between 0 and ``sample_rate // 2`` Hz; the corners of the triangles lie evenly on the mel scale
    between ``f_min`` and ``f_max``. ``norm="slaney"`` divides each triangle by half its width in Hz, so that its
    area is 1. The scales are those of HTK (O'Shaughnessy 1987) and of Slaney's Auditory Toolbox (1998).

    Raises `ValueError` if ``norm`` or ``mel_scale`` is not one of the two known.
    """
    if norm not in (None, "slaney"):
        raise ValueError(f"norm is {norm!r}, which names no normalisation of mel filters; give None or 'slaney'")
    if mel_scale not in ("htk", "slaney"):
        raise ValueError(f"mel_scale is {mel_scale!r}, which names no mel scale; give 'htk' or 'slaney'")
    bins = torch.linspace(0.0, sample_rate // 2, n_freqs, dtype=torch.float64)
    lowest, highest = _hz_to_mel(f_min, mel_scale), _hz_to_mel(f_max, mel_scale)
    corners = _mel_to_hz(torch.linspace(lowest, highest, n_mels + 2, dtype=torch.float64), mel_scale)
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - lower) / (centre - lower)
    falling = (upper - bins[:, None]) / (upper - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    if norm == "slaney":
        filters = filters * (2.0 / (upper - lower))
    silent = (filters.amax(dim=0) == 0.0).nonzero().flatten().tolist()
    if silent:
        warnings.warn(
            f"mel bands {silent} of {n_mels} lie between two bins of a spectrum with {n_freqs} bins and are zero for"
            " every sound; use fewer bands or a longer analysis window",
            stacklevel=2,
        )
    return filters.to(torch.get_default_dtype())


# Slaney's scale is linear (200/3 Hz a mel) up to 1000 Hz, then logarithmic with 27 mels for a factor of 6.4.
_SLANEY_LINEAR = 200.0 / 3.0
_SLANEY_KNEE_HZ = 1000.0
_SLANEY_KNEE_MEL = _SLANEY_KNEE_HZ / _SLANEY_LINEAR
_SLANEY_STEP = math.log(6.4) / 27.0


def _hz_to_mel(frequency: float, mel_scale: str) -> float:
    if mel_scale == "htk":
        return 2595.0 * math.log10(1.0 + frequency / 700.0)
    if frequency < _SLANEY_KNEE_HZ:
        return frequency / _SLANEY_LINEAR
    return _SLANEY_KNEE_MEL + math.log(frequency / _SLANEY_KNEE_HZ) / _SLANEY_STEP


def _mel_to_hz(mels: Tensor, mel_scale: str) -> Tensor:
    if mel_scale == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    above = _SLANEY_KNEE_HZ * torch.exp(_SLANEY_STEP * (mels - _SLANEY_KNEE_MEL))
    return torch.where(mels < _SLANEY_KNEE_MEL, _SLANEY_LINEAR * mels, above)


def lfilter(waveform: Tensor, a_coeffs: Tensor, b_coeffs: Tensor, clamp: bool = True, batching: bool = True) -> Tensor:
    """A waveform through the filter ``sum a[k] y[t - k] = sum b[k] x[t - k]``, from rest.

    Coefficients are (order + 1,), lowest delay first, or (filter, order + 1). With filters, ``batching=True`` runs
    filter ``i`` on ``waveform[..., i, :]`` and ``batching=False`` runs every filter on the whole waveform; both give
    (..., filter, time). ``clamp=True`` limits the output to [-1, 1].

    The time axis is cut into blocks. Within a block the filter is a product with its impulse response; what a block
    hands to the next, its last ``order`` outputs, follows a linear recursion that is solved by doubling. It is the
    exact recursion, regrouped, so that a few matrix products stand for a loop over samples.

    Raises `ValueError` if the coefficients do not match each other or the waveform, or ``a[0]`` is zero.
    """
    _check_filter(waveform, a_coeffs, b_coeffs, batching)
    if a_coeffs.ndim == 1:
        output = lfilter(waveform.unsqueeze(-2), a_coeffs[None], b_coeffs[None], clamp)
        return output.squeeze(-2)
    if not batching:
        waveform = waveform.unsqueeze(-2).expand(*waveform.shape[:-1], a_coeffs.shape[0], waveform.shape[-1])
    # Coefficients in double precision: powers of a pole near the unit circle lose digits otherwise.
    numerator = b_coeffs.double() / a_coeffs[:, :1].double()
    feedback = a_coeffs[:, 1:].double() / a_coeffs[:, :1].double()
    output = _recursive(_moving(waveform, numerator.to(waveform.dtype)), feedback)
    return output.clamp(-1.0, 1.0) if clamp else output


def _check_filter(waveform: Tensor, a_coeffs: Tensor, b_coeffs: Tensor, batching: bool) -> None:
    if a_coeffs.shape != b_coeffs.shape or a_coeffs.ndim not in (1, 2) or a_coeffs.shape[-1] == 0:
        raise ValueError(
            f"a_coeffs {tuple(a_coeffs.shape)} and b_coeffs {tuple(b_coeffs.shape)} do not describe one filter; both"
            " must be (order + 1,) or (filter, order + 1), the shorter one padded with zeros"
        )
    if not waveform.is_floating_point() or waveform.ndim == 0:
        raise ValueError(
            f"waveform is {waveform.dtype} of shape {tuple(waveform.shape)}, which cannot be filtered; give a"
            " floating-point tensor whose last axis is time"
        )
    if a_coeffs.ndim == 2 and batching and (waveform.ndim < 2 or waveform.shape[-2] != a_coeffs.shape[0]):
        raise ValueError(
            f"waveform of shape {tuple(waveform.shape)} has no row for each of {a_coeffs.shape[0]} filters; give"
            " (..., filter, time), or batching=False to run every filter on the whole waveform"
        )


def _moving(waveform: Tensor, numerator: Tensor) -> Tensor:
    """The part of the filter without feedback; waveform (..., filter, time), numerator (filter, delay)."""
    n_samples = waveform.shape[-1]
    output = waveform * numerator[:, :1]
    for delay in range(1, min(numerator.shape[1], n_samples)):
        delayed = functional.pad(waveform[..., : n_samples - delay], (delay, 0))
        output = output + delayed * numerator[:, delay : delay + 1]
    return output


def _recursive(waveform: Tensor, feedback: Tensor) -> Tensor:
    """The part of the filter with feedback: ``y[t] = x[t] - sum feedback[k] y[t - k]``."""
    order, n_samples = feedback.shape[1], waveform.shape[-1]
    if order == 0 or waveform.numel() == 0:
        return waveform
    block = max(order, _block_length(n_samples))
    n_blocks = -(-n_samples // block)
    impulse, carry = (part.to(waveform.dtype) for part in _block_response(feedback, block))

    blocks = functional.pad(waveform, (0, n_blocks * block - n_samples)).unflatten(-1, (n_blocks, block))
    alone = torch.einsum("fij,...fbj->...fbi", _lower_toeplitz(impulse), blocks)
    state = _prefix(alone[..., block - order :], carry[:, block - order :])
    before = functional.pad(state[..., :-1, :], (0, 0, 1, 0))  # each block starts from the state of the one before
    output = alone + torch.einsum("fis,...fbs->...fbi", carry, before)
    return output.flatten(-2)[..., :n_samples]


def _block_length(n_samples: int) -> int:
    """Samples in a block: longer blocks cost more products, shorter ones more steps of the recursion over blocks."""
    return max(8, min(64, 2 ** round(math.log2(max(n_samples, 1)) / 2)))


def _block_response(feedback: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Response within a block to a unit impulse, (filter, block), and to the last outputs of the block before, (filter,
    block, order), whose columns run in time."""
    n_filters, order = feedback.shape
    # One recursion gives both: column 0 is driven by the impulse, the others by one unit among the outputs before.
    first = functional.pad(torch.eye(order, dtype=feedback.dtype, device=feedback.device), (1, 0))
    past = list(first.expand(n_filters, order, order + 1).unbind(1))
    kick = torch.zeros(order + 1, dtype=feedback.dtype, device=feedback.device)
    kick[0] = 1.0
    for step in range(block):
        recent = torch.stack(past[-1 : -order - 1 : -1], dim=1)  # (filter, delay, column), latest first
        value = -(feedback.unsqueeze(-1) * recent).sum(dim=1)
        past.append(value + kick if step == 0 else value)
    response = torch.stack(past[order:], dim=1)
    return response[..., 0], response[..., 1:]


def _lower_toeplitz(impulse: Tensor) -> Tensor:
    """(filter, block, block): entry ``[i, j]`` is the impulse response ``i - j`` samples later."""
    block = impulse.shape[-1]
    index = torch.arange(block, device=impulse.device)
    delay = (index[:, None] - index) % (2 * block)  # negative delays land in the padding
    return functional.pad(impulse, (0, block))[:, delay]


def _prefix(step: Tensor, transition: Tensor) -> Tensor:
    """States (..., filter, block, order) of ``state[b] = step[b] + transition @ state[b - 1]``, by doubling."""
    n_blocks, reach, state = step.shape[-2], 1, step
    power = transition
    while reach < n_blocks:
        earlier = functional.pad(state[..., : n_blocks - reach, :], (0, 0, reach, 0))
        state = state + torch.einsum("fis,...fbs->...fbi", power, earlier)
        power = power @ power
        reach *= 2
    return state

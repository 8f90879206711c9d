"""Every model class and front-end of deepSTRF 0.1.0, small, with random weights that no default is left in.

``ZOO[name](n_neurons=5, seed=0, **overrides)`` builds a model that hears spectrograms of ``N_BANDS`` bands, and
``FRONT_ENDS[name](seed=0)`` builds a front-end from sounds at ``AUDIO_HZ`` to frames of ``FRAME_MS``. All are in eval
mode. What this machine cannot build is not in these tables but in ``MISSING``, with the reason.
"""

import importlib.util
import logging
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.inputs.torchaudio_standin import ensure_lightning, ensure_torchaudio

ensure_torchaudio()

from deepSTRF.models import audio, prefiltering, wav2spec  # noqa: E402  (imports torchaudio)

N_BANDS = 16
LAGS = 20
LONGEST = 512
AUDIO_HZ = 8000
FRAME_MS = 10.0
HOP = int(AUDIO_HZ * FRAME_MS / 1000)

Builder = Callable[..., nn.Module]


def unsettle(module: nn.Module, seed: int) -> nn.Module:
    """The module in eval mode, with every weight, zero bias and running statistic moved off its default."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_complex() or not parameter.requires_grad:  # the latter hold a system that must stay stable
                continue
            if not parameter.any() and parameter.ndim == 1:  # zero matrices close a loop (LMU) that must not grow
                parameter.add_(0.3 * noise(parameter))
            parameter.mul_(1.0 + 0.1 * noise(parameter))
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.copy_(0.3 * noise(part.running_mean))
                part.running_var.copy_(0.5 + 1.5 * torch.rand(part.running_var.shape, generator=generator))
    return module.eval()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What ``build`` makes from this seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return unsettle(build(), seed)


def make(class_name: str, n_neurons: int = 5, seed: int = 0, **arguments) -> nn.Module:
    """A model of one of deepSTRF's classes, for ``n_bands`` bands; ``heard_before=False`` leaves S4 as it was made."""
    bands = arguments.pop("n_bands", N_BANDS)
    prefilter, heard_before = arguments.pop("prefilter", None), arguments.pop("heard_before", True)

    if arguments.get("rnn_type") == "S4":
        ensure_lightning()

    def build() -> nn.Module:
        given = dict(arguments)
        if prefilter is not None:
            given["prefiltering"] = make_prefilter(prefilter, bands)
        if class_name == "ICNet":
            return audio.ICNet(out_neurons=n_neurons, **given)
        return getattr(audio, class_name)(n_frequency_bands=bands, out_neurons=n_neurons, **given)

    model = seeded(build, seed)
    if arguments.get("rnn_type") == "S4" and heard_before:
        # Its forward pass rewrites a weight whenever it hears more frames than ever before, as in training.
        with torch.no_grad():
            model.rnn(torch.zeros(1, LONGEST, model.H))
    return model


def make_prefilter(kind: str, n_bands: int = N_BANDS) -> nn.Module:
    """One of deepSTRF's prefilters, over a few frames so that small windows hold it."""
    centres = prefiltering.get_CFs(200.0, 3800.0, n_bands, "mel")
    decay = prefiltering.tau_to_a(prefiltering.freq_to_tau(centres), dt=FRAME_MS)
    if kind == "adaptrans":
        return prefiltering.AdapTrans(decay, torch.full_like(decay, 0.75), kernel_size=6)
    return prefiltering.ICAdaptation(decay, kernel_size=6)


ICNET = {
    "audio_fs": AUDIO_HZ,
    "dt_ms": FRAME_MS,
    "n_filters": 8,
    "sincnet_kernel_size": 32,
    "encoder_channels": 12,
    "encoder_kernel_size": 16,
    "n_encoder_layers": 3,
    "bottleneck_channels": N_BANDS,
}

ZOO: dict[str, Builder] = {
    "Linear": partial(make, "Linear"),
    "LinearNonlinear": partial(make, "LinearNonlinear"),
    "NetworkReceptiveField": partial(make, "NetworkReceptiveField"),
    "DNet": partial(make, "DNet"),
    "ConvNet2D": partial(make, "ConvNet2D"),
    "Transformer": partial(make, "Transformer", embedding_dim=24, n_heads=2, n_layers=2, time_patch_size=3),
    "StateNet-GRU": partial(make, "StateNet", rnn_type="GRU"),
    "StateNet-LSTM": partial(make, "StateNet", rnn_type="LSTM"),
    "StateNet-RNN": partial(make, "StateNet", rnn_type="RNN"),
    "StateNet-LMU": partial(make, "StateNet", rnn_type="LMU"),
    "StateNet-Mamba": partial(make, "StateNet", rnn_type="Mamba"),
    "StateNet-S4": partial(make, "StateNet", rnn_type="S4"),
    "ICNet": partial(make, "ICNet", **ICNET),
}

PREFILTERED: dict[str, Builder] = {
    f"{kind}-{name}": partial(ZOO[name], prefilter=kind)
    for kind in ("adaptrans", "icadaptation")
    for name in ("Linear", "LinearNonlinear", "ConvNet2D", "StateNet-GRU", "Transformer")
}

BAND = {"f_min": 100.0, "f_max": 3800.0}

FRONT_ENDS: dict[str, Callable[..., nn.Module]] = {}
MISSING: dict[str, str] = {}


def make_front_end(kind: str, seed: int = 0, n_bands: int = N_BANDS, **arguments) -> nn.Module:
    """A front-end from sounds at ``AUDIO_HZ`` to ``n_bands`` bands every ``FRAME_MS``."""
    size = "n_mels" if kind == "mel" else "n_filters"
    return seeded(
        lambda: wav2spec.make_wav2spec(kind, AUDIO_HZ, FRAME_MS, **{size: n_bands}, **BAND, **arguments), seed
    )


for name, kind, arguments in (
    ("mel", "mel", {"win_ms": 25.0}),
    ("gammatone", "gammatone", {}),
    ("gammatone-pcen", "gammatone", {"compression": "pcen"}),
    ("gammatonegram", "gammatonegram", {}),
    ("sincnet", "sincnet", {"kernel_size": 101, "envelope": True}),
    ("sincnet-strided", "sincnet", {"kernel_size": 101, "activation": "symlog"}),
    ("leaf", "leaf", {}),
):
    if kind == "gammatonegram" and importlib.util.find_spec("gammatone") is None:
        MISSING[name] = "the package gammatone (filter coefficients) is not installed"
    else:
        FRONT_ENDS[name] = partial(make_front_end, kind, **arguments)

# deepSTRF's S4 reports through logging, at import, that its CUDA extensions are missing.
logging.getLogger("deepSTRF.models.dependencies.s4").disabled = True


def hearing(front_end: str, model: str = "StateNet-GRU", n_neurons: int = 5, seed: int = 0, **overrides) -> nn.Module:
    """A model of the zoo that hears waveforms through one of the front-ends (Linear, Transformer or StateNet)."""
    return ZOO[model](n_neurons, seed, wav2spec=FRONT_ENDS[front_end](seed), **overrides).eval()


def spectrogram(n_frames: int = 60, seed: int = 0, n_bands: int = N_BANDS) -> Tensor:
    """A z-scored spectrogram (frequency, time) that is smooth in time, as sounds are."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(n_bands, n_frames + 8, generator=generator)
    smooth = torch.nn.functional.avg_pool1d(steps[None], 4, stride=1)[0, :, :n_frames]
    return (smooth - smooth.mean()) / smooth.std()


def sound(n_frames: int = 30, seed: int = 0, rms: float = 0.1) -> Tensor:
    """A sound (sample,) of whole frames: gliding tones that swell, over noise; silent nowhere."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(n_frames * HOP) / AUDIO_HZ
    rates, phases = 3.0 + 5.0 * torch.rand(3, generator=generator), 6.0 * torch.rand(3, generator=generator)
    wave = 0.2 * torch.randn(time.shape, generator=generator)
    for pitch, rate, phase in zip((300.0, 900.0, 2200.0), rates, phases, strict=True):
        swell = 1.0 + 0.8 * torch.sin(2 * math.pi * rate * time + phase)
        wave = wave + swell * torch.sin(2 * math.pi * (pitch * time + 40.0 * torch.sin(rate * time)))
    return wave * (rms / wave.square().mean().sqrt())

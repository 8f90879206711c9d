"""The demo's models, trained on a recording, and how well each neuron's response is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.demo.models import KernelReadout, LearnableFilterbank, LinearNonlinearModel, RecurrentModel, WaveformModel
from pipeline.demo.simulate import HIGH_HZ, HOP, LAGS, LOW_HZ, Recording
from pipeline.gradients.encoding_model import AudioEncodingModel

Report = Callable[[str, float], None]
#: Recordings in one step of the training.
CLIPS_PER_BATCH = 4
#: Bands of the front-end of the model that hears waveforms.
WAVEFORM_BANDS = 20
#: Learning rate of its front-end, relative to that of the rest.
FRONT_END_PACE = 0.03


@dataclass(frozen=True)
class Architecture:
    """How one kind of model is built and trained."""

    name: str
    model_class: type[AudioEncodingModel]
    hears_waveform: bool
    learning_rate: float
    #: Weight of the squared differences between neighbouring kernel entries.
    smoothness: float
    #: Weight decay of everything behind the front-end.
    decay: float
    #: Standard deviation of the noise added to stimuli in training, which keeps a recurrent model's gradients small.
    jitter: float
    #: Each clip is cut into so many: a recurrent model learns faster from many short sounds than from few long ones.
    pieces: int
    epochs: int


#: The demo's models.
ARCHITECTURES = (
    Architecture("ln", LinearNonlinearModel, False, 2e-2, 0.1, 0.01, 0.0, 1, 30),
    Architecture("gru", RecurrentModel, False, 1e-2, 0.0, 0.3, 0.5, 8, 60),
    Architecture("wav_ln", WaveformModel, True, 2e-2, 0.1, 0.01, 0.0, 1, 30),
)


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode, the arguments that rebuild it, and its correlation with held-out responses per neuron."""

    architecture: Architecture
    seed: int
    arguments: Mapping[str, Any]
    model: AudioEncodingModel
    cc_test: tuple[float, ...]


def train(
    architecture: Architecture,
    recording: Recording,
    n_test: int,
    *,
    seed: int = 0,
    epochs: int | None = None,
    report: Report | None = None,
) -> TrainedModel:
    """A model fitted to all but the last ``n_test`` clips, by Adam on the squared error.

    The same seed gives the same weights on the same machine; torch's global random state and its number of threads
    are left as they were.
    """
    n_clips = len(recording.responses)
    if not 1 <= n_test < n_clips:
        raise ValueError(
            f"{n_test} of {n_clips} clips are to be held out; a model needs clips to learn from and clips to be tested"
            f" on; hold out between 1 and {n_clips - 1}"
        )
    stimuli = torch.from_numpy(recording.waveforms if architecture.hears_waveform else recording.spectrograms)
    stimuli = stimuli.unsqueeze(1)
    responses = torch.from_numpy(recording.responses).unsqueeze(2)
    arguments = _arguments(architecture, recording)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.model_class(**arguments)
        if isinstance(model.wav2spec, LearnableFilterbank):
            model.wav2spec.calibrate(stimuli[:-n_test])
        _fit(model, architecture, stimuli[:-n_test], responses[:-n_test], epochs or architecture.epochs, report)
        model.eval()
        with torch.no_grad():
            predicted = model(stimuli[-n_test:])[:, :, 0].numpy()
    cc_test = correlations(predicted, recording.responses[-n_test:])
    return TrainedModel(architecture, seed, arguments, model, tuple(float(cc) for cc in cc_test))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside, as before outside.

    Models this small gain nothing from a second thread and wait for it tens of times longer than they compute where
    other work keeps the cores busy. The sums also come out the same on any number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _arguments(architecture: Architecture, recording: Recording) -> dict[str, Any]:
    """The constructor's arguments, plain numbers all of them, as a checkpoint's config.json keeps them."""
    arguments: dict[str, Any] = {
        "n_frequency_bands": recording.spectrograms.shape[1],
        "temporal_window_size": LAGS,
        "out_neurons": recording.responses.shape[1],
    }
    if architecture.hears_waveform:
        arguments |= {"n_frequency_bands": WAVEFORM_BANDS, "audio_fs": recording.audio_fs, "hop": HOP}
        arguments |= {"low_hz": LOW_HZ, "high_hz": HIGH_HZ}
    return arguments


def _fit(
    model: AudioEncodingModel,
    architecture: Architecture,
    stimuli: Tensor,
    responses: Tensor,
    epochs: int,
    report: Report | None,
) -> None:
    stimuli, responses = _cut(stimuli, architecture.pieces), _cut(responses, architecture.pieces)
    batches = -(-len(stimuli) // (CLIPS_PER_BATCH * architecture.pieces))
    optimizer = _optimizer(model, architecture)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=epochs * batches)
    model.train()
    for epoch in range(epochs):
        for rows in torch.randperm(len(stimuli)).tensor_split(batches):
            heard = stimuli[rows]
            if architecture.jitter:
                heard = heard + architecture.jitter * torch.randn_like(heard)
            error = (model(heard) - responses[rows]).square().mean()
            loss = error + architecture.smoothness * _roughness(model.readout)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if report is not None:
            report(f"epoch {epoch + 1} of {epochs}", (epoch + 1) / epochs)


def _cut(clips: Tensor, pieces: int) -> Tensor:
    """Clips (clip, ..., time) in equal pieces along time, stacked along the first axis."""
    whole = clips.shape[-1] // pieces * pieces
    return torch.cat(clips[..., :whole].chunk(pieces, dim=-1))


def _optimizer(model: AudioEncodingModel, architecture: Architecture) -> torch.optim.Optimizer:
    """Adam, slow on the front-end: at full pace its bands would leave the frequencies they are labelled with."""
    rate = architecture.learning_rate
    slots = (model.prefiltering, model.core, model.readout)
    behind = [parameter for slot in slots for parameter in slot.parameters()]
    groups = [{"params": behind, "lr": rate, "weight_decay": architecture.decay}]
    front_end = list(model.wav2spec.parameters())
    if front_end:
        groups.append({"params": front_end, "lr": FRONT_END_PACE * rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups)


def _roughness(readout: nn.Module) -> Tensor | float:
    """Squared differences between neighbouring entries of the kernels, per neuron: receptive fields are smooth."""
    if not isinstance(readout, KernelReadout):
        return 0.0
    kernel = readout.kernel
    steps = kernel.diff(dim=-1).square().sum() + kernel.diff(dim=-2).square().sum()
    return steps / len(kernel)


def correlations(predicted: NDArray[np.floating], measured: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson correlation per neuron of (clip, neuron, time) responses; NaN where either is constant."""
    a, b = (np.moveaxis(np.asarray(r, dtype=float), 1, 0).reshape(r.shape[1], -1) for r in (predicted, measured))
    a, b = (r - r.mean(axis=1, keepdims=True) for r in (a, b))
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    products = (a * b).sum(axis=1)
    return np.divide(products, spread, out=np.full(len(spread), np.nan), where=spread > 0)

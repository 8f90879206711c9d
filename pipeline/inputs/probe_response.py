"""The response of a model to a fixed sound, which tells a rebuilt model from another one under the same weights."""

from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.plan.run_plan import FrontEnd

#: Frames of the probe, and the seed it is drawn from.
PROBE_FRAMES = 64
#: Of the fixed stimulus by whose response a checkpoint is known again.
PROBE_SEED = 20180412


def probe_response(model: nn.Module, front_end: FrontEnd | None, frames: int = PROBE_FRAMES) -> np.ndarray:
    """Mean response (neuron,) to a fixed probe: what tells a reloaded model from the one that was described.

    The probe is Gaussian noise from a PCG64 generator with a fixed seed: a spectrogram (frequency, ``frames``) of unit
    variance, or for a model with a front-end a waveform of ``frames`` frames with standard deviation 0.1. The mean is
    over all frames.

    Raises `ValueError` if the model is in training mode, or does not answer with (1, neuron, 1, time).
    """
    if model.training:
        raise ValueError(
            f"{type(model).__name__} is in training mode, where its response depends on chance and batch;"
            " call model.eval() first"
        )
    shape = (1, 1, int(model.F), frames) if front_end is None else (1, 1, front_end.hop * frames)  # type: ignore[arg-type]
    draw = np.random.Generator(np.random.PCG64(PROBE_SEED)).standard_normal(shape, dtype=np.float32)
    tensor = next((entry for entry in [*model.parameters(), *model.buffers()] if entry.is_floating_point()), None)
    probe = torch.from_numpy(draw if front_end is None else 0.1 * draw)
    if tensor is not None:
        probe = probe.to(device=tensor.device, dtype=tensor.dtype)
    # cuDNN may round to TF32; its RNNs are not bitwise the same from one version to the next.
    cudnn: Any = torch.backends.cudnn
    enabled = cudnn.enabled
    try:
        cudnn.enabled = False
        with torch.no_grad():
            response = model(probe)
    finally:
        cudnn.enabled = enabled
    if response.ndim != 4 or response.shape[0] != 1 or response.shape[2] != 1:
        raise ValueError(
            f"{type(model).__name__} answers one stimulus with shape {tuple(response.shape)}, not (1, neuron, 1, time),"
            " so its outputs cannot be told apart; mend its forward or readout"
        )
    return response[0, :, 0].double().mean(dim=-1).float().cpu().numpy()

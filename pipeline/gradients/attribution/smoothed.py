"""Integrated gradients averaged over noisy copies of a sound, so that what hangs on its last detail is gone."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.attribution.integrated import Integrated, integrated_gradients
from pipeline.gradients.attribution.listening import listening
from pipeline.gradients.objectives import Objective, weigh


def smoothed_gradients(
    model: nn.Module,
    stimulus: Float[Tensor, "frequency time"],
    lags: int,
    *,
    samples: int,
    noise: float,
    seed: int = 0,
    objective: Objective = "last",
    neurons: list[int] | None = None,
    **asked: Any,
) -> Integrated:
    """Mean of the integrated gradients of noisy copies of a sound (SmoothGrad, Smilkov et al. 2017).

    ``difference``, ``scale`` and ``beyond`` are means over the copies, ``outside`` is the mean of what lies before the
    window over that scale. ``completeness`` is that of the worst copy, ``nodes`` those of the copy that needed most.
    The frame of ``"peak"`` is that of the sound itself for every copy.

    Parameters
    ----------
    samples
        Number of copies.
    noise
        Standard deviation of the white noise that is added to each, in the units of the spectrogram.
    seed
        Seed of the noise.
    asked
        What `integrated_gradients` is asked besides.

    Raises
    ------
    ValueError
        As `integrated_gradients` does.
    """
    sound = torch.as_tensor(stimulus)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, *sound.shape, generator=generator, dtype=torch.float64)
    copies = [_at_frames(model, sound + noise * one.to(sound), sound, lags, objective, neurons, asked) for one in drawn]
    scale = _mean([one.scale for one in copies])
    return Integrated(
        values=_mean([one.values for one in copies]),
        difference=_mean([one.difference for one in copies]),
        scale=scale,
        completeness=torch.stack([one.completeness for one in copies]).amax(dim=0),
        outside=_mean([one.outside * one.scale for one in copies]) / scale,
        beyond=_mean([one.beyond for one in copies]),
        nodes=torch.stack([one.nodes for one in copies]).amax(dim=0),
        frames=copies[0].frames,
    )


def _at_frames(
    model: nn.Module,
    copy: Tensor,
    sound: Tensor,
    lags: int,
    objective: Objective,
    neurons: list[int] | None,
    asked: dict[str, Any],
) -> Integrated:
    """Integrated gradients of a copy; of the peak, at the frame where each neuron's response to the sound has it."""
    if objective != "peak":
        return integrated_gradients(model, copy, lags, objective=objective, neurons=neurons, **asked)
    with listening(model, asked.get("dtype")) as listener, torch.no_grad():
        frames = weigh("peak", listener.response(listener.placed(sound)[None])).frames[0]
    rows = list(range(len(frames))) if neurons is None else list(neurons)
    own = frames[rows]
    parts: list[tuple[Tensor, Integrated]] = []
    for frame in own.unique().tolist():
        at = torch.nonzero(own == frame)[:, 0]
        chosen = [rows[one] for one in at.tolist()]
        parts.append((at, integrated_gradients(model, copy, lags, objective={"frame": frame}, neurons=chosen, **asked)))
    order = torch.cat([at for at, _ in parts]).argsort()
    names = ("values", "difference", "scale", "completeness", "outside", "beyond", "nodes", "frames")
    return Integrated(**{name: torch.cat([getattr(part, name) for _, part in parts])[order] for name in names})


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)

"""The best sounds of a block of neurons, which climb side by side."""

import numpy as np
import torch
from torch import Tensor

from pipeline.gradients.attribution.synthesis import Synthesised, synthesise
from pipeline.gradients.health.raising import raised
from pipeline.numbers.map_reach import reach
from pipeline.plan.kinds.synthesis import SynthesisConfig
from pipeline.run.backward_checks import backward_flags
from pipeline.run.contract_checks import contract_flags
from pipeline.run.engine_maps import question_of
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.words import axis_named

#: A response that changes by no more than so many times the precision of its numbers has not changed.
ROUNDING = 16

#: Shares of the way to a best sound at which the slope of the response is compared with the backward pass.
ON_THE_WAY = (0.03, 0.3)


@COMPUTE.register("synthesis")
def compute(job: Job) -> Computed:
    """The sounds, lag 0 first, with the response after every step; a neuron that no step moves keeps its start."""
    asked = job.map.settings
    assert isinstance(asked, SynthesisConfig)
    told = contract_flags(job, "waveform" if asked.space == "waveform" else "spectrogram")
    start, question = _start(job, asked), question_of(job, asked)
    found = synthesise(
        job.model,
        start,
        question,
        norm=asked.norm,
        lowest=asked.lowest,
        highest=asked.highest,
        steps=asked.steps,
        seed=asked.seed,
    )
    sounds = _newest_first(torch.where(_moved(found, start), found.sounds, start.to(found.sounds)))
    added = sounds - _newest_first(start.to(found.sounds))
    lag_step = np.diff(job.map.axes[_lag_dim(job)].values[:2])
    arrays = {
        "": sounds.astype(np.float32),
        "trace": found.trace.cpu().numpy().astype(np.float32),
        "start_response": found.at_start.cpu().numpy().astype(np.float32),
    }
    loudest = found.sounds[int((found.trace[:, -1] - found.at_start).argmax())]
    # On the way there, and not at its end, where a neuron may answer all that it can.
    told |= backward_flags(
        job, [torch.lerp(start, loudest.to(start), share) for share in ON_THE_WAY], question.objective
    )
    flags = raised("all_zero_map", torch.from_numpy(~added.reshape(len(added), -1).any(axis=1))[None])
    accompanying = reach(added[None], float(lag_step[0]) if lag_step.size else job.cohort.frame_ms)
    return Computed(
        arrays=arrays | ({"added": added.astype(np.float32)} if asked.is_change else {}),
        companions={
            "health": flags[0].numpy().astype(np.uint16) | told,
            **{name: numbers[0] for name, numbers in accompanying.items()},
        },
        route="ascent",
    )


def _start(job: Job, asked: SynthesisConfig) -> Tensor:
    """A spectrogram (frequency, time) or a waveform (sample,) in the sound's own order of time."""
    if asked.hears == "spectrograms":
        heard: np.ndarray = job.spectrograms()[job.map.stimuli.names.index(asked.start)]
    elif asked.hears == "sounds":
        heard = job.sounds()[job.map.stimuli.names.index(asked.start)]
    else:
        extent = [job.map.size(dim) for dim in job.map.axes if dim not in ("neuron", _step_dim(job))]
        heard = np.full(extent, asked.silence_level or 0.0)
    return torch.as_tensor(heard, dtype=job.dtype, device=job.device)


def _lag_dim(job: Job) -> str:
    dim = axis_named("waveform_lag", job.map.axes) or axis_named("lag", job.map.axes)
    assert dim is not None
    return dim


def _step_dim(job: Job) -> str:
    """What the axis of the steps is called in the cube."""
    return next(dim for dim, axis in job.map.axes.items() if axis.name == "step")


def _moved(found: Synthesised, start: Tensor) -> Tensor:
    """Whether each neuron's response changed by more than rounding, shaped to choose its sound."""
    changed = (found.trace - found.at_start[:, None]).abs().amax(dim=1)
    moved = changed > ROUNDING * torch.finfo(changed.dtype).eps * found.at_start.abs()
    return moved.reshape(-1, *[1] * start.dim())


def _newest_first(sounds: Tensor) -> np.ndarray:
    return sounds.flip(-1).cpu().numpy()

"""One shard of a map over the audio samples."""

from typing import Any

from pipeline.gradients.gradmaps import compute_waveform_gradmaps
from pipeline.gradients.health import assess
from pipeline.plan.kinds.waveform import WaveformMapConfig
from pipeline.run.contract import contract_of
from pipeline.run.gradients import batch_of, engine_neurons, joined
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.words import axis_named


@COMPUTE.register("waveform")
def compute(job: Job) -> Computed:
    """Gradients and health of the shard's neurons, around each of its sounds."""
    asked = job.map.settings
    assert isinstance(asked, WaveformMapConfig)
    window = job.map.size(axis_named("waveform_lag", job.map.axes) or "")
    sample = job.engine.finite_difference_neurons
    about: dict[str, Any] = {"neurons": engine_neurons(job), "objective": asked.engine_objective()}
    model, batches = job.model, []
    for sounds in job.stacks(job.sounds()):
        kept = contract_of(model, job, sounds, hears="waveform")
        maps = compute_waveform_gradmaps(
            model, sounds, window, route=asked.route, dtype=job.dtype, memory_bytes=job.memory_bytes, **about
        )
        health = assess(
            model, maps, sounds, window, sample=sample, finite_difference=sample > 0, contract=kept, **about
        )
        batches.append(batch_of(maps, health, 1000.0 / (job.map.stimuli.sample_rate or 1.0)))
    return joined(job, batches)

"""One shard of a map over the audio samples."""

from pipeline.gradients.gradmaps import gradmaps_around_sounds
from pipeline.gradients.health.assessment import assess
from pipeline.plan.kinds.waveform import WaveformMapConfig
from pipeline.run.contract_checks import contract_of
from pipeline.run.engine_maps import batch_of, question_of, shard_of_batches
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.words import axis_named


@COMPUTE.register("waveform")
def compute(job: Job) -> Computed:
    """Gradients and health of the shard's neurons, around each of its sounds."""
    asked = job.map.settings
    assert isinstance(asked, WaveformMapConfig)
    window = job.map.size(axis_named("waveform_lag", job.map.axes) or "")
    question = question_of(job, asked, window, route=asked.route)
    model, batches = job.model, []
    for sounds in job.stacks(job.sounds()):
        kept = contract_of(model, job, sounds, hears="waveform")
        maps = gradmaps_around_sounds(model, sounds, question)
        sample = job.engine.finite_difference_neurons
        health = assess(model, maps, sounds, question, sample=sample, contract=kept)
        batches.append(batch_of(maps, health, 1000.0 / (job.map.stimuli.sample_rate or 1.0)))
    return shard_of_batches(job, batches)

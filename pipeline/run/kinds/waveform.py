"""One shard of a map over the audio samples."""

from pipeline.gradients.gradmaps import gradmaps_around_sounds
from pipeline.plan.kinds.waveform import WaveformMapConfig
from pipeline.run.engine_maps import gradients_of, question_of
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
    sounds, step_ms = job.stacks(job.sounds()), 1000.0 / (job.map.stimuli.sample_rate or 1.0)
    return gradients_of(job, question, sounds, gradmaps_around_sounds, step_ms, hears="waveform")

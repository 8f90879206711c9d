"""What a map stands for is known by content: other sounds or another precision never join it under one label."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline import load_config, run_locally
from pipeline.plan.config import ConfigError
from pipeline.run import prepare_run, run_shard
from pipeline.run.shard import compute_shard
from pipeline.store import align, create_or_extend, pending_shards
from tests.run.lab import RATE, entry, write_checkpoint, write_config, write_sound, write_spectrograms

AROUND = '[maps.around]\nkind = "strf"\nbaseline = "{baseline}"\nstimuli = "{stimuli}"\n'
WAVEFORM = '[maps.waveform]\nkind = "waveform"\nstimuli = "sounds/*"\n'


def run(config: Path):
    return run_locally(load_config(config))


def replace_spectrogram(path: Path, name: str) -> None:
    """Other samples under one of the names of a file."""
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, name: arrays[name] + np.float32(0.5)})


@pytest.mark.parametrize("baseline", ["stimuli", "mean"])
def test_other_spectrograms_under_the_same_names_are_refused_by_name(tmp_path, baseline):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    spectrograms = write_spectrograms(tmp_path / "spec.npz")
    config = write_config(tmp_path, maps=AROUND.format(baseline=baseline, stimuli="spec.npz"))
    run(config)
    replace_spectrogram(spectrograms, "two")
    write_checkpoint(tmp_path / "checkpoints/b", 2)
    with pytest.raises(ConfigError, match=r"maps\.around.* the samples of two are not those"):
        run(config)


def test_another_recording_under_the_name_of_a_sound_is_refused(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1, hears=True)
    sound = write_sound(tmp_path / "sounds/tone.wav")
    config = write_config(tmp_path, maps=WAVEFORM)
    run(config)
    write_sound(sound, seed=5)
    with pytest.raises(ConfigError, match=r"the samples of tone are not those"):
        run(config)


def test_the_same_sound_in_another_file_is_the_same_sound(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1, hears=True)
    sound = write_sound(tmp_path / "sounds/tone.wav")
    run(write_config(tmp_path, maps=WAVEFORM))
    samples, _ = soundfile.read(sound, dtype="float32")
    (tmp_path / "elsewhere").mkdir()
    soundfile.write(tmp_path / "elsewhere/tone.wav", samples, RATE, subtype="DOUBLE")
    assert run(write_config(tmp_path, maps=WAVEFORM.replace("sounds", "elsewhere"))).pending == 0


def test_precision_belongs_to_what_maps_are(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    run(write_config(tmp_path))
    with pytest.raises(ConfigError, match=r"precision is \"float64\" in the config"):
        run(write_config(tmp_path, more='[engine]\nprecision = "float64"\n'))


def test_the_route_and_the_list_of_cohorts_do_not(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    run(write_config(tmp_path))
    write_checkpoint(tmp_path / "checkpoints/b", 2)
    other = '[maps.strf]\nkind = "strf"\nroute = "replicated"\ncohorts = ["lab"]\n'
    assert run(write_config(tmp_path, maps=other)).computed == 1


def test_a_stimulus_that_changes_or_goes_after_the_plan_is_never_used(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    spectrograms = write_spectrograms(tmp_path / "spec.npz")
    config = write_config(tmp_path, maps=AROUND.format(baseline="stimuli", stimuli="spec.npz"), entries=entry())
    plan = prepare_run(load_config(config))
    create_or_extend(plan, health_flags={"a": 1})
    plan = align(plan)
    (shard,) = pending_shards(plan)
    away = spectrograms.rename(tmp_path / "away.npz")
    report, _ = compute_shard(plan, shard)
    assert report.problem is not None
    assert report.problem.cause == "storage"  # it may come back
    away.rename(spectrograms)
    replace_spectrogram(spectrograms, "one")
    report = run_shard(plan, shard)
    assert report.problem is not None
    assert report.problem.cause == "load"
    assert "'one' is not what it was when the run was planned" in report.problem.message

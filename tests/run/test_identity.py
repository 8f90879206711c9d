"""What a map stands for is known by content: other sounds or another precision never join it under one label."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline import load_config, open_cube, run_locally
from pipeline.plan.config import ConfigError
from pipeline.run.prepare import prepare_run
from pipeline.run.shard import compute_shard, run_shard
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from tests.run.lab import NEURONS, RATE, entry, write_checkpoint, write_config, write_sound, write_spectrograms
from tests.store.plans import pending_shards

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


def test_what_the_store_knows_of_neurons_is_not_taken_for_a_label_of_a_checkpoint_that_went(tmp_path):
    for seed, name in enumerate("ab"):
        write_checkpoint(tmp_path / "checkpoints" / name, seed, {"depth": [seed + 0.5] * NEURONS})
    (tmp_path / "neurons.csv").write_text("neuron,area,layer\n" + "".join(f"n{k},A{k},{k}\n" for k in range(NEURONS)))
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("lags =", 'neurons = "neurons.csv"\nlags =', 1))
    run(config)
    weights = tmp_path / "checkpoints/a/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    write_checkpoint(tmp_path / "checkpoints/c", 2, {"depth": [2.5] * NEURONS})
    run(config)
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    assert cube.area.dims == cube.layer.dims == ("neuron",)
    assert cube.area.values.tolist() == ["A0", "A1", "A2"]
    assert cube.depth.dims == ("checkpoint", "neuron")
    assert cube.depth.values[:, 0].tolist() == [0.5, 1.5, 2.5]
    assert cube.seed.values.tolist() == [0, 1, 2]


def test_stimuli_that_lie_in_objects_of_their_own_keep_their_names(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    write_spectrograms(tmp_path / "spec.npz")
    maps = AROUND.format(baseline="stimuli", stimuli="spec.npz") + 'objective = "peak"\n'
    found = []
    for size in (8.0, 4 * 4 * 6 * NEURONS / 2**20):
        config = write_config(tmp_path, maps=maps, more=f"[storage]\nobject_mib = {size}\n")
        found.append((run(config), open_cube(tmp_path / "cube.zarr", "lab").load()))
        shutil.rmtree(tmp_path / "cube.zarr")
    (_, together), (apart, each) = found
    assert apart.done == 2
    for name in ("around", "around_frame"):
        np.testing.assert_array_equal(each[name], together[name])
    assert not np.array_equal(each.around_frame.sel(stimulus="one"), each.around_frame.sel(stimulus="two"))


def test_the_time_of_a_shard_holds_that_of_the_engine(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/a", 1)
    plan = prepare_run(load_config(write_config(tmp_path)))
    create_or_extend(plan, health_flags={"a": 1})
    report = run_shard(align(plan), pending_shards(plan)[0])
    assert report.seconds >= report.engine_seconds > 0

"""What cannot work is refused before any compute, by message and by exit status."""

import shutil

import pytest

from pipeline.plan.config import ConfigError, load_config
from pipeline.run.prepare import prepare_run
from tasks.cli import main
from tests.run.lab import HOP, RATE, entry, write_checkpoint, write_config, write_sound, write_spectrograms

WAVEFORM = '[maps.waveform]\nkind = "waveform"\nstimuli = "sounds/*.wav"\nwindow_ms = 50.0\n'
AROUND = '[maps.around]\nkind = "strf"\nbaseline = "stimuli"\nstimuli = "spectrograms.npz"\n'


@pytest.fixture
def lab(tmp_path):
    for seed in range(2):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed)
    return tmp_path


def refusal(capsys, config) -> str:
    """The message of a refused run, the same from the library and from the command, with exit status 2."""
    with pytest.raises(ConfigError) as caught:
        prepare_run(load_config(config))
    assert main(["run", "--local", str(config)]) == 2
    assert str(caught.value) in capsys.readouterr().err
    assert not (config.parent / "cube.zarr").exists()
    return str(caught.value)


def test_a_path_that_matches_nothing(lab, capsys):
    assert "nothing-*" in refusal(capsys, write_config(lab, entries=entry("nothing-*")))


def test_two_checkpoints_with_one_id(lab, capsys):
    shutil.copytree(lab / "checkpoints/lab-0", lab / "others/lab-0")
    message = refusal(capsys, write_config(lab, entries=entry() + entry("others/*")))
    assert "lab-0" in message
    assert "id" in message


def test_bands_that_do_not_match(lab, capsys):
    message = refusal(capsys, write_config(lab, frequencies="[100.0, 200.0, 400.0]"))
    assert "'lab-0' hears 4 bands, but frequencies_hz has 3" in message


def test_spectrograms_with_other_bands(lab, capsys):
    write_spectrograms(lab / "spectrograms.npz", bands=5)
    assert "has 5 bands, but the cohort has 4" in refusal(capsys, write_config(lab, maps=AROUND))


def test_a_frame_that_a_stimulus_does_not_have(lab, capsys):
    write_spectrograms(lab / "spectrograms.npz", frames=12)
    message = refusal(capsys, write_config(lab, maps=AROUND + "objective = {frame = 12}\n"))
    assert "needs frame 12, but the stimulus 'one' has 12 frames" in message


def test_a_waveform_map_over_a_model_without_front_end(lab, capsys):
    write_sound(lab / "sounds/a.wav")
    assert "has no front-end" in refusal(capsys, write_config(lab, maps=WAVEFORM))


@pytest.fixture
def hearing_lab(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0, hears=True)
    return tmp_path


def test_a_stimulus_at_another_sample_rate(hearing_lab, capsys):
    write_sound(hearing_lab / "sounds/a.wav", rate=2 * RATE)
    message = refusal(capsys, write_config(hearing_lab, maps=WAVEFORM))
    assert "the sounds have 1600 Hz, but the front-end" in message
    assert "expects 800 Hz" in message


def test_sounds_of_different_sample_rates(hearing_lab, capsys):
    write_sound(hearing_lab / "sounds/a.wav")
    write_sound(hearing_lab / "sounds/b.wav", rate=2 * RATE)
    assert "different sample rates" in refusal(capsys, write_config(hearing_lab, maps=WAVEFORM))


def test_a_sound_that_ends_within_a_frame(hearing_lab, capsys):
    write_sound(hearing_lab / "sounds/a.wav", samples=20 * HOP + 3)
    assert f"cut it to {20 * HOP} samples" in refusal(capsys, write_config(hearing_lab, maps=WAVEFORM))


def test_whole_sounds_of_different_lengths(hearing_lab, capsys):
    write_sound(hearing_lab / "sounds/a.wav")
    write_sound(hearing_lab / "sounds/b.wav", samples=10 * HOP)
    whole = WAVEFORM.replace("window_ms = 50.0\n", "")
    assert "set window_ms" in refusal(capsys, write_config(hearing_lab, maps=whole))


def test_a_frame_width_that_is_not_the_front_ends(tmp_path, capsys):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0, hears=True, hop=2 * HOP)
    write_sound(tmp_path / "sounds/a.wav")
    assert "set frame_ms to the front-end's" in refusal(capsys, write_config(tmp_path, maps=WAVEFORM))


def test_front_ends_of_equal_right_are_judged_by_what_the_maps_ask_for(tmp_path, capsys):
    for seed, hop in enumerate((HOP, 2 * HOP)):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed, hears=True, hop=hop)
    write_sound(tmp_path / "sounds/a.wav")
    assert "set frame_ms to the front-end's" in refusal(capsys, write_config(tmp_path, maps=WAVEFORM))


def test_two_populations_of_equal_right_are_refused(lab, capsys):
    shutil.rmtree(lab / "checkpoints/lab-1")
    write_checkpoint(lab / "checkpoints/lab-9", 9, n_neurons=5)
    message = refusal(capsys, write_config(lab))
    assert "checkpoint 'lab-9' has 5 neurons" in message
    assert "cohort of its own" in message


def alone(config) -> dict[str, str]:
    """Why checkpoints fail alone, by their id; `plan` ends with exit status 3."""
    prepared = prepare_run(load_config(config))
    assert main(["plan", str(config)]) == 3
    return {entry.id: entry.error for entry in prepared.cohorts[0].checkpoints if entry.error is not None}


def test_a_checkpoint_of_another_population_falls_alone(lab):
    write_checkpoint(lab / "checkpoints/a-first", 9, n_neurons=5)
    (error,) = alone(write_config(lab)).values()
    assert "'a-first' has 5 neurons, but 2 checkpoints of the cohort" in error
    assert "cohort of its own" in error


def test_a_checkpoint_of_other_neurons_falls_alone(lab):
    write_checkpoint(lab / "checkpoints/a-first", 9, metadata={"neurons": ["n0", "n1", "x"]})
    for name in ("lab-7", "lab-8"):
        write_checkpoint(lab / f"checkpoints/{name}", 9, metadata={"neurons": ["n1", "n0", "n2"]})
    assert "the neurons n0, n1, x, but 4 checkpoints" in alone(write_config(lab))["a-first"]


def test_a_checkpoint_that_the_table_does_not_know_falls_alone(lab):
    (lab / "neurons.csv").write_text("neuron\nn0\nn1\nn2\n")
    write_checkpoint(lab / "checkpoints/a-first", 9, n_neurons=5)
    write_checkpoint(lab / "checkpoints/b-second", 9, metadata={"neurons": ["n0", "n1", "x"]})
    config = write_config(lab)
    config.write_text(config.read_text().replace("lags = ", 'neurons = "neurons.csv"\nlags = ', 1))
    reasons = alone(config)
    assert sorted(reasons) == ["a-first", "b-second"]
    assert "has 5 neurons, but the table neurons.csv has 3" in reasons["a-first"]
    assert "a neuron 'x' that the table" in reasons["b-second"]


def test_a_checkpoint_of_other_bands_falls_alone(lab):
    write_checkpoint(lab / "checkpoints/a-first", 9, n_bands=7)
    assert "hears 7 bands, but frequencies_hz has 4" in alone(write_config(lab))["a-first"]


def test_a_checkpoint_without_the_others_front_end_falls_alone(hearing_lab):
    write_checkpoint(hearing_lab / "checkpoints/lab-1", 1, hears=True)
    write_checkpoint(hearing_lab / "checkpoints/a-deaf", 1)
    write_sound(hearing_lab / "sounds/a.wav")
    config = write_config(hearing_lab, maps=WAVEFORM)
    prepared = prepare_run(load_config(config)).cohorts[0].checkpoints
    assert {entry.id: entry.usable for entry in prepared} == {"lab-0": True, "lab-1": True, "a-deaf": False}


def test_a_class_that_cannot_be_imported(lab, capsys):
    assert "tests.run.lab.Lost" in refusal(capsys, write_config(lab, entries=entry(model_class="tests.run.lab.Lost")))


def test_a_cohort_of_which_nothing_loads(tmp_path, capsys):
    (tmp_path / "checkpoints/empty").mkdir(parents=True)
    assert "none of its 1 checkpoints can be used" in refusal(capsys, write_config(tmp_path))


def test_unknown_keys_and_unreadable_configs(lab, capsys):
    config = write_config(lab, more="speed = 3")
    assert main(["run", "--local", str(config)]) == 2
    assert "speed: unknown key" in capsys.readouterr().err
    assert main(["run", "--local", str(lab / "none.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_as_many_front_ends_of_one_kind_as_of_another_are_no_hindrance_to_maps_that_leave_them_out(tmp_path):
    for seed, hop in enumerate((8, 4)):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed, hears=True, hop=hop)
    plan = prepare_run(load_config(write_config(tmp_path)))
    assert [one.error for one in plan.cohorts[0].checkpoints] == [None, None]

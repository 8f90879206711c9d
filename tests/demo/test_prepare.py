"""A quick demo: what it trains, and the files it leaves."""

import csv
import json
import tomllib
from importlib import import_module

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from pipeline.demo import load_population, prepare_demo, recovery
from pipeline.demo.simulate import heard_clips, lags_ms, plant_population, planted_strfs
from pipeline.demo.train import ARCHITECTURES, correlations, train
from pipeline.gradients.gradmaps import strf_gradmaps


def metadata(checkpoint):
    return json.loads((checkpoint / "metadata.json").read_text())


def loaded(demo, checkpoint):
    """A checkpoint rebuilt the way its folder and the run's config say."""
    config = tomllib.loads(demo.config.read_text())
    entries = [entry for cohort in config["cohort"] for entry in cohort["checkpoints"]]
    (entry,) = [entry for entry in entries if checkpoint in demo.folder.glob(entry["path"])]
    module, _, name = entry["class"].rpartition(".")
    arguments = json.loads((checkpoint / "config.json").read_text())
    assert arguments.pop("_model_class") == name
    model = getattr(import_module(module), name)(**arguments)
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return model.eval()


def bands(demo, model):
    has_front_end = hasattr(model.wav2spec, "hop")
    return np.loadtxt(demo.folder / ("wav_frequencies.txt" if has_front_end else "frequencies.txt"))


def test_three_architectures_are_trained_from_two_seeds_each(quick_demo):
    assert [path.name for path in quick_demo.checkpoints] == [
        f"{name}-seed{seed}" for name in ("gru", "ln", "wav_ln") for seed in (0, 1)
    ]


def test_every_model_predicts_held_out_responses(quick_demo):
    for checkpoint in quick_demo.checkpoints:
        cc_test = metadata(checkpoint)["cc_test"]
        assert len(cc_test) == len(quick_demo.population.neurons)
        assert np.median(cc_test) > 0.6, checkpoint.name
        assert min(cc_test) > 0.4, checkpoint.name


def test_recovered_maps_resemble_the_planted_fields(quick_demo):
    for checkpoint in quick_demo.checkpoints:
        model = loaded(quick_demo, checkpoint)
        frequencies = bands(quick_demo, model)
        maps = strf_gradmaps(model, lags=20).numpy()
        rows = recovery(quick_demo.population, maps, frequencies, lags_ms())
        assert np.median([row.correlation for row in rows]) > 0.7, checkpoint.name
        assert all(row.recovered_polarity == row.planted_polarity for row in rows), checkpoint.name
        octaves = [np.log2(row.recovered_best_frequency_hz / row.planted_best_frequency_hz) for row in rows]
        assert np.median(np.abs(octaves)) < 0.2, checkpoint.name


def test_the_seeds_give_different_weights(quick_demo):
    for name in ("gru", "ln", "wav_ln"):
        first, second = (
            load_file(quick_demo.folder / "checkpoints" / f"{name}-seed{seed}" / "model.safetensors") for seed in (0, 1)
        )
        assert first.keys() == second.keys()
        assert any(not torch.equal(first[key], second[key]) for key in first)


def test_checkpoint_folders_have_the_layout_and_name_every_neuron(quick_demo):
    for checkpoint in quick_demo.checkpoints:
        assert {path.name for path in checkpoint.iterdir()} == {"config.json", "model.safetensors", "metadata.json"}
        about = metadata(checkpoint)
        assert checkpoint.name == f"{about['architecture']}-seed{about['seed']}"
        assert about["neurons"] == list(quick_demo.population.labels)
        assert about["dt_ms"] == 10.0


def test_the_run_reads_what_lies_beside_it(quick_demo):
    config = tomllib.loads(quick_demo.config.read_text())
    assert [cohort["name"] for cohort in config["cohort"]] == ["demo", "demo_wav", "demo_moving"]
    matched = []
    for cohort in config["cohort"]:
        assert (quick_demo.folder / cohort["neurons"]).is_file()
        for entry in cohort["checkpoints"]:
            matched += quick_demo.folder.glob(entry["path"])
            for checkpoint in quick_demo.folder.glob(entry["path"]):
                expected = np.loadtxt(quick_demo.folder / cohort["frequencies_hz"]).size
                assert json.loads((checkpoint / "config.json").read_text())["n_frequency_bands"] == expected
    assert sorted(matched) == sorted([*quick_demo.checkpoints, quick_demo.folder / "planted/moving"])
    assert quick_demo.folder / config["store"] == quick_demo.store
    assert set(config["maps"]) == {"strf", "strf_sound", "waveform", "dstrf"}
    with np.load(quick_demo.folder / config["maps"]["strf_sound"]["stimuli"]) as spectrograms:
        assert sorted(spectrograms) == [path.stem for path in quick_demo.sounds]
        assert {spectrograms[name].shape for name in spectrograms} == {(24, 300)}
    assert sorted(quick_demo.folder.glob(config["maps"]["waveform"]["stimuli"])) == list(quick_demo.sounds)


def test_sounds_are_whole_frames_at_the_front_ends_rate(quick_demo):
    assert quick_demo.sounds
    for path in quick_demo.sounds:
        waveform, audio_fs = soundfile.read(path)
        assert audio_fs == 8000
        assert waveform.shape == (300 * 80,)
        assert 0.05 < np.abs(waveform).max() < 1.0


def test_neurons_and_planted_fields_carry_the_truth(quick_demo):
    with quick_demo.neurons.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(quick_demo.planted) as planted:
        fields = planted_strfs(quick_demo.population, planted["frequency"], planted["lag"])
        np.testing.assert_allclose(planted["strf"], fields)
        assert planted["neuron"].tolist() == [row["neuron"] for row in rows] == list(quick_demo.population.labels)
    for row, neuron in zip(rows, quick_demo.population.neurons, strict=True):
        assert float(row["planted_best_frequency_hz"]) == pytest.approx(neuron.best_frequency_hz, rel=1e-4)
        assert float(row["planted_latency_ms"]) == pytest.approx(neuron.latency_ms, abs=1e-3)
        assert int(row["planted_polarity"]) == neuron.polarity
        assert row["planted_direction"] == neuron.direction
        assert row["site"] == neuron.site


def test_the_population_can_be_read_back(quick_demo):
    assert load_population(quick_demo.folder) == quick_demo.population == plant_population(seed=0)


def test_progress_is_told_in_order_from_nothing_to_all(quick_demo, told):
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {f"training {name}, seed {seed}" for name in ("ln", "gru", "wav_ln") for seed in (0, 1)} <= {
        text.split(":")[0] for text, _ in told
    }


def test_the_same_demo_is_taken_as_it_is(quick_demo):
    before = {path: path.stat().st_mtime_ns for path in quick_demo.folder.rglob("*") if path.is_file()}
    assert prepare_demo(quick_demo.folder, quick=True) == quick_demo
    assert before == {path: path.stat().st_mtime_ns for path in quick_demo.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("other", [{"seed": 1, "quick": True}, {"quick": False}])
def test_another_demo_in_the_same_folder_is_refused(quick_demo, other):
    with pytest.raises(ValueError, match="give another folder"):
        prepare_demo(quick_demo.folder, **other)


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text("store = 'mine.zarr'\n")
    with pytest.raises(ValueError, match="a folder of its own"):
        prepare_demo(tmp_path, quick=True)
    assert (tmp_path / "run.toml").read_text() == "store = 'mine.zarr'\n"


def test_a_folder_without_a_demo_has_no_population(tmp_path):
    with pytest.raises(ValueError, match="gradmap demo"):
        load_population(tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_training_repeats_under_its_seed_and_leaves_torch_as_it_was(architecture):
    recording = heard_clips(plant_population(3), 3, 0.5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again = (train(architecture, recording, 1, seed=5, epochs=2) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    assert first.cc_test == again.cc_test
    assert not first.model.training


@pytest.mark.parametrize("n_test", [0, 3, 9])
def test_training_without_clips_on_either_side_is_refused(n_test):
    with pytest.raises(ValueError, match="hold out between 1 and 2"):
        train(ARCHITECTURES[0], heard_clips(plant_population(2), 3, 0.3), n_test)


def test_correlations_are_numpys_and_nan_for_a_constant_response():
    rng = np.random.default_rng(0)
    predicted, measured = rng.standard_normal((2, 3, 40)), rng.standard_normal((2, 3, 40))
    measured[:, 2] = 1.0
    found = correlations(predicted, measured)
    for neuron in range(2):
        expected = np.corrcoef(predicted[:, neuron].ravel(), measured[:, neuron].ravel())[0, 1]
        assert found[neuron] == pytest.approx(expected)
    assert np.isnan(found[2])


@pytest.mark.slow
def test_the_whole_demo_recovers_every_neuron(tmp_path):
    demo = prepare_demo(tmp_path / "demo")
    for checkpoint in demo.checkpoints:
        model = loaded(demo, checkpoint)
        rows = recovery(demo.population, strf_gradmaps(model, lags=20).numpy(), bands(demo, model), lags_ms())
        assert min(metadata(checkpoint)["cc_test"]) > 0.7
        assert min(row.correlation for row in rows) > (0.7 if checkpoint.name.startswith("gru") else 0.9)
        assert max(abs(row.recovered_latency_ms - row.planted_latency_ms) for row in rows) < 15.0

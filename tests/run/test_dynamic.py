"""Dynamic STRFs end to end: the cube holds the numbers of models whose maps are known at every frame."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import load_config, open_cube, run_locally, summarise
from pipeline.demo.ear import log_frequencies
from pipeline.demo.nonlinear import MovingModel, plant_moving_population, planted_dynamic_strfs
from pipeline.demo.simulate import HIGH_HZ, LAGS, LOW_HZ
from pipeline.numbers import dynamic
from pipeline.numbers.sound_windows import stimulus_windows
from pipeline.plan.config import ConfigError
from pipeline.run.prepare import plan_shards
from tasks.cli import main
from tests.run.lab import BANDS, KERNEL, entry, kernel_of, write_checkpoint, write_config, write_spectrograms

BANDS_HEARD = 8
FREQUENCIES = log_frequencies(LOW_HZ, HIGH_HZ, BANDS_HEARD)
MEASURES = '["gain", "complexity", "temporal_hold", "components", "local_linearity", "shape_change", "population"]'


def dynamic_map(more: str = "", name: str = "dstrf") -> str:
    return f'[maps.{name}]\nkind = "dynamic"\nstimuli = "sounds.npz"\n{more}\n'


def within(maps):
    """Maps (neuron, time, lag, frequency) without what they would have before the sound began."""
    frames, lags = maps.shape[1:3]
    return np.where((np.arange(lags) <= np.arange(frames)[:, None])[None, :, :, None], maps, 0.0)


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A run over planted neurons of every kind of nonlinearity; its folder, and their maps on paper, per sound."""
    folder = tmp_path_factory.mktemp("moving")
    population = plant_moving_population(FREQUENCIES)
    model = MovingModel(BANDS_HEARD, LAGS, len(population.labels))
    model.readout.plant(population)
    checkpoint = folder / "checkpoints/planted"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(
        json.dumps(
            {
                "_model_class": "MovingModel",
                "n_frequency_bands": BANDS_HEARD,
                "temporal_window_size": LAGS,
                "out_neurons": len(population.labels),
            }
        )
    )
    save_file(model.state_dict(), checkpoint / "model.safetensors")
    rng = np.random.default_rng(0)
    sounds = {
        name: 1.5 * rng.standard_normal((BANDS_HEARD, frames)).astype("float32")
        for name, frames in (("a", 90), ("b", 70))
    }
    np.savez(folder / "sounds.npz", **sounds)
    config = write_config(
        folder,
        entries=entry(model_class="pipeline.demo.nonlinear.MovingModel"),
        maps=dynamic_map(f"measures = {MEASURES}\ncomponents = 4\nkeep = {{a = [40, 3], b = 55}}")
        + dynamic_map('every = 3\nskip_ms = 100.0\nfirst_component = "mean"\ncomponents = 3', "coarse"),
        lags=str(LAGS),
        frequencies=str(FREQUENCIES.tolist()),
    )
    report = run_locally(load_config(config))
    assert report.failed == report.pending == 0
    planted = type(population)(population.labels, population.kinds, model.readout.kernels.double().numpy())
    maps = {name: within(planted_dynamic_strfs(planted, sound.astype(float))) for name, sound in sounds.items()}
    return folder, open_cube(folder / "cube.zarr", "lab").isel(checkpoint=0), maps, sounds, model


def test_mean_and_deviation_are_those_over_the_frames_of_all_sounds(moving):
    _, cube, maps, _, _ = moving
    every = np.concatenate([one[:, LAGS:] for one in maps.values()], axis=1).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(cube.dstrf_mean, every.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(cube.dstrf_sd, every.std(axis=1, ddof=1), atol=1e-5)
    np.testing.assert_array_equal(cube.dstrf_frames, [70, 50])
    coarse = np.concatenate([one[:, 10::3] for one in maps.values()], axis=1).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(cube.coarse_mean, coarse.mean(axis=1), atol=1e-5)
    assert "coarse_temporal_hold" not in cube


def test_numbers_of_each_sound_are_those_of_its_maps(moving):
    _, cube, maps, sounds, model = moving
    for name, one in maps.items():
        one, here = one[:, LAGS:], cube.sel(stimulus=name)
        np.testing.assert_allclose(here.dstrf_gain, dynamic.gain(one).mean(axis=1), rtol=1e-4)
        np.testing.assert_allclose(here.dstrf_gain_change, dynamic.gain_change(one), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(here.dstrf_complexity, dynamic.complexity(one), rtol=1e-3)
        np.testing.assert_allclose(here.dstrf_temporal_hold, dynamic.temporal_hold(one) * 10.0)
        np.testing.assert_allclose(here.dstrf_shape_change, dynamic.shape_change(one), rtol=1e-3)
        with torch.no_grad():
            response = model.eval()(torch.from_numpy(sounds[name])[None, None])[0, :, 0, LAGS:].numpy()
        windows = stimulus_windows(sounds[name], LAGS)[LAGS:]
        expected = dynamic.local_linearity(one, windows, response)
        np.testing.assert_allclose(here.dstrf_local_linearity, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "first", "frames"), [("dstrf", "principal", slice(LAGS, None)), ("coarse", "mean", slice(10, None, 3))]
)
def test_components_are_those_over_all_sounds(moving, name, first, frames):
    _, cube, maps, _, _ = moving
    every = np.concatenate([one[:, frames] for one in maps.values()], axis=1)
    axis = cube[f"{name}_component_sd"].dims[-1]
    found = dynamic.components(every, cube.sizes[axis], first)
    np.testing.assert_allclose(cube[f"{name}_component_sd"], found.component_sd, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(cube[f"{name}_noise_floor"], found.noise_floor, rtol=1e-3, atol=1e-9)
    leading = cube[f"{name}_component"].isel({axis: 0}).values
    cosine = (leading * found.component[:, 0].transpose(0, 2, 1)).sum(axis=(1, 2))
    np.testing.assert_allclose(cosine, 1.0, atol=1e-3)


def test_maps_that_are_kept_are_those_at_their_frames(moving):
    _, cube, maps, _, _ = moving
    assert list(zip(cube.kept_stimulus.values, cube.kept_frame.values, strict=True)) == [("a", 40), ("a", 3), ("b", 55)]
    for position, (sound, frame) in enumerate([("a", 40), ("a", 3), ("b", 55)]):
        expected = maps[sound][:, frame]
        np.testing.assert_allclose(cube.dstrf_kept.isel(kept=position), expected.transpose(0, 2, 1), atol=1e-5)


def test_components_of_the_population_and_each_neurons_share(moving):
    _, cube, maps, _, _ = moving
    every = np.concatenate([one[:, LAGS:] for one in maps.values()], axis=1)
    found = dynamic.population_components(lambda: [every], 4)
    np.testing.assert_allclose(cube.dstrf_population_share, found.share, atol=1e-3)
    np.testing.assert_allclose(cube.dstrf_population_component_sd, found.component_sd, rtol=1e-3)


def test_the_cube_is_sound_finished_and_summarised(moving):
    folder, *_ = moving
    assert main(["verify", str(folder / "cube.zarr")]) == 0
    assert run_locally(load_config(folder / "run.toml")).computed == 0
    numbers = summarise(open_cube(folder / "cube.zarr", "lab"))
    assert any(str(name).startswith("dstrf_mean") for name in numbers.data_vars)
    page = folder / "page.html"
    assert main(["report", str(folder / "cube.zarr"), "--output", str(page)]) == 0
    text = page.read_text()
    assert "dstrf: how far maps move along the sounds" in text
    assert "complexity against gain change" in text
    assert "single frames" in text


def test_a_linear_model_does_not_move_and_blocks_of_neurons_change_nothing(tmp_path):
    for seed in range(2):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed)
    write_spectrograms(tmp_path / "sounds.npz", frames=40)
    whole = write_config(tmp_path, maps=dynamic_map())
    run_locally(load_config(whole))
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    for name in cube.checkpoint.values:
        kernel = np.pad(kernel_of(tmp_path / "checkpoints" / str(name)), ((0, 0), (0, 0), (0, 6 - KERNEL)))
        np.testing.assert_allclose(cube.dstrf_mean.sel(checkpoint=name), kernel, atol=1e-6)
    np.testing.assert_allclose(cube.dstrf_sd, 0.0, atol=1e-6)
    assert (cube.dstrf_health == 0).all()
    np.testing.assert_allclose(cube.dstrf_complexity, 1.0, atol=1e-3)
    np.testing.assert_allclose(cube.dstrf_local_linearity, 1.0, atol=1e-6)
    before = {name: cube[name].values.tobytes() for name in cube.data_vars if str(name).startswith("dstrf_")}
    text = whole.read_text().replace("cube.zarr", "blocks.zarr")
    cut = tmp_path / "cut.toml"
    cut.write_text(text + f"\n[storage]\nobject_mib = {BANDS * 6 * 4 / 2**20}\n")
    assert len(plan_shards(load_config(cut))) == 6
    run_locally(load_config(cut))
    cut_cube = open_cube(tmp_path / "blocks.zarr", "lab")
    for name, expected in before.items():
        np.testing.assert_allclose(
            cut_cube[name].values, np.frombuffer(expected, cube[name].dtype).reshape(cube[name].shape), atol=1e-6
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('every = 2\nmeasures = ["temporal_hold"]', "every = 2 leaves out frames.*temporal_hold"),
        ("keep = {three = [1]}", "keep names the sound 'three'"),
        ("keep = {one = [40]}", r"the frames \[40\] of 'one'"),
        ("keep = {one = [-1]}", r"\[-1\].*counted from 0"),
        ("skip_ms = 400.0", "fewer than two frames are left"),
        ('measures = ["speed"]', "measures"),
        ('route = "factored"', "route"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_compute(tmp_path, more, words):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    write_spectrograms(tmp_path / "sounds.npz", frames=40)
    with pytest.raises(ConfigError, match=words):
        plan_shards(load_config(write_config(tmp_path, maps=dynamic_map(more))))
    assert not (tmp_path / "cube.zarr").exists()


def test_maps_that_reach_beyond_the_window_say_so_and_others_do_not(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    write_spectrograms(tmp_path / "sounds.npz", frames=40)
    cut = write_config(tmp_path, maps=dynamic_map(), lags="3")
    run_locally(load_config(cut))
    health = open_cube(tmp_path / "cube.zarr", "lab").dstrf_health
    flags = dict(zip(health.attrs["flag_meanings"].split(), health.attrs["flag_masks"], strict=True))
    assert (health == flags["truncated_window"]).all()


@pytest.fixture
def seeds(tmp_path):
    for seed in range(4):
        write_checkpoint(tmp_path / f"checkpoints/lab-seed{seed}", seed)
    write_checkpoint(tmp_path / "checkpoints/lab-seed4", 4, metadata={"neurons": ["n2", "n0", "n1"]})
    write_spectrograms(tmp_path / "sounds.npz", frames=30)
    return tmp_path


def test_members_of_an_ensemble_are_averaged_by_the_label_of_each_neuron(seeds):
    averaged = dynamic_map('ensemble = "seed"', "together")
    report = run_locally(load_config(write_config(seeds, maps=dynamic_map() + averaged)))
    assert (report.done, report.failed, report.pending) == (6, 0, 0)
    cube = open_cube(seeds / "cube.zarr", "lab")
    row = cube.sel(checkpoint="lab-seed0 and 4 more over seed")
    assert row.ensemble_over.item() == "seed"
    kernels = [kernel_of(seeds / f"checkpoints/lab-seed{seed}") for seed in range(4)]
    kernels.append(kernel_of(seeds / "checkpoints/lab-seed4")[[1, 2, 0]])
    expected = np.pad(np.mean(kernels, axis=0), ((0, 0), (0, 0), (0, 6 - KERNEL)))
    np.testing.assert_allclose(row.together_mean, expected, atol=1e-6)
    assert np.isnan(row.dstrf_mean).all()
    assert np.isnan(cube.together_mean.sel(checkpoint="lab-seed1")).all()
    assert main(["verify", str(seeds / "cube.zarr")]) == 0


def test_entries_on_whose_sign_the_members_do_not_agree_are_zero(seeds):
    more = 'ensemble = "seed"\nconsistency = 0.1'
    run_locally(load_config(write_config(seeds, maps=dynamic_map(more))))
    cube = open_cube(seeds / "cube.zarr", "lab").sel(checkpoint=["lab-seed0 and 4 more over seed"])
    kernels = [kernel_of(seeds / f"checkpoints/lab-seed{seed}") for seed in range(4)]
    kernels.append(kernel_of(seeds / "checkpoints/lab-seed4")[[1, 2, 0]])
    low, high = np.quantile(kernels, [0.1, 0.9], axis=0)
    expected = np.where(low * high > 0, np.mean(kernels, axis=0), 0.0)
    assert 0 < np.count_nonzero(expected) < expected.size
    np.testing.assert_allclose(cube.dstrf_mean[0, :, :, :KERNEL], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('ensemble = "animal"', "averages checkpoints that differ in 'animal'"),
        ("consistency = 0.1", "there is no ensemble"),
    ],
)
def test_ensembles_that_cannot_be_made_are_refused(seeds, more, words):
    with pytest.raises(ConfigError, match=words):
        plan_shards(load_config(write_config(seeds, maps=dynamic_map(more))))


@pytest.mark.parametrize(("frames", "short"), [((40, 12), False), ((40, 11), True), ((40, 5), True)])
def test_a_sound_shorter_than_two_windows_is_said(tmp_path, frames, short):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    generator = np.random.default_rng(1)
    sounds = {
        name: generator.normal(size=(BANDS, count)).astype("float32")
        for name, count in zip(("one", "two"), frames, strict=True)
    }
    np.savez(tmp_path / "sounds.npz", **sounds)
    report = run_locally(load_config(write_config(tmp_path, maps=dynamic_map(), lags="6")))
    assert report.failed == 0
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    flags = dict(
        zip(cube.dstrf_health.attrs["flag_meanings"].split(), cube.dstrf_health.attrs["flag_masks"], strict=True)
    )
    assert (((cube.dstrf_health & flags["short_sound"]) > 0) == short).all()
    assert np.isfinite(cube.dstrf_complexity.sel(stimulus="one")).all()
    assert np.isnan(cube.dstrf_complexity.sel(stimulus="two")).all() == (frames[1] < 7)

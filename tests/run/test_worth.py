"""Fits and checks of maps end to end, on models where every number is known, and beside maps that they leave alone."""

import html

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge

from pipeline import load_config, open_cube, run_locally, summarise
from pipeline.gradients.attribution import infidelity
from pipeline.numbers import prediction
from pipeline.plan.config import ConfigError
from pipeline.run.prepare import plan_shards
from tasks.cli import main
from tests.run.lab import (
    BANDS,
    KERNEL,
    NEURONS,
    LabModel,
    entry,
    kernel_of,
    write_config,
    write_pair,
    write_spectrograms,
)

LAGS, FRAMES = 6, 60
STRF = '[maps.strf]\nkind = "strf"\n'
SPOKEN = '[maps.spoken]\nkind = "strf"\nbaseline = "stimuli"\nstimuli = "few.npz"\n'
CHECKS = '[checks]\nfilter_test = "sounds.npz"\nrandomise = true\ninfidelity = true\n'
FITTED = '[fitted]\nstimuli = "sounds.npz"\n'


class Squared(LabModel):
    """A model whose response is the square of a linear one, so that no map tells all."""

    def forward(self, x):
        return super().forward(x).square()


def convolved(kernels, sound):
    """Responses (neuron, time), sample by sample."""
    found = np.zeros((len(kernels), sound.shape[1]))
    for t in range(sound.shape[1]):
        for lag in range(min(t + 1, kernels.shape[-1])):
            found[:, t] += kernels[:, :, lag] @ sound[:, t - lag]
    return found


@pytest.fixture
def lab(tmp_path):
    write_pair(tmp_path, frames=FRAMES)
    write_spectrograms(tmp_path / "few.npz", frames=15)
    return tmp_path


def sounds_of(folder):
    with np.load(folder / "sounds.npz") as sounds:
        return {name: sounds[name].astype(float) for name in ("one", "two")}


def responses_of(kernels, folder):
    """Direct convolution at the frames that a whole window lies before."""
    return np.concatenate([convolved(kernels, sound)[:, LAGS - 1 :] for sound in sounds_of(folder).values()], axis=1)


def write_responses(folder, repeats=None, noise=1.0):
    """Recorded responses: those of the first checkpoint, with noise of their own in every repeat."""
    rng, kernels = np.random.default_rng(3), kernel_of(folder / "checkpoints/lab-0")
    found = {}
    for name, sound in sounds_of(folder).items():
        clean = convolved(kernels, sound)
        shape = clean.shape if repeats is None else (clean.shape[0], repeats, clean.shape[1])
        clean = clean if repeats is None else clean[:, None]
        found[name] = clean + noise * clean.std() * rng.standard_normal(shape)
    np.savez(folder / "responses.npz", **found)
    return found


def test_maps_of_linear_models_predict_everything_and_nothing_is_left_untold(lab):
    assert run_locally(load_config(write_config(lab, maps=STRF + SPOKEN + CHECKS + FITTED))).failed == 0
    cube = open_cube(lab / "cube.zarr", "lab")
    for name in ("strf", "spoken"):
        np.testing.assert_allclose(cube[f"{name}_filter_r"], 1.0, atol=1e-5)
        np.testing.assert_allclose(cube[f"{name}_fitted_r"], 1.0, atol=1e-4)
        assert cube[f"{name}_infidelity"].max() < 1e-6
        assert cube[f"{name}_randomised_r"].dims == ("checkpoint", "neuron", "part")
        assert np.abs(cube[f"{name}_randomised_r"].sel(part="readout")).max() < 0.9
        assert cube[f"{name}_randomised_r"].sel(part=["core", "prefiltering", "rest"]).isnull().all()
    assert cube.fitted_r.min() > 0.99
    for number, label in enumerate(cube.checkpoint.values):
        kernel = np.pad(kernel_of(lab / f"checkpoints/{label}"), ((0, 0), (0, 0), (0, LAGS - KERNEL)))
        np.testing.assert_allclose(cube.fitted[number], kernel, atol=0.05)


def test_the_fit_is_scikit_learns_and_the_filter_test_is_that_of_a_direct_convolution(lab):
    for path in lab.glob("checkpoints/*/config.json"):
        path.write_text(path.read_text().replace("LabModel", "Squared"))
    config = write_config(lab, maps=STRF + CHECKS + FITTED, entries=entry(model_class="tests.run.test_worth.Squared"))
    assert run_locally(load_config(config)).failed == 0
    cube = open_cube(lab / "cube.zarr", "lab")
    windows = prediction.windows_of(list(sounds_of(lab).values()), LAGS)
    for number, label in enumerate(cube.checkpoint.values):
        model = Squared()
        model.load_state_dict(load_file(lab / f"checkpoints/{label}/model.safetensors"))
        with torch.no_grad():
            heard = [
                model.eval()(torch.as_tensor(s).float()[None, None])[0, :, 0].double() for s in sounds_of(lab).values()
            ]
        responses = np.concatenate([one[:, LAGS - 1 :].numpy() for one in heard], axis=1)
        made = responses_of(cube.strf.values[number].astype(float), lab)
        expected = [np.corrcoef(*pair)[0, 1] for pair in zip(made, responses, strict=True)]
        np.testing.assert_allclose(cube.strf_filter_r[number], expected, atol=1e-5)
        for neuron in range(NEURONS):
            penalty = float(cube.fitted_lambda[number, neuron])
            fit = Ridge(penalty).fit(windows.values, responses[neuron])
            found = cube.fitted[number, neuron].values.ravel()
            np.testing.assert_allclose(found, fit.coef_, rtol=1e-5, atol=1e-6 * np.abs(fit.coef_).max())
            weighted = np.corrcoef(windows.values @ fit.coef_, made[neuron])[0, 1]
            assert cube.strf_fitted_r[number, neuron] == pytest.approx(weighted, abs=1e-5)
        untold = infidelity(model, torch.as_tensor(cube.strf.values[number]), torch.zeros(BANDS, LAGS))
        np.testing.assert_allclose(cube.strf_infidelity[number], untold, rtol=1e-3, atol=1e-6)
        assert (cube.strf_infidelity[number] > 1e-4).all()
    page = lab / "page.html"
    assert main(["report", str(lab / "cube.zarr"), "--output", str(page)]) == 0
    told = page.read_text()
    assert "strf: what the maps are worth" in told
    assert "fitted: how well a linear filter predicts the model" in told
    least = float(cube.strf_filter_r.min())
    assert least < 0.8
    assert "predict little of what their neurons do, and should be read with the fitted STRF: n" in told
    assert f": {least:.3g}" in told


def test_recordings_are_fitted_and_predicted_with_their_ceiling(lab):
    recorded = write_responses(lab, repeats=4)
    maps = STRF + '[fitted]\nstimuli = "sounds.npz"\nresponses = "responses.npz"\n'
    assert run_locally(load_config(write_config(lab, maps=maps))).failed == 0
    cube = open_cube(lab / "cube.zarr", "lab")
    repeats = np.concatenate([one[..., LAGS - 1 :] for one in recorded.values()], axis=-1)
    mean = repeats.mean(axis=1)
    windows = prediction.windows_of(list(sounds_of(lab).values()), LAGS)
    np.testing.assert_allclose(cube.fitted_recorded_ceiling[1], prediction.ceiling(repeats), rtol=1e-5)
    fit = prediction.fit_strf(prediction.ridge_basis(windows), mean)
    np.testing.assert_allclose(cube.fitted_recorded_r[0], fit.r, atol=1e-5)
    np.testing.assert_allclose(cube.fitted_recorded[1], fit.maps, atol=1e-5)
    for number, label in enumerate(cube.checkpoint.values):
        own = responses_of(kernel_of(lab / f"checkpoints/{label}"), lab)
        expected = [np.corrcoef(*pair)[0, 1] for pair in zip(own, mean, strict=True)]
        np.testing.assert_allclose(cube.fitted_recorded_model_r[number], expected, atol=1e-5)
        np.testing.assert_allclose(cube.strf_recorded_r[number], expected, atol=1e-5)
    assert (cube.strf_recorded_r[0] > cube.strf_recorded_r[1]).all()


def test_recordings_without_repeats_have_no_ceiling(lab):
    write_responses(lab)
    maps = STRF + '[fitted]\nstimuli = "sounds.npz"\nresponses = "responses.npz"\n'
    assert run_locally(load_config(write_config(lab, maps=maps))).failed == 0
    cube = open_cube(lab / "cube.zarr", "lab")
    assert cube.fitted_recorded_ceiling.isnull().all()
    assert cube.strf_recorded_r.notnull().all()


def test_checks_come_later_by_themselves_and_change_no_byte_of_the_map(lab):
    config = write_config(lab, maps=STRF + SPOKEN)
    run_locally(load_config(config))
    folder = lab / "cube.zarr/lab"
    mine = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "zarr.json"]
    before = {path: path.read_bytes() for path in mine}
    config = write_config(lab, maps=STRF + SPOKEN + CHECKS + FITTED)
    report = run_locally(load_config(config))
    checks = 2 * (2 * 4 + 1)  # four of each map and one fit, of two checkpoints
    assert (report.computed, report.failed) == (checks, 0)
    assert {path: path.read_bytes() for path in before} == before
    assert run_locally(load_config(config)).computed == 0
    assert main(["verify", str(lab / "cube.zarr")]) == 0
    numbers = summarise(open_cube(lab / "cube.zarr", "lab"))
    assert "fitted_latency" in numbers
    page = lab / "page.html"
    assert main(["report", str(lab / "cube.zarr"), "--output", str(page)]) == 0
    assert "No map predicts its neuron's responses with a correlation below 0.8" in html.unescape(page.read_text())
    assert "strf_filter_r" in numbers


def test_no_number_that_is_no_gradient_says_that_it_is_one(lab):
    best = '[maps.best]\nkind = "synthesis"\nsteps = 2\n[maps.parts]\nkind = "integrated"\nstimuli = "few.npz"\n'
    run_locally(load_config(write_config(lab, maps=STRF + best + FITTED)))
    cube = open_cube(lab / "cube.zarr", "lab")
    assert "+d objective / d stimulus" in cube.strf.attrs["sign"]
    for name in ("best", "parts", "fitted"):
        assert "objective / d stimulus" not in cube[name].attrs["sign"]


def test_blocks_of_neurons_change_nothing(lab):
    config = write_config(lab, maps=STRF + CHECKS + FITTED)
    run_locally(load_config(config))
    (lab / "cut.toml").write_text(
        config.read_text().replace("cube.zarr", "blocks.zarr") + f"\n[storage]\nobject_mib = {1 / 2**18}\n"
    )
    assert len(plan_shards(load_config(lab / "cut.toml"))) > len(plan_shards(load_config(config)))
    run_locally(load_config(lab / "cut.toml"))
    whole, cut = (open_cube(lab / f"{name}.zarr", "lab") for name in ("cube", "blocks"))
    for name in ("strf_filter_r", "strf_fitted_r", "strf_infidelity", "strf_randomised_r", "fitted", "fitted_lambda"):
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (STRF + '[maps.strf_filter]\nkind = "strf"\n' + CHECKS, "has the name of what"),
        ('[maps.a]\nkind = "filter_test"\nof = "strf"\nstimuli = "sounds.npz"\n', "of = 'strf' is no map"),
        (STRF + '[fitted]\nstimuli = "sounds.npz"\nmethod = "lasso"\n', "method"),
        (STRF + '[fitted]\nstimuli = "sounds.npz"\nresponses = "none.npz"\n', "none.npz"),
        (STRF + '[checks]\nfilter_test = "tiny.npz"\n', "4 frames, fewer than the 6"),
        (STRF + '[fitted]\nstimuli = "sounds.npz"\nresponses = "few.npz"\n', r"shape \(4, 15\)"),
        (STRF + '[checks]\ninfidelity = true\ncohorts = ["other"]\n', "checks.cohorts names 'other'"),
        (STRF + '[fitted]\nstimuli = "tiny.npz"\nresponses = "responses.npz"\n', "none to short"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_compute(lab, maps, words):
    write_responses(lab)
    np.savez(lab / "tiny.npz", short=np.ones((BANDS, 4)))
    with pytest.raises(ConfigError, match=words):
        plan_shards(load_config(write_config(lab, maps=maps)))
    assert not (lab / "cube.zarr").exists()


def test_maps_that_cannot_be_checked_are_left_out(lab):
    maps = STRF + '[maps.all]\nkind = "strf"\nneurons = "sum"\n[maps.deep]\nkind = "strf"\nspace = "prefiltered"\n'
    shards = plan_shards(
        load_config(write_config(lab, maps=maps + '[checks]\ncohorts = ["lab"]\nfilter_test = "sounds.npz"\n'))
    )
    assert {shard.map for shard in shards} == {"strf", "all", "deep", "strf_filter"}

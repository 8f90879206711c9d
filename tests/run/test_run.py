"""One process, end to end, over models whose maps are known: what is written, continued, extended and refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline import load_config, open_cube, plan_shards, run_locally
from pipeline.plan.config import ConfigError
from pipeline.run import shard
from pipeline.run.kinds import COMPUTE
from tasks.cli import main
from tests.run.lab import (
    BANDS,
    HOP,
    KERNEL,
    NEURONS,
    RATE,
    entry,
    kernel_of,
    write_checkpoint,
    write_config,
    write_sound,
    write_spectrograms,
)


@pytest.fixture
def lab(tmp_path):
    for seed in range(3):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed)
    return tmp_path


def run(config: Path):
    return run_locally(load_config(config))


def expected(folder: Path, lags: int) -> np.ndarray:
    kernel = kernel_of(folder)
    return np.pad(kernel, ((0, 0), (0, 0), (0, max(0, lags - KERNEL))))[..., :lags]


def object_times(store: Path) -> dict[str, int]:
    """When each object of the maps was written."""
    return {
        str(path.relative_to(store)): path.stat().st_mtime_ns
        for path in store.rglob("*")
        if path.is_file() and "/strf/c/" in str(path)
    }


def test_the_cube_holds_every_kernel_under_its_labels(lab):
    report = run(write_config(lab))
    assert (report.done, report.failed, report.pending, report.computed) == (3, 0, 0, 3)
    cube = open_cube(lab / "cube.zarr")
    assert cube.strf.dims == ("checkpoint", "neuron", "frequency", "lag")
    for name in ("lab-0", "lab-1", "lab-2"):
        np.testing.assert_allclose(cube.strf.sel(checkpoint=name), expected(lab / "checkpoints" / name, 6), atol=1e-6)
    np.testing.assert_array_equal(cube.lag, np.arange(6) * 10.0)
    np.testing.assert_array_equal(cube.seed, [0, 1, 2])


def test_maps_and_numbers_are_computed_on_one_thread_whatever_the_process_has(lab, monkeypatch):
    def threads() -> set[int]:
        pools = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        return {torch.get_num_threads(), *(pools[path] for path in loaded)}

    # A library that is loaded later, as scipy's, has threads of its own.
    loaded = [pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    plain, seen = COMPUTE["strf"], []

    def listening(job):
        seen.append(threads())
        return plain(job)

    monkeypatch.setattr(shard, "COMPUTE", {"strf": listening})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, "blas"):
            run(write_config(lab))
            assert threads() == {2}
    finally:
        torch.set_num_threads(before)
    assert seen == [{1}] * 3


def test_neurons_are_matched_by_label_not_by_position(lab):
    write_checkpoint(lab / "checkpoints/lab-3", 3, metadata={"neurons": ["n2", "n0", "n1"]})
    run(write_config(lab))
    maps = open_cube(lab / "cube.zarr").strf.sel(checkpoint="lab-3")
    kernel = expected(lab / "checkpoints/lab-3", 6)
    for position, name in enumerate(["n2", "n0", "n1"]):
        np.testing.assert_allclose(maps.sel(neuron=name), kernel[position], atol=1e-6)


def test_every_baseline_and_objective_of_a_linear_model_is_its_kernel(lab):
    write_spectrograms(lab / "spectrograms.npz", frames=12)
    maps = """
[maps.null]
kind = "strf"
[maps.silent]
kind = "strf"
baseline = "silence"
silence_level = -3.0
[maps.average]
kind = "strf"
baseline = "mean"
stimuli = "spectrograms.npz"
[maps.around]
kind = "strf"
baseline = "stimuli"
stimuli = "spectrograms.npz"
objective = {frame = 8}
[maps.population]
kind = "strf"
neurons = "sum"
"""
    assert run(write_config(lab, maps=maps)).failed == 0
    cube = open_cube(lab / "cube.zarr").sel(checkpoint="lab-1")
    kernel = expected(lab / "checkpoints/lab-1", 6)
    for name in ("null", "silent", "average"):
        np.testing.assert_allclose(cube[name], kernel, atol=1e-6)
    assert cube.around.dims == ("stimulus", "neuron", "frequency", "lag")
    for stimulus in ("one", "two"):
        np.testing.assert_allclose(cube.around.sel(stimulus=stimulus), kernel, atol=1e-6)
    assert (cube.around_frame == 8).all()
    np.testing.assert_allclose(cube.population, kernel.sum(0), atol=1e-5)


def test_a_waveform_map_runs_back_through_the_front_end(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoints/lab-0", 0, hears=True)
    write_sound(tmp_path / "sounds/a.wav", samples=20 * HOP, seed=1)
    write_sound(tmp_path / "sounds/b.wav", samples=30 * HOP, seed=2)
    maps = '[maps.waveform]\nkind = "waveform"\nstimuli = "sounds/*.wav"\nwindow_ms = 60.0\n'
    assert run(write_config(tmp_path, maps=maps)).done == 1
    waveform = open_cube(tmp_path / "cube.zarr").waveform
    assert waveform.dims == ("checkpoint", "stimulus", "neuron", "waveform_lag")
    kernel = kernel_of(folder)  # neuron, frequency = sample of the frame (newest first), lag in frames
    truth = np.zeros((NEURONS, 6, HOP), dtype="float32")
    truth[:, :KERNEL, :BANDS] = kernel.transpose(0, 2, 1)
    for stimulus in ("a", "b"):
        values = waveform.sel(checkpoint="lab-0", stimulus=stimulus).values
        np.testing.assert_allclose(values, truth.reshape(NEURONS, -1), atol=1e-6)
    np.testing.assert_allclose(np.diff(waveform.waveform_lag), 1000.0 / RATE)


def test_maps_with_other_sounds_or_windows_have_axes_of_their_own(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0, hears=True)
    write_sound(tmp_path / "sounds/a.wav")
    write_spectrograms(tmp_path / "spectrograms.npz")
    maps = """
[maps.waveform]
kind = "waveform"
stimuli = "sounds/*.wav"
window_ms = 60.0
[maps.whole]
kind = "waveform"
stimuli = "sounds/*.wav"
[maps.around]
kind = "strf"
baseline = "stimuli"
stimuli = "spectrograms.npz"
"""
    assert run(write_config(tmp_path, maps=maps)).failed == 0
    cube = open_cube(tmp_path / "cube.zarr")
    assert cube.waveform.dims == ("checkpoint", "stimulus", "neuron", "waveform_lag")
    assert cube.whole.dims == ("checkpoint", "stimulus", "neuron", "whole_waveform_lag")
    assert cube.around.dims == ("checkpoint", "around_stimulus", "neuron", "frequency", "lag")


def test_a_second_run_computes_nothing(lab):
    config = write_config(lab)
    run(config)
    before = object_times(lab / "cube.zarr")
    again = run(config)
    assert (again.computed, again.done, again.pending) == (0, 3, 0)
    assert object_times(lab / "cube.zarr") == before


def test_a_stopped_run_continues_where_it_was(lab):
    config = write_config(lab)
    asked = iter([False, True])
    first = run_locally(load_config(config), stop=lambda: next(asked, True))
    assert (first.computed, first.pending, first.stopped) == (1, 2, True)
    cube = open_cube(lab / "cube.zarr")
    assert int((cube.strf_status == 1).all("neuron").sum()) == 1
    assert int(cube.strf.isnull().all(["neuron", "frequency", "lag"]).sum()) == 2
    second = run(config)
    assert (second.computed, second.pending, second.stopped) == (2, 0, False)


def test_a_new_checkpoint_is_appended_and_the_others_are_left_alone(lab):
    config = write_config(lab)
    run(config)
    before = object_times(lab / "cube.zarr")
    # It sorts before the others, and must not push them aside.
    write_checkpoint(lab / "checkpoints/early", 7)
    report = run(config)
    assert (report.computed, report.done) == (1, 4)
    after = object_times(lab / "cube.zarr")
    assert {name: after[name] for name in before} == before
    cube = open_cube(lab / "cube.zarr")
    assert set(cube.checkpoint.values) == {"lab-0", "lab-1", "lab-2", "early"}
    for name in cube.checkpoint.values:
        np.testing.assert_allclose(cube.strf.sel(checkpoint=name), expected(lab / "checkpoints" / name, 6), atol=1e-6)


def test_weights_changed_under_the_same_id_are_refused_by_name(lab, capsys):
    config = write_config(lab)
    run(config)
    write_checkpoint(lab / "checkpoints/lab-1", 99)
    with pytest.raises(ConfigError, match="lab-1"):
        run(config)
    assert main(["run", "--local", str(config)]) == 2
    assert "lab-1" in capsys.readouterr().err


def test_a_store_made_with_other_settings_is_refused(lab):
    run(write_config(lab))
    with pytest.raises(ConfigError, match="lag"):
        run(write_config(lab, lags="9"))


BROKEN = {
    "truncated": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-40]
    ),
    "not-a-number": lambda folder: save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(folder / "model.safetensors").items()},
        folder / "model.safetensors",
    ),
    "pickled": lambda folder: (
        torch.save(torch.nn.Linear(2, 2), folder / "best.pt"),
        (folder / "model.safetensors").unlink(),
    ),
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


def test_broken_checkpoints_fail_alone_with_their_cause_everywhere(lab, capsys):
    for name, damage in BROKEN.items():
        damage(write_checkpoint(lab / f"checkpoints/{name}", 5))
    config = write_config(lab)
    assert main(["run", "--local", str(config)]) == 3
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "4" in last
    assert "exit status 3" in last
    cube = open_cube(lab / "cube.zarr")
    for name in cube.checkpoint.values:
        wanted = 2 if name in BROKEN else 1
        assert (cube.strf_status.sel(checkpoint=name) == wanted).all(), name
    failures = json.loads(cube.attrs["failures"])
    assert set(BROKEN) == {failure["checkpoint"] for failure in failures["entries"]}
    assert {failure["cause"] for failure in failures["entries"]} == {"load"}
    assert main(["status", str(config)]) == 3
    told = capsys.readouterr().out
    for name in BROKEN:
        assert name in told
    # What is broken stays broken: nothing is computed, and the status says so again.
    assert main(["run", "--local", str(config)]) == 3
    # A mended file is taken up without further ado.
    shutil.rmtree(lab / "checkpoints/empty")
    write_checkpoint(lab / "checkpoints/empty", 11)
    assert run(config).computed == 1


def test_a_model_that_fails_when_called_is_quarantined(lab):
    write_checkpoint(lab / "crashing", 1)
    both = entry() + '[[cohort.checkpoints]]\npath = "crashing"\nfactory = "tests.run.lab:crashing_gradient"\n'
    report = run(write_config(lab, entries=both))
    assert (report.done, report.failed) == (3, 1)
    assert report.by_cause == {"compute": 1}
    assert "this model always fails" in report.failures[0].message
    again = run(write_config(lab, entries=both))
    assert (again.computed, again.failed, again.pending) == (0, 1, 0)


def test_a_found_window_holds_the_whole_kernel(lab):
    run(write_config(lab, lags='"auto"'))
    cube = open_cube(lab / "cube.zarr")
    assert cube.sizes["lag"] >= KERNEL
    kernel = expected(lab / "checkpoints/lab-0", cube.sizes["lag"])
    np.testing.assert_allclose(cube.strf.sel(checkpoint="lab-0"), kernel, atol=1e-6)
    again = run(write_config(lab, lags='"auto"'))
    assert again.computed == 0


def test_the_same_numbers_in_smaller_objects(lab):
    run(write_config(lab))
    whole = open_cube(lab / "cube.zarr").strf.load()
    shutil.rmtree(lab / "cube.zarr")
    config = write_config(lab, maps='[maps.strf]\nkind = "strf"\n[storage]\nobject_mib = 0.0001\n')
    assert len(plan_shards(load_config(config))) == 3 * NEURONS
    run(config)
    np.testing.assert_allclose(open_cube(lab / "cube.zarr").strf, whole, rtol=1e-5)


def test_plain_xarray_opens_the_store_whole(lab):
    run(write_config(lab))
    with xr.open_datatree(lab / "cube.zarr", engine="zarr") as tree:
        assert "lab" in tree.children
    with xr.open_zarr(lab / "cube.zarr", group="lab") as cube:
        assert "positive" in cube.attrs["sign"]
        assert cube.strf.attrs["units"]

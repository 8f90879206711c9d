"""A checkpoint that breaks the contract of models falls alone, at `plan` as in a run; one let pass says so."""

import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipeline import load_config, run_locally, strf_summaries
from pipeline.gradients.health.flags import FLAGS
from pipeline.inputs.lab_code import left_behind
from pipeline.run.contract_checks import with_contracts
from pipeline.run.driver import Models
from pipeline.run.prepare import prepare_run
from pipeline.store.reader import open_cube
from pipeline.words import DEGREES, NOT_COMPUTED, flags_of
from tests.run.lab import (
    HOP,
    LabModel,
    entry,
    kernel_of,
    write_checkpoint,
    write_config,
    write_sound,
    write_spectrograms,
)

AROUND = '[maps.around]\nkind = "strf"\nbaseline = "stimuli"\nstimuli = "spectrograms.npz"\nobjective = {frame = 6}\n'


class Shorter(LabModel):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Ahead(LabModel):
    def forward(self, x):
        y = super().forward(x)
        return y.roll(-1, -1)


class Exiting(LabModel):
    def forward(self, x):
        sys.exit(0)


class LaterAhead(LabModel):
    """Hears ahead from frame 300 on."""

    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y[..., :300], y[..., 300:].roll(-1, -1)], dim=-1)


WAITED_FOR = threading.Event()


class HalfDetached(LabModel):
    """Of whose slope the backward pass knows one half."""

    def forward(self, x):
        return super().forward(0.5 * x + 0.5 * x.detach())


class Saturated(LabModel):
    """At its best sound it answers all that it can, where float32 knows nothing of the slope."""

    def forward(self, x):
        return torch.tanh(3 * super().forward(x))


class WithoutLength(LabModel):
    """Neither true nor false, as a compiled module is."""

    def __len__(self):
        raise TypeError("it has no len()")


class Waiting(LabModel):
    def forward(self, x):
        WAITED_FOR.wait()
        return super().forward(x)


class Missing(LabModel):
    def forward(self, x):
        Path("/nowhere/table.csv").read_text()


#: Maps of the other kinds, and what can be asked of maps.
OTHERS = """
[maps.dyn]
kind = "dynamic"
stimuli = "spectrograms.npz"
[maps.path]
kind = "integrated"
stimuli = "spectrograms.npz"
[maps.best]
kind = "synthesis"
steps = 2
"""
JUDGED = """
[maps.strf]
kind = "strf"
[fitted]
stimuli = "spectrograms.npz"
[checks]
filter_test = "spectrograms.npz"
randomise = true
infidelity = true
"""


def mixed(folder, bad, more="", maps='[maps.strf]\nkind = "strf"\n' + AROUND):
    """Two good checkpoints, and a bad one of that class, in one cohort."""
    for name in ("good0", "good1"):
        write_checkpoint(folder / "checkpoints" / name, len(name))
    description = write_checkpoint(folder / "others/bad", 9) / "config.json"
    description.write_text(description.read_text().replace("LabModel", bad))
    entries = entry() + entry("others/*", f"tests.run.test_contract.{bad}")
    write_spectrograms(folder / "spectrograms.npz")
    path = write_config(folder, entries=entries, maps=maps)
    path.write_text(path.read_text().replace("[[cohort.checkpoints]]", f"{more}\n[[cohort.checkpoints]]", 1))
    return load_config(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("Shorter", "response frames"),
        ("Ahead", "hears the future"),
        ("Exiting", r"sys.exit\(0\)|SystemExit"),
        ("Missing", "cannot be called: FileNotFoundError: .*table.csv"),
    ],
)
def test_a_checkpoint_that_breaks_it_falls_alone(tmp_path, bad, message):
    config = mixed(tmp_path, bad)
    planned = with_contracts(prepare_run(config), {})
    assert [one.id for one in planned.cohorts[0].checkpoints if not one.usable] == ["bad"]
    assert all(one.frame_bytes > 0 for one in planned.cohorts[0].checkpoints if one.usable)
    report = run_locally(config)
    assert (report.done, report.failed) == (4, 2)
    assert {(failure.checkpoint, failure.cause) for failure in report.failures} == {("bad", "contract")}
    assert any(re.search(message, failure.message) for failure in report.failures)


@pytest.mark.parametrize("maps", [OTHERS, JUDGED], ids=["kinds", "checks"])
def test_nothing_of_any_kind_is_computed_of_a_model_that_breaks_it(tmp_path, maps):
    report = run_locally(mixed(tmp_path, "Ahead", maps=maps))
    failed = {(failure.checkpoint, failure.cause, failure.message[:5]) for failure in report.failures}
    assert failed == {("bad", "contract", "Ahead")}
    assert report.done == 2 * report.failed


def test_maps_of_any_kind_of_a_model_that_may_hear_ahead_say_so(tmp_path):
    assert run_locally(mixed(tmp_path, "Ahead", "causal = false", OTHERS)).failed == 0
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    for name in ("dyn", "path", "best"):
        flagged = (cube[f"{name}_health"] & FLAGS["hears_the_future"]) > 0
        assert flagged.sel(checkpoint="bad").all()
        assert not flagged.sel(checkpoint=["good0", "good1"]).any()


def test_numbers_of_any_kind_from_a_backward_pass_that_is_not_the_slope_say_so(tmp_path):
    assert run_locally(mixed(tmp_path, "HalfDetached", maps=OTHERS)).failed == 0
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    for name, flag in (
        ("dyn", "finite_difference_off"),
        ("path", "incomplete_path"),
        ("best", "finite_difference_off"),
    ):
        flagged = (cube[f"{name}_health"] & FLAGS[flag]) > 0
        assert flagged.sel(checkpoint="bad").all()
        assert not flagged.sel(checkpoint=["good0", "good1"]).any()


def test_a_neuron_that_is_saturated_at_its_best_sound_is_no_wrong_one(tmp_path):
    maps = '[maps.best]\nkind = "synthesis"\nnorm = 8.0\nsteps = 20\n'
    assert run_locally(mixed(tmp_path, "Saturated", maps=maps)).failed == 0
    assert not (open_cube(tmp_path / "cube.zarr", "lab").best_health & FLAGS["finite_difference_off"]).any()


def test_a_sound_is_heard_as_far_as_its_frames_go(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/late", 0, hears=True)
    write_sound(tmp_path / "sounds/long.wav", samples=400 * HOP)
    maps = '[maps.waveform]\nkind = "waveform"\nstimuli = "sounds/*"\nobjective = {frame = 40}\n'
    entries = entry(model_class="tests.run.test_contract.LaterAhead")
    description = tmp_path / "checkpoints/late/config.json"
    description.write_text(description.read_text().replace("LabModel", "LaterAhead"))
    report = run_locally(load_config(write_config(tmp_path, entries=entries, maps=maps)))
    assert [failure.cause for failure in report.failures] == ["contract"]
    assert re.search("hears the future.* at frame 3", report.failures[0].message)


def test_a_module_that_is_neither_true_nor_false_is_checked_as_any(tmp_path):
    models = Models()
    planned = with_contracts(prepare_run(mixed(tmp_path, "WithoutLength"), models.keep), models.modules)
    assert all(one.usable for one in planned.cohorts[0].checkpoints)


def test_a_forward_that_does_not_come_back_is_left_behind_with_its_like(tmp_path):
    config = mixed(tmp_path, "Waiting")
    write_checkpoint(tmp_path / "others/worse", 10)
    description = tmp_path / "others/worse/config.json"
    description.write_text(description.read_text().replace("LabModel", "Waiting"))
    started = time.monotonic()
    planned = with_contracts(prepare_run(config), {}, deadline_s=1.0)
    assert time.monotonic() - started < 30
    told = {one.id: one.error for one in planned.cohorts[0].checkpoints if not one.usable}
    assert re.search("Waiting has not come back within 1 s .* `class` or `factory`", told["bad"])
    assert re.search("not tried.*'bad'", told["worse"])
    assert sorted(told) == ["bad", "worse"]
    assert left_behind()
    WAITED_FOR.set()
    while left_behind() and time.monotonic() - started < 60:
        time.sleep(0.01)
    assert not left_behind()


def test_a_cohort_that_may_hear_ahead_says_how_much_it_leaves_out(tmp_path):
    report = run_locally(mixed(tmp_path, "Ahead", "causal = false"))
    assert report.failed == 0
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    for name in ("strf", "around"):
        flagged = (cube[f"{name}_health"] & FLAGS["hears_the_future"]) > 0
        assert flagged.sel(checkpoint="bad").all()
        assert not flagged.sel(checkpoint=["good0", "good1"]).any()
    kernel = kernel_of(tmp_path / "others/bad")
    share = np.square(kernel[..., 0]).sum(1) / np.square(kernel).sum((1, 2))
    for stimulus in range(cube.sizes["stimulus"]):
        found = cube["around_future_share"].sel(checkpoint="bad").isel(stimulus=stimulus)
        np.testing.assert_allclose(found, share, rtol=1e-5)


def test_memory_of_a_run_is_that_of_the_numbers(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoints/odd", 0) / "model.safetensors"
    state = load_file(path)
    state["readout.weight"][1, ..., :-1] = 0.0  # anything at one lag only
    state["readout.weight"][2] = 0.0
    save_file(state, path)
    report = run_locally(load_config(write_config(tmp_path)))
    assert report.failures == ()
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    names = ["memory_90", "memory_99", "oldest_share"]
    numbers = strf_summaries(cube["strf"], names)
    for name in names:
        np.testing.assert_allclose(cube[f"strf_{name}"], numbers[name], rtol=1e-6)
        assert np.isnan(cube[f"strf_{name}"].values).tolist() == [[False, True, True]]


def test_a_cube_tells_what_each_flag_means(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/good", 0)
    run_locally(load_config(write_config(tmp_path)))
    told = flags_of(open_cube(tmp_path / "cube.zarr", "lab")["strf_health"].attrs)
    assert {flag.name: flag.bit for flag in told} == {**FLAGS, "not_computed": NOT_COMPUTED}
    assert {flag.degree for flag in told} == set(DEGREES)
    assert all(flag.meaning and flag.threshold and flag.remedy for flag in told)

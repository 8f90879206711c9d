"""What a store remembers of checkpoints is used while nothing that decides them changes, and never after."""

import importlib
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from pipeline import open_cube, run_locally
from pipeline.inputs import learnt
from pipeline.plan.config import RunConfig
from pipeline.run import driver
from pipeline.run.driver import prepare_remembering
from pipeline.store.remembered import PLACE
from tests.inputs.lab import HERE

MODULE = """
import torch
from remembered_layers import scale

def build(path, cells=3):
    from safetensors.torch import load_file
    module = Cells(cells)
    module.load_state_dict(load_file(path + "/model.safetensors"))
    return module.eval()

class Cells(torch.nn.Module):
    def __init__(self, cells):
        super().__init__()
        self.F, self.O = 4, cells
        self.readout = torch.nn.Linear(4, cells)

    def forward(self, x):
        return scale(self.readout(x[:, 0].transpose(1, 2)).transpose(1, 2).unsqueeze(2))
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Three checkpoints of a factory beside the config, which imports a second module."""
    forget()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "remembered_lab.py").write_text(MODULE)
    (tmp_path / "remembered_layers.py").write_text("def scale(x):\n    return x\n")
    for seed in range(3):
        write(tmp_path / f"nets/net-seed{seed}", seed)
    return tmp_path


def forget():
    """Have Python import the lab's modules anew, as the next command does."""
    for name in ("remembered_lab", "remembered_layers", "elsewhere"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def write(folder, seed, cells=3):
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.randn(cells, 4, generator=torch.Generator().manual_seed(seed))
    save_file({"readout.weight": weight, "readout.bias": torch.zeros(cells)}, folder / "model.safetensors")


def config(folder, **entry):
    entry = entry or {"factory": "remembered_lab:build"}
    cohort = {"name": "cells", "frame_ms": 10.0, "lags": 2, "frequencies_hz": [100.0, 200.0, 300.0, 400.0]}
    entries = [{"path": "nets/{architecture}-seed{seed}", **entry}]
    return RunConfig.model_validate(
        {
            "store": "cube.zarr",
            "folder": str(folder),
            "cohort": [{**cohort, "checkpoints": entries}],
            "maps": {"strf": {"kind": "strf"}},
        }
    )


@pytest.fixture
def built(monkeypatch):
    """Locations of the checkpoints that were built to describe them."""
    from pipeline.inputs import checkpoints

    places, build = [], checkpoints._build
    monkeypatch.setattr(
        checkpoints, "_build", lambda files, location, recipe: places.append(location) or build(files, location, recipe)
    )
    return places


def described(folder, built, **entry):
    built.clear()
    forget()
    plan, _ = prepare_remembering(config(folder, **entry))
    return plan, len(built)


@pytest.mark.parametrize("entry", [{}, {"class": f"{HERE}.Cells"}], ids=["factory", "class"])
def test_a_second_start_builds_nothing_and_plans_the_same(lab, built, entry):
    first, count = described(lab, built, **entry)
    assert count == 3
    assert run_locally(config(lab, **entry)).done == 3
    again, count = described(lab, built, **entry)
    assert count == 0
    assert again == first
    written = (lab / "cube.zarr" / PLACE).stat().st_mtime_ns
    assert run_locally(config(lab, **entry)).computed == 0
    assert (lab / "cube.zarr" / PLACE).stat().st_mtime_ns == written


def test_labels_and_scores_are_read_anew(lab, built):
    run_locally(config(lab))
    (lab / "nets/net-seed1/metadata.json").write_text(json.dumps({"cc_test": 0.25, "neurons": ["a", "b", "c"]}))
    plan, count = described(lab, built)
    assert count == 0
    second = plan.cohorts[0].checkpoints[1]
    assert second.scalars == {"cc_test": 0.25, "architecture": "net", "seed": 1, "class": "Cells"}


def content(lab):
    write(lab / "nets/net-seed1", seed=7, cells=5)


def factory(lab):
    source = lab / "remembered_lab.py"
    source.write_text(source.read_text().replace("self.F, self.O = 4, cells", "self.F, self.O = 4, 1 * cells"))


def imported(lab):
    (lab / "remembered_layers.py").write_text("def scale(x):\n    return 2 * x\n")


def shadow(lab):
    (lab / "remembered_lab.py").rename(lab / "elsewhere.py")
    (lab / "remembered_lab").mkdir()
    (lab / "remembered_lab/__init__.py").write_text("from elsewhere import *\n")


def damage(lab):
    place = lab / "cube.zarr" / PLACE
    place.write_bytes(place.read_bytes()[:100])


@pytest.mark.parametrize(("change", "count"), [(content, 1), (factory, 3), (imported, 3), (shadow, 3), (damage, 3)])
def test_what_changed_is_built_again(lab, built, change, count):
    run_locally(config(lab))
    change(lab)
    plan, found = described(lab, built)
    assert found == count
    if change is content:
        assert [one.usable for one in plan.cohorts[0].checkpoints] == [True, False, True]
        assert "size mis" in str(plan.cohorts[0].checkpoints[1].error)


def test_another_version_of_a_package_voids_everything(lab, built, monkeypatch):
    run_locally(config(lab))
    site = lab / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    assert described(lab, built)[1] == 0
    (site / "some_library-2.0.dist-info").mkdir()
    assert described(lab, built)[1] == 3


def test_other_arguments_of_the_entry_are_another_checkpoint(lab, built):
    run_locally(config(lab))
    _, count = described(lab, built, factory="remembered_lab:build", arguments={"cells": 3})
    assert count == 3


def test_a_memory_that_is_wrong_gives_a_failure_and_never_a_number(lab, built):
    """Numbers come from the checkpoint that the worker loads, whatever was remembered of it."""
    plan, _ = described(lab, built)
    known = learnt.Memory()
    driver.prepare_run(config(lab), None, known)
    wrong = {key: learnt.Learnt(**{**vars(one), "n_neurons": 2}) for key, one in known.used.items()}
    plan = driver.prepare_run(config(lab), None, learnt.Memory(known=wrong))
    report = run_locally(plan)
    assert (report.done, report.failed) == (0, 3)


def test_code_that_was_imported_is_told_from_what_is_installed(lab):
    run_locally(config(lab))
    written = json.loads((lab / "cube.zarr" / PLACE).read_text())
    names = {path.rpartition("/")[2] for path in written["code"]}
    assert {"remembered_lab.py", "remembered_layers.py", "checkpoints.py"} <= names
    assert not any("site-packages" in path for path in written["code"])
    assert written["places"]["remembered_lab"] == str(lab / "remembered_lab.py")


def test_the_cube_is_that_of_a_run_that_remembers_nothing(lab):
    run_locally(config(lab))
    write(lab / "nets/net-seed3", 3)
    run_locally(config(lab))
    remembered = open_cube(lab / "cube.zarr").load()
    (lab / "cube.zarr").rename(lab / "old.zarr")
    run_locally(config(lab))
    fresh = open_cube(lab / "cube.zarr").load()
    assert (remembered["strf"].values == fresh["strf"].values).all()
    assert remembered.coords.to_dataset().identical(fresh.coords.to_dataset())

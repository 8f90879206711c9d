"""What a store remembers of checkpoints is used while nothing that decides them changes, and never after."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline import open_cube, run_locally
from pipeline.gradients import window
from pipeline.inputs import checkpoint_memory as learnt
from pipeline.inputs import files, weights
from pipeline.inputs.best_checkpoint import best_of
from pipeline.plan.config import RunConfig
from pipeline.run import driver
from pipeline.run.driver import prepare_remembering
from pipeline.store.checkpoint_cache import PLACE
from tests.inputs.lab import HERE

ROOT = Path(__file__).resolve().parents[2]

OTHER = {"path": "more/net-seed3", "class": f"{HERE}.Cells"}

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


def config(folder, *others, **entry):
    entry = entry or {"factory": "remembered_lab:build"}
    cohort = {"name": "cells", "frame_ms": 10.0, "lags": 2, "frequencies_hz": [100.0, 200.0, 300.0, 400.0]}
    entries = [{"path": "nets/{architecture}-seed{seed}", **entry}, *others]
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

    places, build = [], checkpoints.build
    monkeypatch.setattr(
        checkpoints, "build", lambda files, location, recipe: places.append(location) or build(files, location, recipe)
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
    wrong = {key: learnt.Learnt(**{**vars(one), "n_neurons": 2}) for key, one in known.models.used.items()}
    plan = driver.prepare_run(config(lab), None, learnt.Memory(learnt.Drawer(wrong)))
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


def test_a_finished_run_waits_for_no_torch(lab):
    """Of a second run the whole process is short: what it finds written needs no engine, and no module of the lab."""
    (lab / "run.toml").write_text(
        'store = "cube.zarr"\n[[cohort]]\nname = "cells"\nframe_ms = 10.0\nlags = 2\n'
        'frequencies_hz = [100.0, 200.0, 300.0, 400.0]\n[[cohort.checkpoints]]\nfactory = "remembered_lab:build"\n'
        'path = "nets/{architecture}-seed{seed}"\n[maps.strf]\nkind = "strf"\n'
    )
    # A process of its own: what is remembered holds to every module that was imported, and here are those of all tests.
    subprocess.run([sys.executable, "-m", "tasks", "run", "--local", str(lab / "run.toml")], check=True, cwd=ROOT)
    code = (
        "import sys; from tasks.cli import main;"
        "assert [main(['run', sys.argv[1], *way]) for way in ([], ['--local'])] == [0, 0];"
        "assert not {'torch', 'ray', 'matplotlib', 'remembered_lab'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(lab / "run.toml")], check=True, cwd=ROOT)


def test_code_that_was_not_imported_this_time_still_counts(lab, built):
    """What is remembered of one checkpoint holds to the code that it was learnt with, whatever others needed since."""
    run_locally(config(lab))
    forget()
    write(lab / "more/net-seed3", 3)
    run_locally(config(lab, OTHER))
    assert "remembered_lab" not in sys.modules
    factory(lab)
    assert described(lab, built)[1] == 3


@pytest.fixture
def searches(monkeypatch):
    """Windows that were searched for."""
    found, search = [], window.find_window
    monkeypatch.setattr(window, "find_window", lambda model, **given: found.append(model) or search(model, **given))
    return found


def test_a_window_is_found_once(lab, searches):
    run = config(lab).model_copy(update={"cohort": (config(lab).cohort[0].model_copy(update={"lags": "auto"}),)})
    for _ in range(2):
        assert run_locally(run).done == 3
    assert len(searches) == 1
    write(lab / "nets/net-seed0", seed=9)
    assert prepare_remembering(run)[0].cohorts[0].lags == 1
    assert len(searches) == 2


def test_scores_of_each_neuron_are_read_anew_only_where_the_file_changed(lab, monkeypatch):
    def score(value):
        torch.save({"test": {"cc": torch.full((3,), value)}}, lab / "nets/net-seed1/final_neurons.pt")

    def read():
        count.clear()
        return prepare_remembering(config(lab))[0].cohorts[0].checkpoints[1].per_neuron["test_cc"]

    count, really = [], weights.read_weights
    monkeypatch.setattr(weights, "read_weights", lambda content, path: count.append(path) or really(content, path))
    score(0.25)
    run_locally(config(lab))
    assert (read(), count) == ((0.25,) * 3, [])
    score(0.75)
    assert read() == (0.75,) * 3
    assert len(count) == 1


def test_what_a_file_says_of_the_best_is_remembered_until_it_is_written_again(lab, monkeypatch):
    def write_epoch(epoch, best):
        state = {"monitor": "cc", "best_model_path": f"/there/epoch={best}.ckpt"}
        torch.save({"global_step": epoch, "callbacks": {"best": state}}, lab / f"epoch={epoch}.ckpt")

    def chosen():
        count.clear()
        kept = learnt.recall(json.loads(json.dumps(known.written())))
        return best_of(epochs, "cc", "here", kept), len(count)

    count, really = [], weights.read_records
    monkeypatch.setattr(weights, "read_records", lambda content, path: count.append(path) or really(content, path))
    epochs = [str(lab / f"epoch={epoch}.ckpt") for epoch in range(3)]
    for epoch in range(3):
        write_epoch(epoch, 1)
    known = learnt.Memory()
    best_of(epochs, "cc", "here", known)
    assert chosen() == ([epochs[1]], 3)  # files just written have no time of their own yet
    monkeypatch.setattr(files, "SETTLED_S", 0.0)
    best_of(epochs, "cc", "here", known)
    assert chosen() == ([epochs[1]], 0)
    before = (lab / "epoch=2.ckpt").stat()
    write_epoch(2, 0)
    os.utime(lab / "epoch=2.ckpt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert chosen() == ([epochs[0]], 1)


def test_the_file_of_a_module_is_where_links_lead(tmp_path, monkeypatch):
    real = tmp_path / "real"
    real.mkdir()
    (real / "linked_lab.py").write_text("")
    (real / "plain_lab.py").write_text("")
    (tmp_path / "links").symlink_to(real)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/single_lab.py").symlink_to(real / "linked_lab.py")
    for folder in ("links", "alone"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    for name in ("plain_lab", "single_lab"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    found = learnt._files_of_modules()
    assert found["plain_lab"] == os.path.realpath(real / "plain_lab.py")
    assert found["single_lab"] == os.path.realpath(real / "linked_lab.py")
    ours = {name: path for name, path in found.items() if name.startswith("pipeline.")}
    assert ours == {name: os.path.realpath(sys.modules[name].__file__) for name in ours}

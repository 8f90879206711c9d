"""A lab's folder that holds modules under our names, or numpy's, and the order in which folders are searched."""

import os
import subprocess
import sys

import pytest

from tasks.importing import import_ours, put_last, searched_first
from tests.tasks.trouble import GRADMAP, files_of, lab_with_our_names


def gradmap(folder, *words, **environment):
    """What a command prints that is given in a folder."""
    done = subprocess.run(
        [GRADMAP, *words], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def lab(tmp_path):
    """Such a folder; its file numpy.py would break Ray itself in a submitted job, but not a Ray of our own."""
    folder = lab_with_our_names(tmp_path)
    (folder / "numpy.py").write_text("raise RuntimeError('the numpy of the lab was imported')\n")
    return folder


def test_modules_of_our_names_stand_in_the_way_neither_here_nor_on_ray(lab, tmp_path):
    store = tmp_path / "cube.zarr"
    searched = {"PYTHONPATH": str(lab)}  # as Ray sets it for a submitted job
    assert gradmap(lab, "run", "--local", "run.toml").startswith("gradmap: everything written: 6 shards")
    store.rename(tmp_path / "alone.zarr")
    last = gradmap(tmp_path, "run", "lab/run.toml", **searched)
    assert last.startswith("gradmap: everything written: 6 shards")
    assert files_of(store) == files_of(tmp_path / "alone.zarr")


def test_a_module_in_the_folder_of_the_config_is_found_from_anywhere(lab, tmp_path):
    assert gradmap("/", "plan", str(lab / "run.toml")).startswith("gradmap: ready to run: 6 shards")


def test_folders_that_are_put_last_come_after_all_others_in_their_order(monkeypatch, tmp_path):
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    for folder in (one, two, other):
        folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(two), str(other)])
    monkeypatch.chdir(one)
    put_last([str(two), ".", str(tmp_path / "missing")])
    assert sys.path == [str(other), str(two), str(one)]
    put_last([str(one)])
    assert sys.path == [str(other), str(two), str(one)]


def test_our_packages_are_found_past_a_folder_that_offers_others(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]
    (tmp_path / "tasks.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = list(sys.path)
    import_ours()
    assert sys.modules["tasks"].__path__
    assert sys.path == before


def test_a_path_of_pythons_own_variable_loses_what_is_searched_last(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/one", ".", str(tmp_path), "", "/two"]))
    assert searched_first(["."]) == f"/one{os.pathsep}/two"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert searched_first(["."]) is None
    monkeypatch.delenv("PYTHONPATH")
    assert searched_first(["."]) is None

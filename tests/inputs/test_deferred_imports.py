"""Modules that are hardly ever called are loaded when they are called, and are themselves for everybody else."""

import subprocess
import sys

import pytest

from pipeline.inputs.deferred_imports import put_off

BY_DEEPSTRF = """
import sys
import torch
from pipeline.inputs.named_code import deepstrf_classes, import_named
zoo = deepstrf_classes()
import_named("deepSTRF.models.wav2spec.CausalMelSpectrogram", "class")
assert not {"matplotlib", "matplotlib.pyplot", "scipy.signal"} & set(sys.modules), "loaded too early"
lmu = zoo["StateNet"](n_frequency_bands=16, out_neurons=2, rnn_type="LMU").eval()
assert torch.isfinite(lmu(torch.randn(1, 1, 16, 9))).all()
assert "scipy.signal" in sys.modules
from deepSTRF.models import prefiltering
import matplotlib.pyplot
assert prefiltering.plt.figure is matplotlib.pyplot.figure and matplotlib.pyplot.rcParams
"""


def test_deepstrf_loads_what_it_draws_with_when_it_draws():
    subprocess.run([sys.executable, "-c", BY_DEEPSTRF], check=True)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "heavy_thing.py").write_text("LOADED = True\ndef double(x, *, times=2):\n    return times * x\n")
    (tmp_path / "light_lab.py").write_text("import heavy_thing\nfrom heavy_thing import double\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("heavy_thing", "light_lab"):
        sys.modules.pop(name, None)


def test_a_function_loads_its_module_when_it_is_called(lab):
    with put_off("heavy_thing"):
        import light_lab
    assert "heavy_thing" not in sys.modules
    assert light_lab.double(4, times=3) == 12
    assert sys.modules["heavy_thing"].LOADED
    assert light_lab.heavy_thing.LOADED
    assert light_lab.heavy_thing.double is sys.modules["heavy_thing"].double


def test_a_module_that_is_there_is_taken_as_it_is(lab):
    import heavy_thing

    with put_off("heavy_thing"):
        import light_lab
    assert light_lab.heavy_thing is heavy_thing
    assert light_lab.double is heavy_thing.double
    assert sys.modules["heavy_thing"] is heavy_thing


def test_an_import_that_fails_leaves_nothing_behind(lab):
    with pytest.raises(ModuleNotFoundError), put_off("heavy_thing"):
        import no_such_thing_at_all  # noqa: F401
    import heavy_thing

    assert heavy_thing.LOADED

"""Recipes that do not fit the files: refused before anything is computed, with what to write instead."""

import json
import sys

import pytest
import torch
from torch import nn

from pipeline.inputs.checkpoints import CheckpointError, load_checkpoint
from pipeline.plan.config import ConfigError
from tests.inputs.lab import (
    HERE,
    Cells,
    cells,
    describe_checkpoint,
    refused,
    save_best,
    save_deepstrf,
    save_folder,
    seeded,
    source,
)

CELLS = f"{HERE}.Cells"
CONFIG = {"_model_class": "Cells", "n_bands": 4, "n_cells": 3}
SMALL = {"n_frequency_bands": 8, "out_neurons": 2}


def message(folder, **entry) -> str:
    with pytest.raises(ConfigError) as refusal:
        describe_checkpoint(source(folder, "cohort 'x': checkpoints[2]", **entry))
    assert "cohort 'x': checkpoints[2]" in str(refusal.value)
    return str(refusal.value)


def alone(folder, **entry) -> str:
    """Why a checkpoint fails alone, with the entry that it belongs to."""
    text = refused(describe_checkpoint(source(folder, "cohort 'x': checkpoints[2]", **entry)))
    assert "cohort 'x': checkpoints[2]" in text
    return text


# What save_pretrained drops


def test_a_linear_model_with_a_sigmoid_does_not_pass_as_one_without(tmp_path):
    trained = save_deepstrf(tmp_path / "net", "Linear", output_activation=nn.Sigmoid(), **SMALL)
    text = message(tmp_path / "net")
    assert "does not record output_activation of Linear" in text
    assert "[cohort.checkpoints.modules.output_activation]" in text
    spec = {"output_activation": {"class": "torch.nn.Sigmoid"}}
    model = load_checkpoint(source(tmp_path / "net", modules=spec))
    stimulus = torch.randn(1, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(stimulus), trained(stimulus))


def test_every_dropped_module_is_named_with_an_example(tmp_path):
    from tests.zoo import FRONT_ENDS

    front_end = FRONT_ENDS["mel"]()
    save_deepstrf(tmp_path / "net", "Linear", n_frequency_bands=16, wav2spec=front_end, output_activation=nn.Tanh())
    text = message(tmp_path / "net")
    assert "output_activation, wav2spec of Linear" in text
    assert '[cohort.checkpoints.modules.wav2spec]\nclass = "deepSTRF.models.wav2spec.CausalMelSpectrogram"' in text
    text = message(tmp_path / "net", modules={"output_activation": {"class": "torch.nn.Tanh"}})
    assert "does not record wav2spec of Linear" in text


def test_a_dropped_argument_that_is_no_module_may_be_given_as_one(tmp_path):
    save_deepstrf(tmp_path / "net", "StateNet", **SMALL)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    del config["stride"]
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    assert "does not record stride" in message(tmp_path / "net")
    assert describe_checkpoint(source(tmp_path / "net", arguments={"stride": 3})).error is None


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ({"class": f"{HERE}.Cels"}, "Cells"),
        ({"class": f"{HERE}.Cells", "arguments": {"n_cell": 3}}, "n_cells"),
        ({"class": f"{HERE}.Cells", "modules": {"activaton": {"class": "torch.nn.ReLU"}}}, "activation"),
        ({"class": f"{HERE}.Cells", "modules": {"activation": {"class": "torch.nn.LeakyReLU", "negslope": 1}}},
         "negative_slope"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_asked_for_by_the_one_that_was_meant(tmp_path, entry, meant):
    torch.save(cells().state_dict(), tmp_path / "net.pt")
    assert f"did you mean {meant!r}?" in message(tmp_path / "net.pt", **entry)


# Weights that do not fit


def test_a_wrong_module_is_named_with_the_weights_that_differ(tmp_path):
    save_deepstrf(tmp_path / "net", "StateNet", output_activation=nn.Identity(), **SMALL)
    spec = {"output_activation": {"class": "deepSTRF.models.activations.ParametricSoftplus", "num_features": 2}}
    text = alone(tmp_path / "net", modules=spec)
    assert "the file lacks readout.activation" in text
    assert "change the entry's module output_activation" in text
    assert "[cohort.checkpoints.modules.output_activation]" in text


def test_a_module_that_a_bare_state_dict_needs_is_named(tmp_path):
    save_best(tmp_path / "net", seeded(lambda: Cells(activation=nn.PReLU(3))))
    text = alone(tmp_path / "net", **{"class": CELLS})
    assert "the file has activation.weight beyond the model's own" in text
    assert "add the entry's module activation, for example\n[cohort.checkpoints.modules.activation]" in text


def test_wrong_arguments_are_refused_with_both_shapes(tmp_path):
    save_best(tmp_path / "net", cells(n_cells=5))
    text = alone(tmp_path / "net", **{"class": CELLS, "arguments": {"n_cells": 3}})
    assert "readout.weight is 5x4 in the file and 3x4 in the model" in text
    assert "mend the entry's class and arguments" in text


def test_files_that_contradict_each_other_fail_alone(tmp_path):
    """Where config.json records everything and the config says nothing, the config cannot be at fault."""
    save_deepstrf(tmp_path / "a", "Linear", **SMALL)
    save_deepstrf(tmp_path / "b", "Linear", **{**SMALL, "out_neurons": 3})
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    checkpoint = describe_checkpoint(source(tmp_path / "a"))
    assert "the two files are not of one model; save it again" in refused(checkpoint)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a")


# Names and arguments


def test_a_bare_state_dict_without_a_class_is_refused(tmp_path):
    save_best(tmp_path / "net", cells())
    text = message(tmp_path / "net")
    assert "does not say which class its weights belong to" in text
    assert 'class = "deepSTRF.models.audio.StateNet"' in text


def test_a_folder_whose_config_json_is_gone_fails_alone(tmp_path):
    save_folder(tmp_path / "net", cells(), None)
    assert "has no config.json beside its model.safetensors" in refused(describe_checkpoint(source(tmp_path / "net")))


def test_a_class_that_another_one_wrote_is_refused(tmp_path):
    save_deepstrf(tmp_path / "net", "Linear", **SMALL)
    text = message(tmp_path / "net", **{"class": "deepSTRF.models.audio.LinearNonlinear"})
    assert "was written by 'Linear'" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_lab.Model", "there is no module 'no_such_lab'"),
        ("no_such_lab.models.Model", "there is no module 'no_such_lab'"),
        (f"{HERE}.NoSuchClass", "has no 'NoSuchClass'"),
        (f"{HERE}.no_such_module.Class", "has no 'no_such_module'"),
        (f"{HERE}.build", "is no subclass of torch.nn.Module"),
        ("os.system", "is no subclass of torch.nn.Module"),
        ("tests.inputs.broken_lab.Model", "fails with RuntimeError: the GPU of this lab is on fire"),
        ("tests.inputs.unfinished_lab.Model", "needs the module 'a_package_nobody_has'"),
        ("deepSTRF.models.audio.NoSuchNet", "has no 'NoSuchNet'"),
    ],
)
def test_a_class_that_cannot_be_imported_is_refused(tmp_path, name, reason):
    save_best(tmp_path / "net", cells())
    text = message(tmp_path / "net", **{"class": name})
    assert f"class = {name!r}" in text
    assert reason in text


def test_a_key_of_modules_that_the_constructor_lacks_is_refused_with_its_parameters(tmp_path):
    save_deepstrf(tmp_path / "net", "StateNet", **SMALL)
    text = message(tmp_path / "net", modules={"activation": {"class": "torch.nn.Identity"}})
    assert "modules has activation, but StateNet is built with n_frequency_bands" in text
    assert "output_activation" in text


def test_a_key_of_arguments_that_the_constructor_lacks_is_refused_with_its_parameters(tmp_path):
    save_best(tmp_path / "net", cells())
    text = message(tmp_path / "net", **{"class": CELLS, "arguments": {"n_neurons": 3}})
    assert "arguments has n_neurons, but Cells is built with n_bands, n_cells, activation" in text


def test_a_name_in_arguments_and_in_modules_is_refused(tmp_path):
    save_best(tmp_path / "net", cells())
    entry = {"class": CELLS, "arguments": {"activation": 1}, "modules": {"activation": {"class": "torch.nn.ReLU"}}}
    assert "activation stands in arguments and in modules" in message(tmp_path / "net", **entry)


def test_a_required_argument_is_asked_for(tmp_path):
    save_best(tmp_path / "net", cells())
    text = message(tmp_path / "net", **{"class": f"{HERE}.HearingCells"})
    assert "cannot be built" in text
    assert "without wav2spec" in text
    assert "arguments = {wav2spec = ...}" in text


def test_a_module_that_cannot_be_built_is_refused_with_its_reason(tmp_path):
    save_best(tmp_path / "net", cells())
    spec = {"activation": {"class": "torch.nn.Linear", "in_features": "three", "out_features": 3}}
    text = message(tmp_path / "net", **{"class": CELLS, "modules": spec})
    assert "modules.activation: torch.nn.Linear cannot be built with" in text
    spec = {"activation": {"class": "torch.nn.ReLU", "slope": 0.1}}
    text = message(tmp_path / "net", **{"class": CELLS, "modules": spec})
    assert "modules.activation has slope, but torch.nn.ReLU is built with inplace" in text


def test_a_front_end_with_other_bands_is_refused_with_deepstrfs_reason(tmp_path):
    from tests.zoo import FRONT_ENDS

    save_deepstrf(tmp_path / "net", "Linear", n_frequency_bands=16, wav2spec=FRONT_ENDS["mel"]())
    spec = {"class": "deepSTRF.models.wav2spec.CausalMelSpectrogram", "audio_fs": 8000, "n_mels": 20, "hop_ms": 10.0}
    spec |= {"win_ms": 20.0, "f_max": 3800.0}
    text = message(tmp_path / "net", modules={"wav2spec": spec})
    assert "Linear cannot be built" in text
    assert "wav2spec.out_channels (20) must equal n_frequency_bands (16)" in text


def test_modules_nest(tmp_path):
    """An argument that is a table with a class is a module too, at any depth."""
    trained = seeded(lambda: Cells(activation=nn.ReLU()))
    save_best(tmp_path / "net", trained)
    spec = {"activation": {"class": f"{HERE}.Wrapper", "inner": {"class": "torch.nn.LeakyReLU", "negative_slope": 0.5}}}
    model = load_checkpoint(source(tmp_path / "net", **{"class": CELLS, "modules": spec}))
    assert model.activation.inner.negative_slope == 0.5
    spec = {"activation": {"class": f"{HERE}.Wrapper", "inner": {"class": "ReLU"}}}
    assert "modules.activation.inner" in message(tmp_path / "net", **{"class": CELLS, "modules": spec})


def test_a_config_json_that_records_strange_arguments_fails_alone(tmp_path):
    save_deepstrf(tmp_path / "net", "Linear", **SMALL)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps({**config, "n_layers": 3}))
    assert "records n_layers, which Linear is not built with" in refused(describe_checkpoint(source(tmp_path / "net")))


def test_a_config_json_that_cannot_be_built_fails_alone(tmp_path):
    save_deepstrf(tmp_path / "net", "Linear", **SMALL)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps({**config, "out_neurons": "many"}))
    assert "Linear cannot be built" in refused(describe_checkpoint(source(tmp_path / "net")))


# Without deepSTRF


@pytest.fixture
def without_deepstrf(monkeypatch):
    from pipeline.inputs.named_code import deepstrf_classes

    deepstrf_classes.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "deepSTRF"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deepSTRF", None)  # what Python itself takes for "not there"
    yield
    deepstrf_classes.cache_clear()


def test_a_checkpoint_of_deepstrf_without_deepstrf_names_the_extra(tmp_path, without_deepstrf):
    save_folder(tmp_path / "net", cells(), {"_model_class": "Linear"})
    assert "pip install 'gradmap-pipeline[deepstrf]'" in message(tmp_path / "net")
    text = message(tmp_path / "net", **{"class": "deepSTRF.models.audio.Linear"})
    assert "pip install 'gradmap-pipeline[deepstrf]'" in text


def test_a_labs_own_model_needs_no_deepstrf(tmp_path, without_deepstrf):
    save_folder(tmp_path / "net", cells(), CONFIG)
    assert describe_checkpoint(source(tmp_path / "net", **{"class": CELLS})).error is None

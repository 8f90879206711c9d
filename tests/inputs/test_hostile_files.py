"""Broken and hostile checkpoints: each fails alone with its cause, and nothing that it holds is run or imported."""

import io
import json
import os
import pickle
import struct
import sys
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.inputs import files, metadata
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


def failure(location) -> str:
    """Why a checkpoint fails alone; loading it says the same."""
    entry = source(location, **{"class": CELLS})
    text = refused(describe_checkpoint(entry))
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(entry)
    assert str(refusal.value) == text
    assert len(text) < 1200
    assert text.isprintable()
    return text


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


# Nothing is run, nothing is imported


@pytest.mark.parametrize("inside", ["a state_dict", "a whole model", "nothing"])
def test_a_pickled_object_is_refused_and_nothing_in_it_runs(tmp_path, inside):
    trap = tmp_path / "sprung"
    folder = save_best(tmp_path / "net", cells())
    content = {
        "a state_dict": {**cells().state_dict(), "extra": Trap(trap)},
        "a whole model": cells(),
        "nothing": Trap(trap),
    }[inside]
    torch.save(content, folder / "best.pt")
    text = failure(folder)
    assert "holds a pickled object" in text
    assert "unpickling it could run any code" in text
    assert "weights_only" not in text  # torch's own message advises to turn the protection off
    assert not trap.exists()


def test_the_pickled_class_is_named(tmp_path):
    folder = save_best(tmp_path / "net", cells())
    torch.save(cells(), folder / "best.pt")
    assert f"({HERE}.Cells)" in failure(folder)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_bare_pickle_is_refused_and_nothing_in_it_runs(tmp_path, protocol):
    trap = tmp_path / "sprung"
    (tmp_path / "best.pt").write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
    assert "is no archive of torch.save" in failure(tmp_path / "best.pt")
    assert not trap.exists()


def test_a_file_of_torch_before_the_archives_is_refused(tmp_path):
    torch.save(cells().state_dict(), tmp_path / "best.pt", _use_new_zipfile_serialization=False)
    assert "a version before torch 1.6" in failure(tmp_path / "best.pt")


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "best.pt", "w") as archive:
        archive.writestr("best/constants.pkl", b"")
        archive.writestr("best/data.pkl", b"")
    assert "is a TorchScript program" in failure(tmp_path / "best.pt")


@pytest.mark.parametrize(
    "name", ["tests.inputs.booby.Trap", "booby.Trap", "os.system", "Linear.__init__", "AudioEncodingModel"]
)
def test_a_class_that_only_config_json_names_is_never_imported(tmp_path, name, monkeypatch):
    (tmp_path / "booby.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    save_folder(tmp_path / "net", cells(), {"_model_class": name})
    with pytest.raises(ConfigError, match=r"not one of deepSTRF's own \(Linear, LinearNonlinear"):
        describe_checkpoint(source(tmp_path / "net"))
    assert not (tmp_path / "sprung").exists()
    assert "booby" not in sys.modules


def test_a_class_inside_config_json_stays_a_plain_argument(tmp_path):
    save_folder(tmp_path / "net", cells(), {**CONFIG, "activation": {"class": "torch.nn.ReLU"}})
    model = load_checkpoint(tmp_path / "net", class_name=CELLS)
    assert model.activation == {"class": "torch.nn.ReLU"}


def test_a_model_class_that_is_no_name_fails_alone(tmp_path):
    save_folder(tmp_path / "net", cells(), {"_model_class": ["Linear"]})
    assert "has a list as _model_class" in refused(describe_checkpoint(source(tmp_path / "net")))


# Broken weights


def test_an_empty_folder_fails_alone(tmp_path):
    (tmp_path / "net").mkdir()
    assert "net is empty, so it has no weights" in failure(tmp_path / "net")


def test_a_folder_without_weights_fails_alone_and_says_what_it_holds(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "history.json").write_text("{}")
    assert "holds history.json, so it has no weights" in failure(tmp_path / "net")


def test_a_missing_folder_fails_alone(tmp_path):
    assert "cannot be read (FileNotFoundError" in failure(tmp_path / "nowhere")
    assert "cannot be read (FileNotFoundError" in failure(tmp_path / "nowhere" / "best.pt")


def test_a_file_that_may_not_be_read_fails_alone(tmp_path, monkeypatch):
    save_folder(tmp_path / "net", cells(), CONFIG)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "net" / "model.safetensors").chmod(0)
    assert "PermissionError" in failure(tmp_path / "net")


@pytest.mark.parametrize("keep", [0, 4, 7, 60, -1, -20])
def test_safetensors_that_are_cut_off_fail_alone(tmp_path, keep):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    assert "is empty" in failure(folder) if keep == 0 else "no readable safetensors file" in failure(folder)


def test_noise_instead_of_safetensors_fails_alone(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    assert "its header claims" in failure(folder)


@pytest.mark.parametrize("header", [2**63 - 1, 17 * 2**20])
def test_a_huge_safetensors_header_is_refused_before_it_is_read(tmp_path, header):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", header))
        file.truncate(18 * 2**20)
    assert "its header claims" in failure(folder)


@pytest.mark.parametrize("keep", [0, 10, 300, -1, -50])
def test_a_torch_file_that_is_cut_off_fails_alone(tmp_path, keep):
    folder = save_best(tmp_path / "net", cells())
    content = (folder / "best.pt").read_bytes()
    (folder / "best.pt").write_bytes(content[:keep])
    assert failure(folder)


def test_a_damaged_pickle_inside_a_torch_file_fails_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "best.pt", "w") as archive:
        archive.writestr("best/data.pkl", b"\x80\x02garbage.")
        archive.writestr("best/version", b"3\n")
    assert "best.pt" in failure(tmp_path / "best.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_number_that_is_not_finite_is_named_by_its_parameter(tmp_path, value, kind):
    model = cells()
    with torch.no_grad():
        model.readout.weight[1, 2] = value
    folder = (
        save_folder(tmp_path / "net", model, CONFIG) if kind == "safetensors" else save_best(tmp_path / "net", model)
    )
    text = failure(folder)
    assert "readout.weight holds 1 of 12 numbers that are NaN or infinite" in text


def test_a_buffer_that_is_nan_is_named_too(tmp_path):
    model = seeded(lambda: Cells(activation=nn.BatchNorm1d(4)))
    model.activation.running_var[0] = float("nan")
    save_best(tmp_path / "net", model)
    modules = {"activation": {"class": "torch.nn.BatchNorm1d", "num_features": 4}}
    text = refused(describe_checkpoint(source(tmp_path / "net", **{"class": CELLS, "modules": modules})))
    assert "activation.running_var holds 1 of 4" in text


def test_a_snapshot_without_a_state_dict_names_the_keys_that_cure_it(tmp_path):
    torch.save({"epoch": 3, "history": [1.0]}, tmp_path / "best.pt")
    text = failure(tmp_path / "best.pt")
    assert "holds epoch, history, which are no tensors" in text
    assert 'state_dict = "model"' in text
    assert "`factory`" in text


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}])
def test_a_torch_file_of_something_else_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "best.pt")
    assert "no" in failure(tmp_path / "best.pt")


def test_a_tensor_that_the_file_does_not_hold_in_full_is_refused(tmp_path):
    repeated = {**cells().state_dict(), "bomb": torch.zeros(1).expand(2**40)}
    torch.save(repeated, tmp_path / "best.pt")
    assert "bomb is a tensor of shape (1099511627776,) that the file" in failure(tmp_path / "best.pt")
    torch.save({"sparse": torch.eye(3).to_sparse()}, tmp_path / "best.pt")
    assert "sparse is a tensor of shape (3, 3)" in failure(tmp_path / "best.pt")


def test_a_torch_file_that_grows_when_unpacked_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2**18)}, tmp_path / "best.pt")
    packed = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "best.pt") as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as tight:
        for entry in archive.infolist():
            tight.writestr(entry.filename, archive.read(entry))
    (tmp_path / "best.pt").write_bytes(packed.getvalue())
    assert "which torch.save never writes" in failure(tmp_path / "best.pt")


def test_sizes_that_would_exhaust_the_memory_are_compared_with_the_weights_first(tmp_path):
    save_deepstrf(tmp_path / "net", "Linear", n_frequency_bands=8)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps({**config, "out_neurons": 10**9}))
    assert "the two files are not of one model" in refused(describe_checkpoint(source(tmp_path / "net")))


# Broken JSON


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not readable JSON"),
        (b"\xff\xfe\x00", "is not readable JSON"),
        (b"", "is not readable JSON"),
        (b"[1, 2]", "holds a JSON list, not an object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"n_cells": ' + b"9" * 10_000 + b"}", "is not readable JSON"),
    ],
)
def test_broken_json_fails_alone(tmp_path, content, reason):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    (folder / "config.json").write_bytes(content)
    assert reason in failure(folder)


def test_broken_metadata_fails_alone_and_the_rest_is_told(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    (folder / "metadata.json").write_text("{")
    checkpoint = describe_checkpoint(source(folder, **{"class": CELLS}))
    assert "metadata.json is not readable JSON" in refused(checkpoint)
    assert (checkpoint.model_class, checkpoint.n_neurons) == ("Cells", 3)


@pytest.mark.parametrize("name", ["config.json", "metadata.json"])
def test_json_beyond_its_limit_is_not_read(tmp_path, name):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    with open(folder / name, "wb") as file:
        file.truncate(files.JSON_BYTES + 1)
    text = refused(describe_checkpoint(source(folder, **{"class": CELLS})))
    assert "has 16,777,217 bytes, more than the 16,777,216 that a file of its kind may have" in text


def test_metadata_that_would_flood_the_cube_is_refused(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG, {f"key{index}": index for index in range(300)})
    text = refused(describe_checkpoint(source(folder, **{"class": CELLS})))
    assert "has 300 scalars and lists of numbers" in text


@pytest.mark.parametrize("lists", [0, 100])
def test_as_many_metadata_as_the_cube_can_take_are_taken(tmp_path, lists):
    numbers = {f"list{index}": [1.0, None, 3.0] for index in range(lists)}
    scalars = {f"key{index}": index for index in range(metadata.ENTRIES - lists)}
    folder = save_folder(tmp_path / "net", cells(), CONFIG, numbers | scalars)
    checkpoint = describe_checkpoint(source(folder, **{"class": CELLS}))
    assert checkpoint.error is None
    assert len(checkpoint.scalars) == len(scalars) + 1  # and the class
    assert len(checkpoint.per_neuron) == lists
    save_folder(folder, cells(), CONFIG, numbers | scalars | {"one_more": 1})
    assert f"has {metadata.ENTRIES + 1} scalars" in refused(describe_checkpoint(source(folder, **{"class": CELLS})))


def test_what_metadata_have_no_place_for_is_named(tmp_path):
    left_out = {
        "optimiser": {"lr": 0.1},
        "cc_test": [0.1, 0.2],
        "layers": ["a", "b", "c"],
        "prose": "x" * 2000,
        "": 1,
        "a b": 1,
        "a_b": 2,
    }
    folder = save_folder(tmp_path / "net", cells(), CONFIG, {"seed": 3, "augmented": True, **left_out})
    checkpoint = describe_checkpoint(source(folder, **{"class": CELLS}))
    assert {name: type(value) for name, value in checkpoint.scalars.items()} == {
        "seed": int,
        "augmented": bool,
        "a_b": int,
        "class": str,
    }
    assert set(checkpoint.notes) == {
        "metadata.json: 'optimiser' is a table; left out",
        "metadata.json: 'cc_test' has 2 entries where the model has 3 neurons; left out",
        "metadata.json: 'layers' is a list of other things than numbers; left out",
        "metadata.json: 'prose' is a text of 2,000 characters; left out",
        "metadata.json: '' is no name that a coordinate can have; left out",
        "metadata.json: 'a_b' becomes 'a_b', as another entry does; left out",
    }


# Any damage at all


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_damaged_the_description_says_so_or_describes_another_model(tmp_path_factory, data):
    """Bytes overwritten, cut out or added anywhere in any file end in a message, never in another exception."""
    folder = tmp_path_factory.mktemp("damaged") / "net"
    save_folder(folder, cells(), CONFIG, {"neurons": ["a", "b", "c"], "cc": [1, 2, 3]})
    if data.draw(st.booleans(), label="as best.pt"):
        (folder / "model.safetensors").unlink()
        save_best(folder, cells())
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 64)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=64)) + content[stop:])
    entry = source(folder, **{"class": CELLS})
    found = outcome(entry)
    if path.read_bytes() == content:
        assert found.error is None
    message = found if isinstance(found, str) else found.error
    assert message is None or folder.name in message


def outcome(entry):
    try:
        return describe_checkpoint(entry)
    except ConfigError as error:  # a name or a shape in a file that is otherwise intact: the entry's class may be wrong
        return str(error)


# Links and pipes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "metadata.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    folder = save_folder(tmp_path / "net", cells(), CONFIG, {"seed": 1})
    outside = tmp_path / "secret"
    (folder / name).replace(outside)
    (folder / name).symlink_to(outside)
    text = refused(describe_checkpoint(source(folder, **{"class": CELLS})))
    assert f"{folder / name} is a link that leads out of its folder" in text


def test_a_link_inside_the_folder_and_a_link_to_the_folder_are_followed(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    (folder / "model.safetensors").replace(folder / "epoch12.safetensors")
    (folder / "model.safetensors").symlink_to("epoch12.safetensors")
    (tmp_path / "alias").symlink_to(folder)
    assert describe_checkpoint(source(tmp_path / "alias", **{"class": CELLS})).error is None


def test_a_pipe_instead_of_weights_does_not_wait_for_ever(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    text = refused(describe_checkpoint(source(folder, **{"class": CELLS})))
    assert "is no ordinary file" in text


def test_a_folder_called_like_weights_fails_alone(tmp_path):
    (tmp_path / "net" / "best.pt").mkdir(parents=True)
    assert "IsADirectoryError" in failure(tmp_path / "net")

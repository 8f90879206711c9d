"""Are the numbers of the file in the model? Names, kinds and storages of weights, and factories that pass over them."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.inputs.checkpoints import CheckpointError, describe_checkpoints, load_checkpoint
from pipeline.plan.config import ConfigError
from tests.inputs.lab import HERE, Cells, cells, describe_checkpoint, refused, save_best, save_folder, seeded, source

CELLS = f"{HERE}.Cells"


class Normed(nn.Module):
    """A convolution under torch's new weight norm."""

    def __init__(self, norm=nn.utils.parametrizations.weight_norm) -> None:
        super().__init__()
        self.F, self.O = 4, 3
        self.conv = norm(nn.Conv1d(4, 3, 2))


class Sharing(nn.Module):
    """Two parameters on one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.F, self.O = 4, 4
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = nn.Parameter(self.one.weight.data)


class Masked(Cells):
    """Cells with a mask of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.triu(torch.full((5, 5), float("-inf")), 1))


def described(folder, **entry):
    return describe_checkpoint(source(folder, **entry))


def same(model: nn.Module, trained: nn.Module) -> bool:
    return all(torch.equal(model.state_dict()[name], value) for name, value in trained.state_dict().items())


# Names


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_names_that_torchs_load_hooks_translate_are_taken(tmp_path):
    trained = seeded(lambda: Normed(nn.utils.weight_norm))
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    model = load_checkpoint(tmp_path / "best.pt", class_name=f"{__name__}.Normed")
    torch.testing.assert_close(model.conv.weight, trained.conv.weight)


def test_tensors_that_share_their_storage_may_be_stored_once(tmp_path):
    from safetensors.torch import save_model

    trained = seeded(Sharing)
    (tmp_path / "net").mkdir()
    save_model(trained, str(tmp_path / "net" / "model.safetensors"))
    checkpoint = described(tmp_path / "net", **{"class": f"{__name__}.Sharing"})
    assert checkpoint.error is None
    model = load_checkpoint(checkpoint.source)
    assert torch.equal(model.one.weight, trained.one.weight)
    assert torch.equal(model.two.weight, trained.one.weight)


class Unfinished(Cells):
    """Cells with a layer of a size nobody has told yet."""

    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyLinear(2)

    def forward(self, x):
        return super().forward(x) + self.lazy(x.mT).mean()


class Tabled(Cells):
    """Cells with a table of few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.eye(3).to_sparse())


class Counting(Cells):
    """Cells with a state that is no tensor."""

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("built", "name"), [("Unfinished", "lazy.weight"), ("Tabled", "table"), ("Counting", "_extra_state")]
)
def test_what_has_no_storage_and_is_not_in_the_file_is_named(tmp_path, built, name):
    save_best(tmp_path / "net", cells())
    text = refused(describe_checkpoint(source(tmp_path / "net", **{"class": f"{__name__}.{built}"})))
    assert "do not fit" in text
    assert name in text


def test_a_layer_without_a_size_takes_that_of_the_file(tmp_path):
    trained = seeded(Unfinished)
    trained(torch.zeros(1, 1, 4, 5))
    save_best(tmp_path / "net", trained)
    assert describe_checkpoint(source(tmp_path / "net", **{"class": f"{__name__}.Unfinished"})).error is None
    model = load_checkpoint(tmp_path / "net", class_name=f"{__name__}.Unfinished")
    torch.testing.assert_close(model.lazy.weight, trained.lazy.weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("entry", [{"class": CELLS}, {"factory": f"{HERE}:build_without_weights"}])
def test_a_wrappers_prefix_is_taken_off_and_said(tmp_path, prefix, entry):
    trained = cells(seed=4)
    torch.save({prefix + name: value for name, value in trained.state_dict().items()}, tmp_path / "best.pt")
    checkpoint = described(tmp_path / "best.pt", **entry)
    assert checkpoint.error is None
    assert [note for note in checkpoint.notes if "was taken off the names" in note and prefix.split(".")[0] in note]
    assert same(load_checkpoint(checkpoint.source), trained)


def test_a_compiled_part_is_taken_out_of_its_wrapper(tmp_path):
    trained = cells(seed=4)
    names = {name.replace("readout.", "readout._orig_mod."): value for name, value in trained.state_dict().items()}
    torch.save(names, tmp_path / "best.pt")
    assert same(load_checkpoint(tmp_path / "best.pt", class_name=CELLS), trained)


def test_weights_averaged_by_torch_are_taken_out_of_their_wrapper(tmp_path):
    trained = cells(seed=4)
    torch.save(torch.optim.swa_utils.AveragedModel(trained).state_dict(), tmp_path / "best.pt")
    assert same(load_checkpoint(tmp_path / "best.pt", class_name=CELLS), trained)


def test_another_prefix_is_named_with_the_key_that_takes_it_off(tmp_path):
    trained = cells(seed=4)
    torch.save({f"net.core.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "best.pt")
    assert 'add `strip_prefix = "net.core."`' in refused(described(tmp_path / "best.pt", **{"class": CELLS}))
    checkpoint = described(tmp_path / "best.pt", **{"class": CELLS, "strip_prefix": "net.core."})
    assert same(load_checkpoint(checkpoint.source), trained)


def test_what_does_not_begin_with_the_prefix_is_left_out_and_said(tmp_path):
    trained = cells(seed=4)
    names = {f"model.{name}": value for name, value in trained.state_dict().items()} | {"loss.weight": torch.ones(3)}
    torch.save(names, tmp_path / "best.pt")
    checkpoint = described(tmp_path / "best.pt", **{"class": CELLS, "strip_prefix": "model."})
    assert same(load_checkpoint(checkpoint.source), trained)
    assert checkpoint.notes == ("loss.weight of the file do not begin with 'model.' and are left out",)


def test_a_wrapped_checkpoint_among_plain_ones_is_not_stacked_with_them_unasked(tmp_path):
    for number in range(2):
        save_best(tmp_path / f"ck{number}", cells(seed=number))
    (tmp_path / "odd").mkdir()
    torch.save({f"module.{name}": v for name, v in cells(seed=4).state_dict().items()}, tmp_path / "odd" / "best.pt")
    folders = [tmp_path / name for name in ("ck0", "ck1", "odd")]
    good, _, odd = describe_checkpoints([source(folder, **{"class": CELLS}) for folder in folders])
    assert good.error is None
    assert "a wrapper's prefix (module.) that other checkpoints of the entry do not have" in refused(odd)
    asked = [source(folder, **{"class": CELLS, "strip_prefix": "module."}) for folder in folders]
    assert [entry.error for entry in describe_checkpoints(asked)] == [None, None, None]
    assert same(load_checkpoint(asked[2]), cells(seed=4))


# Kinds of numbers


@pytest.mark.parametrize(
    ("bend", "kind"),
    [
        (lambda value: torch.complex(value, value), "complex64"),
        (lambda value: (40 * value).to(torch.int8), "int8"),
        (lambda value: value > 0, "bool"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
@pytest.mark.parametrize("entry", [{"class": CELLS}, {"factory": f"{HERE}:build_without_weights"}])
def test_numbers_of_another_kind_are_refused_by_name(tmp_path, bend, kind, entry):
    torch.save({name: bend(value) for name, value in cells().state_dict().items()}, tmp_path / "best.pt")
    assert f"readout.weight holds {kind} numbers where the Cells has float32" in refused(
        described(tmp_path / "best.pt", **entry)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_precision_is_the_same_kind(tmp_path, dtype):
    torch.save({name: value.to(dtype) for name, value in cells().state_dict().items()}, tmp_path / "best.pt")
    model = load_checkpoint(tmp_path / "best.pt", class_name=CELLS)
    np.testing.assert_allclose(model.readout.weight.detach(), cells().readout.weight.detach(), rtol=1e-2, atol=1e-3)


def test_a_half_that_overflows_in_the_model_is_refused(tmp_path):
    big = {name: value.double() * 1e200 for name, value in cells().state_dict().items()}
    torch.save(big, tmp_path / "best.pt")
    assert "NaN or infinite" in refused(described(tmp_path / "best.pt", **{"class": CELLS}))


def test_infinity_is_legitimate_in_a_mask_and_nowhere_else(tmp_path):
    save_best(tmp_path / "net", seeded(Masked))
    assert described(tmp_path / "net", **{"class": f"{__name__}.Masked"}).error is None
    for value in (float("inf"), float("-inf"), float("nan")):
        broken = seeded(Masked)
        broken.readout.weight.data[0, 0] = value
        save_best(tmp_path / "net", broken)
        assert "readout.weight holds 1 of 12 numbers" in refused(
            described(tmp_path / "net", **{"class": f"{__name__}.Masked"})
        )


# Nested files


def test_the_one_entry_that_holds_weights_is_taken_and_said(tmp_path):
    trained = cells(seed=4)
    torch.save({"epoch": 3, "model": trained.state_dict(), "optimizer": {"state": {0: {}}}}, tmp_path / "best.pt")
    checkpoint = described(tmp_path / "best.pt", **{"class": CELLS})
    assert checkpoint.notes == ("the weights are the entry 'model' of the file",)
    assert same(load_checkpoint(checkpoint.source), trained)


def test_of_two_sets_of_weights_the_config_has_to_name_one(tmp_path):
    raw, averaged = cells(seed=4), cells(seed=5)
    torch.save({"model": raw.state_dict(), "ema": averaged.state_dict()}, tmp_path / "best.pt")
    text = refused(described(tmp_path / "best.pt", **{"class": CELLS}))
    assert "several sets of weights that fit the Cells: model, ema" in text
    assert 'state_dict = "model"' in text
    chosen = described(tmp_path / "best.pt", **{"class": CELLS, "state_dict": "ema"})
    assert same(load_checkpoint(chosen.source), averaged)
    wrong = refused(described(tmp_path / "best.pt", **{"class": CELLS, "state_dict": "weights"}))
    assert "write one of model, ema" in wrong


# Factories


def test_a_factory_that_passes_over_its_file_is_refused(tmp_path):
    torch.save({**cells(seed=4).state_dict(), "step": torch.zeros(1)}, tmp_path / "best.pt")
    text = refused(described(tmp_path / "best.pt", factory=f"{HERE}:build_seeded"))
    assert "none of the numbers in" in text
    assert "load the file's weights in the factory" in text


def test_a_factory_that_only_builds_and_seeds_gets_the_file(tmp_path):
    save_best(tmp_path / "net", cells(seed=4))
    model = load_checkpoint(tmp_path / "net", factory=f"{HERE}:build_seeded")
    assert same(model, cells(seed=4))


def test_zeros_that_the_file_and_a_fresh_module_share_are_no_sign_of_the_file(tmp_path):
    trained = cells(seed=4)
    torch.nn.init.zeros_(trained.readout.bias)
    save_best(tmp_path / "net", trained)
    model = load_checkpoint(tmp_path / "net", factory=f"{HERE}:build_seeded_without_bias")
    assert same(model, trained)


def test_weights_that_no_file_holds_and_no_seed_repeats_are_refused(tmp_path):
    save_best(tmp_path / "net", cells(seed=4))
    text = refused(described(tmp_path / "net", factory=f"{HERE}:build_unseeded"))
    assert "gives other numbers at every call (activation.weight)" in text


def test_a_factory_that_loads_only_in_part_is_refused(tmp_path):
    weights = cells(seed=4).state_dict()
    torch.save({"readout.bias": weights["readout.bias"], "out.weight": weights["readout.weight"]}, tmp_path / "best.pt")
    text = refused(described(tmp_path / "best.pt", factory=f"{HERE}:build_leniently"))
    assert "only in part: readout.weight (3x4) of its module is not in the file, and out.weight" in text
    wide = cells(seed=4).state_dict() | {"readout.weight": torch.randn(5, 4)}
    torch.save(wide, tmp_path / "best.pt")
    text = refused(described(tmp_path / "best.pt", factory=f"{HERE}:build_filtered"))
    assert "readout.weight there is 5x4" in text


def test_a_factory_may_turn_weights_round_and_down(tmp_path):
    trained = cells(seed=4)
    kernel = {"kernel": trained.readout.weight.T.contiguous(), "bias": trained.readout.bias}
    torch.save({name: value.detach() for name, value in kernel.items()}, tmp_path / "best.pt")
    assert same(load_checkpoint(tmp_path / "best.pt", factory=f"{HERE}:build_transposed"), trained)
    save_best(tmp_path / "net", trained)
    for gain in (0.5, 0.25):
        model = load_checkpoint(tmp_path / "net", factory=f"{HERE}:build_halved", arguments={"gain": gain})
        assert torch.equal(model.readout.weight, gain * trained.readout.weight)


@pytest.mark.parametrize("name", ["last.ckpt", "folder", "best.pt", "run.anything"])
def test_a_factory_reads_what_nobody_else_would_open(tmp_path, name):
    trained = cells(seed=4)
    state = {f"net.{key}": value for key, value in trained.state_dict().items()}
    content = {"state_dict": state, "epoch": 3, "hyper_parameters": argparse.Namespace(lr=0.1)}
    location = tmp_path / name
    if name == "folder":
        location.mkdir()
    torch.save(content, location / "last.ckpt" if name == "folder" else location)
    checkpoint = described(location, factory=f"{HERE}:build_lightning")
    assert checkpoint.error is None
    assert same(load_checkpoint(checkpoint.source, fingerprint=checkpoint.fingerprint), trained)
    torch.save({**content, "epoch": 4}, location / "last.ckpt" if name == "folder" else location)
    assert described(location, factory=f"{HERE}:build_lightning").fingerprint != checkpoint.fingerprint


def test_a_damaged_file_is_refused_whatever_the_factory_makes_of_it(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), None)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "no readable safetensors file" in refused(described(folder, factory=f"{HERE}:build_without_weights"))
    save_best(tmp_path / "other", cells())
    file = tmp_path / "other" / "best.pt"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is no archive of torch.save" in refused(
        described(tmp_path / "other", factory=f"{HERE}:build_without_weights")
    )


def test_comparing_a_file_with_a_module_runs_nothing_in_it(tmp_path):
    from tests.inputs.test_hostile_files import Trap

    trap = tmp_path / "sprung"
    torch.save({"state_dict": cells(seed=4).state_dict(), "trap": Trap(trap)}, tmp_path / "best.pt")
    refused(described(tmp_path / "best.pt", factory=f"{HERE}:build_number"))
    assert described(tmp_path / "best.pt", factory=f"{HERE}:build_without_weights").error is None
    assert not trap.exists()


def test_a_file_that_cannot_be_compared_is_said(tmp_path):
    torch.save(cells(seed=4).state_dict(), tmp_path / "weights.h5")
    (note,) = described(tmp_path / "weights.h5", factory=f"{HERE}:build").notes
    assert "was not checked" in note


# One falls alone


def test_an_entry_that_suits_none_of_its_checkpoints_is_refused_and_one_that_suits_some_is_not(tmp_path):
    save_folder(tmp_path / "good", cells(), {"_model_class": "Cells", "n_bands": 4, "n_cells": 3})
    save_folder(tmp_path / "bad", cells(), {"_model_class": "SomethingElse"}, {"seed": 3, "architecture": "fir"})
    sources = [source(tmp_path / name, **{"class": CELLS}) for name in ("bad", "good")]
    bad, good = describe_checkpoints(sources)
    assert good.error is None
    assert "was written by 'SomethingElse'" in refused(bad)
    assert (bad.scalars["seed"], bad.scalars["architecture"]) == (3, "fir")
    with pytest.raises(ConfigError, match="was written by 'SomethingElse'"):
        describe_checkpoints(sources[:1])


def test_labels_outlive_the_failure_of_their_checkpoint(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), None, {"seed": 3, "architecture": "fir", "augmented": True})
    (folder / "model.safetensors").write_bytes(b"")
    checkpoint = described(folder, **{"class": CELLS})
    assert "is empty" in refused(checkpoint)
    assert checkpoint.scalars == {"seed": 3, "architecture": "fir", "augmented": True, "class": "Cells"}
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint.source)


class Placed(Cells):
    """Cells with a table of positions, which every fresh module holds alike."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.linspace(0, 1, 5))


class Kept(Cells):
    """Cells that give their weights to nobody."""

    def state_dict(self, *args, **kwargs):
        raise LookupError("no weights")


def build_placed(path):
    return Placed()


def build_unfinished(path):
    return Unfinished()


def build_unfinished_in_part(path):
    model = Unfinished()
    model.load_state_dict(torch.load(f"{path}/best.pt", weights_only=True), strict=False)
    return model


def build_kept(path):
    return Kept()


def test_a_factory_that_only_builds_gets_the_file_though_they_share_a_table(tmp_path):
    trained = seeded(Placed, 3)
    save_best(tmp_path / "net", trained)
    assert described(tmp_path / "net", factory=f"{__name__}:build_placed").error is None
    model = load_checkpoint(tmp_path / "net", factory=f"{__name__}:build_placed")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_lazy_layer_of_a_factory_takes_the_size_of_the_file_and_can_be_called_in_copies(tmp_path):
    from pipeline import strf_gradmaps

    trained = seeded(Unfinished, 3)
    trained(torch.zeros(1, 1, 4, 5))
    save_best(tmp_path / "net", trained)
    model = load_checkpoint(tmp_path / "net", factory=f"{__name__}:build_unfinished")
    assert type(model.lazy) is nn.Linear
    torch.testing.assert_close(strf_gradmaps(model, 5), strf_gradmaps(trained.eval(), 5))


def test_a_lazy_layer_that_the_file_does_not_fill_is_refused(tmp_path):
    save_best(tmp_path / "net", cells())
    text = refused(describe_checkpoint(source(tmp_path / "net", factory=f"{__name__}:build_unfinished_in_part")))
    assert "lazy" in text
    assert "at random" in text


def test_a_module_that_cannot_be_looked_at_fails_alone(tmp_path):
    save_best(tmp_path / "net", cells())
    text = refused(describe_checkpoint(source(tmp_path / "net", factory=f"{__name__}:build_kept")))
    assert "cannot be looked at (LookupError: no weights)" in text

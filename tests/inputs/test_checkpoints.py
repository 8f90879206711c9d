"""Checkpoints rebuilt, described and fingerprinted."""

import json
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.inputs.checkpoints import CheckpointError, discover, load_checkpoint, probe_response
from pipeline.inputs.lab_code import InterruptedItselfError, asked_interrupts_only
from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import FrontEnd
from tests.inputs.lab import (
    HERE,
    Cells,
    Framing,
    HearingCells,
    TiedCells,
    cells,
    describe_checkpoint,
    refused,
    run_config,
    save_best,
    save_deepstrf,
    save_folder,
    seeded,
    source,
)

CELLS = f"{HERE}.Cells"
CONFIG = {"_model_class": "Cells", "n_bands": 4, "n_cells": 3}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == twin and torch.equal(a, b) for (name, a), (twin, b) in pairs)


# The three kinds


def test_a_folder_of_save_pretrained_loads_as_it_was(tmp_path):
    trained = save_deepstrf(tmp_path / "net", "Linear", n_frequency_bands=5, temporal_window_size=3, out_neurons=2)
    model = load_checkpoint(tmp_path / "net")
    assert type(model).__name__ == "Linear"
    assert not model.training
    assert same_weights(model, trained)


def test_a_folder_of_a_labs_own_class_loads_with_the_class_of_the_entry(tmp_path):
    trained = cells()
    save_folder(tmp_path / "net", trained, CONFIG)
    checkpoint = describe_checkpoint(source(tmp_path / "net", **{"class": CELLS}))
    assert checkpoint.error is None
    assert (checkpoint.n_neurons, checkpoint.n_bands, checkpoint.n_channels) == (3, 4, 1)
    assert checkpoint.n_parameters == 3 * 4 + 3
    assert same_weights(load_checkpoint(checkpoint.source), trained)


def test_a_bare_state_dict_loads_with_class_and_arguments(tmp_path):
    trained = cells(n_cells=6)
    save_best(tmp_path / "seed3", trained)
    entry = {"class": CELLS, "arguments": {"n_cells": 6}}
    for location in (tmp_path / "seed3", tmp_path / "seed3" / "best.pt"):
        assert same_weights(load_checkpoint(source(location, **entry)), trained)
    assert describe_checkpoint(source(tmp_path / "seed3", **entry)).model_class == "Cells"


def test_a_bare_state_dict_of_deepstrf_loads_with_its_front_end(tmp_path):
    from tests.zoo import FRONT_ENDS, hearing

    trained = hearing("mel")
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    front_end = FRONT_ENDS["mel"]()
    model = load_checkpoint(
        tmp_path / "best.pt",
        class_name="deepSTRF.models.audio.StateNet",
        arguments={"n_frequency_bands": 16, "out_neurons": 5, "rnn_type": "GRU"},
        modules={"wav2spec": front_end},
    )
    assert same_weights(model, trained)
    assert model.wav2spec is not front_end


def test_the_path_may_name_the_file_in_the_folder(tmp_path):
    save_folder(tmp_path / "net", cells(), CONFIG, {"neurons": ["a", "b", "c"]})
    checkpoint = describe_checkpoint(source(tmp_path / "net" / "model.safetensors", **{"class": CELLS}))
    assert checkpoint.neurons == ("a", "b", "c")


def test_what_lies_beside_a_file_of_another_name_is_not_its_own(tmp_path):
    save_folder(tmp_path / "nets", cells(), CONFIG, {"neurons": ["a", "b", "c"]})
    torch.save(cells().state_dict(), tmp_path / "nets" / "other.pt")
    assert describe_checkpoint(source(tmp_path / "nets" / "other.pt", **{"class": CELLS})).neurons is None


def test_a_factory_is_called_with_the_path(tmp_path):
    trained = cells(seed=5)
    save_best(tmp_path / "net", trained)
    for location in (tmp_path / "net", tmp_path / "net" / "best.pt"):
        model = load_checkpoint(source(location, factory=f"{HERE}:build"))
        assert same_weights(model, trained)
        assert not model.training


def test_a_factory_that_only_builds_gets_the_weights_of_the_file(tmp_path):
    trained = cells(seed=5)
    save_best(tmp_path / "net", trained)
    assert same_weights(load_checkpoint(tmp_path / "net", factory=f"{HERE}:build_without_weights"), trained)


def test_a_factory_that_gives_one_module_for_all_mixes_no_weights(tmp_path):
    trained = [cells(seed=seed) for seed in range(2)]
    for seed, module in enumerate(trained):
        save_best(tmp_path / f"net{seed}", module)
    built = [load_checkpoint(tmp_path / f"net{seed}", factory=f"{HERE}:build_into_one") for seed in range(2)]
    assert all(same_weights(one, module) for one, module in zip(built, trained, strict=True))


def test_a_factory_may_take_the_weights_out_of_a_snapshot(tmp_path):
    trained = cells(seed=5)
    torch.save({"model": trained.state_dict(), "epoch": 3}, tmp_path / "snapshot.pt")
    assert same_weights(load_checkpoint(tmp_path / "snapshot.pt", factory=f"{HERE}:build_wrapped"), trained)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("build_number", "returned a int for .*, which cannot be differentiated"),
        ("build_badly", "failed for .*RuntimeError: the lab's disk is not mounted"),
        ("build_and_leave", r"called sys\.exit for .*SystemExit: 0"),
        ("build_and_interrupt", "failed for .*raised KeyboardInterrupt by itself"),
    ],
)
def test_a_factory_that_makes_no_module_fails_alone(tmp_path, function, reason):
    save_best(tmp_path / "net", cells())
    text = refused(describe_checkpoint(source(tmp_path / "net", factory=f"{HERE}:{function}")))
    assert re.search(reason, text)


def test_an_interrupt_that_was_asked_for_stays_one():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), asked_interrupts_only():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(InterruptedItselfError), asked_interrupts_only():
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("function", "reason"), [("CONSTANT", "has no 'CONSTANT'"), ("HERE", "is a str, which cannot be called")]
)
def test_a_factory_that_is_no_function_is_refused(tmp_path, function, reason):
    save_best(tmp_path / "net", cells())
    with pytest.raises(ConfigError, match=reason):
        describe_checkpoint(source(tmp_path / "net", factory=f"{HERE}:{function}"))


def test_tied_weights_that_are_stored_once_load(tmp_path):
    trained = seeded(TiedCells)
    weights = {name: value for name, value in trained.state_dict().items() if name.startswith("readout")}
    torch.save(weights, tmp_path / "best.pt")
    assert same_weights(load_checkpoint(tmp_path / "best.pt", class_name=f"{HERE}.TiedCells"), trained)


def test_every_class_of_deepstrfs_zoo_loads_back_from_its_weights(tmp_path):
    from tests.zoo import ZOO

    for name, build in ZOO.items():
        trained = build(3)
        path = tmp_path / name / "best.pt"
        path.parent.mkdir()
        torch.save(trained.state_dict(), path)
        arguments = json.loads(json.dumps(trained._init_kwargs))  # what save_pretrained records
        arguments = {key: value for key, value in arguments.items() if value is not None}
        class_name = f"deepSTRF.models.audio.{type(trained).__name__}"
        model = load_checkpoint(path, class_name=class_name, arguments=arguments)
        assert same_weights(model, trained), name
        checkpoint = describe_checkpoint(source(path, **{"class": class_name, "arguments": arguments}))
        assert (checkpoint.error, checkpoint.n_neurons, checkpoint.n_bands) == (None, 3, 16), name
        assert checkpoint.front_end == (FrontEnd(8000.0, 80) if name == "ICNet" else None)


def test_every_folder_of_deepstrfs_zoo_loads_back_without_a_word_from_the_config(tmp_path):
    from tests.zoo import ZOO

    for name, build in ZOO.items():
        if name == "ICNet":
            continue  # save_pretrained itself refuses its tied weights
        trained = build(3)
        trained.save_pretrained(tmp_path / name)
        checkpoint = describe_checkpoint(source(tmp_path / name))
        assert (checkpoint.error, checkpoint.n_neurons, checkpoint.n_bands) == (None, 3, 16), name
        model = load_checkpoint(checkpoint.source)
        assert same_weights(model, trained), name
        np.testing.assert_array_equal(probe_response(model, None), probe_response(trained, None), err_msg=name)


def test_torchs_hint_about_a_faster_transformer_is_not_repeated(tmp_path):
    arguments = {"n_frequency_bands": 16, "out_neurons": 2, "embedding_dim": 8, "n_heads": 1}
    with pytest.warns(UserWarning, match="enable_nested_tensor is True"):
        save_deepstrf(tmp_path / "net", "Transformer", **arguments)
    assert describe_checkpoint(source(tmp_path / "net")).error is None  # a warning would be an error here


def test_every_prefiltered_and_hearing_model_of_deepstrf_needs_only_its_module_named(tmp_path):
    from tests.zoo import FRONT_ENDS, PREFILTERED, hearing

    trained = PREFILTERED["adaptrans-Linear"](3)
    trained.save_pretrained(tmp_path / "adaptrans")
    spec = {
        "class": "deepSTRF.models.prefiltering.AdapTrans",
        "init_a_vals": [0.5] * 16,
        "init_w_vals": [0.5] * 16,
        "kernel_size": 6,
    }
    checkpoint = describe_checkpoint(source(tmp_path / "adaptrans", modules={"prefiltering": spec}))
    assert (checkpoint.error, checkpoint.n_channels) == (None, 2)
    assert same_weights(load_checkpoint(checkpoint.source), trained)

    for name in FRONT_ENDS:
        trained = hearing(name, "Linear")
        trained.save_pretrained(tmp_path / name)
        model = load_checkpoint(tmp_path / name, modules={"wav2spec": FRONT_ENDS[name](1)})
        assert same_weights(model, trained), name


# What is described


def test_metadata_gives_neurons_scalars_and_numbers_per_neuron(tmp_path):
    metadata = {
        "neurons": ["a", "b", "c"],
        "cc_test": [0.5, None, 1],
        "seed": 3,
        "dt_ms": 10.0,
        "converged": True,
        "site name": "A1/left",
        "lag": 4,
        "class": "mine",
        "history": [1.0, 2.0],
        "nested": {"a": 1},
        "prose": "x" * 2000,
        "depth": ["a", "b", "c"],
        "../escape": 1,
    }
    save_folder(tmp_path / "net", cells(), CONFIG, metadata)
    checkpoint = describe_checkpoint(source(tmp_path / "net", **{"class": CELLS}))
    assert checkpoint.error is None
    assert checkpoint.neurons == ("a", "b", "c")
    assert checkpoint.scalars == {
        "seed": 3,
        "dt_ms": 10.0,
        "converged": True,
        "site_name": "A1/left",
        "metadata_lag": 4,
        "metadata_class": "mine",
        "escape": 1,
        "class": "Cells",
    }
    assert list(checkpoint.per_neuron) == ["cc_test"]
    np.testing.assert_array_equal(checkpoint.per_neuron["cc_test"], [0.5, np.nan, 1.0])


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "b"], "names 2 neurons, but the model has 3"),
        (["a", "b", "a"], "names the neuron 'a' more than once"),
        (["a", "", "c"], "has a neuron called ''"),
        (["a", None, "c"], "has a neuron called ''"),
    ],
)
def test_wrong_names_of_neurons_fail_alone(tmp_path, names, reason):
    save_folder(tmp_path / "net", cells(), CONFIG, {"neuron": names})
    checkpoint = describe_checkpoint(source(tmp_path / "net", **{"class": CELLS}))
    assert reason in refused(checkpoint)
    assert checkpoint.n_neurons == 3


def test_neurons_numbered_in_metadata_become_labels(tmp_path):
    save_folder(tmp_path / "net", cells(), CONFIG, {"neurons": [7, 8, 9]})
    assert describe_checkpoint(source(tmp_path / "net", **{"class": CELLS})).neurons == ("7", "8", "9")


def test_a_front_end_gives_its_rate_and_frame(tmp_path):
    trained = HearingCells(Framing())
    save_folder(tmp_path / "net", trained, {"n_cells": 3})
    entry = {"class": f"{HERE}.HearingCells", "modules": {"wav2spec": {"class": f"{HERE}.Framing", "audio_fs": 44100}}}
    assert describe_checkpoint(source(tmp_path / "net", **entry)).front_end == FrontEnd(44100.0, 4)


def test_a_front_end_that_does_not_say_its_rate_is_refused(tmp_path):
    save_folder(tmp_path / "net", cells(), {"n_cells": 3})
    entry = {"class": f"{HERE}.HearingCells", "modules": {"wav2spec": {"class": f"{HERE}.DeafFraming"}}}
    with pytest.raises(ConfigError, match=r"front-end DeafFraming .* audio_fs = None .*set both attributes"):
        describe_checkpoint(source(tmp_path / "net", **entry))


def test_a_class_without_the_contracts_attributes_is_refused(tmp_path):
    from tests.inputs.lab import Nameless

    save_folder(tmp_path / "net", Nameless(), {})
    with pytest.raises(ConfigError, match=r"Nameless.* has O = None; .*set self\.O"):
        describe_checkpoint(source(tmp_path / "net", **{"class": f"{HERE}.Nameless"}))


# Fingerprints


def fingerprint(folder: Path, **entry) -> str:
    return describe_checkpoint(source(folder, **{"class": CELLS, **entry})).fingerprint


def test_the_fingerprint_tells_what_decides_the_maps_and_nothing_else(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), {**CONFIG, "activation": None})
    first = fingerprint(folder)
    assert len(first) == 64

    (folder / "metadata.json").write_text('{"seed": 1}')
    (folder / "config.json").write_text(json.dumps(dict(reversed({**CONFIG, "activation": None}.items())), indent=4))
    moved = save_folder(tmp_path / "elsewhere" / "net", cells(), {**CONFIG, "activation": None})
    assert fingerprint(folder) == first
    assert fingerprint(moved) == first
    assert describe_checkpoint(source(folder, "another entry", **{"class": CELLS})).fingerprint == first

    changed = {
        "weights": fingerprint(save_folder(tmp_path / "a", cells(seed=1), {**CONFIG, "activation": None})),
        "config": fingerprint(save_folder(tmp_path / "b", cells(), CONFIG)),
        "module": fingerprint(folder, modules={"activation": {"class": "torch.nn.ReLU"}}),
        "argument of a module": fingerprint(
            folder, modules={"activation": {"class": "torch.nn.LeakyReLU", "negative_slope": 0.1}}
        ),
        "another argument": fingerprint(
            folder, modules={"activation": {"class": "torch.nn.LeakyReLU", "negative_slope": 0.2}}
        ),
        "arguments": fingerprint(folder, arguments={"n_cells": 3}),
        "class": describe_checkpoint(source(folder, **{"class": f"{HERE}.cells_again.Cells"})).fingerprint,
    }
    assert len({first, *changed.values()}) == len(changed) + 1


def test_a_changed_file_has_another_fingerprint_even_if_it_is_broken(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    before = fingerprint(folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").write_bytes(content[:-8])
    broken = describe_checkpoint(source(folder, **{"class": CELLS}))
    assert refused(broken)
    assert broken.fingerprint not in ("", before)


def test_files_that_changed_since_they_were_described_are_refused(tmp_path):
    folder = save_folder(tmp_path / "net", cells(), CONFIG)
    checkpoint = describe_checkpoint(source(folder, **{"class": CELLS}))
    assert same_weights(load_checkpoint(checkpoint.source, fingerprint=checkpoint.fingerprint), cells())
    save_folder(folder, cells(seed=1), CONFIG)
    with pytest.raises(CheckpointError, match="is not what it was when the run was planned"):
        load_checkpoint(checkpoint.source, fingerprint=checkpoint.fingerprint)


# No side effects


def test_loading_leaves_every_global_random_generator_alone(tmp_path):
    save_deepstrf(tmp_path / "net", "StateNet", n_frequency_bands=16, out_neurons=2, output_activation=nn.Identity())
    entry = {"modules": {"output_activation": {"class": "torch.nn.Identity"}}}
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    checkpoint = describe_checkpoint(source(tmp_path / "net", **entry))
    load_checkpoint(checkpoint.source)
    assert checkpoint.error is None
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])


def test_a_module_handed_in_keeps_its_own_weights(tmp_path):
    trained = seeded(lambda: Cells(activation=nn.PReLU(3)))
    save_best(tmp_path / "net", trained)
    mine = nn.PReLU(3, init=0.75)
    model = load_checkpoint(tmp_path / "net", class_name=CELLS, modules={"activation": mine})
    assert model.activation is not mine
    assert bool((mine.weight == 0.75).all())


def test_a_list_of_numbers_becomes_a_tensor_where_a_module_takes_nothing_else(tmp_path):
    save_best(tmp_path / "net", cells())
    gains = {"activation": {"class": f"{HERE}.Scaled", "gains": [1, 0.5, -2]}}
    plain, scaled = (load_checkpoint(tmp_path / "net", class_name=CELLS, modules=each) for each in ({}, gains))
    expected = probe_response(plain, None) * [1, 0.5, -2]
    np.testing.assert_allclose(probe_response(scaled, None), expected, rtol=1e-6)


def test_weights_of_a_module_that_the_entry_leaves_out_are_told_with_its_place(tmp_path):
    save_best(tmp_path / "net", seeded(lambda: Cells(activation=nn.PReLU(3))))
    text = refused(describe_checkpoint(source(tmp_path / "net", **{"class": CELLS})))
    assert "add the entry's module activation" in text


# The probe


def test_the_probe_gives_the_same_numbers_for_the_same_model(tmp_path):
    save_best(tmp_path / "net", cells())
    first, second = (load_checkpoint(tmp_path / "net", class_name=CELLS) for _ in range(2))
    torch.manual_seed(1)
    response = probe_response(first, None)
    torch.manual_seed(2)
    np.testing.assert_array_equal(response, probe_response(second, None))
    assert response.shape == (3,)
    assert response.dtype == np.float32


def test_the_probe_tells_an_activation_without_weights_apart(tmp_path):
    save_best(tmp_path / "net", cells())
    plain = load_checkpoint(tmp_path / "net", class_name=CELLS)
    squashed = load_checkpoint(
        tmp_path / "net", class_name=CELLS, modules={"activation": {"class": "torch.nn.Sigmoid"}}
    )
    assert not np.allclose(probe_response(plain, None), probe_response(squashed, None), atol=1e-3)


def test_the_probe_of_a_linear_model_is_its_weights_times_the_mean_probe():
    model = cells().eval()
    draw = np.random.Generator(np.random.PCG64(20180412)).standard_normal((1, 1, 4, 7), dtype=np.float32)
    expected = model.readout.weight @ torch.from_numpy(draw[0, 0].mean(axis=1)) + model.readout.bias
    np.testing.assert_allclose(probe_response(model, None, frames=7), expected.detach(), rtol=1e-5)


def test_the_probe_of_a_hearing_model_is_whole_frames_of_sound():
    model = seeded(lambda: HearingCells(Framing(hop=6))).eval()
    assert probe_response(model, FrontEnd(8000.0, 6), frames=5).shape == (3,)


def test_the_probe_of_a_model_in_double_precision_is_in_double_precision():
    model = cells().eval()
    np.testing.assert_allclose(probe_response(model.double(), None), probe_response(cells().eval(), None), rtol=1e-5)


def test_the_probe_refuses_a_model_in_training_mode_and_a_strange_response():
    with pytest.raises(ValueError, match=r"training mode.*call model\.eval\(\)"):
        probe_response(cells().train(), None)
    flat = nn.Flatten()
    flat.F = 4
    with pytest.raises(ValueError, match=r"shape \(1, 256\), not \(1, neuron, 1, time\)"):
        probe_response(flat.eval(), None)


# Through the public door


def test_an_entry_and_keyword_arguments_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="comes with its entry of the config"):
        load_checkpoint(source(tmp_path), class_name=CELLS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"class_name": "Cells"}, "class = .Cells.: give a class with its module"),
        ({"factory": "build"}, "factory = .build.: give a function with its module"),
        ({"factory": "lab:build", "class_name": CELLS}, "keep either the factory or the others"),
        ({"modules": {"activation": "ReLU"}}, "modules.activation = .ReLU."),
        ({"modules": {"activation": {"class": "ReLU"}}}, "modules.activation.class = .ReLU.: give a class"),
    ],
)
def test_wrong_keyword_arguments_are_refused(tmp_path, arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        load_checkpoint(tmp_path, **arguments)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be read \(FileNotFoundError"):
        load_checkpoint(tmp_path / "nowhere", class_name=CELLS)


# Real checkpoints


def speech_entries(speech: Path) -> list[dict]:
    identity = {"class": "torch.nn.Identity"}
    mel = {
        "class": "deepSTRF.models.wav2spec.CausalMelSpectrogram",
        "audio_fs": 8000,
        "n_mels": 32,
        "hop_ms": 10.0,
        "win_ms": 20.0,
        "f_min": 80.0,
        "f_max": 3800.0,
    }
    modules = {
        "ln": {"output_activation": identity},
        "statenet_gru": {"output_activation": identity},
        "wav_mel_statenet": {"output_activation": identity, "wav2spec": mel},
    }
    names = ("dnet", "linear", "ln", "nrf", "statenet_gru", "transformer", "wav_mel_statenet")
    return [{"path": f"{speech}/checkpoints/{name}-*", "modules": modules.get(name, {})} for name in names]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # from deepSTRF's own loading
def test_the_28_trained_checkpoints_load_as_deepstrf_loads_them(speech, tmp_path):
    from tests.run.speech import deepstrf_model

    config = run_config(tmp_path, *speech_entries(speech))
    sources = discover(config, config.cohort[0])
    assert len(sources) == 28
    describe_checkpoint(sources[0])  # imports deepSTRF
    started = time.perf_counter()
    checkpoints = [describe_checkpoint(entry) for entry in sources]
    per_checkpoint = (time.perf_counter() - started) / 28
    assert per_checkpoint < 0.2  # 4 ms on an idle machine
    assert len({checkpoint.fingerprint for checkpoint in checkpoints}) == 28
    for checkpoint in checkpoints:
        assert checkpoint.error is None
        assert checkpoint.neurons == tuple(f"ch{index}" for index in range(10))
        assert (checkpoint.n_neurons, checkpoint.n_bands, len(checkpoint.per_neuron["cc_test"])) == (10, 32, 10)
        assert checkpoint.scalars["class"] == checkpoint.model_class
        hears = checkpoint.id.startswith("wav_mel")
        assert checkpoint.front_end == (FrontEnd(8000.0, 80) if hears else None)
    for checkpoint in checkpoints[::4]:
        model = load_checkpoint(checkpoint.source)
        reference = deepstrf_model(Path(checkpoint.source.location))
        assert same_weights(model, reference)
        np.testing.assert_array_equal(
            probe_response(model, checkpoint.front_end), probe_response(reference, checkpoint.front_end)
        )


def test_ln_without_its_output_activation_is_refused_naming_the_entry(speech):
    folder = speech / "checkpoints" / "ln-seed0-fold0"
    with pytest.raises(ConfigError) as refusal:
        describe_checkpoint(source(folder, "cohort 'speech': checkpoints[1]"))
    message = str(refusal.value)
    assert "cohort 'speech': checkpoints[1]" in message
    assert "does not record output_activation of LinearNonlinear" in message
    assert '[cohort.checkpoints.modules.output_activation]\nclass = "torch.nn.Identity"' in message

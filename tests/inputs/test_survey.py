"""A first config for a folder: patterns that match what lies there and nothing else, and marks for the rest."""

import tomllib

import numpy as np
import pytest
import torch

from pipeline.inputs.checkpoints import discover
from pipeline.inputs.cohort_expansion import expand_cohorts
from pipeline.inputs.config_draft import draft_config
from pipeline.inputs.folder_survey import survey
from pipeline.plan.config import ConfigError, load_config
from pipeline.plan.config_blanks import blanks
from tasks.cli import main
from tests.inputs.lab import HERE, cells, save_best, save_deepstrf, save_folder

SMALL = {"n_frequency_bands": 8, "out_neurons": 2}


def drafted(folder):
    """The config that is written for a folder, and what of it is to be filled in."""
    text = draft_config(survey(str(folder)))
    return text, dict(blanks(tomllib.loads(text)))


def patterns(folder) -> dict[str, int]:
    return {group.pattern: group.count for group in survey(str(folder)).groups}


def fill_in(folder, text, **values):
    """The config once a person has written what only they know."""
    for hint, value in values.items():
        key = hint.rstrip("_")
        for line in [line for line in text.splitlines() if line.startswith(f"{key} = ") and "FILL IN" in line]:
            text = text.replace(line, f"{key} = {value}")
    (folder / "run.toml").write_text(text)
    return expand_cohorts(load_config(folder / "run.toml"))


def test_seeds_folds_and_architectures_are_read_off_the_names(tmp_path):
    for architecture in ("gru", "my-net", "ln"):
        for seed in (0, 10):
            save_best(tmp_path / f"checkpoints/{architecture}-seed{seed}-fold1", cells())
    assert patterns(tmp_path) == {"checkpoints/{architecture}-seed{seed}-fold1": 6}


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["gru/seed0", "gru/seed1", "ln/seed0"], "{architecture}/seed{seed}"),
        (["nets/gru/seed0", "nets/ln/seed1"], "nets/{architecture}/seed{seed}"),
        (["sites/a/gru_seed0", "sites/b/ln_seed3"], "sites/{site}/{architecture}_seed{seed}"),
        (["animals/x/1", "animals/y/2"], "animals/{animal}/{number}"),
        (["net"], "net"),
        (["a[1]/x", "a[1]/y"], "a[[]1]/{architecture}"),
    ],
)
def test_a_pattern_says_where_the_places_differ(tmp_path, places, expected):
    for place in places:
        save_best(tmp_path / place, cells())
    assert patterns(tmp_path) == {expected: len(places)}


def test_epochs_of_one_folder_are_files(tmp_path):
    for epoch in (1, 12):
        torch.save(cells().state_dict(), tmp_path / f"epoch={epoch}.ckpt")
    text, _ = drafted(tmp_path)
    run = fill_in(tmp_path, text, class_=f'"{HERE}.Cells"', frame_ms_="10.0", frequencies_hz_="[1, 2, 3, 4]")
    assert patterns(tmp_path) == {"epoch={epoch}.ckpt": 2}
    assert {entry.id for entry in discover(run, run.cohort[0])} == {"1", "12"}


def test_a_folder_of_sites_becomes_a_cohort_per_site(tmp_path):
    for site in ("a1", "b2"):
        for seed in range(3):
            save_folder(tmp_path / f"sites/{site}/gru-seed{seed}", cells(), None, {"dt_ms": 5.0})
        (tmp_path / f"sites/{site}/neurons.csv").write_text("neuron,depth\nx,1\ny,2\nz,3\n")
    (tmp_path / "frequencies.txt").write_text("100\n200\n300\n400\n")
    np.savez(tmp_path / "sounds.npz", a=np.ones((4, 9), "float32"))
    text, missing = drafted(tmp_path)
    assert list(missing) == ["cohort.0.checkpoints.0.class"]
    run = fill_in(tmp_path, text, class_=f'"{HERE}.Cells"')
    assert [(cohort.name, cohort.frame_ms, cohort.neurons) for cohort in run.cohort] == [
        ("a1", 5.0, "sites/a1/neurons.csv"),
        ("b2", 5.0, "sites/b2/neurons.csv"),
    ]
    assert [entry.id for entry in discover(run, run.cohort[1])] == ["gru-seed0", "gru-seed1", "gru-seed2"]
    assert run.maps["strf_sounds"].stimuli == "sounds.npz"


def test_folders_of_one_name_in_two_entries_have_ids_of_their_own(tmp_path):
    for seed in range(2):
        save_deepstrf(tmp_path / f"linear/seed{seed}", "Linear", seed=seed, **SMALL)
        save_deepstrf(tmp_path / f"gru/seed{seed}", "StateNet", output_activation=torch.nn.Tanh(), seed=seed, **SMALL)
    text, _ = drafted(tmp_path)
    tanh = '"torch.nn.Tanh"'
    run = fill_in(tmp_path, text, class_=tanh, frame_ms_="10.0", frequencies_hz_="[1, 2, 3, 4, 5, 6, 7, 8]")
    assert {source.id for source in discover(run, run.cohort[0])} == {
        f"{name}-seed{seed}" for name in ("linear", "gru") for seed in range(2)
    }


def test_what_deepstrf_does_not_record_is_marked_for_the_checkpoints_that_need_it(tmp_path):
    for seed in range(2):
        save_deepstrf(tmp_path / f"linear-seed{seed}", "Linear", seed=seed, **SMALL)
        save_deepstrf(tmp_path / f"gru-seed{seed}", "StateNet", output_activation=torch.nn.Tanh(), seed=seed, **SMALL)
    assert patterns(tmp_path) == {"gru-seed{seed}": 2, "linear-seed{seed}": 2}
    _, missing = drafted(tmp_path)
    modules = [key for key in missing if "modules" in key]
    assert modules == ["cohort.0.checkpoints.0.modules.output_activation.class"]
    assert "centres of the 8 bands" in missing["cohort.0.frequencies_hz"]


def test_the_command_writes_a_config_and_plan_says_what_to_fill_in(tmp_path, capsys):
    save_best(tmp_path / "net-seed0", cells())
    assert main(["init", str(tmp_path)]) == 0
    assert "3 places to fill in" in capsys.readouterr().out
    assert main(["plan", str(tmp_path / "run.toml")]) == 2
    refused = capsys.readouterr().err
    assert "cohort.0.frame_ms: width of one frame" in refused
    assert "cohort.0.checkpoints.0.class: the class of these weights" in refused
    assert main(["init", str(tmp_path)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    text = (tmp_path / "run.toml").read_text()
    fill_in(tmp_path, text, class_=f'"{HERE}.Cells"', frame_ms_="10.0", frequencies_hz_="[1, 2, 3, 4]")
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace('lags = "auto"', "lags = 3"))
    assert main(["plan", str(tmp_path / "run.toml")]) == 0


def test_entries_have_ids_of_their_own_and_one_fault_is_one_line(tmp_path, capsys):
    for seed in range(4):
        for kind in ("plain", "whole"):
            (tmp_path / kind).mkdir(exist_ok=True)
            torch.save(cells(seed=seed).state_dict() if kind == "plain" else cells(), tmp_path / f"{kind}/{seed}.pt")
        torch.save(cells(seed=seed).state_dict(), tmp_path / f"epoch={seed}.ckpt")
    text, _ = drafted(tmp_path)
    text = text.replace('lags = "auto"', "lags = 3")
    run = fill_in(tmp_path, text, class_=f'"{HERE}.Cells"', frame_ms_="10.0", frequencies_hz_="[1, 2, 3, 4]")
    ids = {source.id for source in discover(run, run.cohort[0])}
    assert ids == {f"{begin}{seed}" for begin in ("plain-", "whole-", "epoch=") for seed in range(4)}
    assert main(["plan", str(tmp_path / "run.toml")]) == 3
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cannot be loaded")]
    assert len(faults) == 1
    assert faults[0].startswith("cannot be loaded: all/whole-0, all/whole-1, all/whole-2 and 1 more: ")


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        survey(str(tmp_path))
    with pytest.raises(ConfigError, match="is no folder"):
        survey(str(tmp_path / "nowhere"))

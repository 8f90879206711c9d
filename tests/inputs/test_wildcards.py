"""Words in braces: what they match, what they become, and which cohorts they make."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.checkpoints import discover
from pipeline.inputs.cohort_expansion import expand_cohorts
from pipeline.plan.config import ConfigError, RunConfig
from pipeline.plan.wildcards import as_expression, as_glob, fill, fill_pattern, typed
from pipeline.run.prepare import prepare_run
from tests.inputs.lab import HERE, cells, describe_checkpoint, refused, save_best, save_folder, source

CELLS = f"{HERE}.Cells"


def config(folder, *entries, name="cells", maps=None, **cohort) -> RunConfig:
    shared = {"frame_ms": 10.0, "lags": 3, "frequencies_hz": [100.0, 200.0, 300.0, 400.0]}
    return RunConfig.model_validate(
        {
            "store": "cube.zarr",
            "cohort": [{"name": name, **shared, "checkpoints": list(entries), **cohort}],
            "maps": maps or {"strf": {"kind": "strf"}},
            "folder": str(folder),
        }
    )


def labels(folder, *entries, **cohort):
    run = config(folder, *entries, **cohort)
    return {source.id: source.labels for source in discover(run, run.cohort[0])}


# What a word is


names = st.text("abcXYZ019-_.+ é", min_size=1, max_size=6)


@given(site=names, architecture=names, seed=st.integers(0, 99))
def test_a_path_gives_back_what_it_was_made_of(site, architecture, seed):
    pattern = "sites/{site}/{architecture}#seed{seed}/again-{site}"
    path = fill(pattern, {"site": site, "architecture": architecture, "seed": seed})
    assert as_expression(pattern).fullmatch(path).groupdict() == {
        "site": site,
        "architecture": architecture,
        "seed": str(seed),
    }
    assert as_glob(pattern) == "sites/*/*#seed*/again-*"


def test_a_word_without_a_value_stays():
    assert fill("{site}/{seed}", {"seed": 3}) == "{site}/3"
    assert fill_pattern("{site}/{seed}", {"seed": "3"}) == "{site}/3"


def test_a_word_means_the_same_text_everywhere_and_at_least_one_letter():
    expression = as_expression("{a}/{a}-{b}")
    assert expression.fullmatch("x/x-1")
    assert not expression.fullmatch("x/y-1")
    assert not expression.fullmatch("x/x-")
    assert as_expression("[ab]?/**/{a}.pt").fullmatch("ac/d/e/f.pt")["a"] == "f"
    assert as_expression(fill_pattern("{a}/{b}", {"a": "x[1]*"})).fullmatch("x[1]*/3")


def test_whole_numbers_become_numbers_unless_they_would_fall_together():
    assert typed(["0", "10", "2"]) == [0, 10, 2]
    assert typed(["00", "01"]) == [0, 1]
    assert typed(["1", "01"]) == ["1", "01"]
    assert typed(["1", "a"]) == ["1", "a"]
    assert typed(["1.5", "2"]) == ["1.5", "2"]


# In a path


def test_a_word_that_is_no_text_is_refused(tmp_path):
    save_best(tmp_path / "ok-1", cells())
    (tmp_path / "ok-1").rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff-1")))
    with pytest.raises(ConfigError, match=r"\{net\} stands for 'o.udcff', which cannot be a label"):
        labels(tmp_path, {"path": "{net}-{seed}", "id": "{seed}"})


def test_words_of_a_path_become_labels_with_their_types(tmp_path):
    for architecture in ("gru", "my-net"):
        for seed in (0, 10):
            save_best(tmp_path / f"a1/{architecture}-seed{seed}-fold1", cells())
    entry = {"path": "a1/{architecture}-seed{seed}-fold{fold}", "labels": {"lab": "north", "pilot": True}}
    found = labels(tmp_path, entry)
    assert sorted(found) == ["gru-seed0-fold1", "gru-seed10-fold1", "my-net-seed0-fold1", "my-net-seed10-fold1"]
    assert found["my-net-seed10-fold1"] == {
        "architecture": "my-net",
        "seed": 10,
        "fold": 1,
        "lab": "north",
        "pilot": True,
    }
    assert type(found["gru-seed0-fold1"]["seed"]) is int


def test_words_may_stand_in_the_id_and_are_told_where_ids_collide(tmp_path):
    for architecture in ("gru", "ln"):
        save_best(tmp_path / f"{architecture}/seed0", cells())
    assert list(labels(tmp_path, {"path": "{architecture}/seed{seed}", "id": "{architecture}.{seed}"})) == [
        "gru.0",
        "ln.0",
    ]
    with pytest.raises(ConfigError, match=r'for example id = "\{architecture\}-\{seed\}"'):
        labels(tmp_path, {"path": "{architecture}/seed{seed}"})


def test_epochs_of_one_folder_are_told_apart_by_a_word(tmp_path):
    for epoch in (3, 12):
        torch.save(cells().state_dict(), tmp_path / f"epoch={epoch}.ckpt")
    found = labels(tmp_path, {"path": "epoch={epoch}.ckpt", "id": "e{epoch}"})
    assert {name: words["epoch"] for name, words in found.items()} == {"e3": 3, "e12": 12}


def test_labels_of_the_config_count_more_than_those_of_a_file(tmp_path):
    save_folder(tmp_path / "net-4", cells(), None, {"seed": 3, "architecture": "fir"})
    run = config(tmp_path, {"path": "net-{seed}", "class": CELLS})
    (found,) = discover(run, run.cohort[0])
    assert describe_checkpoint(found).scalars == {"seed": 4, "architecture": "fir", "class": "Cells"}
    (tmp_path / "net-4" / "model.safetensors").write_bytes(b"")
    broken = describe_checkpoint(found)
    assert refused(broken)
    assert broken.scalars["seed"] == 4


def test_a_folder_whose_name_holds_braces_is_no_word(tmp_path):
    save_best(tmp_path / "{odd}" / "net", cells())
    assert labels(tmp_path / "{odd}", {"path": "*"}) == {"net": {}}
    assert labels(tmp_path, {"path": "{odd}/net"}) == {"net": {}}
    assert labels(tmp_path, {"path": "{odd}/n*"}) == {"net": {"odd": "{odd}"}}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("{folder}/x", "can stand in `id` only"),
        ("{neuron}", "would be a label that the cube uses itself"),
        ("{a}/{a}", "the same word must match the same text"),
    ],
)
def test_words_that_cannot_be_labels_are_refused(tmp_path, path, told):
    save_best(tmp_path / "x" / "y", cells())
    with pytest.raises(ConfigError, match=told):
        labels(tmp_path, {"path": path})


def test_labels_that_the_cube_uses_itself_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the label 'neuron' is used by the cube itself"):
        config(tmp_path, {"path": "x", "labels": {"neuron": "a"}})


# In a cohort's name


def sites(folder, names=("a1", "b2", "c3"), seeds=2, n_cells=3):
    for index, name in enumerate(names):
        for seed in range(seeds):
            save_best(folder / f"sites/{name}/cells-seed{seed}", cells(seed=seed, n_cells=n_cells + index))
        rows = "".join(f"{name}-{cell},{cell}\n" for cell in range(n_cells + index))
        (folder / f"sites/{name}/neurons.csv").write_text(f"neuron,depth\n{rows}")
        (folder / f"sites/{name}/bands.txt").write_text("100\n200\n300\n400\n")


def site_config(folder, **cohort):
    sizes = {"path": "sites/{site}/{architecture}-seed{seed}", "factory": f"{HERE}:build_sized"}
    shared = {"neurons": "sites/{site}/neurons.csv", "frequencies_hz": "sites/{site}/bands.txt"}
    return config(folder, sizes, name="{site}", **{**shared, **cohort})


def test_one_entry_makes_a_cohort_per_site_with_its_own_neurons(tmp_path):
    sites(tmp_path)
    plan = prepare_run(site_config(tmp_path))
    assert [cohort.name for cohort in plan.cohorts] == ["a1", "b2", "c3"]
    assert [len(cohort.neurons) for cohort in plan.cohorts] == [3, 4, 5]
    assert plan.cohorts[1].neurons[0] == "b2-0"
    first = plan.cohorts[0].checkpoints[1]
    assert first.id == "cells-seed1"
    assert {name: first.scalars[name] for name in ("site", "architecture", "seed")} == {
        "site": "a1",
        "architecture": "cells",
        "seed": 1,
    }


def test_sites_by_number_come_in_order_and_stay_numbers(tmp_path):
    sites(tmp_path, names=("10", "9"))
    run = expand_cohorts(site_config(tmp_path))
    assert [cohort.name for cohort in run.cohort] == ["9", "10"]
    assert run.cohort[0].checkpoints[0].labels == {"site": 9}


def test_maps_may_name_one_site_or_all_of_them(tmp_path):
    sites(tmp_path)
    maps = {
        "everywhere": {"kind": "strf"},
        "each": {"kind": "strf", "cohorts": ["{site}"]},
        "one": {"kind": "strf", "cohorts": ["b2"]},
    }
    run = expand_cohorts(site_config(tmp_path, maps=maps))
    assert list(run.maps_of("a1")) == ["everywhere", "each"]
    assert list(run.maps_of("b2")) == ["everywhere", "each", "one"]


def test_a_site_without_an_architecture_is_a_smaller_cohort(tmp_path):
    sites(tmp_path)
    save_best(tmp_path / "sites/a1/other", cells())
    run = config(tmp_path, {"path": "sites/{site}/cells-seed{seed}"}, {"path": "sites/{site}/other"}, name="{site}")
    expanded = expand_cohorts(run)
    assert [len(cohort.checkpoints) for cohort in expanded.cohort] == [2, 1, 1]


@pytest.mark.parametrize(
    ("cohort", "told"),
    [
        ({"name": "{animal}"}, r"no path of its checkpoints has \{animal\}"),
        ({"neurons": "sites/{seed}.csv"}, r"asks for \{seed\}, which is not a word of the cohort's name"),
    ],
)
def test_words_that_nothing_fills_in_are_refused(tmp_path, cohort, told):
    sites(tmp_path)
    entry = {"path": "sites/{site}/cells-seed{seed}"}
    with pytest.raises(ConfigError, match=told):
        expand_cohorts(config(tmp_path, entry, **{"name": "{site}", **cohort}))


def test_a_folder_that_cannot_name_a_group_is_refused(tmp_path):
    sites(tmp_path, names=("left ear",))
    with pytest.raises(ConfigError, match="comes to be called 'left ear'"):
        expand_cohorts(site_config(tmp_path))


# Seeds as deepSTRF leaves them


def test_scores_of_fit_multi_seed_become_coordinates_and_variables(tmp_path):
    for seed in (0, 11):
        folder = save_best(tmp_path / f"seed{seed}", cells(seed=seed))
        scores = {"val": {"loss": 0.5, "cc": {"mean": 0.25, "n_valid": 3}}, "test": {"loss": 0.75, "cc": {"mean": 0.5}}}
        (folder / "final.json").write_text(json.dumps(scores))
        per_neuron = torch.tensor([0.25, float("nan"), 0.5]) + seed
        torch.save({"val": {}, "test": {"cc": per_neuron}}, folder / "final_neurons.pt")
        (folder / "history.json").write_text("[]")
    run = config(tmp_path, {"path": "seed*", "class": CELLS})
    found = [describe_checkpoint(entry) for entry in discover(run, run.cohort[0])]
    assert [entry.error for entry in found] == [None, None]
    assert [entry.scalars["seed"] for entry in found] == [0, 11]
    assert found[1].scalars["val_loss"] == 0.5
    assert found[1].scalars["test_cc_mean"] == 0.5
    assert found[1].per_neuron["test_cc"][::2] == (11.25, 11.5)
    assert found[1].per_neuron["test_cc"][1] != found[1].per_neuron["test_cc"][1]


def test_scores_that_hold_a_pickled_object_are_not_opened(tmp_path):
    from tests.inputs.test_hostile_files import Trap

    folder = save_best(tmp_path / "seed0", cells())
    torch.save({"test": Trap(tmp_path / "sprung")}, folder / "final_neurons.pt")
    assert "holds a pickled object" in refused(describe_checkpoint(source(folder, **{"class": CELLS})))
    assert not (tmp_path / "sprung").exists()

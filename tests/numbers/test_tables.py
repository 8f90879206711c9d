"""From a cube to a tidy table: every row once, every label kept, nothing counted that is not done."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipeline.numbers import tables
from pipeline.numbers.strf import strf_summaries
from tests.numbers.planted import Gabor

FREQUENCY = np.geomspace(200.0, 6400.0, 11)
LAG = np.arange(12) * 10.0
HEALTH = {"flag_masks": [1, 2, 4], "flag_meanings": "all_zero truncated_window routes_disagree", "role": "companion"}
STATUS = {"flag_values": [0, 1, 2], "flag_meanings": "pending done failed", "role": "status"}


def cube(checkpoints=3, neurons=4, stimuli=2, rng=0):
    """A cube as a run writes it: two STRF maps, one of them around stimuli, one waveform map, and their companions."""
    rng = np.random.default_rng(rng)
    field = Gabor(1000.0, 40.0, 0.6, 15.0).at(FREQUENCY, LAG)
    shape = (checkpoints, neurons)

    def noisy(*leading):
        return (field + 0.05 * rng.standard_normal((*leading, 11, 12))).astype("f4")

    around = (checkpoints, stimuli, neurons)
    dataset = xr.Dataset(
        {
            "strf": (("checkpoint", "neuron", "frequency", "lag"), noisy(*shape), {"kind": "strf", "units": "1"}),
            "strf_status": (("checkpoint", "neuron"), np.ones(shape, "u1"), STATUS),
            "strf_health": (("checkpoint", "neuron"), np.zeros(shape, "u2"), HEALTH),
            "strf_memory_90": (("checkpoint", "neuron"), np.full(shape, 77.0, "f4"), {"role": "companion"}),
            "speech": (("checkpoint", "stimulus", "neuron", "frequency", "lag"), noisy(*around), {"kind": "strf"}),
            "speech_status": (("checkpoint", "stimulus", "neuron"), np.ones(around, "u1"), STATUS),
            "wave": (
                ("checkpoint", "wave_stimulus", "neuron", "wave_waveform_lag"),
                rng.standard_normal((checkpoints, 1, neurons, 30)).astype("f4"),
                {"kind": "waveform"},
            ),
            "wave_status": (
                ("checkpoint", "wave_stimulus", "neuron"),
                np.ones((checkpoints, 1, neurons), "u1"),
                STATUS,
            ),
            "total": (("checkpoint", "frequency", "lag"), noisy(checkpoints), {"kind": "strf", "neurons": "sum"}),
            "cc_test": (("checkpoint", "neuron"), rng.uniform(0, 1, shape), {"long_name": "test correlation"}),
            "probe_response": (("checkpoint", "neuron"), np.zeros(shape), {"role": "probe"}),
        },
        coords={
            "checkpoint": np.array([f"gru-{c}" for c in range(checkpoints)], dtype=object),
            "architecture": ("checkpoint", np.array(["gru"] * checkpoints, dtype=object)),
            "seed": ("checkpoint", np.arange(checkpoints)),
            "neuron": np.array([f"n{n}" for n in range(neurons)], dtype=object),
            "site": ("neuron", np.array(["a", "", *["b"] * (neurons - 2)], dtype=object)),
            "depth_um": ("neuron", np.linspace(100, 900, neurons)),
            "frequency": ("frequency", FREQUENCY, {"units": "Hz"}),
            "lag": ("lag", LAG, {"units": "ms"}),
            "stimulus": np.array([f"stim{s}" for s in range(stimuli)], dtype=object),
            "wave_stimulus": ["whole"],
            "wave_waveform_lag": ("wave_waveform_lag", np.arange(30) * 0.125, {"units": "ms"}),
        },
    )
    return dataset


@pytest.mark.parametrize("chunks", [None, {"checkpoint": 1}])
def test_summaries_are_those_of_each_map_under_its_name(chunks):
    dataset = cube() if chunks is None else cube().chunk(chunks)
    found = tables.summarise(dataset)
    expected = strf_summaries(cube()["speech"])
    assert bool(found["strf_best_rate"].chunks) == bool(chunks)
    found = found.compute()
    for name in expected:
        np.testing.assert_array_equal(found[f"speech_{name}"], expected[name])
        assert found[f"speech_{name}"].dims == expected[name].dims
    assert found["wave_centroid_frequency"].dims == ("checkpoint", "wave_stimulus", "neuron")
    assert not {"strf", "speech", "wave", "total", "total_best_rate"} & set(found)
    assert {"strf_health", "strf_status", "cc_test", "site"} <= set(found.variables)
    summaries = found.filter_by_attrs(kind="summary")
    assert {"strf_best_rate", "wave_duration"} <= set(summaries)
    assert "cc_test" not in summaries
    assert found["strf_best_rate"].attrs["map"] == "strf"
    assert found["strf_best_rate"].attrs["measure"] == "best_rate"


def test_what_a_run_wrote_beside_its_maps_is_not_written_again():
    found = tables.summarise(cube())
    assert (found["strf_memory_90"] == 77).all()
    assert found["strf_memory_90"].attrs["role"] == "companion"
    assert (found["speech_memory_90"] != 77).all()


@pytest.mark.parametrize("chunks", [None, {"neuron": 2}])
def test_maps_that_are_not_done_have_no_numbers(chunks):
    dataset = cube()
    dataset["strf_status"][0, 1] = 0
    dataset["strf_status"][2, 3] = 2
    dataset["speech_status"][1, 1, 2] = 2
    found = tables.summarise(dataset if chunks is None else dataset.chunk(chunks)).compute()
    expected = np.ones((3, 4), bool)
    expected[0, 1] = expected[2, 3] = False
    np.testing.assert_array_equal(found["strf_best_frequency"].notnull(), expected)
    np.testing.assert_array_equal(found["strf_degenerate"] == 0, expected)
    assert found["strf_degenerate"].dtype == np.int8
    assert found["speech_norm"].isnull().sum() == 1
    assert found["strf_singular_values"].isnull().sum() == 2 * 11


def test_a_second_summary_replaces_the_first():
    first = tables.summarise(cube())
    both = xr.merge([cube(), first.filter_by_attrs(kind="summary")], compat="override")
    both["strf_best_rate"] = both["strf_best_rate"].copy(data=np.zeros((3, 4)))
    xr.testing.assert_identical(tables.summarise(both)["strf_best_rate"], first["strf_best_rate"])
    kept = tables.summarise(both, ["wave"])
    assert (kept["strf_best_rate"] == 0).all()


def test_a_cube_without_maps_or_without_that_map_is_refused():
    with pytest.raises(ValueError, match="strf, speech, wave"):
        tables.summarise(cube(), ["sound"])
    with pytest.raises(ValueError, match="no maps"):
        tables.summarise(cube()[["cc_test"]])


def test_a_table_has_one_row_per_checkpoint_and_neuron_with_every_column():
    dataset = cube()[["strf", "strf_status", "strf_health", "cc_test", "probe_response"]]
    dataset["strf_health"][1, 2] = 5
    summary = tables.summarise(dataset)
    table = tables.summary_table(summary, cohort="speech")
    assert list(table.columns[:3]) == ["cohort", "checkpoint", "neuron"]
    assert len(table) == 12
    assert not table.duplicated(["checkpoint", "neuron"]).any()
    for _, row in table.iterrows():
        at = {"checkpoint": row["checkpoint"], "neuron": row["neuron"]}
        for name in ("strf_best_frequency", "strf_inseparability", "strf_best_rate", "cc_test", "depth_um", "seed"):
            assert row[name] == summary[name].sel({d: v for d, v in at.items() if d in summary[name].dims})
        assert row["strf_singular_values_2"] == summary["strf_singular_values"].sel(at).isel(singular_value=1)
        assert row["architecture"] == "gru"
        assert row["strf_onset_class"] == "on"
        assert row["strf_status"] == "done"
        sick = at == {"checkpoint": "gru-1", "neuron": "n2"}
        assert (row["strf_health_all_zero"], row["strf_health_truncated_window"]) == (sick, False)
        assert row["strf_health_routes_disagree"] == sick
    assert table["strf_health_all_zero"].dtype == "boolean"
    assert table["site"].isna().sum() == 3
    assert not {"strf_health", "probe_response", "strf_singular_values", "strf_singular_values_4"} & set(table.columns)
    assert table.attrs["units"]["strf_best_frequency"] == "Hz"
    assert table.attrs["long_name"]["cc_test"] == "test correlation"


def test_maps_around_stimuli_have_rows_of_their_own():
    table = tables.summary_table(tables.summarise(cube().chunk()))
    plain = table[table["stimulus"].isna()]
    speech = table[table["stimulus"].isin(["stim0", "stim1"])]
    wave = table[table["stimulus"] == "whole"]
    assert (len(plain), len(speech), len(wave), len(table)) == (12, 24, 12, 48)
    assert plain["strf_norm"].notna().all()
    assert plain[["speech_norm", "wave_norm"]].isna().all(axis=None)
    assert speech["speech_norm"].notna().all()
    assert speech[["strf_norm", "wave_norm"]].isna().all(axis=None)
    assert wave["wave_norm"].notna().all()
    assert table[["cc_test", "architecture", "depth_um"]].notna().all(axis=None)
    assert "wave_stimulus" not in table.columns


@pytest.mark.parametrize("rules", ["cc_test > 0.4", ["cc_test > 0.4"], {"cc_test": (">", 0.4)}])
def test_rules_select_rows_and_are_recorded(rules):
    dataset = cube()[["strf", "strf_status", "strf_health", "cc_test"]]
    dataset["cc_test"][0, 0] = np.nan
    summary = tables.summarise(dataset)
    table = tables.summary_table(summary, rules)
    assert len(table) == int((dataset["cc_test"] > 0.4).sum()) > 0
    assert (table["cc_test"] > 0.4).all()
    assert table.attrs["select"] == ["cc_test > 0.4"]
    assert (table.attrs["rows_before_selection"], table.attrs["rows"]) == (12, len(table))


def test_rules_for_text_lists_and_flags():
    dataset = cube()[["strf", "strf_health"]]
    dataset["strf_health"][0] = 1
    summary = tables.summarise(dataset)
    healthy = tables.summary_table(summary, {"strf_health_all_zero": False, "site": ["b"], "seed": 1})
    assert healthy[["checkpoint", "neuron"]].values.tolist() == [["gru-1", "n2"], ["gru-1", "n3"]]
    assert len(tables.summary_table(summary, "strf_health_all_zero == true")) == 4
    assert len(tables.summary_table(summary, "site != b")) == 3  # the neurons without a site meet no rule
    assert len(tables.summary_table(summary, "site == 'a'")) == 3
    assert len(tables.summary_table(summary, {"checkpoint": ("!=", "gru-0")})) == 8


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ("cc > 0.3", "names no column"),
        ("cc_test", "column comparison value"),
        ({"cc_test": ("~", 0.3)}, "one of"),
        ({"site": (">", 3)}, "compares"),
    ],
)
def test_rules_that_cannot_be_read_are_refused(rules, match):
    summary = tables.summarise(cube()[["strf", "cc_test"]])
    with pytest.raises(ValueError, match=match):
        tables.summary_table(summary, rules)


def test_a_population_table_stacks_cohorts_with_different_columns():
    speech = tables.summarise(cube()[["strf", "strf_health", "cc_test"]])
    music = tables.summarise(cube(2, 3)[["strf"]].assign_coords(animal=("neuron", ["x", "y", "z"])))
    table = tables.population_table({"speech": speech, "music": music}, "strf_norm > 0")
    assert table.groupby("cohort").size().to_dict() == {"music": 6, "speech": 12}
    assert table.loc[table["cohort"] == "music", "cc_test"].isna().all()
    assert table.loc[table["cohort"] == "speech", "animal"].isna().all()
    assert table.attrs["units"]["strf_norm"] == "1"
    assert not table.duplicated(["cohort", "checkpoint", "neuron"]).any()
    with pytest.raises(ValueError, match="no cohort"):
        tables.population_table({})


def test_whole_numbers_and_flags_that_one_cohort_lacks_stay_what_they_are():
    described = {"depth": ("neuron", [3, 4]), "tuned": ("neuron", [True, False]), "layer": ("neuron", [1, 2])}
    one = tables.summarise(cube(1, 2)[["strf"]].assign_coords(described))
    two = tables.summarise(cube(1, 2)[["strf"]].assign_coords(layer=("neuron", [2.5, 3.0])))
    table = tables.population_table({"one": one, "two": two})
    assert {name: str(table[name].dtype) for name in described} == {
        "depth": "Int64",
        "tuned": "boolean",
        "layer": "float64",
    }
    assert table["depth"].tolist() == [3, 4, pd.NA, pd.NA]
    assert table["layer"].tolist() == [1.0, 2.0, 2.5, 3.0]


def test_tables_come_back_from_parquet_with_their_record_and_from_csv_with_their_numbers(tmp_path):
    table = tables.summary_table(tables.summarise(cube()), "cc_test > 0.1", cohort="speech")
    tables.write_table(table, tmp_path / "table.parquet")
    back = pd.read_parquet(tmp_path / "table.parquet")
    # Before version 3, a missing text may be None or NaN in pandas.
    pd.testing.assert_frame_equal(back.where(back.notna(), np.nan), table.where(table.notna(), np.nan))
    assert back.attrs == table.attrs
    tables.write_table(table, tmp_path / "table.csv")
    plain = pd.read_csv(tmp_path / "table.csv")
    assert list(plain.columns) == list(table.columns)
    np.testing.assert_allclose(plain["strf_best_rate"], table["strf_best_rate"])
    columns = pd.read_csv(tmp_path / "table.columns.csv").set_index("column")
    assert columns.loc["strf_best_frequency", "units"] == "Hz"
    assert "argmax |g|" in columns.loc["strf_best_frequency", "description"]
    assert columns.loc[["strf_health_all_zero", "seed", "site"], "type"].tolist() == [
        "TRUE or FALSE", "whole number", "text",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "table.columns.parquet").fillna("NA"),
        columns.reset_index().fillna("NA"),
        check_dtype=False,
    )
    beside = json.loads((tmp_path / "table.csv.json").read_text(encoding="utf-8"))
    assert beside["select"] == ["cc_test > 0.1"]
    assert beside["units"]["strf_best_frequency"] == "Hz"
    with pytest.raises(ValueError, match=r"\.xlsx"):
        tables.write_table(table, tmp_path / "table.xlsx")


def test_cells_of_a_csv_are_what_other_programs_take_for_flags_whole_numbers_and_nothing(tmp_path):
    dataset = cube()
    dataset["strf_health"][0] = 1
    dataset["strf_status"][2] = 2
    dataset = dataset.assign_coords(fold=("checkpoint", [1, 2, 3]))
    tables.write_table(tables.summary_table(tables.summarise(dataset)), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    plain = [row for row in rows if row["stimulus"] == "NA"]
    flags = {row["checkpoint"]: row["strf_health_all_zero"] for row in plain}
    assert flags == {"gru-0": "TRUE", "gru-1": "FALSE", "gru-2": "NA"}
    assert {row["strf_health_all_zero"] for row in rows if row["stimulus"] != "NA"} == {"NA"}
    assert {row["fold"] for row in rows} == {"1", "2", "3"}
    assert {row["strf_onset_class"] for row in plain} == {"on", "NA"}
    assert not [name for row in rows for name, cell in row.items() if cell == ""]


def test_a_flag_of_a_map_that_failed_is_missing_and_meets_no_rule():
    dataset = cube()[["strf", "strf_status", "strf_health"]]
    dataset["strf_status"][1] = 2
    dataset["strf_status"][2, 0] = 0
    table = tables.summary_table(tables.summarise(dataset))
    assert table["strf_health_all_zero"].isna().sum() == 4 + 1
    kept = tables.summary_table(tables.summarise(dataset), "strf_health_all_zero == false")
    assert len(kept) == 12 - 5
    assert "gru-1" not in set(kept["checkpoint"])


def test_summaries_survive_a_zarr_store(tmp_path):
    summary = tables.summarise(cube()[["strf", "strf_status", "strf_health", "cc_test"]])
    summary.to_zarr(tmp_path / "cube.zarr", consolidated=False)
    back = xr.open_zarr(tmp_path / "cube.zarr", consolidated=False)
    expected = tables.summary_table(summary.compute())
    pd.testing.assert_frame_equal(tables.summary_table(back), expected, check_dtype=False)
    measures = ("best_frequency", "latency", "bandwidth", "duration", "norm", "best_rate", "direction_selectivity")
    places = [list(expected.columns).index(f"strf_{name}") for name in measures]
    assert places == sorted(places)


def test_a_dataset_without_neurons_makes_no_table():
    with pytest.raises(ValueError, match="no 'neuron'"):
        tables.summary_table(xr.Dataset({"x": ("checkpoint", [1.0])}))


def test_a_measure_that_no_map_has_is_an_empty_column_beside_maps_with_other_axes():
    def summary(dims, values, name, measure):
        return dims, values, {"kind": "summary", "map": name, "measure": measure}

    measured = xr.Dataset(
        {
            "strf_best_frequency": summary(("checkpoint", "neuron"), np.full((1, 2), np.nan), "strf", "best_frequency"),
            "strf_norm": summary(("checkpoint", "neuron"), np.zeros((1, 2)), "strf", "norm"),
            "around_norm": summary(("checkpoint", "stimulus", "neuron"), np.ones((1, 2, 2)), "around", "norm"),
        },
        coords={"checkpoint": ["a"], "neuron": ["n0", "n1"], "stimulus": ["s", "t"]},
    )
    table = tables.summary_table(measured)
    assert table["strf_best_frequency"].isna().all()
    assert len(table) == 6
    assert table["around_norm"].notna().sum() == 4

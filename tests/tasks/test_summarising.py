"""`gradmap summarise` writes the measures into the cubes and a tidy table, the same on Ray as in one process."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline import open_cube
from pipeline.numbers.catalogue import measure
from pipeline.numbers.strf import StrfSettings
from pipeline.numbers.tables import population_table
from pipeline.store.reader import open_cubes, open_maps
from pipeline.store.summaries import write_summaries
from tasks import summarising
from tasks.cli import main


@pytest.fixture
def store(demo_store, tmp_path):
    return shutil.copytree(demo_store, tmp_path / "gradmaps.zarr")


def test_the_table_has_one_row_per_map_with_every_label(store, tmp_path, capsys):
    table = tmp_path / "table.csv"
    assert main(["summarise", str(store), "--table", str(table)]) == 0
    assert "rows of measures" in capsys.readouterr().out.splitlines()[-1]
    rows = pd.read_csv(table)
    cube = open_cube(store, "demo")
    plain = rows[(rows.cohort == "demo") & rows.stimulus.isna()]
    assert len(plain) == cube.sizes["checkpoint"] * cube.sizes["neuron"]
    assert {"architecture", "seed", "cc_test", "planted_best_frequency_hz", "strf_best_frequency"} <= set(rows.columns)
    first = plain.iloc[0]
    here = cube.strf.sel(checkpoint=first.checkpoint, neuron=first.neuron)
    assert first.strf_best_frequency == pytest.approx(float(measure(here, "best_frequency")))


@pytest.mark.parametrize(
    "command", ["summarise {}", "report {}", "reliability {}", "reliability {} --cohort demo", "compare {} gru ln"]
)
def test_a_map_whose_object_is_gone_is_refused_by_every_command_that_reads_it(store, capsys, command):
    next(path for path in (store / "demo/strf/c/1").rglob("*") if path.is_file()).unlink()
    assert main(command.format(store).split()) == 2
    told = capsys.readouterr().err
    assert re.search(r"demo/strf/c/1\S* of .* is gone \(checkpoint .*gradmap verify --requeue", told)


def test_the_cube_keeps_the_summaries_and_its_maps(store):
    before = open_cube(store, "demo").strf.load()
    assert main(["summarise", str(store)]) == 0
    after = open_cube(store, "demo")
    assert "strf_best_frequency" in after
    np.testing.assert_array_equal(after.strf, before)


def test_a_rule_keeps_rows_of_the_table_only(store, tmp_path):
    table = tmp_path / "table.parquet"
    assert main(["summarise", str(store), "--table", str(table), "--select", "cc_test > 0.6"]) == 0
    kept = pd.read_parquet(table)
    assert (kept.cc_test > 0.6).all()
    assert len(kept) > 0
    assert "cc_test > 0.6" in str(kept.attrs)


def test_a_threshold_leaves_the_noise_out_of_the_measures_and_is_recorded(store):
    assert main(["summarise", str(store)]) == 0
    all_entries = open_cube(store, "demo")["strf_duration_analytic"].load()
    assert main(["summarise", str(store), "--threshold", "3"]) == 0
    cube = open_cube(store, "demo")
    assert "under 3 robust" in cube["strf_duration_analytic"].attrs["entries"]
    expected = measure(cube["strf"], "duration_analytic", settings=StrfSettings(threshold=3)).compute()
    np.testing.assert_allclose(cube["strf_duration_analytic"], expected, rtol=1e-5)
    assert float(np.nanmedian(cube["strf_duration_analytic"].values - all_entries.values)) < 0
    assert main(["summarise", str(store), "--threshold", "-1"]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--table", "t.xlsx"], ".parquet or .csv"),
        (["--table", "none/t.csv"], "is not there"),
        (["--select", "cc_tset > 0.3"], "cc_tset"),
    ],
)
def test_what_cannot_be_written_is_refused(store, capsys, arguments, told):
    assert main(["summarise", str(store), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_blocks_in_processes_give_the_numbers_of_one(store, monkeypatch):
    monkeypatch.setattr(summarising, "BLOCK_BYTES", 1)
    cubes = open_maps(str(store))
    parts = [part for cohort, cube in cubes.items() for part in summarising._parts(cohort, cube)]
    assert len(parts) == sum(cube.sizes["checkpoint"] for cube in cubes.values())
    alone = list(summarising._measured(str(store), cubes, parts, None))
    monkeypatch.setattr(summarising, "MANY_MAPS", 0)
    monkeypatch.setattr(summarising, "MAPS_PER_TASK", 1)
    monkeypatch.setattr(summarising, "cores", lambda: 2)
    beside = list(summarising._measured(str(store), cubes, parts, None))
    assert [part for part, _ in beside] == parts
    for (part, there), (_, here) in zip(beside, alone, strict=True):
        assert there.identical(here), part


def test_blocks_on_a_cluster_give_the_numbers_of_one_process(store, own_ray, monkeypatch):
    cubes = open_maps(str(store))
    parts = [part for cohort, cube in cubes.items() for part in summarising._parts(cohort, cube)]
    alone = list(summarising._measured(str(store), cubes, parts, None))
    for (part, there), (_, here) in zip(summarising._measured(str(store), cubes, parts, "auto"), alone, strict=True):
        assert there.identical(here), part


def test_a_table_holds_what_the_cubes_hold(store):
    """The table is made of what was just measured; reading everything back gives the same."""
    foreign = open_cube(store, "demo")["strf"].max(("frequency", "lag")).rename("strf_highest").drop_attrs()
    write_summaries(store, {"demo": foreign.to_dataset().compute()})
    rows = summarising.summarise_store(str(store))
    read = population_table(open_cubes(store))
    assert "strf_highest" in read.columns
    pd.testing.assert_frame_equal(rows, read)
    assert rows.attrs == read.attrs

"""Comparisons of groups of checkpoints find what was planted, and count only maps that count."""

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from pipeline.numbers.comparing import compare_maps, compare_measures, group_reliability, label_text, variance_shares
from pipeline.numbers.counted_maps import choose_maps
from pipeline.numbers.group_difference import Numbers, difference
from tests.numbers.planted import Gabor

FREQUENCY = np.geomspace(200.0, 6400.0, 16)
LAG = np.arange(14) * 10.0
SITES = 8


def cube(seeds=3, noise=0.05, octaves=1.0, later_ms=0.0, rng=0):
    """Two architectures of 16 neurons at 8 sites; the maps of the second lie higher by octaves, and later."""
    rng = np.random.default_rng(rng)
    maps, architectures = [], []
    for name, up, late in (("linear", 0.0, 0.0), ("gru", octaves, later_ms)):
        for _ in range(seeds):
            fields = [Gabor(500.0 * 2 ** (n / 16 + up), 40.0 + late, 0.5, 15.0).at(FREQUENCY, LAG) for n in range(16)]
            maps.append(np.stack(fields) + noise * rng.standard_normal((16, 16, 14)))
            architectures.append(name)
    shape = (2 * seeds, 16)
    return xr.Dataset(
        {
            "strf": (("checkpoint", "neuron", "frequency", "lag"), np.stack(maps).astype("f4"), {"kind": "strf"}),
            "strf_status": (("checkpoint", "neuron"), np.ones(shape, "u1"), {"role": "status"}),
            "strf_health": (("checkpoint", "neuron"), np.zeros(shape, "u2"), {"role": "companion"}),
            "cc_test": (("checkpoint", "neuron"), rng.uniform(0.3, 0.9, shape)),
        },
        coords={
            "checkpoint": [f"{name}-{k}" for k, name in enumerate(architectures)],
            "architecture": ("checkpoint", np.array(architectures, dtype=object)),
            "seed": ("checkpoint", [float(k % seeds) for k in range(2 * seeds)]),
            "neuron": [f"n{n}" for n in range(16)],
            "site": ("neuron", np.array([f"s{n // 2}" for n in range(16)], dtype=object)),
            "frequency": ("frequency", FREQUENCY, {"units": "Hz"}),
            "lag": ("lag", LAG, {"units": "ms"}),
        },
    )


def test_a_planted_shift_in_frequency_is_found_and_nothing_else():
    found = compare_measures(cube(seeds=5)["strf"], "linear", "gru").set_index("measure")
    row = found.loc["best_frequency"]
    assert row["difference"] == pytest.approx(1.0, abs=0.1)
    assert row["other"] / row["reference"] == pytest.approx(2.0, rel=0.15)
    assert (row["n"], row["neurons"], row["difference_units"]) == (SITES, 16, "octave")
    assert row["p_sites"] == pytest.approx(2 / 2**SITES)
    assert row["p_value"] == row["p_checkpoints"] == row["p_smallest"] == pytest.approx(2 / comb(10, 5))
    assert row["low"] < 1.0 < row["high"]
    assert row["p_adjusted"] < 0.1
    assert found.loc["latency", "p_value"] > 0.05
    assert found.loc["latency", "difference_units"] == "ms"
    assert found.index[0] == "best_frequency"


def test_one_architecture_against_itself_differs_as_often_as_chance_says():
    found = []
    for trial in range(12):
        maps = cube(seeds=4, noise=0.3, octaves=0.0, rng=trial)["strf"]
        # what each training run adds to all of its neurons, at every site
        late = np.random.default_rng(trial).integers(0, 4, 8)
        moved = [np.roll(one, by, axis=-1) for one, by in zip(maps.values, late, strict=True)]
        found.append(compare_measures(maps.copy(data=np.stack(moved)), "linear", "gru", measures=["latency"]))
    table = pd.concat(found)
    assert (table["p_sites"] <= 0.05).mean() > 0.3
    assert (table["p_value"] <= 0.05).mean() <= 0.2


def test_too_few_checkpoints_are_pointed_out():
    found = compare_measures(cube(seeds=2, later_ms=20.0)["strf"], "linear", "gru", measures=["best_frequency"])
    assert found["p_smallest"].tolist() == pytest.approx([1 / 3])
    assert found["note"].str.contains(r"with 2 \+ 2 checkpoints the smallest p value possible is 0.333").all()
    four = compare_measures(
        cube(seeds=4, later_ms=20.0)["strf"], "linear", "gru", measures=["best_frequency", "latency"]
    )
    assert four["note"].str.contains("one measure alone cannot pass the adjustment for 2").all()


@pytest.mark.parametrize(("counts", "told"), [((2, 6), True), ((6, 3), True), ((4, 9), False), ((3, 5), False)])
def test_few_seeds_against_many_are_pointed_out(counts, told):
    rng = np.random.default_rng(0)
    second = np.arange(sum(counts)) >= counts[0]
    found = difference([Numbers(rng.standard_normal((len(second), 12)), second, np.repeat(range(4), 3).tolist())])
    assert any(f"{min(counts)} checkpoints against {max(counts)}" in note for note in found.notes) == told


def test_cohorts_are_pooled_with_each_as_a_site():
    cohorts = {
        f"site{k}": cube(seeds=2, octaves=0.5, rng=k)["strf"].isel(neuron=slice(k, k + 6)).drop_vars("site")
        for k in range(7)
    }
    found = compare_measures(cohorts, "linear", "gru", measures=["best_frequency"]).iloc[0]
    assert (found["n"], found["neurons"]) == (7, 42)
    assert found["difference"] == pytest.approx(0.5, abs=0.1)
    assert found["p_sites"] == pytest.approx(2 / 2**7)
    assert found["p_checkpoints"] <= 0.001
    with pytest.raises(ValueError, match="site=None"):
        compare_measures(cohorts["site0"], "linear", "gru")


def test_the_two_p_values_are_those_of_a_direct_enumeration():
    rng = np.random.default_rng(1)
    values, second = rng.standard_normal((7, 9)), np.array([0, 1, 0, 1, 1, 0, 0], bool)
    values[2, 4] = np.nan
    sites = ["a", "a", "b", "b", "b", "c", "d", None, "d"]

    def by_site(chosen):
        mask = np.isin(np.arange(7), chosen)
        change = np.nanmean(values[mask], axis=0) - np.nanmean(values[~mask], axis=0)
        return np.array([np.mean([c for c, own in zip(change, sites, strict=True) if own == site]) for site in "abcd"])

    null = [abs(by_site(chosen).mean()) for chosen in combinations(range(7), 3)]
    observed = by_site(np.flatnonzero(second))
    found = difference([Numbers(values, second, sites)])
    assert found.effect == pytest.approx(observed.mean())
    assert found.p_checkpoints == pytest.approx(np.mean(np.array(null) >= abs(observed.mean()) - 1e-12))
    assert found.p_sites == scipy_stats.wilcoxon(observed).pvalue
    assert found.se_sites == pytest.approx(observed.std(ddof=1) / 2)


def test_a_ratio_to_the_ceiling_is_given_only_where_seeds_agree():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((16, 16, 14))
    for noise, given in ((6.0, False), (0.5, True)):
        maps = cube(seeds=2)["strf"]
        maps = maps.copy(data=truth + noise * rng.standard_normal(maps.shape))
        found = compare_maps(maps, "linear", "gru")
        assert bool(found["corrected"].notnull().mean() > 0.9) == given
        if given:
            assert float(found["corrected"].mean()) == pytest.approx(1.0, abs=0.05)
        else:
            assert float(found["corrected"].notnull().mean()) < 0.2


def test_a_measure_that_the_frequency_axis_does_not_allow_is_listed_with_the_reason():
    maps = cube()["strf"].assign_coords(frequency=("frequency", np.linspace(100.0, 6400.0, 16), {"units": "Hz"}))
    found = compare_measures(maps, "linear", "gru").set_index("measure")
    assert "octaves above 100 Hz" in found.loc["scale_centroid", "note"]
    assert np.isnan(found.loc["scale_centroid", "p_value"])
    assert np.isfinite(found.loc["best_frequency", "p_adjusted"])


def test_without_sites_every_neuron_counts_and_a_site_that_is_not_there_is_refused():
    maps = cube()["strf"]
    found = compare_measures(maps, "linear", "gru", site=None, measures=["best_frequency"])
    assert found["n"].tolist() == [16]
    with pytest.raises(ValueError, match="site=None"):
        compare_measures(maps.drop_vars("site"), "linear", "gru")


def test_a_neuron_without_maps_in_one_group_counts_in_neither():
    maps = cube(noise=0.0)["strf"].copy()
    maps[:3, 0] = np.nan
    assert compare_measures(maps, "linear", "gru", measures=["latency"])["neurons"].tolist() == [15]
    one = compare_maps(maps, "linear", "gru")
    assert one["correlation"].isnull().sum() == 1
    assert one["n_reference"].values[:2].tolist() == [0, 3]


def test_equal_architectures_correlate_at_their_noise_ceiling():
    maps = cube(seeds=6, noise=0.3, octaves=0.0)["strf"]
    found = compare_maps(maps, "linear", "gru")
    assert float(found["corrected"].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(found["ceiling"].mean()) < 0.95
    shares = variance_shares(maps)["share_between"]
    assert shares.median() < 0.1
    assert variance_shares(cube(seeds=6, noise=0.01)["strf"])["share_between"].min() > 0.9


def test_reliability_of_groups_is_that_of_their_own_maps():
    dataset = cube(noise=0.02)
    maps = dataset["strf"].copy()
    maps[3:] = np.random.default_rng(1).standard_normal(maps[3:].shape)
    found = group_reliability(maps, n_null=200).set_index("architecture")
    assert found.loc["linear", "median"] > 0.9
    assert found.loc["linear", "above_chance"] == 16
    assert abs(found.loc["gru", "median"]) < 0.1
    assert found.loc["gru", "above_chance"] <= 2
    alone = group_reliability(maps, ["architecture", "seed"], n_null=2)
    assert alone["neurons"].tolist() == [0] * 6
    assert alone["median"].isnull().all()


@pytest.mark.parametrize("chunks", [None, {"checkpoint": 1}])
def test_maps_that_are_not_done_or_not_trusted_or_not_chosen_are_left_out_and_counted_once(chunks):
    dataset = cube()
    dataset["strf_status"][0, :3] = 0
    dataset["strf_health"][0, :5] = 2
    dataset["cc_test"][:] = 0.5
    dataset["cc_test"][0, :7] = 0.1
    dataset = dataset if chunks is None else dataset.chunk(chunks)
    chosen = choose_maps(dataset, select="cc_test > 0.3")
    assert list(chosen.left_out.values()) == [3, 2, 2]
    assert chosen.kept == 6 * 16 - 7
    assert "89 of 96 maps counted; left out: 3 not done, 2 not to be trusted" in chosen.in_words()
    present = chosen.maps.notnull().all(["frequency", "lag"])
    assert int(present.sum()) == 89
    assert not present[0, :7].any()
    assert bool(chosen.maps.chunks) == bool(chunks)
    assert choose_maps(dataset, select="cc_test > 0.3", untrusted=True).kept == 89  # the rule rejects them as well
    assert choose_maps(dataset, untrusted=True).kept == 93


def test_what_is_not_there_is_refused_with_what_there_is():
    dataset = cube()
    with pytest.raises(ValueError, match="its maps are strf"):
        choose_maps(dataset, "strv")
    with pytest.raises(ValueError, match="names no column"):
        choose_maps(dataset, select="cc > 1")
    with pytest.raises(ValueError, match="no checkpoint has the architecture 'lstm'"):
        compare_maps(dataset["strf"], "linear", "lstm")
    with pytest.raises(ValueError, match="two groups"):
        compare_measures(dataset["strf"], "gru", "gru")
    with pytest.raises(ValueError, match="several numbers per map"):
        compare_measures(dataset["strf"], "linear", "gru", measures=["singular_values"])
    with pytest.raises(ValueError, match="no measure is called"):
        compare_measures(dataset["strf"], "linear", "gru", measures=["best_frequncy"])


def test_whole_numbers_that_arrive_as_floats_read_as_whole():
    assert [label_text(value) for value in (0.0, 12345678.0, 0.5, "0.0", 3, float("nan"))] == [
        "0", "12345678", "0.5", "0.0", "3", "",
    ]  # fmt: skip
    found = compare_maps(cube()["strf"], "0", "1", "seed")
    assert int(found["n_other"][0]) == 2

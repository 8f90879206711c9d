"""`gradmap reliability` and `gradmap compare` print what a direct loop with numpy and scipy finds."""

import re
import shutil
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from pipeline import open_cube
from tasks.cli import main
from tasks.commands import reliability as reliability_command

CONFIG = """
store = "gradmaps.zarr"
[[cohort]]
name = "speech"
frame_ms = 10.0
lags = 40
frequencies_hz = "{speech}/frequencies.txt"
neurons = "{speech}/neurons.csv"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/linear-*"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/statenet_gru-*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Identity"
[maps.strf]
kind = "strf"
"""


@pytest.fixture(scope="module")
def speech_store(speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    (folder / "run.toml").write_text(CONFIG.format(speech=speech))
    assert main(["run", "--local", str(folder / "run.toml")]) == 0
    return folder / "gradmaps.zarr"


def table_of(printed, first):
    """The rows of the printed table whose header begins with a word, by column; columns are two spaces apart.

    What does not fit the width goes on below, with the first column again.
    """
    lines = printed.splitlines()
    starts = [at for at, line in enumerate(lines) if re.match(rf"{first}\s\s", line) and lines[at + 1].startswith("--")]
    parts = [_block(lines[at:]) for at in starts]
    assert all(part[part.columns[0]].equals(parts[0][parts[0].columns[0]]) for part in parts)
    return pd.concat([parts[0], *(part.iloc[:, 1:] for part in parts[1:])], axis=1)


def _block(lines):
    assert all(len(line) <= 80 for line in lines[:2])
    ends = [match.span() for match in re.finditer(r"-+", lines[1])]
    header = [lines[0][start:stop].strip() for start, stop in ends]
    rows = []
    for line in lines[2:]:
        if not line or re.match(r"r: |rank r: |median and |difference: |note: |numbers are |\.\.\. and", line):
            break
        rows.append([line[start:stop].strip() for start, stop in ends])
    return pd.DataFrame(rows, columns=header)


def printed_by(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1].endswith("(exit status 0)")
    return told


def correlations(maps):
    """Pearson correlation of every two of these maps, one at a time."""
    return [stats.pearsonr(a.ravel(), b.ravel()).statistic for a, b in combinations(maps.astype(float), 2)]


def of(store, architecture, cohort="speech"):
    cube = open_cube(store, cohort)
    kept = cube["strf"].isel(checkpoint=np.flatnonzero(cube["architecture"].values == architecture))
    return kept.transpose("neuron", "checkpoint", "frequency", "lag").values


def test_reliability_over_seeds_on_speech_is_that_of_a_direct_loop(speech_store, capsys):
    told = printed_by(capsys, "reliability", speech_store, "--shuffles", 100)
    assert "80 of 80 maps counted" in told
    rows = table_of(told, "architecture").set_index("architecture")
    for architecture in ("linear", "statenet_gru"):
        each = [np.mean(correlations(maps)) for maps in of(speech_store, architecture)]
        row = rows.loc[architecture]
        assert float(row["median r"]) == pytest.approx(np.median(each), rel=6e-3)
        assert [float(end) for end in row["range"].split(" to ")] == pytest.approx([min(each), max(each)], rel=6e-3)
        assert (row["checkpoints"], row["neurons"]) == ("4", "10")
        others = [
            stats.pearsonr(a.ravel(), b.ravel()).statistic
            for one, other in permutations(of(speech_store, architecture).astype(float), 2)
            for first, second in combinations(range(4), 2)
            for a, b in [(one[first], other[second])]
        ]
        assert float(row["common"]) == pytest.approx(np.mean(others), abs=0.02)
    assert rows.loc["linear", "above chance"] == "10 of 10"
    # most of what recurrent maps agree on is common to all neurons of this recording
    assert float(rows.loc["statenet_gru", "own"]) < 0.5 * float(rows.loc["statenet_gru", "median r"])
    shifted = table_of(
        printed_by(capsys, "reliability", speech_store, "--null", "shift", "--shuffles", 100), "architecture"
    )
    assert shifted["above chance"].tolist() == ["10 of 10"] * 2
    for architecture in ("linear", "statenet_gru"):
        each, row = [np.mean(correlations(maps)) for maps in of(speech_store, architecture)], rows.loc[architecture]
        ceilings = [np.sqrt(4 * r / (1 + 3 * r)) for r in each]
        assert float(row["ceiling"]) == pytest.approx(np.median(ceilings), rel=6e-3)


def test_variance_between_seeds_and_architectures_on_speech_is_that_of_a_direct_loop(speech_store, capsys):
    told = printed_by(capsys, "reliability", speech_store, "--shuffles", 1)
    shares = []
    for neuron in range(10):
        groups = [of(speech_store, name)[neuron].reshape(4, -1).astype(float) for name in ("linear", "statenet_gru")]
        groups = [maps / np.linalg.norm(maps, axis=1, keepdims=True) for maps in groups]
        grand = np.concatenate(groups).mean(axis=0)
        within = sum(((maps - maps.mean(axis=0)) ** 2).sum() for maps in groups) / (8 - 2)
        between = (sum(4 * ((maps.mean(axis=0) - grand) ** 2).sum() for maps in groups) / (2 - 1) - within) / 4
        shares.append(between / (between + within))
    found = re.search(r"between groups by architecture (\S+) \((\S+) to (\S+)\)", told)
    assert [float(part) for part in found.groups()] == pytest.approx(
        [np.median(shares), min(shares), max(shares)], rel=6e-3
    )


def test_linear_against_recurrent_on_speech_is_that_of_a_direct_loop(speech_store, capsys):
    told = printed_by(capsys, "compare", speech_store, "linear", "statenet_gru")
    rows = table_of(told, "neuron")
    assert rows["neuron"].tolist() == [f"ch{n}" for n in range(10)]
    linear, recurrent = of(speech_store, "linear"), of(speech_store, "statenet_gru")
    for n, row in rows.iterrows():
        units = [maps[n].astype(float) / np.linalg.norm(maps[n].reshape(4, -1), axis=1)[:, None, None]
                 for maps in (linear, recurrent)]  # fmt: skip
        means = [maps.mean(axis=0).ravel() for maps in units]
        assert float(row["r"]) == pytest.approx(stats.pearsonr(*means).statistic, rel=6e-3)
        tops = [np.sqrt(4 * r / (1 + 3 * r)) for r in (np.mean(correlations(m[n])) for m in (linear, recurrent))]
        assert float(row["ceiling"]) == pytest.approx(tops[0] * tops[1], rel=6e-3)
        reference = means[0] / np.linalg.norm(means[0])
        outside = [1 - (one.ravel() @ reference) ** 2 for one in units[1]]
        assert float(row["outside"]) == pytest.approx(np.mean(outside), rel=6e-3)


def test_paired_statistics_on_speech_are_those_of_scipy_over_site_means(speech_store, capsys):
    rows = table_of(printed_by(capsys, "compare", speech_store, "linear", "statenet_gru", "--details"), "measure")
    cube = open_cube(speech_store, "speech")
    sites = cube["site"].values
    bands = {}
    for name in ("linear", "statenet_gru"):
        maps = of(speech_store, name)
        peak = np.abs(maps).max(axis=3).argmax(axis=2)
        bands[name] = np.log2(cube["frequency"].values[peak]).mean(axis=1)
    change = bands["statenet_gru"] - bands["linear"]
    by_site = [change[sites == site].mean() for site in sorted(set(sites))]
    row = rows.set_index("measure").loc["best_frequency"]
    assert float(row["difference"].removesuffix(" oct")) == pytest.approx(np.mean(by_site), rel=6e-3)
    assert float(row["± sites"]) == pytest.approx(stats.sem(by_site), rel=6e-3)
    assert float(row["p sites"]) == pytest.approx(stats.wilcoxon(by_site).pvalue)
    both = np.concatenate([np.log2(cube["frequency"].values[np.abs(of(speech_store, name)).max(axis=3).argmax(axis=2)])
                           for name in ("linear", "statenet_gru")], axis=1)  # fmt: skip
    null = []
    for chosen in combinations(range(8), 4):
        mask = np.isin(np.arange(8), chosen)
        moved = both[:, mask].mean(axis=1) - both[:, ~mask].mean(axis=1)
        null.append(abs(np.mean([moved[sites == site].mean() for site in sorted(set(sites))])))
    assert float(row["p checkpoints"]) == pytest.approx(
        np.mean(np.array(null) >= abs(np.mean(by_site)) - 1e-12), rel=6e-3
    )
    assert float(row["p"]) == max(float(row[name]) for name in ("p sites", "p checkpoints", "p both"))
    assert int(row["sites"]) == len(by_site)
    p_values = [float(p) for p in rows["p"] if p != "-"]
    adjusted = [float(p) for p in rows["p adjusted"] if p != "-"]
    assert adjusted == pytest.approx(stats.false_discovery_control(p_values), rel=6e-3)


def test_the_demo_finds_what_was_planted_in_both_architectures(demo_store, capsys):
    told = printed_by(capsys, "compare", demo_store, "ln", "gru")
    assert "left aside: cohort demo_wav has no checkpoint whose architecture is ln or gru" in told
    rows = table_of(told, "neuron")
    assert (rows["r"].astype(float) > 0.5).all()
    assert (rows["r"].astype(float) < rows["ceiling"].astype(float)).all()
    # the planted best frequency does not depend on the architecture
    measures = table_of(told[: told.index("numbers of dstrf")], "measure").set_index("measure")
    assert abs(float(measures.loc["best_frequency", "difference"].removesuffix(" oct"))) < 0.2


def test_numbers_of_dynamic_maps_are_compared_and_agree_as_a_direct_loop_says(demo_store, capsys):
    cube = open_cube(demo_store, "demo")
    told = printed_by(capsys, "compare", demo_store, "ln", "gru", "--map", "dstrf", "--untrusted", "--details")
    rows = table_of(told[told.index("numbers of dstrf") :], "measure").set_index("measure")
    sites, architecture = cube["site"].values, cube["architecture"].values
    for name in ("dstrf_complexity", "dstrf_gain_change", "dstrf_size_90"):
        values = cube[name].transpose("checkpoint", "neuron", ...).values.reshape(len(architecture), len(sites), -1)
        of_neuron = [values[architecture == kind].mean(axis=(0, 2), dtype=float) for kind in ("ln", "gru")]
        change = of_neuron[1] - of_neuron[0]
        by_site = [change[sites == site].mean() for site in sorted(set(sites))]
        assert float(rows.loc[name, "difference"]) == pytest.approx(np.mean(by_site), rel=6e-3)
        assert float(rows.loc[name, "± sites"]) == pytest.approx(stats.sem(by_site), rel=6e-3)
        assert float(rows.loc[name, "p sites"]) == pytest.approx(stats.wilcoxon(by_site).pvalue, rel=6e-3)
    # a linear kernel behind a nonlinearity has one shape of map, a recurrence has several
    assert float(rows.loc["dstrf_complexity", "ln"]) == pytest.approx(1.0, abs=1e-3)
    assert float(rows.loc["dstrf_complexity", "difference"]) > 0.5
    told = printed_by(capsys, "reliability", demo_store, "--untrusted", "--shuffles", 10, "--select", "cc_test > -1")
    rows = table_of(told, "number")
    gru = cube["dstrf_gain"].isel(checkpoint=cube["architecture"].values == "gru").mean("stimulus").values
    row = rows[(rows["number"] == "dstrf_gain") & (rows["architecture"] == "gru")].iloc[0]
    assert float(row["rank r"]) == pytest.approx(stats.spearmanr(*gru).statistic, rel=6e-3)
    told = printed_by(capsys, "compare", demo_store, "ln", "gru", "--measure", "complexity")
    assert table_of(told, "measure")["measure"].tolist() == ["dstrf_complexity"]


def test_a_rule_and_the_health_flags_decide_which_maps_count(demo_store, tmp_path, capsys):
    cube = open_cube(demo_store, "demo")
    good = int((cube["cc_test"] > 0.7).sum())
    told = printed_by(
        capsys, "reliability", demo_store, "--cohort", "demo", "--select", "cc_test > 0.7", "--shuffles", 10
    )
    assert f"{good} of 64 maps counted; left out: {64 - good} by the rule" in told
    store = shutil.copytree(demo_store, tmp_path / "gradmaps.zarr")
    raw = xr.open_zarr(store, group="demo", chunks=None)
    health = raw["strf_health"].load().copy()
    health[:, :4] = 1
    health.to_dataset(name="strf_health").drop_vars(list(health.coords)).to_zarr(store, group="demo", mode="r+")
    shorter = ("reliability", store, "--cohort", "demo", "--shuffles", 10)
    told = printed_by(capsys, *shorter)
    assert "48 of 64 maps counted; left out: 16 not to be trusted (health flags)" in told
    assert table_of(told, "architecture")["neurons"].tolist() == ["12", "12"]
    assert "64 of 64 maps counted" in printed_by(capsys, *shorter, "--untrusted")


def test_maps_around_several_stimuli_and_of_waveforms_are_compared_as_well(demo_store, capsys):
    told = printed_by(capsys, "reliability", demo_store, "--map", "waveform", "--untrusted", "--shuffles", 10)
    assert table_of(told, "architecture")["neurons x stimuli"].tolist() == ["32"]
    told = printed_by(capsys, "compare", demo_store, "0", "1", "--by", "seed", "--map", "waveform", "--untrusted")
    assert "centroid_frequency" in told


def test_long_comparisons_tell_how_far_they_are(demo_store, capsys, monkeypatch):
    monkeypatch.setattr(reliability_command, "LINE_EVERY_S", 0.0)
    assert main(["reliability", str(demo_store), "--cohort", "demo", "--shuffles", "5"]) == 0
    assert "32 of 32 sets of a neuron's maps compared" in capsys.readouterr().err


def test_checkpoints_alone_in_their_group_are_shown_without_a_number(demo_store, capsys):
    told = printed_by(
        capsys, "reliability", demo_store, "--cohort", "demo", "--by", "architecture", "seed", "--shuffles", 5
    )
    assert table_of(told, "architecture")["range"].tolist() == ["needs two maps"] * 4
    assert "takes two groups, one of them with two checkpoints" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reliability", "--cohort", "nothing"], "demo, demo_moving, demo_wav"),
        (["reliability", "--map", "strv"], "its maps are"),
        (["reliability", "--by", "fold"], "they have architecture, class"),
        (["reliability", "--select", "cc_tset > 0.3"], "names no column"),
        (["reliability", "--select", "cc_test > 2"], "left out: 64 by the rule"),
        (["reliability", "--shuffles", "0"], "give 100 or more"),
        (["compare", "linear", "gru"], "is linear (they are gru, ln)"),
        (["compare", "ln", "ln"], "with itself"),
        (["compare", "ln", "gru", "--site", "animal"], "no label animal of its neurons"),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(demo_store, capsys, arguments, told):
    assert main([arguments[0], str(demo_store), *arguments[1:]]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "(exit status 2)" in printed.err
    assert not printed.out

"""Tests of population numbers equal the libraries, find planted effects and keep their level."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import xarray as xr
from scipy import stats as scipy_stats

from pipeline.numbers import stats


def recorded(rng, sites=12, neurons=8, effect=0.0, spread=1.0, nested=True):
    """Neurons in sites that share an offset; an effect of the condition between (nested) or within sites."""
    rows = []
    for site in range(sites):
        offset = spread * rng.standard_normal()
        for neuron in range(neurons):
            condition = (site if nested else neuron) % 2
            rows.append((f"s{site:02d}", "ab"[condition], offset + effect * condition + rng.standard_normal()))
    return pd.DataFrame(rows, columns=["site", "condition", "value"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_site_means_are_those_of_pandas(rng):
    table = recorded(rng)
    table.loc[3, "value"] = np.nan
    found = stats.site_means(table, "value", ["site", "condition"])
    np.testing.assert_allclose(found["mean"], table.groupby(["site", "condition"])["value"].mean())
    assert found["n"].sum() == len(table) - 1


def test_wilcoxon_equals_scipy_on_site_means(rng):
    within = recorded(rng, nested=False)
    means = within.groupby(["site", "condition"])["value"].mean().unstack()
    expected = scipy_stats.wilcoxon(means["a"], means["b"])
    found = stats.wilcoxon(within, "value", condition="condition")
    assert (found.statistic, found.p_value, found.n) == (expected.statistic, expected.pvalue, 12)
    assert found.effect == pytest.approx(np.median(means["a"] - means["b"]))

    nested = recorded(rng)
    means = nested.groupby(["condition", "site"])["value"].mean()
    expected = scipy_stats.mannwhitneyu(means["a"], means["b"])
    found = stats.wilcoxon(nested, "value", condition="condition", paired=False)
    assert (found.statistic, found.p_value, found.n) == (expected.statistic, expected.pvalue, 12)

    expected = scipy_stats.wilcoxon(nested.groupby("site")["value"].mean() - 0.3, alternative="greater")
    found = stats.wilcoxon(nested, "value", against=0.3, alternative="greater")
    assert found.p_value == expected.pvalue


def test_permutation_equals_an_enumeration_of_sign_flips(rng):
    table = recorded(rng, sites=7, nested=False)
    means = table.groupby(["site", "condition"])["value"].mean().unstack()
    differences = (means["a"] - means["b"]).to_numpy()
    flips = np.array(np.meshgrid(*[[1, -1]] * 7)).reshape(7, -1).T
    null = flips @ differences / 7
    found = stats.permutation(table, "value", "condition")
    assert found.effect == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx((np.abs(null) >= abs(differences.mean()) - 1e-12).mean())


def test_planted_effects_are_found(rng):
    within = recorded(rng, effect=1.0, nested=False)
    assert stats.wilcoxon(within, "value", condition="condition").p_value < 0.01
    assert stats.permutation(within, "value", "condition").p_value < 0.01
    between = recorded(rng, sites=24, effect=2.5)
    assert stats.wilcoxon(between, "value", condition="condition", paired=False).p_value < 0.01
    assert stats.permutation(between, "value", "condition", paired=False, n_resamples=999).p_value < 0.01
    model = stats.mixed_model(between, "value ~ C(condition)")
    term = model.coefficients.loc["C(condition)[T.b]"]
    assert term["p_value"] < 0.01
    assert term["low"] < 2.5 < term["high"]


@pytest.mark.parametrize("draws", [80, pytest.param(400, marks=pytest.mark.slow)])
def test_tests_on_site_means_keep_their_level_where_neurons_as_samples_do_not(rng, draws):
    found = {"rank": [], "permutation": [], "paired": [], "naive": []}
    for _ in range(draws):
        nested = recorded(rng, sites=12)
        found["rank"].append(stats.wilcoxon(nested, "value", condition="condition", paired=False).p_value)
        found["permutation"].append(
            stats.permutation(nested, "value", "condition", paired=False, n_resamples=99, rng=rng).p_value
        )
        within = recorded(rng, sites=10, neurons=4, nested=False)
        found["paired"].append(stats.wilcoxon(within, "value", condition="condition").p_value)
        a, b = (nested.loc[nested["condition"] == c, "value"] for c in "ab")
        found["naive"].append(scipy_stats.mannwhitneyu(a, b).pvalue)
    false_positives = {name: np.mean(np.array(p) <= 0.05) for name, p in found.items()}
    margin = 3 * np.sqrt(0.05 * 0.95 / draws)
    for name in ("rank", "permutation", "paired"):
        assert 0.05 - margin <= false_positives[name] <= 0.05 + margin, name
    assert false_positives["naive"] > 0.3


@pytest.mark.parametrize("draws", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_mixed_models_keep_their_level_with_thirty_sites(rng, draws):
    found = []
    for _ in range(draws):
        table = recorded(rng, sites=30, neurons=4)
        found.append(stats.mixed_model(table, "value ~ condition").coefficients["p_value"].iloc[-1])
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mixed_model_equals_statsmodels_and_recovers_the_planted_variances(rng):
    table = recorded(rng, sites=60, neurons=20, effect=1.0, spread=2.0)
    table["unused"] = np.nan
    found = stats.mixed_model(table, "value ~ condition")
    expected = smf.mixedlm("value ~ condition", table.drop(columns="unused"), groups="site").fit()
    np.testing.assert_allclose(found.coefficients["estimate"], expected.fe_params)
    np.testing.assert_allclose(found.coefficients["se"], expected.bse_fe)
    # the same t, with the freedom of 60 sites of which each has one condition
    np.testing.assert_allclose(found.coefficients["t"], expected.tvalues[:2])
    np.testing.assert_allclose(found.coefficients["p_value"], 2 * scipy_stats.t.sf(np.abs(expected.tvalues[:2]), 58))
    assert found.group_variance == pytest.approx(4.0, rel=0.4)
    assert found.residual_variance == pytest.approx(1.0, rel=0.1)
    assert found.intraclass == pytest.approx(0.8, abs=0.08)
    assert found.converged
    assert (found.n, found.n_groups) == (1200, 60)


def test_a_mixed_model_at_the_boundary_reports_instead_of_warning(rng):
    table = recorded(rng, sites=6, neurons=4, spread=0.0)
    table["value"] -= table.groupby("site")["value"].transform("mean")
    found = stats.mixed_model(table, "value ~ 1")
    assert found.notes
    assert found.intraclass < 0.2


def test_bootstrap_equals_scipy_and_covers_the_truth(rng):
    table = recorded(rng, sites=20)
    means = table.groupby("site")["value"].mean().to_numpy()
    expected = scipy_stats.bootstrap(
        (means,), np.mean, n_resamples=499, rng=np.random.default_rng(5)
    ).confidence_interval
    found = stats.bootstrap(table, "value", n_resamples=499, method="BCa", rng=5)
    assert (found.low, found.high, found.n) == (expected.low, expected.high, 20)
    assert found.estimate == pytest.approx(means.mean())
    covered = 0
    for _ in range(120):
        one = stats.bootstrap(recorded(rng, sites=25, neurons=3), "value", n_resamples=199, rng=rng)
        covered += one.low <= 0 <= one.high
    assert 0.86 <= covered / 120 <= 0.99
    rows = stats.bootstrap(table, "value", site=None, statistic="median", n_resamples=99)
    assert rows.n == len(table)


def test_values_all_alike_have_an_interval_of_no_width():
    table = pd.DataFrame({"site": ["a", "a", "b"], "value": [2.0, 2.0, 2.0]})
    found = stats.bootstrap(table, "value")
    assert (found.low, found.estimate, found.high) == (2, 2, 2)
    same = pd.DataFrame({"site": list("aabb"), "condition": list("xyxy"), "value": [1.0] * 4})
    assert stats.wilcoxon(same, "value", condition="condition").p_value == 1.0


def test_few_sites_are_pointed_out(rng):
    found = stats.wilcoxon(recorded(rng, sites=4, nested=False), "value", condition="condition")
    assert "0.125" in found.notes[0]
    six = recorded(rng, sites=6)
    for between in (
        stats.wilcoxon(six, "value", condition="condition", paired=False),
        stats.permutation(six, "value", "condition", paired=False),
    ):
        assert between.notes == ("with 3 + 3 sites the smallest p value possible is 0.1",)
        assert between.p_value >= between.p_smallest == pytest.approx(0.1)
    assert "too narrow" in stats.bootstrap(six, "value", method="BCa").notes[0]
    assert "few for a mixed model" in stats.mixed_model(six, "value ~ condition").notes[-1]


def test_sites_without_a_difference_are_counted_and_told():
    rows = [(f"s{i}", c, 3.0 + i if c == "x" and i < 6 else 0.0) for i in range(9) for c in "xy"]
    found = stats.wilcoxon(pd.DataFrame(rows, columns=["site", "c", "v"]), "v", condition="c")
    assert (found.n, found.p_value, found.p_smallest) == (9, 2 / 2**6, 2 / 2**6)
    assert "3 of 9 sites have no difference" in found.notes[0]
    swapped = stats.permutation(pd.DataFrame(rows, columns=["site", "c", "v"]), "v", "c")
    assert swapped.p_smallest == 2 / 2**6


def test_tied_ranks_are_tested_over_all_arrangements():
    values = [1.0, 1.0, 1.0, 2.0, 2.0, -1.0, 3.0]
    signs = np.array(np.meshgrid(*[[1, -1]] * 7)).reshape(7, -1)
    ranks = scipy_stats.rankdata(np.abs(values))
    null = (ranks[:, None] * (signs > 0)).sum(axis=0)
    observed = ranks[np.array(values) > 0].sum()
    expected = 2 * min((null >= observed).mean(), (null <= observed).mean())
    found = stats.signed_rank(np.array(values), "two-sided")
    assert found.p_value == pytest.approx(expected)


def test_a_constant_response_is_refused_with_the_reason():
    table = pd.DataFrame({"site": np.repeat(list("abc"), 4), "x": np.arange(12.0), "value": 1.0})
    with pytest.raises(ValueError, match="is 1 in all 12 rows"):
        stats.mixed_model(table, "value ~ x")


@pytest.mark.parametrize(
    ("sites", "draws"),
    [(12, 15), pytest.param(4, 200, marks=pytest.mark.slow), pytest.param(20, 200, marks=pytest.mark.slow)],
)
def test_an_effect_that_differs_between_sites_is_judged_over_sites(sites, draws):
    rng, found = np.random.default_rng(sites), []
    for _ in range(draws):
        site = np.repeat(np.arange(sites), 12)
        x = rng.standard_normal(len(site))
        value = rng.standard_normal(sites)[site] * x + rng.standard_normal(len(site))
        model = stats.mixed_model(pd.DataFrame({"site": site, "x": x, "value": value}), "value ~ x")
        assert model.slopes == ("x",)
        assert model.coefficients.loc["x", "df"] == sites - 1
        found.append(model.coefficients.loc["x", "p_value"])
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws)  # 0.3 with a common slope


@pytest.mark.parametrize("sites", [3, 5, 12])
def test_intervals_of_few_sites_cover_as_often_as_they_say(sites):
    rng = np.random.default_rng(sites)
    covered = 0
    for _ in range(300):
        table = pd.DataFrame({"site": np.arange(sites), "value": rng.standard_normal(sites)})
        found = stats.bootstrap(table, "value")
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_an_interval_of_skewed_sites_says_so():
    def notes(values):
        return stats.bootstrap(pd.DataFrame({"site": np.arange(len(values)), "value": values}), "value").notes

    even = np.linspace(-1, 1, 9)
    assert notes(even) == ()
    assert "skewed (1.3)" in notes(np.exp(2 * even))[0]
    assert "skewed (-1.3)" in notes(-np.exp(2 * even))[0]


def test_benjamini_hochberg_equals_the_step_up_rule_and_keeps_labels():
    p = np.array([0.01, 0.04, 0.03, 0.5, 0.005])
    order = np.argsort(p)
    expected = np.empty(5)
    expected[order] = np.minimum.accumulate((p[order] * 5 / np.arange(1, 6))[::-1])[::-1]
    np.testing.assert_allclose(stats.benjamini_hochberg(p), expected)
    labelled = xr.DataArray([[*p[:3]], [*p[3:], np.nan]], dims=("checkpoint", "neuron"), coords={"neuron": list("abc")})
    found = stats.benjamini_hochberg(labelled)
    np.testing.assert_allclose(found.values.ravel()[:5], expected)
    assert np.isnan(found[1, 2])
    assert list(found.neuron.values) == list("abc")
    series = stats.benjamini_hochberg(pd.Series(p, index=list("vwxyz"), name="p"))
    assert series.index.tolist() == list("vwxyz")
    with pytest.raises(ValueError, match="no probabilities"):
        stats.benjamini_hochberg(np.array([0.5, 1.5]))
    assert np.isnan(stats.benjamini_hochberg(np.array([np.nan]))).all()


def test_false_discoveries_stay_under_the_rate():
    rng = np.random.default_rng(0)
    share = []
    for _ in range(300):
        z = rng.standard_normal(100)
        z[:20] += 3.5
        rejected = stats.benjamini_hochberg(scipy_stats.norm.sf(z)) <= 0.1
        share.append(rejected[20:].sum() / max(1, rejected.sum()))
    assert np.mean(share) <= 0.1


def test_truth_values_are_ones_and_zeros(rng):
    table = recorded(rng, nested=False)
    table["value"] = table["value"] > table["value"].median()
    numbers = table.assign(value=table["value"].astype(float))
    for call in (
        lambda given: stats.bootstrap(given, "value"),
        lambda given: stats.mixed_model(given, "value ~ condition").coefficients.to_numpy().tolist(),
    ):
        assert call(table) == call(numbers)


def test_what_cannot_be_tested_is_refused(rng):
    nested, within = recorded(rng), recorded(rng, nested=False)
    for call, match in (
        (lambda: stats.wilcoxon(nested, "values"), "no column 'values'"),
        (lambda: stats.wilcoxon(nested, "value", condition="condition"), "paired=False"),
        (lambda: stats.wilcoxon(within, "value", condition="condition", paired=False), "count twice"),
        (lambda: stats.wilcoxon(within, "value", condition="condition", levels=("a", "c")), "exactly two"),
        (lambda: stats.site_means(nested.assign(value=np.nan), "value"), "nothing to test"),
        (lambda: stats.bootstrap(nested[nested["site"] == "s00"], "value"), "pool more"),
        (lambda: stats.bootstrap(nested, "value", statistic="mode"), "'median'"),
        (lambda: stats.mixed_model(nested, "y ~ x"), "names no column"),
        (lambda: stats.mixed_model(nested, "value ~ 1", group="value"), "random effect"),
        (lambda: stats.mixed_model(nested, "value ~ nothing"), r"cannot be made of the table \(PatsyError"),
        (
            lambda: stats.mixed_model(nested.assign(value="much"), "value ~ condition"),
            "'value' holds what is no number",
        ),
        (lambda: stats.bootstrap(nested.assign(value="much"), "value"), "'value' holds what is no number"),
        (lambda: stats.bootstrap(nested.assign(value=nested["value"] + 1j), "value"), "no number .complex"),
        (lambda: stats.mixed_model(within.assign(condition="a"), "value ~ condition"), "'condition' is 'a' in all"),
    ):
        with pytest.raises(ValueError, match=match):
            call()

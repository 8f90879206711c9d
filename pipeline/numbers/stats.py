"""Tests of population numbers that respect which neurons were recorded together."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

Alternative = Literal["two-sided", "greater", "less"]
P = TypeVar("P", xr.DataArray, pd.Series, np.ndarray)


@dataclass(frozen=True)
class TestResult:
    """What a test found.

    ``effect`` is in the units of the value (``effect_name`` says which difference), ``n`` counts what the test took as
    independent (sites, by default), and ``notes`` hold what a reader of the p value should know.
    """

    __test__ = False  # not a test case

    test: str
    statistic: float
    p_value: float
    effect: float
    effect_name: str
    n: int
    alternative: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap confidence interval; ``n`` counts what was resampled."""

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    method: str


@dataclass(frozen=True)
class MixedModel:
    """A linear mixed model with a random intercept per group.

    ``coefficients`` has one row per fixed effect (estimate, se, z, p_value, low, high: 95 %, all Wald's);
    ``intraclass`` is the group's share of the variance that the fixed effects leave.
    """

    formula: str
    group: str
    coefficients: pd.DataFrame
    group_variance: float
    residual_variance: float
    intraclass: float
    log_likelihood: float
    n: int
    n_groups: int
    converged: bool
    notes: tuple[str, ...] = ()


def site_means(table: pd.DataFrame, value: str, by: str | Sequence[str] = "site") -> pd.DataFrame:
    """Return the ``mean``, ``sd`` and number ``n`` of a value per site (or other labels), one row each.

    Rows whose value or label is missing do not count.
    """
    labels = [by] if isinstance(by, str) else list(by)
    kept = _complete(table, value, labels)
    grouped = kept.groupby(labels, sort=True, observed=True)[value]
    return grouped.agg(mean="mean", sd="std", n="size").reset_index()


def wilcoxon(
    table: pd.DataFrame,
    value: str,
    *,
    condition: str | None = None,
    levels: tuple[Any, Any] | None = None,
    site: str = "site",
    paired: bool = True,
    against: float = 0.0,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Return Wilcoxon's test on per-site means.

    Without ``condition`` the signed-rank test of the site means against a number. With it, of the differences (first
    level - second level) within the sites that have both; or with ``paired=False``, for sites that have one each, the
    rank-sum test (Mann and Whitney's U). scipy computes it, exactly for few sites without ties.

    Parameters
    ----------
    table
        One row per neuron (and checkpoint).
    value
        Column to test.
    condition
        Column with the two levels to compare.
    levels
        The two levels; the two that the column has by default, in sorted order.
    site
        Column of what is independent: site, or animal.
    paired
        Whether each site has both levels.
    against
        What the differences, or the means, are tested against.
    alternative
        "greater": the first level, or the mean, is larger.
    """
    if condition is None:
        means = site_means(table, value, site)["mean"].to_numpy() - against
        name = f"median of site means of {value} - {against:g}"
    else:
        first, second = _two_levels(table, value, condition, levels, site, paired)
        if not paired:
            result = stats.mannwhitneyu(first - against, second, alternative=alternative)
            name = f"median difference of {value} between sites"
            effect = float(np.median(first - against) - np.median(second))
            n = len(first) + len(second)
            return TestResult(
                "Wilcoxon rank-sum", float(result.statistic), float(result.pvalue), effect, name, n, alternative
            )
        means = first - second - against
        name = f"median difference of {value} within sites"
    if not means.any():
        note = "all differences are zero, which ranks cannot order"
        return TestResult("Wilcoxon signed-rank", 0.0, 1.0, 0.0, name, len(means), alternative, (note,))
    result = stats.wilcoxon(means, alternative=alternative)
    return TestResult(
        "Wilcoxon signed-rank",
        float(result.statistic),
        float(result.pvalue),
        float(np.median(means)),
        name,
        len(means),
        alternative,
        _few(len(means), 0.5 ** len(means) * (2 if alternative == "two-sided" else 1)),
    )


def permutation(
    table: pd.DataFrame,
    value: str,
    condition: str,
    *,
    levels: tuple[Any, Any] | None = None,
    site: str = "site",
    paired: bool = True,
    n_resamples: int = 9999,
    alternative: Alternative = "two-sided",
    rng: int | np.random.Generator = 0,
) -> TestResult:
    """Return the permutation test of the difference of site means between two levels of a condition.

    ``paired``: the levels are swapped within sites. Otherwise whole sites change their level. scipy's
    ``permutation_test`` enumerates all permutations where there are no more than ``n_resamples``. The arguments are
    those of `wilcoxon`.
    """
    first, second = _two_levels(table, value, condition, levels, site, paired)

    def difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return x.mean(axis=axis) - y.mean(axis=axis)

    result = stats.permutation_test(
        (first, second),
        difference,
        permutation_type="samples" if paired else "independent",
        n_resamples=n_resamples,
        alternative=alternative,
        vectorized=True,
        rng=np.random.default_rng(rng),
    )
    n = len(first) if paired else len(first) + len(second)
    effect = float(result.statistic)
    where = "within" if paired else "between"
    smallest = (2.0 if alternative == "two-sided" else 1.0) * 0.5**n if paired else 0.0
    return TestResult(
        f"permutation {where} sites",
        effect,
        float(result.pvalue),
        effect,
        f"mean difference of {value} {where} sites",
        n,
        alternative,
        _few(n, smallest),
    )


def bootstrap(
    table: pd.DataFrame,
    value: str,
    *,
    site: str | None = "site",
    statistic: Literal["mean", "median"] | Callable[..., Any] = "mean",
    confidence: float = 0.95,
    n_resamples: int = 9999,
    method: Literal["BCa", "percentile", "basic"] = "BCa",
    rng: int | np.random.Generator = 0,
) -> Interval:
    """Return a statistic of the site means with its bootstrap interval (scipy), resampling whole sites.

    ``site=None`` resamples the rows themselves, as if neurons were independent. A callable statistic takes (values,
    axis). Values all alike give an interval of width zero.
    """
    values = (
        _complete(table, value, [])[value].to_numpy(float)
        if site is None
        else site_means(table, value, site)["mean"].to_numpy()
    )
    functions: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median}
    function = functions.get(statistic) if isinstance(statistic, str) else statistic
    if function is None:
        raise ValueError(
            f"statistic={statistic!r} is not known; an interval is of one number; give 'mean', 'median' or a function"
        )
    _enough(len(values), value, site or "row")
    estimate = float(function(values, axis=-1))
    if np.ptp(values) == 0:
        return Interval(estimate, estimate, estimate, confidence, len(values), method)
    found = stats.bootstrap(
        (values,),
        function,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method=method,
        vectorized=True,
        rng=np.random.default_rng(rng),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), confidence, len(values), method)


def mixed_model(table: pd.DataFrame, formula: str, *, group: str = "site", reml: bool = True) -> MixedModel:
    """Return a linear mixed model with a random intercept per site or animal, fitted by statsmodels.

    ``formula`` is the fixed part, such as ``"strf_bandwidth ~ C(area) + depth_um"``. Rows with a missing value in a
    column it names do not count. Wald's p values are too small for effects between few groups (fewer than about
    15): test those on site means as well. What statsmodels warns about arrives in ``notes``, and ``converged`` says
    whether to trust the fit. ``reml=False`` fits by maximum likelihood, for likelihood-ratio tests between fixed
    parts.
    """
    _require(table, [group])
    named = [column for column in table.columns if re.search(rf"(?<!\w){re.escape(str(column))}(?!\w)", formula)]
    if not named:
        raise ValueError(
            f"the formula {formula!r} names no column of the table; nothing can be fitted; the columns are"
            f" {', '.join(map(str, table.columns))}"
        )
    kept = table[[*dict.fromkeys([*named, group])]].replace([np.inf, -np.inf], np.nan).dropna()
    n_groups = kept[group].nunique()
    if n_groups < 2 or n_groups == len(kept):
        raise ValueError(
            f"{len(kept)} complete rows lie in {n_groups} groups of {group!r}; a random effect is told from the"
            " residual by several rows in each of several groups; use another grouping, or ordinary least squares"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = MixedLM.from_formula(formula, groups=group, data=kept.reset_index(drop=True)).fit(reml=reml)
        names = list(fit.fe_params.index)
        coefficients = pd.DataFrame(
            {
                "estimate": fit.fe_params,
                "se": fit.bse_fe,
                "z": fit.tvalues[names],
                "p_value": fit.pvalues[names],
                "low": fit.conf_int().loc[names, 0],
                "high": fit.conf_int().loc[names, 1],
            }
        ).rename_axis("term")
        between, within = float(np.asarray(fit.cov_re)[0, 0]), float(fit.scale)
    return MixedModel(
        formula=formula,
        group=group,
        coefficients=coefficients,
        group_variance=between,
        residual_variance=within,
        intraclass=between / (between + within),
        log_likelihood=float(fit.llf),
        n=len(kept),
        n_groups=n_groups,
        converged=bool(fit.converged),
        notes=tuple(dict.fromkeys(str(one.message) for one in caught)),
    )


def benjamini_hochberg(p_values: P) -> P:
    """Return p values adjusted for the false discovery rate (Benjamini and Hochberg 1995), labelled as they came.

    Rejecting where the result is at most q keeps the expected share of false discoveries under q, for independent or
    positively dependent tests. All entries count as one family; missing ones stay missing and do not count.
    """
    numbers = np.asarray(p_values, dtype=np.float64)
    given = np.isfinite(numbers)
    if ((numbers[given] < 0) | (numbers[given] > 1)).any():
        raise ValueError(
            f"p values run from {np.nanmin(numbers):g} to {np.nanmax(numbers):g}; those outside [0, 1] are no"
            " probabilities, and their ranks would shift all others; pass p values, not statistics"
        )
    adjusted = np.full(numbers.shape, np.nan)
    if given.any():
        adjusted[given] = stats.false_discovery_control(numbers[given], method="bh")
    if isinstance(p_values, xr.DataArray):
        words = {"long_name": "p value adjusted for the false discovery rate", "units": "1"}
        return p_values.copy(data=adjusted).assign_attrs(words)
    if isinstance(p_values, pd.Series):
        return pd.Series(adjusted, index=p_values.index, name=p_values.name)
    return adjusted


def _two_levels(
    table: pd.DataFrame, value: str, condition: str, levels: tuple[Any, Any] | None, site: str, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    means = site_means(table, value, [site, condition])
    there = sorted(means[condition].unique().tolist())
    chosen = tuple(there) if levels is None else tuple(levels)
    if len(chosen) != 2 or not set(chosen) <= set(there):
        raise ValueError(
            f"{condition!r} has the levels {there} and {chosen} were to be compared; a test between two levels needs"
            " exactly two that occur; name them with levels=(first, second)"
        )
    columns = means.pivot(index=site, columns=condition, values="mean")
    first, second = columns[chosen[0]], columns[chosen[1]]
    both = first.notna() & second.notna()
    if paired:
        if both.sum() < 2:
            raise ValueError(
                f"{int(both.sum())} of {len(columns)} {site}s have both {chosen[0]!r} and {chosen[1]!r}; a paired test"
                " compares within them; pass paired=False for sites that have one level each"
            )
        return first[both].to_numpy(), second[both].to_numpy()
    if both.any():
        raise ValueError(
            f"{int(both.sum())} {site}s have both {chosen[0]!r} and {chosen[1]!r}; as independent samples they would"
            " count twice; pass paired=True, or leave those rows out"
        )
    first, second = first.dropna().to_numpy(), second.dropna().to_numpy()
    _enough(min(len(first), len(second)), value, site)
    return first, second


def _complete(table: pd.DataFrame, value: str, labels: Sequence[str]) -> pd.DataFrame:
    _require(table, [value, *labels])
    kept = table[[*dict.fromkeys([*labels, value])]].copy()
    kept[value] = pd.to_numeric(kept[value]).astype(float).replace([np.inf, -np.inf], np.nan)
    kept = kept.dropna()
    if kept.empty:
        raise ValueError(
            f"no row has both a {value!r} and {', '.join(labels) or 'an index'}; there is nothing to test; see why the"
            " numbers are missing in the column that ends in _degenerate, and in the health flags"
        )
    return kept


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(map(repr, missing))}; the test is about it; the columns are"
            f" {', '.join(map(str, table.columns))}"
        )


def _enough(n: int, value: str, unit: str) -> None:
    if n < 2:
        raise ValueError(f"{value!r} has {n} independent value(s) ({unit}); their spread is unknown; pool more {unit}s")


def _few(n: int, smallest: float) -> tuple[str, ...]:
    if smallest > 0.05:
        return (f"with {n} sites the smallest p value possible is {smallest:.3g}",)
    return ()

"""Tests on the means of sites, or of animals: what was recorded together counts once."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.numbers.stats.columns import complete, enough

Alternative = Literal["two-sided", "greater", "less"]

#: Arrangements up to which a test goes through all of them.
MOST_ARRANGEMENTS = 9999


@dataclass(frozen=True)
class TestResult:
    """What a test found.

    ``effect`` is in the units of the value (``effect_name`` says which difference), ``n`` counts what the test took as
    independent (sites, by default), ``p_smallest`` is the least p value that so many can give, and ``notes`` hold what
    a reader of the p value should know.
    """

    __test__ = False  # not a test case

    test: str
    statistic: float
    p_value: float
    effect: float
    effect_name: str
    n: int
    alternative: str
    p_smallest: float = 0.0
    notes: tuple[str, ...] = ()


def site_means(table: pd.DataFrame, value: str, by: str | Sequence[str] = "site") -> pd.DataFrame:
    """The ``mean``, ``sd`` and number ``n`` of a value per site (or other labels), one row each.

    Rows whose value or label is missing do not count.

    Examples
    --------
    >>> import pandas as pd
    >>> from pipeline.numbers.stats import site_means
    >>> table = pd.DataFrame({"site": ["a", "a", "b"], "latency": [20.0, 30.0, 40.0]})
    >>> site_means(table, "latency")[["site", "mean", "n"]].values.tolist()
    [['a', 25.0, 2], ['b', 40.0, 1]]
    """
    labels = [by] if isinstance(by, str) else list(by)
    kept = complete(table, value, labels)
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
    """Wilcoxon's test on per-site means.

    Without ``condition`` the signed-rank test of the site means against a number. With it, of the differences (first
    level - second level) within the sites that have both; or with ``paired=False``, for sites that have one each, the
    rank-sum test (Mann and Whitney's U). scipy computes it: exactly for few sites, over all arrangements where there
    are ties.

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

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"site": list("abcdef") * 2, "area": ["core"] * 6 + ["belt"] * 6})
    >>> table["latency"] = [20.0, 21, 22, 23, 24, 25, 26, 28, 30, 32, 34, 36]
    >>> wilcoxon(table, "latency", condition="area", levels=("belt", "core")).p_value
    0.03125
    """
    if condition is None:
        means = site_means(table, value, site)["mean"].to_numpy() - against
        return signed_rank(means, alternative, f"median of site means of {value} - {against:g}")
    first, second = _two_levels(table, value, condition, levels, site, paired)
    if paired:
        return signed_rank(first - second - against, alternative, f"median difference of {value} within sites")
    first = first - against
    values, arrangements = np.concatenate([first, second]), comb(len(first) + len(second), len(first))
    tied = len(np.unique(values)) < len(values)
    every: Any = stats.PermutationMethod(n_resamples=MOST_ARRANGEMENTS)
    method = every if tied and arrangements <= MOST_ARRANGEMENTS else "auto"
    result = stats.mannwhitneyu(first, second, alternative=alternative, method=method)
    smallest = min(1.0, (2.0 if alternative == "two-sided" else 1.0) / arrangements)
    return TestResult(
        "Wilcoxon rank-sum",
        float(result.statistic),
        float(result.pvalue),
        float(np.median(first) - np.median(second)),
        f"median difference of {value} between sites",
        len(values),
        alternative,
        smallest,
        _few(f"{len(first)} + {len(second)}", smallest),
    )


def signed_rank(differences: np.ndarray, alternative: Alternative, name: str = "median difference") -> TestResult:
    """Wilcoxon's signed-rank test of differences, one per site.

    Differences of zero cannot be ranked: they are left out of the test, counted in ``n`` and told in a note.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.stats import signed_rank
    >>> signed_rank(np.array([2.0, 4.0, 1.0, 3.0, 5.0, 6.0]), "two-sided").p_value
    0.03125
    """
    differences = np.asarray(differences, dtype=float)
    n, ranked = len(differences), differences[differences != 0]
    smallest = min(1.0, (2.0 if alternative == "two-sided" else 1.0) * 0.5 ** len(ranked))
    notes = _few(f"{n}", smallest) if len(ranked) == n else ()
    effect = float(np.median(differences))
    if not len(ranked):
        notes = ("all differences are zero, which ranks cannot order",)
        return TestResult("Wilcoxon signed-rank", 0.0, 1.0, effect, name, n, alternative, 1.0, notes)
    if len(ranked) < n:
        notes = (
            f"{n - len(ranked)} of {n} sites have no difference, which ranks cannot order: the test is of the other"
            f" {len(ranked)}, and the smallest p value possible is {smallest:.3g}",
        )
    tied = len(np.unique(np.abs(ranked))) < len(ranked)
    every: Any = stats.PermutationMethod(n_resamples=MOST_ARRANGEMENTS)
    method = every if tied and 2.0 ** len(ranked) <= MOST_ARRANGEMENTS else "auto"
    result = stats.wilcoxon(ranked, alternative=alternative, method=method)
    p_value = float(result.pvalue)
    return TestResult(
        "Wilcoxon signed-rank", float(result.statistic), p_value, effect, name, n, alternative, smallest, notes
    )


def permutation(
    table: pd.DataFrame,
    value: str,
    condition: str,
    *,
    levels: tuple[Any, Any] | None = None,
    site: str = "site",
    paired: bool = True,
    n_resamples: int = MOST_ARRANGEMENTS,
    alternative: Alternative = "two-sided",
    rng: int | np.random.Generator = 0,
) -> TestResult:
    """The permutation test of the difference of site means between two levels of a condition.

    ``paired``: the levels are swapped within sites. Otherwise whole sites change their level. scipy's
    ``permutation_test`` enumerates all permutations where there are no more than ``n_resamples``. The arguments are
    those of `wilcoxon`.

    Examples
    --------
    >>> import pandas as pd
    >>> from pipeline.numbers.stats import permutation
    >>> table = pd.DataFrame(
    ...     {
    ...         "site": [*"abcdef"] * 2,
    ...         "architecture": ["gru"] * 6 + ["linear"] * 6,
    ...         "latency": [22.0, 25, 24, 23, 26, 27, 20, 21, 23, 20, 24, 22],
    ...     }
    ... )
    >>> found = permutation(table, "latency", "architecture")
    >>> round(found.effect, 2), found.p_value
    (2.83, 0.03125)
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
    # swapping what is equal changes nothing
    ways = 2.0 ** int((first != second).sum()) if paired else float(comb(n, len(first)))
    smallest = min(1.0, (2.0 if alternative == "two-sided" else 1.0) / min(ways, n_resamples + 1))
    return TestResult(
        f"permutation {where} sites",
        effect,
        float(result.pvalue),
        effect,
        f"mean difference of {value} {where} sites",
        n,
        alternative,
        smallest,
        _few(f"{n}" if paired else f"{len(first)} + {len(second)}", smallest),
    )


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
    enough(min(len(first), len(second)), value, site)
    return first, second


def _few(counted: str, smallest: float) -> tuple[str, ...]:
    if smallest > 0.05:
        return (f"with {counted} sites the smallest p value possible is {smallest:.3g}",)
    return ()

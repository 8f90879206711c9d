"""A difference between two groups of checkpoints, with sites and checkpoints as sources of chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from scipy import stats as scipy_stats

from pipeline.numbers import stats

#: Ways to give the checkpoints their labels that are gone through; more are drawn at random.
MOST_LABELLINGS = 9999

#: Checkpoints of a group from which on their spread is known well enough beside a group of twice as many.
FEW_SEEDS = 4

#: Labellings x neurons that are worked on at one time.
ROOM = 2_000_000

#: Confidence of the intervals.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Numbers:
    """A number per checkpoint and neuron of one cohort.

    ``values`` is (checkpoint, neuron), NaN where there is none; ``second`` says which checkpoints belong to the group
    that is compared with the other; ``sites`` is one label per neuron, None where it has none.
    """

    values: np.ndarray
    second: np.ndarray
    sites: Sequence[object]


@dataclass(frozen=True)
class Difference:
    """The mean over sites of second - first, with what chance could make of it.

    ``p_sites`` (Wilcoxon's signed-rank test over sites) takes the checkpoints as given; ``p_checkpoints`` (labels
    permuted over the checkpoints of each cohort) takes the sites as given; ``p_both`` adds both spreads (Student's t
    with Satterthwaite's degrees of freedom), as do the bounds ``low`` and ``high`` of the difference (95 %).
    ``p_value`` is the largest of the three, since a claim about architectures and recordings needs all.
    ``p_smallest`` is the least that so many sites and checkpoints can give; ``se_sites`` and ``se_checkpoints`` are
    the standard errors over sites and over checkpoints. NaN: not enough of them.
    """

    effect: float
    low: float
    high: float
    se_sites: float
    se_checkpoints: float
    n_sites: int
    n_checkpoints: tuple[int, int]
    p_sites: float
    p_checkpoints: float
    p_both: float
    p_value: float
    p_smallest: float
    notes: tuple[str, ...]


def difference(cohorts: Sequence[Numbers], rng: int = 0) -> Difference:
    """Difference between two groups of checkpoints over all sites of one or several cohorts.

    Checkpoints belong to a cohort, so labels are permuted within each; sites of one name in several cohorts are one.

    ``cohorts``: The numbers of each cohort. ``rng``: Seed of the labellings that are drawn where there are too many.
    Raises `ValueError` if fewer than two sites have a number in both groups.
    """
    parts = [_Part(one, _site_codes(cohorts)) for one in cohorts]
    by_site = known_mean(np.stack([part.by_site(part.second[None])[0] for part in parts]), 0)
    known = np.isfinite(by_site)
    if known.sum() < 2:
        raise ValueError(
            f"{int(known.sum())} site(s) have this number in both groups; a difference is judged by how it varies over"
            " sites; pool more of them"
        )
    over_sites = stats.signed_rank(by_site[known], "two-sided")
    p_checkpoints, p_least, enough = _labels_permuted(parts, by_site, rng)
    spread = _spread(parts, by_site[known])
    counts = (sum(int((~part.second).sum()) for part in parts), sum(int(part.second.sum()) for part in parts))
    effect = float(by_site[known].mean())
    half, p_both = spread.half_width(), spread.p_value(effect)
    return Difference(
        effect=effect,
        low=effect - half,
        high=effect + half,
        se_sites=float(np.sqrt(spread.sites)),
        se_checkpoints=float(np.sqrt(spread.checkpoints)),
        n_sites=int(known.sum()),
        n_checkpoints=counts,
        p_sites=over_sites.p_value,
        p_checkpoints=p_checkpoints,
        p_both=p_both,
        p_value=max(over_sites.p_value, p_checkpoints, 0.0 if np.isnan(p_both) else p_both),
        p_smallest=max(over_sites.p_smallest, p_least),
        notes=(*over_sites.notes, *_on_checkpoints(counts, p_least, enough)),
    )


@dataclass(frozen=True)
class _Part:
    """One cohort's numbers, with its sites numbered as those of all cohorts."""

    numbers: Numbers
    codes: dict[object, int]

    @property
    def second(self) -> np.ndarray:
        return np.asarray(self.numbers.second, dtype=bool)

    def by_site(self, second: np.ndarray) -> np.ndarray:
        """Difference (labelling, site) where ``second`` (labelling, checkpoint) are the second group."""
        known = np.isfinite(self.numbers.values)
        filled = np.where(known, self.numbers.values, 0.0)
        means = []
        for group in (~second, second):
            count = group.astype(float) @ known
            means.append(np.where(count > 0, (group.astype(float) @ filled) / np.maximum(count, 1), np.nan))
        return self._site_means(means[1] - means[0])

    def by_checkpoint(self) -> np.ndarray:
        """Numbers (checkpoint, site) without what is a neuron's own: its mean over the two groups' means."""
        means = [known_mean(self.numbers.values[group], 0) for group in (~self.second, self.second)]
        return self._site_means(self.numbers.values - (means[0] + means[1]) / 2)

    def _site_means(self, values: np.ndarray) -> np.ndarray:
        belongs = np.zeros((values.shape[1], len(self.codes)))
        for neuron, site in enumerate(self.numbers.sites):
            if site is not None:
                belongs[neuron, self.codes[site]] = 1.0
        known = np.isfinite(values)
        count = known.astype(float) @ belongs
        return np.where(count > 0, (np.where(known, values, 0.0) @ belongs) / np.maximum(count, 1), np.nan)


def _site_codes(cohorts: Sequence[Numbers]) -> dict[object, int]:
    labels = dict.fromkeys(site for one in cohorts for site in one.sites if site is not None)
    return {site: code for code, site in enumerate(labels)}


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the finite values along an axis; NaN where there is none."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _labels_permuted(parts: Sequence[_Part], observed: np.ndarray, rng: int) -> tuple[float, float, str]:
    """p value of |mean difference| over labellings, the smallest there can be, and how many more would be enough."""
    ways = [comb(len(part.second), int(part.second.sum())) for part in parts]
    total = 1
    for count in ways:
        total *= count
    balanced = all(2 * part.second.sum() == len(part.second) for part in parts)
    exact = total <= MOST_LABELLINGS
    draws = np.random.default_rng(rng)
    labellings = [_labellings(part.second, None if exact else MOST_LABELLINGS, draws) for part in parts]
    means = [
        np.concatenate([part.by_site(rows) for rows in _few_at_a_time(labelling, part.numbers.values.shape[1])])
        for part, labelling in zip(parts, labellings, strict=True)
    ]
    if exact:
        chosen = list(product(*(range(len(labelling)) for labelling in labellings)))
        means = [values[[one[at] for one in chosen]] for at, values in enumerate(means)]
    effects = np.abs(known_mean(known_mean(np.stack(means), 0), 1))
    effect = abs(known_mean(observed, 0))
    # a labelling that leaves no site with both groups says nothing against chance
    as_large = int((~(effects < effect * (1 - 1e-9) - 1e-300)).sum())
    if exact:
        return as_large / total, (2 if balanced and total > 1 else 1) / total, _enough(parts)
    return (1 + as_large) / (1 + len(effects)), 1 / (1 + len(effects)), ""


def _few_at_a_time(labellings: np.ndarray, neurons: int) -> Iterator[np.ndarray]:
    step = max(1, ROOM // max(1, neurons))
    for start in range(0, len(labellings), step):
        yield labellings[start : start + step]


def _labellings(second: np.ndarray, drawn: int | None, rng: np.random.Generator) -> np.ndarray:
    """Rows (labelling, checkpoint) that give as many checkpoints to the second group: all, or so many at random."""
    if drawn is not None:
        return rng.permuted(np.tile(second, (drawn, 1)), axis=1)
    chosen = list(combinations(range(len(second)), int(second.sum())))
    found = np.zeros((len(chosen), len(second)), dtype=bool)
    for row, members in enumerate(chosen):
        found[row, list(members)] = True
    return found


def _enough(parts: Sequence[_Part]) -> str:
    return "4 + 4" if len(parts) == 1 else "two cohorts more"


def _on_checkpoints(counts: tuple[int, int], least: float, enough: str) -> tuple[str, ...]:
    few, many = sorted(counts)
    if least <= 0.05:
        if few >= FEW_SEEDS or 2 * few > many:
            return ()
        return (
            f"{few} checkpoints against {many} tell little of how far their seeds stray; where they stray further than"
            " the others, p is too small (.09 for .05 at three times as far); train more of them",
        )
    words = f"with {counts[0]} + {counts[1]} checkpoints the smallest p value possible is {least:.3g}, so that no"
    return (f"{words} difference can be told from one between seeds; train more of them ({enough} are enough)",)


@dataclass(frozen=True)
class _Spread:
    """Variances of the mean difference over sites and over checkpoints, of both together, and its freedom."""

    sites: float
    checkpoints: float
    total: float
    freedom: float

    def p_value(self, effect: float) -> float:
        if not np.isfinite(self.total) or not self.freedom > 0:
            return float("nan")
        if self.total == 0:
            return 1.0 if effect == 0 else 0.0
        return float(2 * scipy_stats.t.sf(abs(effect) / np.sqrt(self.total), self.freedom))

    def half_width(self) -> float:
        if not np.isfinite(self.total) or not self.freedom > 0:
            return float("nan")
        return float(scipy_stats.t.ppf(0.5 + CONFIDENCE / 2, self.freedom) * np.sqrt(self.total))


def _spread(parts: Sequence[_Part], by_site: np.ndarray) -> _Spread:
    n = len(by_site)
    sites = float(by_site.var(ddof=1) / n)
    if len(parts) > 1:
        # cohorts have checkpoints of their own, so that the spread over sites holds that over checkpoints
        return _Spread(sites, float("nan"), sites, n - 1)
    cells = parts[0].by_checkpoint()
    groups = [cells[~parts[0].second], cells[parts[0].second]]
    if min(map(len, groups)) < 2:
        return _Spread(sites, float("nan"), float("nan"), float("nan"))
    means = [known_mean(group, 1) for group in groups]
    own = [float(mean.var(ddof=1) / len(mean)) for mean in means]
    # what is left of a cell without its checkpoint and its site is counted by both variances
    rest = [
        group - mean[:, None] - (known_mean(group, 0) - mean.mean()) for group, mean in zip(groups, means, strict=True)
    ]
    freedom = [(len(group) - 1) * max(1, n - 1) for group in groups]
    residual = sum(float(np.nansum(one**2)) for one in rest) / sum(freedom)
    both = residual / n * sum(1 / len(group) for group in groups)
    total = max(sites, sum(own), sites + sum(own) - both)
    variances = [sites, *own, both]
    degrees = [n - 1, *(len(group) - 1 for group in groups), sum(freedom)]
    satterthwaite = sum(v**2 / f for v, f in zip(variances, degrees, strict=True))
    return _Spread(sites, sum(own), total, total**2 / satterthwaite if satterthwaite > 0 else float("nan"))

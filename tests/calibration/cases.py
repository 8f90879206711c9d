"""Every p value and every threshold that a command prints, simulated under its null and under a planted effect."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.numbers import stats
from pipeline.numbers.agreement import reliability
from pipeline.numbers.group_difference import Numbers, difference
from pipeline.numbers.strf import strf_summaries
from tests.calibration import nulls

#: What one simulation found: yes or no for each of one or several tests.
Trial = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One test under one kind of data: how often it says yes, and how often it should.

    ``clustered`` tests of one trial are not independent of each other: the trials count, not the tests.
    """

    test: str
    data: str
    trial: Trial
    planted: bool = False
    most: float = 0.05
    least: float = 0.0
    clustered: bool = True
    trials: float = 1.0


def cases() -> Iterator[Case]:
    """All cases, the quick ones first."""
    yield from _reliable()
    yield from _thresholds()
    yield from _compared()
    yield from _pooled()
    yield from _between_sites()
    yield from _intervals()
    yield from _mixed()


def _reliable() -> Iterator[Case]:
    def each(build: nulls.Maps, checkpoints: int, neurons: int) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            maps = nulls.labelled(build(rng, checkpoints, neurons))
            return reliability(maps, n_null=200, rng=rng)["p_value"].values <= 0.05

        return trial

    def any_of(build: nulls.Maps, checkpoints: int, neurons: int) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            p = reliability(nulls.labelled(build(rng, checkpoints, neurons)), rng=rng)["p_value"].values
            return np.array([(stats.benjamini_hochberg(p) < 0.05).any()])

        return trial

    for name, build in nulls.NOISE.items():
        for checkpoints, neurons in ((2, 60), (4, 10), (5, 3)):
            words = f"{name}, {checkpoints} maps of {neurons} neurons"
            yield Case("reliability, p <= .05", words, each(build, checkpoints, neurons), trials=0.5)
        yield Case("reliability, any above chance", f"{name}, 3 maps of 20 neurons", any_of(build, 3, 20))
    for name, build in nulls.architectures().items():
        yield Case("reliability, p <= .05", f"{name}, 2 maps of 40 neurons", each(build, 2, 40), trials=0.25)
    yield Case(
        "reliability, p <= .05", "own truth, SNR 1, 3 maps", each(nulls.with_truth, 3, 40), True, 1.0, 0.9, True, 0.1
    )


def _thresholds() -> Iterator[Case]:
    def share(name: str, build: nulls.Maps, *grid: tuple[int, int]) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            return strf_summaries(nulls.labelled(build(rng, 1, 50, *grid)), [name])[name].values.ravel() == 1

        return trial

    def field(rng: np.random.Generator, checkpoints: int, neurons: int) -> np.ndarray:
        return nulls.blobs(rng, checkpoints, neurons) + 0.1 * nulls.white(rng, checkpoints, neurons)

    for name in ("significant", "sparse", "inseparable"):
        for grid in ((8, 10), (16, 20), (32, 40)):
            for data, build in nulls.UNSTRUCTURED.items():
                # the null is simulated: its own 5 % are known to a percent
                words = f"{data}, {grid[0]} x {grid[1]}"
                yield Case(name, words, share(name, build, grid), False, 0.06, clustered=False, trials=0.1)
    yield Case("inseparable", "a field, noise of 10 %", share("inseparable", field), clustered=False, trials=0.1)
    for name in ("significant", "sparse"):
        yield Case(name, "a field, noise of 10 %", share(name, field), True, 1.0, 0.9, False, 0.1)


def _compared() -> Iterator[Case]:
    def trial_of(sites: int, seeds: tuple[int, int], covers: bool = False, **kinds: float) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            values, second, site = nulls.crossed(rng, sites, seeds, **kinds)
            found = difference([Numbers(values, second, site.tolist())], int(rng.integers(2**31)))
            missed = not found.low <= kinds.get("effect", 0.0) <= found.high
            return np.array([missed if covers else found.p_value <= 0.05])

        return trial

    for sites in (3, 6, 10, 20):
        for seeds in ((4, 4), (3, 6)):
            for seed, site in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
                kinds = {"between_seeds": seed, "between_sites": site}
                words = f"{sites} sites, {seeds[0]} + {seeds[1]} checkpoints, seeds {seed:g}, sites {site:g}"
                yield Case("compare, p <= .05", words, trial_of(sites, seeds, **kinds))
        words = f"{sites} unbalanced sites, 5 + 5 checkpoints"
        yield Case("compare, p <= .05", words, trial_of(sites, (5, 5), balanced=False))
        words = f"{sites} sites, 2 + 2 checkpoints"
        yield Case("compare, interval misses", words, trial_of(sites, (2, 2), covers=True))
    planted = trial_of(10, (5, 5), between_seeds=0.3, between_sites=0.3, effect=1.0)
    yield Case("compare, p <= .05", "effect 1, 10 sites, 5 + 5 checkpoints", planted, True, 1.0, 0.9)


def _pooled() -> Iterator[Case]:
    def trial_of(cohorts: int, effect: float) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            parts = []
            for cohort in range(cohorts):
                values, second, site = nulls.crossed(rng, 1, (2, 2), effect=effect)
                parts.append(Numbers(values, second, [cohort] * len(site)))
            return np.array([difference(parts, int(rng.integers(2**31))).p_value <= 0.05])

        return trial

    for cohorts in (6, 12):
        yield Case("compare, p <= .05", f"{cohorts} cohorts of 2 + 2 checkpoints", trial_of(cohorts, 0.0), trials=0.3)
    yield Case("compare, p <= .05", "effect 3, 12 cohorts", trial_of(12, 3.0), True, 1.0, 0.9, True, 0.2)


def _between_sites() -> Iterator[Case]:
    def trial_of(first: int, second: int, test: str) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            sizes = rng.integers(1, 10, first + second)
            site = np.repeat(np.arange(first + second), sizes)
            value = rng.standard_normal(first + second)[site] + rng.standard_normal(len(site))
            table = pd.DataFrame({"site": site, "area": np.where(site < first, "a", "b"), "value": value})
            call = stats.wilcoxon if test == "rank-sum" else stats.permutation
            return np.array([call(table, "value", condition="area", paired=False).p_value <= 0.05])

        return trial

    for first, second in ((3, 3), (4, 8), (10, 10)):
        for test in ("rank-sum", "permutation"):
            yield Case(f"{test} between sites", f"{first} against {second} sites", trial_of(first, second, test))


def _intervals() -> Iterator[Case]:
    def trial_of(sites: int) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            table = pd.DataFrame({"site": np.arange(sites), "value": rng.standard_normal(sites)})
            found = stats.bootstrap(table, "value")
            return np.array([not found.low <= 0 <= found.high])

        return trial

    for sites in (3, 5, 10, 20):
        yield Case("interval of site means misses", f"{sites} sites", trial_of(sites))


def _mixed() -> Iterator[Case]:
    def trial_of(sites: int, slope: float, effect: float, balanced: bool) -> Trial:
        def trial(rng: np.random.Generator) -> np.ndarray:
            counts = np.full(sites, 8) if balanced else rng.integers(4, 16, sites)
            site = np.repeat(np.arange(sites), counts)
            x = rng.standard_normal(len(site))
            own = rng.standard_normal(sites)[site] + (effect + slope * rng.standard_normal(sites)[site]) * x
            table = pd.DataFrame({"site": site, "x": x, "value": own + rng.standard_normal(len(site))})
            found = stats.mixed_model(table, "value ~ x").coefficients.loc["x", "p_value"]
            return np.array([found <= 0.05])

        return trial

    for sites in (3, 6, 12, 20):
        for slope in (0.0, 1.0):
            words = f"{sites} {'unbalanced ' if sites == 6 else ''}sites, slopes differ by {slope:g}"
            yield Case("mixed model, p <= .05", words, trial_of(sites, slope, 0.0, sites != 6))
    yield Case("mixed model, p <= .05", "effect 1, 12 sites", trial_of(12, 0.5, 1.0, True), True, 1.0, 0.9, True, 0.25)

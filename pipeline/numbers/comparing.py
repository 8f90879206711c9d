"""Groups of checkpoints against each other: who agrees with whom, on what, and by how much."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.numbers import stats
from pipeline.numbers.agreement import linear_contrast, mean_map, noise_ceiling, reliability, variance_components
from pipeline.numbers.agreement.grouping import groups_of
from pipeline.numbers.agreement.number_agreement import checked_numbers, mean_over_rest
from pipeline.numbers.agreement.reliability import Null
from pipeline.numbers.group_difference import Numbers, difference, known_mean
from pipeline.numbers.strf import strf_summaries
from pipeline.numbers.strf.all_measures import MEASURES as STRF_MEASURES
from pipeline.numbers.waveform import MEASURES as WAVEFORM_MEASURES
from pipeline.numbers.waveform import waveform_summaries

#: Measures that are compared unless others are named: noise of 10 % of the peak moves none of them.
STRF_COMPARED = (
    "best_frequency",
    "latency",
    "bandwidth_envelope",
    "duration",
    "inseparability_corrected",
    "excitation_balance_corrected",
    "direction_selectivity",
    "rate_centroid",
    "scale_centroid",
)

#: Measures of waveform maps that are compared unless others are named.
WAVEFORM_COMPARED = ("centroid_frequency", "bandwidth", "latency_envelope", "duration")

#: Numbers that a run takes of a map frame by frame, and that are compared unless others are named.
NUMBERS_COMPARED = (
    "gain",
    "gain_change",
    "complexity",
    "shape_change",
    "temporal_hold",
    "local_linearity",
    "components_above_floor",
    "size_90",
    "size_95",
    "population_share",
)

#: Measures whose ratios count, not their differences.
IN_OCTAVES = ("best_frequency", "centroid_frequency", "peak_frequency")

#: Share of false discoveries among the neurons that are called reliable.
CHANCE = 0.05

#: A reliability of fewer standard deviations of chance is no ceiling to divide by: it may be off by a quarter.
TRUSTED = 4.0


def group_reliability(
    maps: xr.DataArray,
    by: str | Sequence[str] = "architecture",
    *,
    null: Null = "neurons",
    n_null: int = 1000,
    rng: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """How well the maps of a neuron agree within each group of checkpoints: one row per group.

    ``checkpoints``: those of the group; ``neurons``: those with two or more maps that count (neurons x stimuli for
    maps around several); ``median``, ``low`` and ``high`` of their reliability, the mean correlation over all pairs of
    maps; ``common``: the mean correlation of maps of different neurons; ``specific``: the median reliability without
    the mean map of the other neurons; ``above_chance``: neurons whose reliability exceeds that of null sets at a false
    discovery rate of 5 % within the group; ``ceiling``: the median correlation with the truth that the mean map can
    have; ``p_smallest``: the least p value that so many null sets can give; ``note`` says where that is too large for
    one neuron alone to be found, or that there is no null. ``null``, ``n_null`` and ``report`` are those of
    `reliability`.

    NaN: no neuron of the group has two maps.
    """
    found = reliability(maps, by, null=null, n_null=n_null, rng=rng, report=report)
    ceiling = noise_ceiling(found)["of_mean"]
    groups = groups_of(maps, "checkpoint", by)
    names = [by] if isinstance(by, str) else list(by)
    rows = []
    for position, index in enumerate(groups.indices):
        part = {name: found[name].isel({groups.dim: position}).values.ravel() for name in found.data_vars}
        known = np.isfinite(part["reliability"])
        adjusted = stats.benjamini_hochberg(part["p_value"])
        low, middle, high = np.quantile(part["reliability"][known], [0, 0.5, 1]) if known.any() else [np.nan] * 3
        least = _median(part["p_smallest"])
        rows.append(
            {name: groups.coords[name][1][position] for name in names}
            | {"checkpoints": len(index), "neurons": int(known.sum()), "median": middle, "low": low, "high": high}
            | {"common": _median(part["common"]), "specific": _median(part["specific"])}
            | {"above_chance": int((adjusted[known] < CHANCE).sum())}
            | {"ceiling": _median(ceiling.isel({groups.dim: position}).values.ravel()), "p_smallest": least}
            | {"note": _on_resolution(least, int(known.sum()))}
        )
    return pd.DataFrame(rows)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


def _on_resolution(least: float, neurons: int) -> str:
    if not neurons:
        return ""
    if not np.isfinite(least):
        return "there is no other neuron whose maps could tell what chance gives; --null shift asks less"
    if least * neurons < CHANCE:
        return ""
    alone = "no neuron" if least >= CHANCE else "no neuron alone"
    return (
        f"the smallest p value possible is {least:.2g}, so that {alone} among {neurons} can be called reliable; more"
        " checkpoints or more neurons give more null sets"
    )


def variance_shares(maps: xr.DataArray, by: str | Sequence[str] = "architecture") -> pd.DataFrame:
    """The variance of each neuron's maps ``between`` groups and ``within`` (between seeds).

    Of maps at norm 1, without their gain; ``share_between`` is the intraclass correlation. See `variance_components`.
    """
    found = variance_components(maps, by)[["between", "within", "share_between"]]
    return found.to_dataframe()[list(found.data_vars)].reset_index()


def compare_maps(maps: xr.DataArray, reference: str, other: str, by: str = "architecture") -> xr.Dataset:
    """How the maps of two groups of checkpoints compare, for each neuron.

    ``correlation`` of the two mean maps (of maps at norm 1); ``ceiling``, what it would be on average if the groups
    shared one truth and differed no more than their seeds do (the product of the two mean maps' noise ceilings);
    ``corrected`` = correlation / ceiling, where the seeds of both groups agree well enough for that (a reliability of 4
    standard deviations of chance, see `reliability`; under it the ceiling may be off by a quarter); ``unexplained``,
    the share of energy of the other group's maps that is no multiple of the reference's map, their mean (see
    `linear_contrast`); ``n_reference`` and ``n_other``, the maps that count.

    NaN: a group has no map of the neuron; ``ceiling``: fewer than two maps, or maps that do not agree within a group;
    ``corrected``: no ceiling, or one that is not to be trusted.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    first, second = two_groups(maps, reference, other, by)
    means = [mean_map(part, normalise=True) for part in (first, second)]
    within = [reliability(part, n_null=1) for part in (first, second)]
    ceiling = noise_ceiling(within[0])["of_mean"] * noise_ceiling(within[1])["of_mean"]
    trusted = [one["reliability"] >= TRUSTED * one["chance_sd"] for one in within]
    # one reference for each neuron: its mean map
    near = linear_contrast(means[1]["mean"].expand_dims("checkpoint"), means[0]["mean"])["correlation"]
    contrast = linear_contrast(second, means[0]["mean"])["unexplained"]
    result = xr.Dataset(
        {
            "correlation": near.isel(checkpoint=0, drop=True),
            "ceiling": ceiling,
            "unexplained": contrast.mean("checkpoint"),
            "n_reference": means[0]["n"],
            "n_other": means[1]["n"],
        }
    )
    result["corrected"] = (result["correlation"] / ceiling).where(trusted[0] & trusted[1])
    words = {
        "correlation": "correlation of the mean maps",
        "ceiling": "noise ceiling of that correlation",
        "corrected": "correlation over its noise ceiling",
        "unexplained": f"share of energy of {other} outside the map of {reference}",
        "n_reference": f"maps of {reference}",
        "n_other": f"maps of {other}",
    }
    for name, text in words.items():
        result[name].attrs = {"long_name": text, "units": "1"}
    return result.compute()


def compare_measures(
    maps: xr.DataArray | Mapping[str, xr.DataArray],
    reference: str,
    other: str,
    by: str = "architecture",
    *,
    measures: Sequence[str] | None = None,
    site: str | None = "site",
    rng: int = 0,
) -> pd.DataFrame:
    """One test per measure between two groups of checkpoints: one row each.

    A measure is averaged over the checkpoints (and stimuli) of each group, neurons that have it in both count, and
    sites count alike. ``reference`` and ``other`` are medians over neurons, ``difference`` is the mean over sites of
    other - reference (frequencies in octaves) with its 95 % interval ``low`` to ``high`` and its standard errors over
    sites and over checkpoints, ``n`` counts the sites.

    ``p_sites`` is Wilcoxon's signed-rank test over sites, with the checkpoints as given; ``p_checkpoints`` permutes
    the groups' labels over the checkpoints, with the sites as given; ``p_both`` adds both spreads; ``p_value``, the
    largest, is that of a claim about both; ``p_adjusted`` allows for the number of measures (Benjamini and Hochberg);
    ``p_smallest`` is the least that so many sites and checkpoints can give. ``note`` says what stands against a p
    value, or why there is none; a measure that the frequency axis does not allow has no numbers. See
    `pipeline.numbers.group_difference`.

    Parameters
    ----------
    maps
        Maps of one cohort, or of several by name: their sites are pooled, and a cohort whose neurons have no such
        coordinate is one site.
    measures
        Names of measures of `strf_summaries` or `waveform_summaries`; a selection of them by default.
    site
        Coordinate of the neurons whose labels are independent of each other. None takes neurons themselves.
    rng
        Seed of the labellings of checkpoints, where there are too many to go through.

    Raises
    ------
    ValueError
        If a group, a measure or the coordinate is not there.
    """
    cohorts = {"": maps} if isinstance(maps, xr.DataArray) else dict(maps)
    parts = [
        _of_cohort(name, one, (reference, other), by, measures, site, len(cohorts)) for name, one in cohorts.items()
    ]
    return _table(parts, rng)


def compare_numbers(
    numbers: xr.Dataset | Mapping[str, xr.Dataset],
    reference: str,
    other: str,
    by: str = "architecture",
    *,
    site: str | None = "site",
    rng: int = 0,
) -> pd.DataFrame:
    """One test per number that each neuron of each checkpoint has already, as the numbers of dynamic STRFs.

    As `compare_measures`, whose columns it has. A number of each sound is averaged over sounds; NaN does not count.
    Numbers that grow with the sound's length, as complexity does, compare over equal numbers of frames only.

    Parameters
    ----------
    numbers
        Variables with the dimensions checkpoint and neuron, and perhaps others, such as
        ``cube[["dstrf_complexity", "dstrf_gain_change"]]``; of one cohort, or of several by name, as for
        `compare_measures`.
    site, rng
        As for `compare_measures`.

    Raises
    ------
    ValueError
        If a variable has no such dimensions, or a group or the coordinate is not there.
    """
    cohorts = {"": numbers} if isinstance(numbers, xr.Dataset) else dict(numbers)
    labels = (reference, other)
    return _table([_of_numbers(name, one, labels, by, site, len(cohorts)) for name, one in cohorts.items()], rng)


def _of_numbers(
    cohort: str, numbers: xr.Dataset, labels: tuple[str, str], by: str, site: str | None, cohorts: int
) -> "_Cohort":
    groups = {str(name): two_groups(one, *labels, by) for name, one in checked_numbers(numbers).items()}
    first, second = next(iter(groups.values()))
    joined = xr.Dataset({name: xr.concat(pair, "checkpoint") for name, pair in groups.items()})
    mask = np.arange(joined.sizes["checkpoint"]) >= first.sizes["checkpoint"]
    return _Cohort(joined, mask, _sites_of(cohort, second, site, alone=cohorts == 1))


def _table(parts: Sequence["_Cohort"], rng: int) -> pd.DataFrame:
    """A row for each measure of any cohort."""
    names = dict.fromkeys(str(name) for part in parts for name in part.numbers.data_vars if name != "degenerate")
    rows = [_row(name, [part for part in parts if name in part.numbers], rng) for name in names]
    for words in dict.fromkeys(words for part in parts for words in part.numbers.attrs.get("left_out", [])):
        name, _, reason = words.partition(": ")
        if name not in names:
            rows.append({"measure": name, "neurons": 0, "n": 0, "p_value": np.nan, "note": reason})
    table = pd.DataFrame(rows)
    table["p_adjusted"] = stats.benjamini_hochberg(table["p_value"])
    table["note"] = [_with_family(row, int(table["p_value"].notna().sum())) for _, row in table.iterrows()]
    return table[[*(column for column in table.columns if column != "note"), "note"]]


@dataclass(frozen=True)
class _Cohort:
    """The measures of one cohort's maps, which checkpoints are the second group, and the neurons' sites."""

    numbers: xr.Dataset
    second: np.ndarray
    sites: Sequence[object]

    def of(self, name: str) -> np.ndarray:
        """A measure (checkpoint, neuron), or its log2: the mean over all else, of the values that there are."""
        return mean_over_rest(self.numbers[name], octaves=name in IN_OCTAVES)


def _of_cohort(
    cohort: str,
    maps: xr.DataArray,
    labels: tuple[str, str],
    by: str,
    measures: Sequence[str] | None,
    site: str | None,
    cohorts: int,
) -> _Cohort:
    first, second = two_groups(maps, *labels, by)
    sites = _sites_of(cohort, maps, site, alone=cohorts == 1)
    numbers = _summaries(xr.concat([first, second], "checkpoint"), measures)
    mask = np.arange(first.sizes["checkpoint"] + second.sizes["checkpoint"]) >= first.sizes["checkpoint"]
    return _Cohort(numbers, mask, sites)


def _sites_of(cohort: str, maps: xr.DataArray, site: str | None, *, alone: bool) -> list[object]:
    """The label of each neuron that says which others it is not independent of; None where it has none."""
    there = site is not None and site in maps.coords and maps.coords[site].dims == ("neuron",)
    if site is not None and not there and alone:
        raise ValueError(
            f"the neurons have no {site!r}, so which of them were recorded together is not known; add that column to"
            " the neurons' table, or pass site=None to count every neuron as independent"
        )
    neurons = maps["neuron"].values.tolist() if "neuron" in maps.coords else list(range(maps.sizes["neuron"]))
    if there:
        return [label if _named(label) else None for label in maps[str(site)].values.tolist()]
    if site is not None:
        return [cohort] * len(neurons)
    return [(cohort, neuron) for neuron in neurons]


def two_groups(maps: xr.DataArray, reference: str, other: str, by: str) -> tuple[xr.DataArray, xr.DataArray]:
    """The maps of the two groups, refused where one is not there or both are the same."""
    groups = groups_of(maps, "checkpoint", by)
    there = {label_text(label): index for label, index in zip(groups.coords[by][1], groups.indices, strict=True)}
    missing = [repr(label) for label in dict.fromkeys((reference, other)) if label not in there]
    if missing or reference == other:
        raise ValueError(
            (
                f"no checkpoint has the {by} {' or '.join(missing)}"
                if missing
                else f"{reference!r} is compared with itself"
            )
            + "; a comparison needs two groups of checkpoints; choose two of"
            f" {', '.join(there) or 'no labels at all'}"
        )
    return maps.isel(checkpoint=there[reference]), maps.isel(checkpoint=there[other])


def _summaries(maps: xr.DataArray, measures: Sequence[str] | None) -> xr.Dataset:
    spectral = "frequency" in maps.dims
    known = STRF_MEASURES if spectral else WAVEFORM_MEASURES
    wanted = measures if measures is not None else STRF_COMPARED if spectral else WAVEFORM_COMPARED
    vectors = [name for name in wanted if name in known and known[name].axes]
    if vectors:
        raise ValueError(
            f"{', '.join(vectors)} has several numbers per map; a paired test is of one; name measures of one number"
        )
    return (strf_summaries if spectral else waveform_summaries)(maps, wanted).compute()


def _row(name: str, cohorts: Sequence[_Cohort], rng: int) -> dict[str, object]:
    octaves = name in IN_OCTAVES
    values = [cohort.of(name) for cohort in cohorts]
    means = [
        np.concatenate(
            [known_mean(one[cohort.second == group], 0) for one, cohort in zip(values, cohorts, strict=True)]
        )
        for group in (False, True)
    ]
    both = np.isfinite(means[0]) & np.isfinite(means[1])
    shown = [np.median(one[both]) if both.any() else np.nan for one in means]
    units = str(cohorts[0].numbers[name].attrs.get("units", "1"))
    row: dict[str, object] = {
        "measure": name,
        "units": units,
        "reference": 2.0 ** shown[0] if octaves else shown[0],
        "other": 2.0 ** shown[1] if octaves else shown[1],
        "neurons": int(both.sum()),
    }
    numbers = [Numbers(one, cohort.second, cohort.sites) for one, cohort in zip(values, cohorts, strict=True)]
    columns = (
        "low",
        "high",
        "se_sites",
        "se_checkpoints",
        "p_sites",
        "p_checkpoints",
        "p_both",
        "p_value",
        "p_smallest",
    )
    units = "octave" if octaves else units
    try:
        found = difference(numbers, rng)
    except ValueError:
        none = {"difference": np.nan, "difference_units": units, "n": 0} | dict.fromkeys(columns, np.nan)
        return row | none | {"note": "fewer than two sites have this number in both groups"}
    row |= {"difference": found.effect, "difference_units": units, "n": found.n_sites}
    row |= {column: getattr(found, column) for column in columns}
    return row | {"note": "; ".join(found.notes)}


def _with_family(row: pd.Series, measures: int) -> str:
    """The note of a row, with what the adjustment for so many measures asks of one alone."""
    least = row.get("p_smallest", np.nan)
    if not (least <= CHANCE < least * measures):
        return str(row["note"])
    words = (
        f"a difference in one measure alone cannot pass the adjustment for {measures} (the smallest adjusted p value is"
        f" {least * measures:.2g}); name the measures in question, or train more seeds"
    )
    return "; ".join(filter(None, [str(row["note"]), words]))


def label_text(label: object) -> str:
    """A label as text, "" for one that is missing; whole numbers that arrive as floats read as whole."""
    if not _named(label):
        return ""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _named(label: object) -> bool:
    return not (label is None or label == "" or label != label)

"""Groups of checkpoints against each other: who agrees with whom, on what, and by how much."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.numbers import stats
from pipeline.numbers.agreement import linear_contrast, mean_map, noise_ceiling, reliability, variance_components
from pipeline.numbers.agreement.groups import groups_of
from pipeline.numbers.strf import strf_summaries
from pipeline.numbers.strf.summaries import MEASURES as STRF_MEASURES
from pipeline.numbers.waveform import MEASURES as WAVEFORM_MEASURES
from pipeline.numbers.waveform import waveform_summaries

STRF_COMPARED = (
    "best_frequency",
    "latency",
    "bandwidth_envelope",
    "duration",
    "inseparability",
    "excitation_balance",
    "direction_selectivity",
    "best_rate",
    "best_scale",
    "sparseness_gini",
    "memory_90",
)
WAVEFORM_COMPARED = ("centroid_frequency", "bandwidth", "latency_envelope", "duration")

IN_OCTAVES = ("best_frequency", "centroid_frequency", "peak_frequency")
"""Measures whose ratios count, not their differences."""

CHANCE = 0.05
"""Share of false discoveries among the neurons that are called reliable."""


def group_reliability(
    maps: xr.DataArray,
    by: str | Sequence[str] = "architecture",
    *,
    n_null: int = 1000,
    rng: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Return how well the maps of a neuron agree within each group of checkpoints: one row per group.

    ``checkpoints``: those of the group; ``neurons``: those with two or more maps that count (neurons x stimuli for
    maps around several); ``median``, ``low`` and ``high`` of their reliability, the mean correlation over all pairs of
    maps; ``above_chance``: neurons whose reliability exceeds that of shuffled maps at a false discovery rate of 5 %
    within the group; ``ceiling``: the median correlation with the truth that the mean map can have. ``report`` is that
    of `reliability`.

    NaN: no neuron of the group has two maps.
    """
    found = reliability(maps, by, n_null=n_null, rng=rng, report=report)
    ceiling = noise_ceiling(found)["of_mean"]
    groups = groups_of(maps, "checkpoint", by)
    names = [by] if isinstance(by, str) else list(by)
    rows = []
    for position, index in enumerate(groups.indices):
        part = {groups.dim: position}
        values = found["reliability"].isel(part).values.ravel()
        adjusted = stats.benjamini_hochberg(found["p_value"].isel(part).values.ravel())
        known = np.isfinite(values)
        low, middle, high = np.quantile(values[known], [0, 0.5, 1]) if known.any() else [np.nan] * 3
        tops = ceiling.isel(part).values.ravel()
        tops = tops[np.isfinite(tops)]
        rows.append(
            {name: groups.coords[name][1][position] for name in names}
            | {"checkpoints": len(index), "neurons": int(known.sum()), "median": middle, "low": low, "high": high}
            | {"above_chance": int((adjusted[known] < CHANCE).sum())}
            | {"ceiling": float(np.median(tops)) if tops.size else np.nan}
        )
    return pd.DataFrame(rows)


def variance_shares(maps: xr.DataArray, by: str | Sequence[str] = "architecture") -> pd.DataFrame:
    """Return for each neuron the variance of its maps ``between`` groups and ``within`` (between seeds).

    Of maps at norm 1, without their gain; ``share_between`` is the intraclass correlation. See `variance_components`.
    """
    found = variance_components(maps, by)[["between", "within", "share_between"]]
    return found.to_dataframe()[list(found.data_vars)].reset_index()


def compare_maps(maps: xr.DataArray, reference: str, other: str, by: str = "architecture") -> xr.Dataset:
    """Return for each neuron how the maps of two groups of checkpoints compare.

    ``correlation`` of the two mean maps (of maps at norm 1); ``ceiling``, what it would be on average if the groups
    shared one truth and differed no more than their seeds do (the product of the two mean maps' noise ceilings);
    ``corrected`` = correlation / ceiling; ``unexplained``, the share of energy of the other group's maps that is no
    multiple of the reference's map, their mean (see `linear_contrast`); ``n_reference`` and ``n_other``, the maps that
    count.

    NaN: a group has no map of the neuron; ``ceiling`` and ``corrected``: fewer than two maps, or maps that do not
    agree within a group.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    first, second = two_groups(maps, reference, other, by)
    means = [mean_map(part, normalise=True) for part in (first, second)]
    tops = [noise_ceiling(reliability(part, n_null=1))["of_mean"] for part in (first, second)]
    ceiling = tops[0] * tops[1]
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
    result["corrected"] = result["correlation"] / ceiling
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
    maps: xr.DataArray,
    reference: str,
    other: str,
    by: str = "architecture",
    *,
    measures: Sequence[str] | None = None,
    site: str | None = "site",
) -> pd.DataFrame:
    """Return one paired test per measure between two groups of checkpoints: one row each.

    A measure is averaged over the checkpoints (and stimuli) of each group; neurons that have it in both count;
    Wilcoxon's signed-rank test is over the means of sites. ``reference`` and ``other`` are medians over neurons,
    ``difference`` is the median over sites of other - reference (frequencies in octaves), ``n`` counts the sites,
    ``p_value`` is two-sided and ``p_adjusted`` allows for the number of measures (Benjamini and Hochberg). ``note``
    says what stands against a p value, or why there is none; a measure that the frequency axis does not allow has no
    numbers.

    Parameters
    ----------
    measures
        Names of measures of `strf_summaries` or `waveform_summaries`; a selection of them by default.
    site
        Coordinate of the neurons whose labels are independent of each other. None takes neurons themselves.

    Raises
    ------
    ValueError
        If a group, a measure or the coordinate is not there.
    """
    if site is not None and (site not in maps.coords or maps.coords[site].dims != ("neuron",)):
        raise ValueError(
            f"the neurons have no {site!r}, so which of them were recorded together is not known; add that column to"
            " the neurons' table, or pass site=None to count every neuron as independent"
        )
    numbers = {
        label: _summaries(part, measures)
        for label, part in zip((reference, other), two_groups(maps, reference, other, by), strict=True)
    }
    labels = maps["neuron"].values
    unit = labels if site is None else maps[site].values
    rows = [
        _row(str(name), numbers[reference][name], numbers[other][name], unit, (reference, other))
        for name in numbers[reference].data_vars
        if name != "degenerate"
    ]
    for words in numbers[reference].attrs.get("left_out", []):
        name, _, reason = words.partition(": ")
        rows.append({"measure": name, "neurons": 0, "n": 0, "p_value": np.nan, "note": reason})
    table = pd.DataFrame(rows)
    table["p_adjusted"] = stats.benjamini_hochberg(table["p_value"])
    return table[[*(column for column in table.columns if column != "note"), "note"]]


def two_groups(maps: xr.DataArray, reference: str, other: str, by: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the maps of the two groups, refused where one is not there or both are the same."""
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


def _row(
    name: str, reference: xr.DataArray, other: xr.DataArray, unit: np.ndarray, labels: tuple[str, str]
) -> dict[str, object]:
    octaves = name in IN_OCTAVES
    means = [_per_neuron(values, octaves) for values in (reference, other)]
    both = np.isfinite(means[0]) & np.isfinite(means[1])
    shown = [np.median(values[both]) if both.any() else np.nan for values in means]
    units = str(reference.attrs.get("units", "1"))
    row: dict[str, object] = {
        "measure": name,
        "units": units,
        "reference": 2.0 ** shown[0] if octaves else shown[0],
        "other": 2.0 ** shown[1] if octaves else shown[1],
        "neurons": int(both.sum()),
        "difference": np.nan,
        "difference_units": "octave" if octaves else units,
        "n": 0,
        "p_value": np.nan,
        "note": "",
    }
    table = pd.DataFrame(
        {
            "unit": [label if _named(label) else None for label in unit[both].tolist()] * 2,
            "group": np.repeat(labels, both.sum()),
            "value": np.concatenate([means[0][both], means[1][both]]),
        }
    )
    try:
        test = stats.wilcoxon(table, "value", condition="group", levels=(labels[1], labels[0]), site="unit")
    except ValueError:
        return row | {"note": "fewer than two of them have this number in both groups"}
    return row | {"difference": test.effect, "n": test.n, "p_value": test.p_value, "note": "; ".join(test.notes)}


def _per_neuron(values: xr.DataArray, octaves: bool) -> np.ndarray:
    """Mean over all but the neurons, of the values (or their log2) that there are."""
    rows = values.transpose("neuron", ...).values.reshape(values.sizes["neuron"], -1)
    rows = np.log2(rows) if octaves else rows
    known = np.isfinite(rows)
    totals, counts = np.where(known, rows, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def label_text(label: object) -> str:
    """Return a label as text; whole numbers that arrive as floats read as whole."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _named(label: object) -> bool:
    return not (label is None or label == "" or label != label)

"""How well checkpoints agree on the numbers of their neurons, as those of dynamic STRFs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import rankdata

from pipeline.numbers import stats
from pipeline.numbers.agreement.grouping import groups_of
from pipeline.numbers.agreement.reliability import noise_ceiling, reliability
from pipeline.numbers.group_difference import known_mean

#: Neurons over which checkpoints are asked to agree, at least.
FEWEST_NEURONS = 3


def number_reliability(
    numbers: xr.Dataset, by: str | Sequence[str] = "architecture", *, n_null: int = 1000, rng: int = 0
) -> pd.DataFrame:
    """How well checkpoints agree on which neurons have much of a number: one row per number and group.

    ``r`` is the mean over the pairs of a group's checkpoints of the rank correlation over neurons; ``ceiling`` the
    correlation with the truth that the mean over those checkpoints can have; ``p_value`` (one-sided) places ``r`` among
    ``n_null`` sets in which the neurons of every checkpoint are permuted, and ``p_adjusted`` allows for the rows
    (Benjamini and Hochberg). ``neurons`` have the number in every one of the group's ``checkpoints`` that has it for
    any. A number of each sound is averaged over sounds.

    NaN: fewer than two checkpoints, or fewer than three neurons, or a number that is the same for all of them.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> own, noise = np.arange(20.0), np.random.default_rng(0).standard_normal((3, 20))
    >>> seeds = {"architecture": ("checkpoint", ["gru", "gru", "gru"])}
    >>> cube = xr.Dataset({"dstrf_complexity": (("checkpoint", "neuron"), own + noise)}, seeds)
    >>> number_reliability(cube)[["number", "checkpoints", "neurons"]].values.tolist()
    [['dstrf_complexity', 3, 20]]
    """
    names = [by] if isinstance(by, str) else list(by)
    rows = []
    for name, one in checked_numbers(numbers).items():
        groups = groups_of(one, "checkpoint", by)
        values = mean_over_rest(one)
        for position, index in enumerate(groups.indices):
            row: dict[str, object] = {"number": str(name)}
            row |= {label: groups.coords[label][1][position] for label in names}
            rows.append(row | _agreement_on(values[index], n_null, rng))
    table = pd.DataFrame(rows)
    table["p_adjusted"] = stats.benjamini_hochberg(table["p_value"])
    return table


def _agreement_on(values: np.ndarray, n_null: int, rng: int) -> dict[str, object]:
    """Reliability over checkpoints of one number (checkpoint, neuron)."""
    values = values[np.isfinite(values).any(axis=1)]
    known = values[:, np.isfinite(values).all(axis=0)] if len(values) else values
    row: dict[str, object] = {"checkpoints": len(known), "neurons": known.shape[1]}
    nothing = {"r": np.nan, "ceiling": np.nan, "p_value": np.nan}
    if len(known) < 2 or known.shape[1] < FEWEST_NEURONS:
        return row | nothing
    # The neurons' ranks are the entries of one map, so that permuted entries are permuted neurons.
    ranks = xr.DataArray(rankdata(known, axis=1), dims=("checkpoint", "lag"))
    found = reliability(ranks, null="entries", n_null=n_null, rng=rng)
    r = float(found["reliability"])
    return row | {"r": r, "ceiling": float(noise_ceiling(found)["of_mean"]), "p_value": float(found["p_value"])}


def checked_numbers(numbers: xr.Dataset) -> Mapping[Any, xr.DataArray]:
    """The variables, refused where any is not one number of each neuron of each checkpoint."""
    flat = [str(name) for name, one in numbers.items() if not {"checkpoint", "neuron"} <= set(one.dims)]
    if flat or not numbers.data_vars:
        raise ValueError(
            f"{', '.join(flat) or 'nothing'} is no number of each neuron of each checkpoint, so there is nothing to"
            " compare; choose variables with the dimensions checkpoint and neuron"
        )
    return numbers.data_vars


def mean_over_rest(numbers: xr.DataArray, *, octaves: bool = False) -> np.ndarray:
    """Numbers (checkpoint, neuron), averaged over all else where there are any."""
    values = numbers.transpose("checkpoint", "neuron", ...).values
    rows = values.reshape(*values.shape[:2], -1).astype(np.float64)
    return known_mean(np.log2(rows) if octaves else rows, 2)

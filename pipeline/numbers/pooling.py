"""Agreement of maps over many sites, each counted once."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

#: Level of the interval of a mean over sites.
LEVEL = 0.95


def pooled_reliability(tables: Mapping[str, pd.DataFrame], by: str | Sequence[str] = "architecture") -> pd.DataFrame:
    """Reliability of each group of checkpoints over many cohorts, each of which counts as one site.

    ``cohorts``: those with a neuron of which the group has two maps; ``neurons``: all these together; ``median``: the
    mean over cohorts of the median reliability of a cohort's neurons, with Student's 95 % interval ``low`` to ``high``
    over cohorts; ``specific`` and ``ceiling``: means over cohorts likewise; ``above_chance``: neurons that exceed the
    null sets of their own cohort. Groups are matched by their labels.

    Parameters
    ----------
    tables
        What `group_reliability` gives, by the name of the cohort.
    """
    names = [by] if isinstance(by, str) else list(by)
    together = pd.concat([table.assign(cohort=cohort) for cohort, table in tables.items()], ignore_index=True)
    rows = []
    for labels, part in together.groupby(names, sort=False, dropna=False):
        known = part[part["neurons"] > 0]
        low, high = _interval(known["median"].to_numpy(float))
        rows.append(
            dict(zip(names, labels, strict=True))
            | {"cohorts": len(known), "neurons": int(known["neurons"].sum())}
            | {"median": _mean(known["median"]), "low": low, "high": high, "specific": _mean(known["specific"])}
            | {"above_chance": int(known["above_chance"].sum()), "ceiling": _mean(known["ceiling"])}
        )
    return pd.DataFrame(rows)


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if values.notna().any() else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Student's interval of a mean; NaN of fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)

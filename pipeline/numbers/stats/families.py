"""Many tests at a time."""

from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

P = TypeVar("P", xr.DataArray, pd.Series, np.ndarray)


def benjamini_hochberg(p_values: P) -> P:
    """p values adjusted for the false discovery rate (Benjamini and Hochberg 1995), labelled as they came.

    Rejecting where the result is at most q keeps the expected share of false discoveries under q, for independent or
    positively dependent tests. All entries count as one family; missing ones stay missing and do not count.

    Examples
    --------
    >>> import numpy as np
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, np.nan]))
    array([0.03, 0.04, 0.04,  nan])
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

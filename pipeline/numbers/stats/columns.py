"""Columns of a table that a test can use: there, numbers, complete."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def complete(table: pd.DataFrame, value: str, labels: Sequence[str]) -> pd.DataFrame:
    """The rows in which the value is a finite number and no label is missing."""
    require(table, [value, *labels])
    kept = table[[*dict.fromkeys([*labels, value])]].copy()
    kept[value] = numbers_of(kept[value]).replace([np.inf, -np.inf], np.nan)
    kept = kept.dropna()
    if kept.empty:
        raise ValueError(
            f"no row has both a {value!r} and {', '.join(labels) or 'an index'}; there is nothing to test; see why the"
            " numbers are missing in the column that ends in _degenerate, and in the health flags"
        )
    return kept


def numbers_of(column: pd.Series) -> pd.Series:
    """A column as numbers, truth values as 1 and 0."""
    try:
        if getattr(column.dtype, "kind", "") == "c":
            raise TypeError("complex numbers have no order")
        return pd.to_numeric(column).astype(float)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the column {column.name!r} holds what is no number ({error}); a test needs numbers; name another column,"
            " or turn its entries into numbers"
        ) from error


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table that lacks one of the columns."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(map(repr, missing))}; the test is about it; the columns are"
            f" {', '.join(map(str, table.columns))}"
        )


def enough(n: int, value: str, unit: str) -> None:
    """Refuse fewer than two independent values."""
    if n < 2:
        raise ValueError(f"{value!r} has {n} independent value(s) ({unit}); their spread is unknown; pool more {unit}s")

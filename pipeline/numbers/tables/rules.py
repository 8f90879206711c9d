"""Rules that rows of a table must meet."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

#: How a rule may compare, by its sign.
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}

Rules = Mapping[str, Any] | str | Sequence[str]


def selected(table: pd.DataFrame, select: Rules | None) -> pd.DataFrame:
    """The rows that meet every rule; a missing value meets none."""
    rules = _parsed(select)
    keep = pd.Series(True, index=table.index)
    for column, comparison, wanted in rules:
        if column not in table.columns:
            raise ValueError(
                f"the rule {column} {comparison} {wanted!r} names no column; rows would be kept or lost for no reason;"
                f" the columns are {', '.join(map(str, table.columns))}"
            )
        numbers = table[column]
        try:
            met = numbers.isin(wanted) if comparison == "in" else COMPARISONS[comparison](numbers, wanted)
        except TypeError as error:
            raise ValueError(
                f"{column} {comparison} {wanted!r} compares {numbers.dtype} with {type(wanted).__name__}; no row can be"
                " judged; give a value of the column's kind"
            ) from error
        keep &= met.fillna(False).astype(bool) & numbers.notna()
    attrs = dict(table.attrs)
    kept = table[keep].reset_index(drop=True)
    attrs["select"] = [f"{column} {comparison} {wanted!r}" for column, comparison, wanted in rules]
    attrs["rows_before_selection"], attrs["rows"] = len(table), len(kept)
    kept.attrs = attrs
    return kept


def _parsed(select: Rules | None) -> list[tuple[str, str, Any]]:
    if select is None:
        return []
    if isinstance(select, str):
        return [_parsed_text(select)]
    if not isinstance(select, Mapping):
        return [_parsed_text(text) for text in select]
    rules = []
    for column, rule in select.items():
        if isinstance(rule, tuple) and len(rule) == 2 and rule[0] in COMPARISONS:
            rules.append((column, str(rule[0]), rule[1]))
        elif isinstance(rule, tuple):
            raise ValueError(
                f"the rule {rule!r} for {column!r} is not (comparison, value); rows cannot be judged by it; give for"
                f" example ('>', 0.3), with one of {', '.join(COMPARISONS)}"
            )
        elif isinstance(rule, (list, set, frozenset)):
            rules.append((column, "in", list(rule)))
        else:
            rules.append((column, "==", rule))
    return rules


def _parsed_text(text: str) -> tuple[str, str, Any]:
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", text)
    if match is None:
        raise ValueError(
            f"the rule {text!r} is not 'column comparison value'; rows cannot be judged by it; write for example"
            " 'cc_test > 0.3' or 'area == core'"
        )
    column, comparison, value = match.groups()
    words = {"true": True, "false": False}
    if value.lower() in words:
        return column, comparison, words[value.lower()]
    try:
        return column, comparison, float(value)
    except ValueError:
        return column, comparison, value.strip("'\"")

"""Tables as files that R, pandas and people read as they are."""

import json
from pathlib import Path

import pandas as pd


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet or as CSV, and a second one of its columns beside it.

    ``maps.csv`` comes with ``maps.columns.csv``: one row per column with its units, long name, description, source and
    type (see `columns_of`). The rules by which rows were selected stand in the metadata of the Parquet file, or in
    ``maps.csv.json`` beside the CSV. A CSV holds TRUE, FALSE and NA, and whole numbers without a point, which R and
    pandas read as what they are.

    Raises
    ------
    ValueError
        If the path ends in neither ``.parquet`` nor ``.csv``.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from pipeline import write_table
    >>> write_table(pd.DataFrame({"neuron": ["n0", "n1"], "latency": [20.0, None]}), "latencies.csv")
    >>> Path("latencies.csv").read_text().split()
    ['neuron,latency', 'n0,20.0', 'n1,NA']
    """
    path = check_table_path(path)
    columns = path.with_name(f"{path.stem}.columns{path.suffix}")
    if path.suffix == ".parquet":
        table.to_parquet(path, engine="pyarrow", index=False)
        columns_of(table).to_parquet(columns, engine="pyarrow", index=False)
    else:
        _as_text(table).to_csv(path, index=False, na_rep="NA")
        columns_of(table).to_csv(columns, index=False, na_rep="NA")
        words = json.dumps(table.attrs, indent=2, ensure_ascii=False, default=str)
        path.with_name(f"{path.name}.json").write_text(words + "\n", encoding="utf-8")


def check_table_path(path: str | Path) -> Path:
    """The path of a table, refused unless its ending says how it is written.

    Raises
    ------
    ValueError
        If it ends in neither ``.parquet`` nor ``.csv``, or its folder is not there.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(
            f"{path.name!r} ends in {path.suffix or 'nothing'!r}; the ending says how the table is written; end the"
            " name in .parquet or .csv"
        )
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} is not there, so the table has no place; make it, or mend the path")
    return path


def columns_of(table: pd.DataFrame) -> pd.DataFrame:
    """What each column of a table is: its name, units, long name, description, source and type.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"neuron": ["a"], "strf_latency": [20.0]})
    >>> table.attrs["units"] = {"strf_latency": "ms"}
    >>> columns_of(table)[["column", "units", "type"]].values.tolist()
    [['neuron', None, 'text'], ['strf_latency', 'ms', 'number']]
    """
    keys = ("units", "long_name", "description", "source")
    words = {key: table.attrs.get(key, {}) for key in keys}
    rows = [
        {"column": str(name)} | {key: words[key].get(name) for key in keys} | {"type": _kind(table[name])}
        for name in table.columns
    ]
    return pd.DataFrame(rows, columns=["column", *keys, "type"], dtype=object)


def _kind(column: pd.Series) -> str:
    kinds = {"b": "TRUE or FALSE", "i": "whole number", "u": "whole number", "f": "number"}
    return kinds.get(column.dtype.kind, "text")


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its flags in the words that R knows."""
    flags = [name for name in table.columns if _kind(table[name]) == "TRUE or FALSE"]
    words = {name: table[name].astype("boolean").map({True: "TRUE", False: "FALSE"}) for name in flags}
    return table.assign(**words)

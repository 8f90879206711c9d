"""One row per checkpoint and neuron, with every label and number as a column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.numbers.strf.all_measures import MEASURES as STRF_MEASURES
from pipeline.numbers.tables.cubes import ROW_DIMS
from pipeline.numbers.tables.rules import Rules, selected
from pipeline.numbers.waveform import MEASURES as WAVEFORM_MEASURES
from pipeline.words import DONE, axis_of, health_name, role_of, status_name

#: Text with missing cells: before pandas 3, ``str`` would write "None" into them.
TEXT: Any = "str" if int(pd.__version__.split(".")[0]) >= 3 else "object"

#: What a table keeps of each column's attributes.
WORDS = ("units", "long_name", "description", "source")


def summary_table(
    dataset: xr.Dataset, select: Rules | None = None, *, cohort: str | None = None, components: int = 3
) -> pd.DataFrame:
    """A tidy table of a cube's summaries: one row per checkpoint and neuron.

    Columns: ``cohort`` where given, ``checkpoint`` and ``neuron``, every coordinate and every other variable along them
    (``architecture``, ``cc_test``, ...), the summaries ``<map>_<measure>``, codes in words (``strf_onset_class``:
    "on"), and one boolean column per health flag (``strf_health_all_zero``).

    Maps around several stimuli, or of several channels, have rows of their own, one per checkpoint, neuron and
    ``stimulus`` and/or ``channel`` (also where the cube calls the axis ``<map>_stimulus``); these columns are
    missing in the rows of maps without, and the columns of other maps are missing there, so that no number is
    counted twice.

    Parameters
    ----------
    dataset
        What `summarise` returns, or an opened cube that holds summaries.
    select
        Rules that rows must meet, such as ``"cc_test > 0.3"``, a list of these, or ``{"cc_test": (">", 0.3),
        "area": ["core", "belt"], "strf_health_all_zero": False}``; a missing value meets none. Recorded in
        ``table.attrs``.
    cohort
        Name for the column ``cohort``.
    components
        Entries of vectors (singular values) that become columns, numbered from 1.

    Examples
    --------
    >>> from pipeline import open_cube, summarise, summary_table
    >>> table = summary_table(summarise(open_cube("cube.zarr"), ["strf"]), "cc_test > 0.3")
    >>> table[["checkpoint", "neuron"]].iloc[0].tolist()
    ['seed0', 'n0']
    """
    table = _rows_of(dataset, components)
    if cohort is not None:
        attrs = table.attrs
        table = pd.concat([pd.Series(cohort, index=table.index, name="cohort", dtype="str"), table], axis="columns")
        table.attrs = attrs | {"long_name": {"cohort": "cohort"} | attrs["long_name"]}
    return selected(table, select)


def population_table(
    cohorts: Mapping[str, xr.Dataset], select: Rules | None = None, *, components: int = 3
) -> pd.DataFrame:
    """One tidy table of several cohorts: one row per cohort, checkpoint and neuron.

    See `summary_table`. Columns that a cohort lacks are missing in its rows.

    Examples
    --------
    >>> from pipeline import open_cubes, population_table, summarise
    >>> table = population_table({name: summarise(cube, ["strf"]) for name, cube in open_cubes("cube.zarr").items()})
    >>> table["cohort"].unique().tolist()
    ['lab']
    """
    if not cohorts:
        raise ValueError(
            "no cohort was given; a table needs at least one; pass {name: dataset}, as open_cube opens them"
        )
    tables = [summary_table(dataset, cohort=name, components=components) for name, dataset in cohorts.items()]
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    joined = _joined(tables).reindex(columns=columns)
    joined.attrs = {key: {name: text for table in tables for name, text in table.attrs[key].items()} for key in WORDS}
    return selected(joined, select)


def _rows_of(dataset: xr.Dataset, components: int) -> pd.DataFrame:
    flat = _in_order(_without_vectors(dataset, components))
    metadata = [
        str(name)
        for name, variable in sorted(flat.variables.items(), key=lambda item: (len(item[1].dims), str(item[0])))
        if name not in flat.dims and set(variable.dims) <= {"checkpoint", "neuron"}
    ]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, variable in flat.data_vars.items():
        if name not in metadata or _of_a_map(flat, str(name)):
            extra = sorted((dim for dim in variable.dims if axis_of(dim) in ROW_DIMS[2:]), key=axis_of)
            groups.setdefault(tuple(map(str, extra)), []).append(str(name))
    shared = [name for name in metadata if not _of_a_map(flat, name)]
    frames = []
    for own, names in sorted(groups.items()) or [((), [])]:
        dims = [*ROW_DIMS[:2], *own]
        along = [str(n) for n, c in flat.coords.items() if n not in flat.dims and c.dims and set(c.dims) <= set(own)]
        part = flat[[*dict.fromkeys([*shared, *along, *names])]]
        part = part.rename({dim: axis_of(dim) for dim in own if axis_of(dim) != dim})
        frames.append(_frame(part, [axis_of(dim) for dim in dims], [*shared, *along], names))
    columns = list(dict.fromkeys(column for frame, _ in frames for column in frame.columns))
    leading = [dim for dim in ROW_DIMS if dim in columns]
    table = _joined([frame for frame, _ in frames])
    table = table[[*leading, *(column for column in columns if column not in leading)]]
    words = {name: attrs for _, found in frames for name, attrs in found.items()}
    table.attrs = {key: {name: str(attrs[key]) for name, attrs in words.items() if key in attrs} for key in WORDS}
    return table


def _in_order(dataset: xr.Dataset) -> xr.Dataset:
    """The variables map by map, measures as they are defined, in whatever order a store lists them."""
    maps = sorted({str(variable.attrs["map"]) for variable in dataset.data_vars.values() if "map" in variable.attrs})
    measures = {name: rank for rank, name in enumerate(dict.fromkeys([*STRF_MEASURES, *WAVEFORM_MEASURES]))}

    def place(name: str) -> tuple[str, int, str]:
        attrs = dataset[name].attrs
        owner = max((one for one in maps if name.startswith(f"{one}_")), key=len, default=name)
        if role_of(attrs) != "summary":
            return owner, -1, name
        return str(attrs.get("map", owner)), measures.get(str(attrs.get("measure")), len(measures)), name

    names: list[str] = sorted([str(name) for name in dataset.data_vars], key=place)
    return dataset[names]


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One frame after the other; flags and whole numbers that only some of them have may be missing."""
    if len(frames) == 1:
        return frames[0]
    # a column that is missing throughout one frame must not decide the type of the others
    parts = [frame.dropna(axis="columns", how="all") for frame in frames]
    joined = pd.concat(parts, ignore_index=True)
    everywhere = dict.fromkeys(column for frame in frames for column in frame.columns)
    joined = joined.reindex(columns=list(everywhere))  # also those that are missing in every row
    kinds = {"b": "boolean", "i": "Int64", "u": "Int64"}
    found: dict[str, set[str]] = {}
    for frame in parts:
        for column in frame.columns:
            found.setdefault(column, set()).add(kinds.get(getattr(frame[column].dtype, "kind", ""), ""))
    whole = {column: next(iter(types)) for column, types in found.items() if len(types) == 1 and types != {""}}
    # whole numbers and flags stay what they are where some rows have none
    return joined.astype({column: kind for column, kind in whole.items() if joined[column].isna().any()})


def _of_a_map(dataset: xr.Dataset, name: str) -> bool:
    """Whether a variable is a summary, or the status or health of a map."""
    variable = dataset[name]
    return (
        role_of(variable.attrs) in ("summary", "status", "companion")
        or "flag_masks" in variable.attrs
        or (name.endswith(status_name("")) and name in dataset.data_vars)
    )


def _without_vectors(dataset: xr.Dataset, components: int) -> xr.Dataset:
    """The dataset without maps and whatever is not one value per row; the first entries of vectors are variables."""
    for dim in ROW_DIMS[:2]:
        if dim not in dataset.dims:
            raise ValueError(
                f"the dataset has the dimensions {tuple(map(str, dataset.dims))} and no {dim!r}; the table has one row"
                " per checkpoint and neuron; pass what summarise returns"
            )
    flat = dataset
    for name, variable in dataset.data_vars.items():
        other = [dim for dim in variable.dims if axis_of(dim) not in ROW_DIMS]
        if other == ["singular_value"] and role_of(variable.attrs) == "summary":
            for position in range(min(components, variable.sizes["singular_value"])):
                label = variable.attrs.get("long_name", str(name))
                part = variable.isel(singular_value=position, drop=True)
                flat[f"{name}_{position + 1}"] = part.assign_attrs(long_name=f"{label} {position + 1}")
        if other or role_of(variable.attrs) in ("map", "probe") or not variable.dims:
            flat = flat.drop_vars([name])
    return flat


def _frame(
    dataset: xr.Dataset, dims: Sequence[str], metadata: Sequence[str], names: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, dict]]:
    sizes = {dim: dataset.sizes[dim] for dim in dims}
    columns: dict[str, Any] = {}
    words: dict[str, dict] = {}
    # one pass over the blocks of a lazy cube for all columns
    loaded = dataset[list(names)].compute() if names else dataset[[]]

    def spread(variable: xr.Variable) -> np.ndarray:
        return xr.Variable(variable.dims, _plain(variable.values)).set_dims(sizes).values.ravel()

    for dim in dims:
        labels = dataset.variables[dim] if dim in dataset.coords else xr.Variable(dim, np.arange(sizes[dim]))
        columns[dim], words[dim] = spread(labels), dict(labels.attrs)
    for name in metadata:
        columns[name], words[name] = spread(dataset.variables[name]), dict(dataset.variables[name].attrs)
    for name in names:
        variable = loaded.variables[name]
        values = spread(variable)
        known = None
        if "flag_masks" in variable.attrs and (status := _status_of(name, variable, dataset)) is not None:
            known = spread(status == DONE)
        for column, decoded, attrs in _decoded(name, values, variable.attrs, known):
            columns[column], words[column] = decoded, attrs
    frame = pd.DataFrame(columns)
    return frame, words


def _status_of(name: str, variable: xr.Variable, dataset: xr.Dataset) -> xr.Variable | None:
    """The status of the map that an array of flags accompanies; None where that is not recorded."""
    owner = str(variable.attrs.get("map", name.removesuffix(health_name(""))))
    status = dataset.variables.get(status_name(owner))
    return status if status is not None and set(status.dims) <= set(variable.dims) else None


def _decoded(
    name: str, values: np.ndarray, attrs: Mapping[str, Any], known: np.ndarray | None
) -> list[tuple[str, Any, dict]]:
    """Columns of one variable: one per flag of a bit mask, words for codes, the numbers themselves otherwise.

    A flag of a map that was not written is neither raised nor not: it is missing.
    """
    words = str(attrs.get("flag_meanings", "")).split()
    plain = {key: attrs[key] for key in WORDS if key in attrs}
    if "flag_masks" in attrs:
        masks = [int(mask) for mask in np.atleast_1d(attrs["flag_masks"])]
        numbers = np.asarray(values, dtype=np.float64)
        missing = ~np.isfinite(numbers) if known is None else ~np.isfinite(numbers) | ~known.astype(bool)
        bits = np.nan_to_num(numbers).astype(np.int64)
        return [
            (
                f"{name}_{word}",
                pd.arrays.BooleanArray((bits & mask) != 0, missing),
                plain | {"long_name": f"{name}: {word}"},
            )
            for mask, word in zip(masks, words, strict=True)
        ]
    if "flag_values" in attrs:
        codes = [float(code) for code in np.atleast_1d(attrs["flag_values"])]
        meaning = dict(zip(codes, words, strict=True))
        decoded = [meaning.get(float(value)) for value in values]
        return [(name, pd.array(decoded, dtype=TEXT), {k: v for k, v in plain.items() if k != "units"})]
    return [(name, values, plain)]


def _plain(values: np.ndarray) -> np.ndarray:
    """Strings of any kind as objects, which pandas and Parquet take as they are; None for those that are missing."""
    if values.dtype.kind not in "USTO":
        return values
    known = [None if value == "" or value != value else value for value in values.ravel().tolist()]
    return np.array(known, dtype=object).reshape(values.shape)

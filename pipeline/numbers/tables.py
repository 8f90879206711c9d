"""Summaries of whole cubes, and tidy tables of them."""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.numbers.measures import NOT_COMPUTED
from pipeline.numbers.strf import StrfSettings, strf_summaries
from pipeline.numbers.strf.summaries import MEASURES as STRF_MEASURES
from pipeline.numbers.waveform import MEASURES as WAVEFORM_MEASURES
from pipeline.numbers.waveform import waveform_summaries
from pipeline.words import COUNTED_AXES, DONE, axis_of, is_map, map_names, owner_of, role_of, status_name, variable_name

#: Axes whose labels tell the rows of a table apart.
ROW_DIMS = COUNTED_AXES

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}

Rules = Mapping[str, Any] | str | Sequence[str]


def summarise(
    dataset: xr.Dataset | xr.DataArray, maps: Sequence[str] | None = None, *, settings: StrfSettings | None = None
) -> xr.Dataset:
    """Return the summaries of every map of an opened cube, as variables named ``<map>_<measure>``.

    Numbers of maps whose ``<map>_status`` is not 1 (done) are NaN. Labels, metadata, status and health come along;
    the maps do not. What the cube holds already under the name of a measure (memory length and oldest share, which
    a run writes beside its maps) stays as it is. Lazy where the cube is dask-backed. Each summary variable carries
    the attributes ``role`` = "summary", ``map`` and ``measure``, so that ``filter_by_attrs(role="summary")`` finds
    them.

    Parameters
    ----------
    dataset
        A cube, opened: its maps are the variables whose attribute ``role`` is "map" (or that have a ``kind``), one map
        per neuron over (frequency, lag) or over waveform_lag. Or one such map, as `gradmaps` gives it.
    maps
        Names of the maps to summarise; all by default.
    settings
        Levels of the STRF measures.
    """
    if isinstance(dataset, xr.DataArray):
        dataset = dataset.to_dataset(name=dataset.name or "strf")
    there = maps_per_neuron(dataset)
    wanted = there if maps is None else list(maps)
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise ValueError(
            f"the cube has {'no map ' + ', '.join(map(repr, unknown)) if unknown else 'no maps'}; summaries are made of"
            " variables with the attribute role = 'map', the dimension 'neuron', and (frequency, lag) or waveform_lag;"
            " those here are"
            f" {', '.join(there) or 'none'}"
        )
    kept = {
        name: variable
        for name, variable in dataset.variables.items()
        if name in dataset.coords or not (is_map(variable.attrs) or _is_summary(variable, wanted))
    }
    result, attrs = (
        {name: variable for name, variable in kept.items() if name not in dataset.coords},
        dict(dataset.attrs),
    )
    axes: dict[Any, xr.Variable] = {}
    for name in wanted:
        values = plain_axes(dataset[name], leading=False)
        if "lag" in values.dims:
            found = strf_summaries(values, settings=settings or StrfSettings())
        else:
            found = waveform_summaries(values)
        done = _done(dataset, name, found["degenerate"])
        for measure in found.data_vars:
            if variable_name(name, str(measure)) in result:
                continue  # written by the run beside the map, from the same definition
            numbers = found.variables[measure]
            if done is not None:
                masked = NOT_COMPUTED if measure == "degenerate" else np.nan
                numbers = numbers.where(done, masked).transpose(*numbers.dims)
            if measure == "degenerate":
                numbers = numbers.astype(np.int8)
            words = {"role": "summary", "kind": "summary", "map": name, "measure": str(measure)}
            result[variable_name(name, str(measure))] = xr.Variable(
                numbers.dims, numbers.data, found.variables[measure].attrs | words
            )
        axes |= {dim: found.variables[dim] for dim in found.coords if dim not in dataset.coords}
        attrs |= {f"{name}_summary_{key}": note for key, note in found.attrs.items()}
    used = {str(dim) for variable in result.values() for dim in variable.dims} | set(ROW_DIMS)
    labels = {str(name): coord for name, coord in dataset.coords.items() if {*map(str, coord.dims)} <= used}
    return xr.Dataset(
        result, labels | {name: axis for name, axis in axes.items() if {*map(str, axis.dims)} <= used}, attrs
    )


def _is_summary(variable: xr.Variable, of: Sequence[str]) -> bool:
    return role_of(variable.attrs) == "summary" and variable.attrs.get("map") in of


def _done(dataset: xr.Dataset, name: str, like: xr.DataArray) -> xr.Variable | None:
    """Whether each map is done; None where that is not recorded."""
    status = dataset.variables.get(status_name(owner_of(dataset, name)))
    if status is None:
        return None
    if like.chunks is not None:
        status = status.chunk({dim: sizes for dim, sizes in like.chunksizes.items() if dim in status.dims})
    return status == DONE


def maps_per_neuron(dataset: xr.Dataset) -> list[str]:
    """Names of the map variables of a cube that have one map per neuron, on axes for which there are measures."""
    return [name for name in map_names(dataset) if _is_measurable([axis_of(dim) for dim in dataset[name].dims])]


def _is_measurable(axes: Sequence[str]) -> bool:
    extent = {axis for axis in axes if axis not in COUNTED_AXES}
    return "neuron" in axes and extent in ({"frequency", "lag"}, {"waveform_lag"})


def summary_table(
    dataset: xr.Dataset, select: Rules | None = None, *, cohort: str | None = None, components: int = 3
) -> pd.DataFrame:
    """Return a tidy table of a cube's summaries: one row per checkpoint and neuron.

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
    """
    table = _rows_of(dataset, components)
    if cohort is not None:
        attrs = table.attrs
        table = pd.concat([pd.Series(cohort, index=table.index, name="cohort", dtype="str"), table], axis="columns")
        table.attrs = attrs | {"long_name": {"cohort": "cohort"} | attrs["long_name"]}
    return _selected(table, select)


def population_table(
    cohorts: Mapping[str, xr.Dataset], select: Rules | None = None, *, components: int = 3
) -> pd.DataFrame:
    """Return one tidy table of several cohorts: one row per cohort, checkpoint and neuron.

    See `summary_table`. Columns that a cohort lacks are missing in its rows.
    """
    if not cohorts:
        raise ValueError(
            "no cohort was given; a table needs at least one; pass {name: dataset}, as open_cube opens them"
        )
    tables = [summary_table(dataset, cohort=name, components=components) for name, dataset in cohorts.items()]
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    joined = _joined(tables).reindex(columns=columns)
    joined.attrs = {
        key: {name: text for table in tables for name, text in table.attrs[key].items()}
        for key in ("units", "long_name")
    }
    return _selected(joined, select)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet or as CSV, with its units, long names and the rules by which rows were selected.

    In the metadata of the Parquet file, or in a file of the same name with ``.json`` at its end beside the CSV.

    Raises
    ------
    ValueError
        If the path ends in neither ``.parquet`` nor ``.csv``.
    """
    path = check_table_path(path)
    if path.suffix == ".parquet":
        table.to_parquet(path, engine="pyarrow", index=False)
    else:
        table.to_csv(path, index=False)
        words = json.dumps(table.attrs, indent=2, ensure_ascii=False, default=str)
        path.with_name(f"{path.name}.json").write_text(words + "\n", encoding="utf-8")


def check_table_path(path: str | Path) -> Path:
    """Return the path of a table, refused unless its ending says how it is written.

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


def plain_axes(variable: xr.DataArray, *, leading: bool = True) -> xr.DataArray:
    """Return the variable with the plain names of its axes: all, or only those within a map."""
    own = [dim for dim in variable.dims if leading or axis_of(dim) not in ROW_DIMS]
    return variable.rename({dim: axis_of(dim) for dim in own if axis_of(dim) != dim})


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
    table.attrs = {
        key: {name: str(attrs[key]) for name, attrs in words.items() if key in attrs} for key in ("units", "long_name")
    }
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
    """One frame after the other; flags that only some of them have become booleans that may be missing."""
    if len(frames) == 1:
        return frames[0]
    # a column that is missing throughout one frame must not decide the type of the others
    parts = [frame.dropna(axis="columns", how="all") for frame in frames]
    joined = pd.concat(parts, ignore_index=True)
    everywhere = dict.fromkeys(column for frame in frames for column in frame.columns)
    joined = joined.reindex(columns=list(everywhere))  # also those that are missing in every row
    flags = {c for frame in frames for c in frame.columns if frame[c].dtype in (bool, pd.BooleanDtype())}
    flags &= {column for column in joined.columns if joined[column].dtype != bool}
    return joined.astype(dict.fromkeys(flags, "boolean"))


def _of_a_map(dataset: xr.Dataset, name: str) -> bool:
    """Whether a variable is a summary, or the status or health of a map."""
    variable = dataset[name]
    return (
        role_of(variable.attrs) in ("summary", "status", "companion")
        or "flag_masks" in variable.attrs
        or (name.endswith(status_name("")) and name in dataset.data_vars)
    )


def _without_vectors(dataset: xr.Dataset, components: int) -> xr.Dataset:
    """Drop maps and whatever is not one value per row; turn the first entries of vectors into variables."""
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
        for column, decoded, attrs in _decoded(name, values, variable.attrs):
            columns[column], words[column] = decoded, attrs
    frame = pd.DataFrame(columns)
    return frame, words


def _decoded(name: str, values: np.ndarray, attrs: Mapping[str, Any]) -> list[tuple[str, Any, dict]]:
    """Columns of one variable: one per flag of a bit mask, words for codes, the numbers themselves otherwise."""
    words = str(attrs.get("flag_meanings", "")).split()
    plain = {key: attrs[key] for key in ("long_name", "units") if key in attrs}
    if "flag_masks" in attrs:
        masks = [int(mask) for mask in np.atleast_1d(attrs["flag_masks"])]
        bits = np.nan_to_num(np.asarray(values, dtype=np.float64)).astype(np.int64)
        return [
            (f"{name}_{word}", (bits & mask) != 0, plain | {"long_name": f"{name}: {word}"})
            for mask, word in zip(masks, words, strict=True)
        ]
    if "flag_values" in attrs:
        codes = [float(code) for code in np.atleast_1d(attrs["flag_values"])]
        meaning = dict(zip(codes, words, strict=True))
        decoded = [meaning.get(float(value)) for value in values]
        return [(name, pd.array(decoded, dtype="str"), {k: v for k, v in plain.items() if k != "units"})]
    return [(name, values, plain)]


def _plain(values: np.ndarray) -> np.ndarray:
    """Strings of any kind as objects, which pandas and Parquet take as they are; empty ones are missing."""
    if values.dtype.kind not in "USTO":
        return values
    return np.array([None if value == "" else value for value in values.ravel().tolist()], dtype=object).reshape(
        values.shape
    )


def _selected(table: pd.DataFrame, select: Rules | None) -> pd.DataFrame:
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

"""What maps of one neuron have in common, and where they differ."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline.numbers.agreement.grouping import entry_dims, groups_of, map_dims, require_dims


def mean_map(
    maps: xr.DataArray, group: str | Sequence[str] | None = None, *, along: str = "checkpoint", normalise: bool = False
) -> xr.Dataset:
    """Mean map of each group of checkpoints with its spread: ``mean``, ``sd`` (n - 1) and ``n``.

    In the units of the maps, or with ``normalise`` of maps of norm 1 each, so that a checkpoint with a large gain
    does not outweigh the others. Maps that hold NaN do not count. Lazy for a dask-backed cube. NaN: no map (``sd``:
    fewer than two) counts.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import mean_map
    >>> mean_map(maps, "architecture")["mean"].dims
    ('architecture', 'neuron', 'frequency', 'lag')
    """
    entries, groups = map_dims(maps), groups_of(maps, along, group)
    usable = unit_norm(maps, entries) if normalise else maps.where(maps.notnull().all(entries))
    parts = []
    for index in groups.indices:
        part = usable.isel({along: index})
        n = part.notnull().all(entries).sum(along)
        mean = part.sum(along) / n.where(n > 0)
        sd = np.sqrt(((part - mean) ** 2).sum(along) / (n - 1).where(n > 1))
        parts.append(xr.Dataset({"mean": mean, "sd": sd, "n": n}))
    result = groups.label(_stacked(parts))
    units = "1" if normalise else str(maps.attrs.get("units", "1"))
    result["mean"].attrs = {"long_name": "mean map", "units": units}
    result["sd"].attrs = {"long_name": "standard deviation over maps", "units": units}
    result["n"].attrs = {"long_name": "maps counted", "units": "1"}
    return result


def sign_consistency(
    maps: xr.DataArray, group: str | Sequence[str] | None = None, *, along: str = "checkpoint", quantile: float = 0.0
) -> xr.DataArray:
    """Where the maps of each group agree on the sign: True where their ``quantile`` and 1 - ``quantile`` do.

    0: every map has the same sign there. Multiply the mean map with it for the jackknife mask of the DSTRF
    literature. False where an entry is 0 or no map is finite; maps that hold NaN do not count. Lazy for a
    dask-backed cube.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import sign_consistency
    >>> sign_consistency(abs(maps), "architecture").all().item()
    True
    """
    if not 0 <= quantile < 0.5:
        raise ValueError(
            f"quantile = {quantile}; the mask compares a low quantile with its mirror image; give a number in [0, 0.5)"
        )
    entries, groups = map_dims(maps), groups_of(maps, along, group)
    usable = maps.where(maps.notnull().all(entries))
    parts = []
    for index in groups.indices:
        part = usable.isel({along: index})
        if quantile == 0:
            low, high = part.min(along), part.max(along)
        else:
            part = part.chunk({along: -1}) if part.chunks is not None else part
            low = part.quantile(quantile, along).drop_vars("quantile")
            high = part.quantile(1 - quantile, along).drop_vars("quantile")
        parts.append(xr.Dataset({"consistent": ((low > 0) & (high > 0)) | ((low < 0) & (high < 0))}))
    result = groups.label(_stacked(parts))["consistent"]
    return result.assign_attrs(long_name="maps agree on the sign", quantile=quantile)


def linear_contrast(
    maps: xr.DataArray,
    reference: str | xr.DataArray = "linear",
    group: str = "architecture",
    *,
    along: str = "checkpoint",
) -> xr.Dataset:
    """How each map differs from the map of a linear model of the same neuron.

    ``cosine`` and ``correlation`` with the reference; ``unexplained`` = 1 - cosine^2, the share of the map's energy
    that is not a multiple of the reference; and ``residual`` = g / |g| - cosine * reference, that part itself. All
    leave out the gain. Lazy for a dask-backed cube.

    Parameters
    ----------
    maps
        Maps with the dimension ``along``.
    reference
        Label in the coordinate ``group`` whose maps, at norm 1, are summed to the reference of each neuron; each of
        them is itself compared with the others only. Or the reference maps, without ``along``.

    Returns
    -------
    NaN: the map or the reference is not finite or all zero, or a lone reference map would be compared with itself.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import linear_contrast
    >>> sorted(map(str, linear_contrast(maps).data_vars))
    ['correlation', 'cosine', 'residual', 'unexplained']
    """
    entries = map_dims(maps)
    require_dims(maps, (along,))
    unit = unit_norm(maps, entries)
    if isinstance(reference, xr.DataArray):
        if along in reference.dims:
            raise ValueError(
                f"the reference maps have a dimension {along!r}; which of them to compare with would be left open; give"
                " their mean, or the label of their group"
            )
        against = unit_norm(reference, entries)
    else:
        groups = groups_of(maps, along, group)
        labels = list(groups.coords[group][1])
        if reference not in labels:
            raise ValueError(
                f"no {along} has the {group} {reference!r}; there is nothing to contrast with; choose from"
                f" {', '.join(map(str, labels))}"
            )
        members = xr.zeros_like(maps[along], dtype=float).drop_vars(list(maps[along].coords))
        members[groups.indices[labels.index(reference)]] = 1.0
        counted = unit.fillna(0.0)
        total = counted.isel({along: groups.indices[labels.index(reference)]}).sum(along)
        against = unit_norm(total - members * counted, entries)
    cosine = (unit * against).sum(entries, skipna=False)
    residual = unit - cosine * against
    correlation = (_centred(unit, entries) * _centred(against, entries)).sum(entries, skipna=False)
    result = xr.Dataset(
        {"cosine": cosine, "correlation": correlation, "unexplained": 1 - cosine**2, "residual": residual}
    )
    for name, words in (
        ("cosine", "cosine with the linear map"),
        ("correlation", "correlation with the linear map"),
        ("unexplained", "share of energy outside the linear map"),
        ("residual", "map at norm 1 without its part along the linear map"),
    ):
        result[name].attrs = {"long_name": words, "units": "1"}
    return result


def variance_components(
    data: xr.DataArray,
    group: str | Sequence[str] = "architecture",
    *,
    along: str = "checkpoint",
    normalise: bool = True,
) -> xr.Dataset:
    """How much of the variance lies between groups of checkpoints and how much between the seeds within.

    One-way random-effects analysis of variance for groups of unequal size: ``within`` = MS_w, ``between`` = (MS_b -
    MS_w) / n_0 with n_0 = (N - sum n_g^2 / N) / (G - 1), which may be negative, and ``share_between`` = max(between,
    0) / (max(between, 0) + within), the intraclass correlation. For maps the squares are summed over their entries.

    Parameters
    ----------
    data
        Numbers per checkpoint and neuron (a summary), or maps.
    normalise
        Whether maps are taken at norm 1 each, without their gain; numbers are taken as they are.

    Returns
    -------
    Variables in the squared units of the data. NaN: fewer than two groups hold a finite value, or none holds two.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import variance_components
    >>> sorted(map(str, variance_components(maps).data_vars))
    ['between', 'share_between', 'within']
    """
    groups = groups_of(data, along, group)
    entries = entry_dims(data)
    values = unit_norm(data, entries) if entries and normalise else data
    valid = values.notnull().all(entries) if entries else values.notnull()
    values = values.where(valid, 0.0)
    counts = xr.concat([valid.isel({along: i}).sum(along) for i in groups.indices], "_group")
    sums = xr.concat([values.isel({along: i}).sum(along) for i in groups.indices], "_group")
    n, g = counts.sum("_group"), (counts > 0).sum("_group")
    group_means = sums / counts.where(counts > 0)
    grand = sums.sum("_group") / n.where(n > 0)
    between_squares = (counts * (group_means - grand) ** 2).sum(["_group", *entries])
    label = np.full(data.sizes[along], -1)
    for number, index in enumerate(groups.indices):
        label[index] = number
    kept = np.flatnonzero(label >= 0)
    own_mean = group_means.isel(_group=xr.DataArray(label[kept], dims=along))
    deviations = (values.isel({along: kept}) - own_mean).where(valid.isel({along: kept}), 0.0)
    within_squares = (deviations**2).sum([along, *entries])
    within = within_squares / (n - g).where(n > g)
    n_0 = (n - (counts**2).sum("_group") / n.where(n > 0)) / (g - 1).where(g > 1)
    between = (between_squares / (g - 1).where(g > 1) - within) / n_0
    share = between.clip(min=0) / (between.clip(min=0) + within)
    word = group if isinstance(group, str) else " and ".join(group)
    units = str(data.attrs.get("units", "1")) if not (entries and normalise) else "1"
    squared = "1" if units == "1" else f"({units})^2"
    result = xr.Dataset({"between": between, "within": within, "share_between": share})
    result["between"].attrs = {"long_name": f"variance between groups by {word}", "units": squared}
    result["within"].attrs = {"long_name": f"variance within groups by {word}", "units": squared}
    result["share_between"].attrs = {"long_name": f"share of variance between groups by {word}", "units": "1"}
    return result


def unit_norm(maps: xr.DataArray, entries: Sequence[str]) -> xr.DataArray:
    """The maps at norm 1; NaN for maps that are all zero or not finite."""
    peak = abs(maps).max(entries, skipna=False)
    usable = (peak > 0) & np.isfinite(peak)
    scaled = maps / peak.where(usable)
    return scaled / np.sqrt((scaled**2).sum(entries, skipna=False))


def _centred(maps: xr.DataArray, entries: Sequence[str]) -> xr.DataArray:
    centred = maps - maps.mean(entries, skipna=False)
    norm = (centred**2).sum(entries, skipna=False) ** 0.5
    return centred / norm.where(norm > 1e-12)


def _stacked(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    return xr.concat(parts, "group")

"""The population as a whole: its geometry, its clusters, its maps of tuning."""

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from pipeline.numbers.agreement.grouping import map_dims, require_dims, standardised
from pipeline.numbers.measures import regions

#: Maps whose pairwise distances fit into memory (3.2 GB).
MOST_CLUSTERED = 20_000


def population_geometry(maps: xr.DataArray, n_components: int = 10, *, normalise: bool = True) -> xr.Dataset:
    """Principal components of a population of maps.

    One row per map (neuron x checkpoint, or what other dimensions there are), one column per entry; maps at norm 1
    with ``normalise``, all without their mean map.

    Memory holds one block of maps and one square matrix of entries, or all maps where there are fewer of them than
    entries.

    Returns
    -------
    ``component_map`` (component, \\*map) of norm 1 each, signed so that its sum is positive; ``score`` (...,
    component), the coordinates of every map; ``variance`` (component), eigenvalues of the covariance matrix;
    ``explained`` their share of all variance; ``mean_map``; ``participation_ratio`` = (sum v)^2 / sum v^2 over all
    eigenvalues v, the number of dimensions the population fills. Scores are NaN for maps that hold NaN or are all
    zero, which do not count.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.numbers.agreement import population_geometry
    >>> values = np.random.default_rng(0).normal(size=(20, 5, 6))
    >>> maps = xr.DataArray(values, dims=("neuron", "frequency", "lag"))
    >>> found = population_geometry(maps, n_components=3)
    >>> found.sizes["component"]
    3
    """
    entries = map_dims(maps)
    others = [dim for dim in maps.dims if dim not in entries]
    maps = maps.transpose(*others, *entries)
    shape = [maps.sizes[dim] for dim in entries]
    p = int(np.prod(shape))
    n, mean, values, vectors = _principal(maps, others, p, normalise)
    kept = min(n_components, p, n)
    components = vectors[:kept]
    components = components * np.where(components.sum(axis=1) < 0, -1.0, 1.0)[:, None]
    scores = np.full((*(maps.sizes[dim] for dim in others), kept), np.nan)
    for region in regions(maps, others):
        part = maps.variable.isel(region).values
        rows = _rows(part, p, normalise)
        scores[tuple(region[dim] for dim in others)] = ((rows - mean) @ components.T).reshape(
            *part.shape[: len(others)], kept
        )
    result = xr.Dataset(coords=maps.coords)
    result = result.assign_coords(component=np.arange(1, kept + 1))
    units = "1" if normalise else str(maps.attrs.get("units", "1"))
    result["component_map"] = (("component", *entries), components.reshape(kept, *shape))
    result["score"] = ((*others, "component"), scores)
    result["variance"] = ("component", values[:kept])
    result["explained"] = ("component", values[:kept] / values.sum() if values.sum() > 0 else np.full(kept, np.nan))
    result["mean_map"] = (tuple(entries), mean.reshape(shape))
    result["participation_ratio"] = participation_ratio(xr.DataArray(values, dims="component"), "component")
    for name, words, unit in (
        ("component_map", "principal component", "1"),
        ("score", "coordinate along the component", units),
        ("variance", "variance along the component", units if units == "1" else f"({units})^2"),
        ("explained", "share of the variance", "1"),
        ("mean_map", "mean map", units),
    ):
        result[name].attrs = {"long_name": words, "units": unit}
    result.attrs["n_maps"] = n
    return result


def _principal(
    maps: xr.DataArray, others: Sequence[Hashable], p: int, normalise: bool
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Number of maps, mean row, eigenvalues and eigenvectors (as rows), descending, of the covariance of the maps."""
    count = int(np.prod([maps.sizes[dim] for dim in others]))
    total, products, n, few = np.zeros(p), np.zeros((0, 0) if count <= p else (p, p)), 0, []
    for region in regions(maps, others):
        rows = _rows(maps.variable.isel(region).values, p, normalise)
        rows = rows[np.isfinite(rows).all(axis=1)]
        total, n = total + rows.sum(axis=0), n + len(rows)
        if count <= p:
            few.append(rows)
        else:
            products += rows.T @ rows
    if n < 2:
        raise ValueError(
            f"{n} of {count} maps are finite and not all zero; principal components describe how maps differ from each"
            " other; pass two or more"
        )
    mean, degrees = total / n, n - 1
    if few:
        _, singular, vectors = np.linalg.svd(np.concatenate(few) - mean, full_matrices=False)
        return n, mean, singular**2 / degrees, vectors
    values, columns = np.linalg.eigh((products - n * np.outer(mean, mean)) / degrees)
    return n, mean, np.clip(values[::-1], 0, None), columns[:, ::-1].T


def participation_ratio(variances: xr.DataArray, dim: str = "component") -> xr.DataArray:
    """(sum v)^2 / sum v^2 along ``dim``: how many of the variances v count. NaN where all are 0.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.numbers.agreement import participation_ratio
    >>> float(participation_ratio(xr.DataArray([1.0, 1.0, 0.0], dims="component")))
    2.0
    """
    squares = (variances**2).sum(dim, skipna=False)
    ratio = variances.sum(dim, skipna=False) ** 2 / squares.where(squares > 0)
    return ratio.assign_attrs(long_name="participation ratio", units="1")


def cluster_by_shape(maps: xr.DataArray, n_clusters: int, *, align_frequency: bool = False) -> xr.DataArray:
    """Cluster of each map, 1 the largest; 0 for maps that are not finite or do not vary.

    Agglomerative clustering (scipy, average linkage) of the distances 1 - Pearson correlation, which leave
    out the gain.

    Parameters
    ----------
    maps
        One map per neuron (or per checkpoint and neuron, ...), read as a whole.
    n_clusters
        Clusters at most.
    align_frequency
        Whether each map is moved along the frequencies first until its largest magnitude lies in the middle band,
        so that tuning does not count; what leaves the axis is lost.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.numbers.agreement import cluster_by_shape
    >>> on, off = np.eye(4), -np.eye(4)
    >>> maps = xr.DataArray([on, 2 * on, on, off, 3 * off], dims=("neuron", "frequency", "lag"))
    >>> cluster_by_shape(maps, 2).values.tolist()
    [1, 1, 1, 2, 2]
    """
    entries = map_dims(maps)
    if n_clusters < 1:
        raise ValueError(f"n_clusters = {n_clusters}; every map belongs to a cluster; give 1 or more")
    others = [dim for dim in maps.dims if dim not in entries]
    maps = maps.transpose(
        *others, *(dim for dim in entries if dim != "frequency"), *(["frequency"] if "frequency" in entries else [])
    )
    sizes = [maps.sizes[dim] for dim in others]
    n = int(np.prod(sizes))
    if n > MOST_CLUSTERED:
        raise ValueError(
            f"{n} maps have {n * (n - 1) // 2} distances, which do not fit into memory; select checkpoints or neurons,"
            f" up to {MOST_CLUSTERED} maps"
        )
    if align_frequency and "frequency" not in entries:
        raise ValueError(
            f"the maps {tuple(maps.dims)} have no frequency axis to align along; leave align_frequency out"
        )
    values = np.asarray(maps.values, dtype=np.float64).reshape(
        n, -1, maps.sizes["frequency"] if "frequency" in entries else 1
    )
    if align_frequency:
        values = _aligned(values)
    rows = standardised(values.reshape(n, -1))
    usable = np.isfinite(rows).all(axis=1)
    labels = np.zeros(n, dtype=np.int64)
    if usable.sum() == 1:
        labels[usable] = 1
    elif usable.any():
        distance = np.clip(1 - rows[usable] @ rows[usable].T, 0.0, 2.0)
        raw = fcluster(linkage(squareform(distance, checks=False), "average"), n_clusters, "maxclust")
        order = np.argsort(-np.bincount(raw)[1:], kind="stable")
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(1, order.size + 1)
        labels[usable] = rank[raw - 1]
    coords = {name: coord for name, coord in maps.coords.items() if not set(coord.dims) & set(entries)}
    return xr.DataArray(
        labels.reshape(sizes),
        dims=others,
        coords=coords,
        name="cluster",
        attrs={"long_name": "cluster of map shapes, 1 the largest, 0 none", "units": "1"},
    )


def population_sparseness(values: xr.DataArray, along: str = "neuron") -> xr.DataArray:
    """How few neurons hold a quantity, (1 - (mean |v|)^2 / mean v^2) / (1 - 1/n), from 0 (all alike) to 1 (one).

    Vinje and Gallant 2000, over neurons. NaN values do not count; NaN: fewer than two do, or all are 0.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.numbers.agreement import population_sparseness
    >>> float(population_sparseness(xr.DataArray([0.0, 0.0, 3.0], dims="neuron")))
    1.0
    """
    require_dims(values, (along,))
    n = values.notnull().sum(along)
    squares = (values**2).mean(along)
    ratio = abs(values).mean(along) ** 2 / squares.where(squares > 0)
    return ((1 - ratio) / (1 - 1 / n.where(n > 1))).assign_attrs(long_name="population sparseness", units="1")


def trend(values: xr.DataArray, position: str = "depth_um", *, along: str = "neuron", log2: bool = False) -> xr.Dataset:
    """How a number (best frequency, say) changes with a position along the neurons.

    Spearman's rank correlation ``rho`` with its two-sided ``p_value`` (scipy), the least-squares ``slope`` (units
    of the values, octaves with ``log2``, per unit of the position) and ``intercept``, and ``n`` neurons. One test
    per remaining dimension (checkpoint). Neurons of one site or animal are not independent: take means per site
    first, or a mixed model, before claiming a gradient. NaN: fewer than three neurons, or all alike.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.numbers.agreement import trend
    >>> depths = {"depth_um": ("neuron", [100.0, 200.0, 300.0, 400.0])}
    >>> best = xr.DataArray([1000.0, 2000.0, 4000.0, 8000.0], dims="neuron", coords=depths)
    >>> round(float(trend(best, log2=True)["slope"]) * 100, 6)  # octaves in 100 um
    1.0
    """
    x = _position(values, position, along).astype(np.float64)
    others = [dim for dim in values.dims if dim != along]
    rows = values.transpose(*others, along).values.astype(np.float64)
    if log2:
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.where(rows > 0, np.log2(rows), np.nan)
    names = ("rho", "p_value", "slope", "intercept", "n")
    found = {name: np.full(rows.shape[:-1], np.nan) for name in names}
    for at in np.ndindex(rows.shape[:-1]):
        kept = np.isfinite(rows[at]) & np.isfinite(x)
        y, z = rows[at][kept], x[kept]
        found["n"][at] = kept.sum()
        if kept.sum() > 2 and np.ptp(y) > 0 and np.ptp(z) > 0:
            rank, line = stats.spearmanr(z, y), stats.linregress(z, y)
            for name, value in zip(names, (rank.statistic, rank.pvalue, line.slope, line.intercept), strict=False):
                found[name][at] = value
    units = "octave" if log2 else str(values.attrs.get("units", "1"))
    result = xr.Dataset(coords={k: c for k, c in values.coords.items() if along not in c.dims})
    for name, words, unit in (
        ("rho", f"rank correlation with {position}", "1"),
        ("p_value", "two-sided p value of the rank correlation", "1"),
        ("slope", f"change per unit of {position}", units),
        ("intercept", f"value at {position} = 0", units),
        ("n", "neurons counted", "1"),
    ):
        result[name] = (tuple(others), found[name], {"long_name": words, "units": unit})
    return result


def _rows(values: np.ndarray, entries: int, normalise: bool) -> np.ndarray:
    rows = values.reshape(-1, entries).astype(np.float64)
    unit = standardised(rows, centre=False)
    return unit if normalise else np.where(np.isfinite(unit), rows, np.nan)


def _aligned(values: np.ndarray) -> np.ndarray:
    """Maps (map, entry, frequency) moved so that the band of the largest magnitude is the middle one."""
    bands = values.shape[2]
    magnitude = np.abs(np.where(np.isfinite(values), values, 0.0)).max(axis=1)
    source = np.arange(bands)[None, :] + magnitude.argmax(axis=1)[:, None] - bands // 2
    inside = (source >= 0) & (source < bands)
    taken = np.take_along_axis(values, np.clip(source, 0, bands - 1)[:, None, :], axis=2)
    return np.where(
        inside[:, None, :], taken, np.where(np.isfinite(values).all(axis=(1, 2))[:, None, None], 0.0, np.nan)
    )


def _position(values: xr.DataArray, name: str, along: str) -> np.ndarray:
    require_dims(values, (along,))
    if name not in values.coords or values.coords[name].dims != (along,):
        there = sorted(str(key) for key, coord in values.coords.items() if coord.dims == (along,))
        raise ValueError(
            f"{name!r} is not a coordinate along {along!r}; the neurons' places are read from there; the coordinates"
            f" are {', '.join(there) or 'none'}; add it with assign_coords"
        )
    return np.asarray(values.coords[name].values)

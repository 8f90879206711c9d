"""How well maps of one neuron agree between seeds, folds and architectures."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from scipy import fft

from pipeline.numbers.agreement.groups import blocks, groups_of, map_dims, remaining, standardised


def reliability(
    maps: xr.DataArray,
    group: str | Sequence[str] | None = None,
    *,
    along: str = "checkpoint",
    null: Literal["shift", "entries"] = "shift",
    n_null: int = 1000,
    rng: int | np.random.Generator = 0,
    report: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Return for each neuron how well its maps agree within each group of checkpoints.

    ``reliability`` is the mean of the K (K - 1) / 2 Pearson correlations between the K maps of a group (seeds and
    folds of one architecture with ``group="architecture"``; seeds alone with ``group=["architecture", "fold"]``),
    after Atencio's ``calc_strf_RI``. ``z`` and ``p_value`` (one-sided) place it among ``n_null`` values for
    shuffled maps, of mean ``null_mean`` and sd ``null_sd``; p = (1 + values as large) / (1 + n_null).

    Parameters
    ----------
    maps
        Maps with the dimension ``along`` and any others; work goes neuron by neuron in blocks of bounded size.
    group
        Coordinate(s) along ``along`` whose labels make the groups; all maps are one group without it.
    null
        ``"shift"`` moves every map round the ends of its axes by a random amount, which keeps its smoothness;
        ``"entries"`` permutes the entries, which makes agreement of smooth maps look rarer than it is.
    n_null
        Shuffles per neuron and group.
    rng
        Seed or generator. The result does not depend on how the neurons are blocked.
    report
        Called after every neuron with the number of neurons that are done, and of all.

    Returns
    -------
    Variables with the dimension of the group and those of ``maps`` without ``along`` and the map's own. NaN: fewer
    than two maps of the group are finite and vary (``n_maps`` says how many).
    """
    if null not in ("shift", "entries"):
        raise ValueError(
            f"null={null!r} is no way to shuffle; the p value depends on what the shuffle keeps; give 'shift' or"
            " 'entries'"
        )
    if n_null < 1:
        raise ValueError(f"n_null = {n_null}; without shuffled maps there is no p value; give 100 or more")
    entries = map_dims(maps)
    groups = groups_of(maps, along, group)
    result = remaining(maps, along, entries)
    others = [dim for dim in maps.dims if dim != along and dim not in entries]
    shape = [maps.sizes[dim] for dim in entries]
    sizes = [maps.sizes[dim] for dim in others]
    names = ("reliability", "n_maps", "n_pairs", "null_mean", "null_sd", "z", "p_value")
    found = {name: np.full((len(groups.indices), *sizes), np.nan) for name in names}
    seed = int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else int(rng)
    done = 0
    for region, values in blocks(maps, along, entries):
        start = [region[dim].start for dim in others]
        for local in np.ndindex(values.shape[:-2]):
            at = tuple(np.add(start, local).astype(int))
            rows = standardised(values[local])
            for number, index in enumerate(groups.indices):
                own = np.random.default_rng([seed, number, *at])
                row = _one_group(rows[index], shape, null, n_null, own)
                for name in names:
                    found[name][(number, *at)] = row[name]
            done += 1
            if report is not None:
                report(done, int(np.prod(sizes)))
    for name in names:
        result[name] = (("group", *others), found[name], LABELS[name])
    result.attrs["null"] = f"{n_null} shuffles ({null}), seed {seed}"
    return groups.label(result)


def _one_group(
    rows: np.ndarray, shape: Sequence[int], null: str, n_null: int, rng: np.random.Generator
) -> dict[str, float]:
    rows = rows[np.isfinite(rows).all(axis=1)]
    k = len(rows)
    row = dict.fromkeys(LABELS, np.nan) | {"n_maps": k, "n_pairs": k * (k - 1) // 2}
    if k < 2:
        return row
    observed = _mean_correlation(rows)
    values = _shifted(rows, shape, n_null, rng) if null == "shift" else _permuted(rows, n_null, rng)
    mean, sd = values.mean(), values.std(ddof=1) if n_null > 1 else np.nan
    as_large = (values >= observed - 1e-12).sum()
    return row | {
        "reliability": observed,
        "null_mean": mean,
        "null_sd": sd,
        "z": (observed - mean) / sd if sd > 0 else np.nan,
        "p_value": (1 + as_large) / (1 + n_null),
    }


def _mean_correlation(rows: np.ndarray) -> float:
    k = len(rows)
    return float((np.square(rows.sum(axis=0)).sum() - k) / (k * (k - 1)))


def _permuted(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([_mean_correlation(rng.permuted(rows, axis=1)) for _ in range(n)])


def _shifted(rows: np.ndarray, shape: Sequence[int], n: int, rng: np.random.Generator) -> np.ndarray:
    """Mean correlation for ``n`` draws of one circular shift per map, read off all circular cross-correlations."""
    k = len(rows)
    axes = tuple(range(1, len(shape) + 1))
    spectra = fft.fftn(rows.reshape(k, *shape), axes=axes)
    shifts = np.stack([rng.integers(size, size=(n, k)) for size in shape])
    total = np.zeros(n)
    for i in range(k - 1):
        # one map against all later ones, so that memory holds K, not K^2, surfaces
        surfaces = fft.ifftn(spectra[i].conj() * spectra[i + 1 :], axes=axes).real
        relative = (shifts[:, :, i, None] - shifts[:, :, i + 1 :]) % np.array(shape)[:, None, None]
        total += surfaces[(np.arange(k - i - 1), *relative)].sum(axis=1)
    return total / (k * (k - 1) / 2)


LABELS = {
    "reliability": {"long_name": "mean pairwise correlation of maps", "units": "1"},
    "n_maps": {"long_name": "maps that are finite and vary", "units": "1"},
    "n_pairs": {"long_name": "pairs of maps", "units": "1"},
    "null_mean": {"long_name": "mean for shuffled maps", "units": "1"},
    "null_sd": {"long_name": "standard deviation for shuffled maps", "units": "1"},
    "z": {"long_name": "distance from shuffled maps in their standard deviations", "units": "1"},
    "p_value": {"long_name": "one-sided p value against shuffled maps", "units": "1"},
}


def spearman_brown(reliability: xr.DataArray, factor: float | xr.DataArray) -> xr.DataArray:
    """Return the reliability of the mean of ``factor`` maps, factor r / (1 + (factor - 1) r), from that of one.

    Spearman 1910; Brown 1910. NaN where r <= 0, which no number of maps can make reliable.
    """
    positive = reliability.where(reliability > 0)
    return positive * factor / (1 + (factor - 1) * positive)


def noise_ceiling(found: xr.Dataset) -> xr.Dataset:
    """Return the correlations with the truth that the result of `reliability` leaves room for.

    ``of_one`` = sqrt(r): the highest expected correlation of a single map with the map all seeds share. ``of_mean`` =
    sqrt(K r / (1 + (K - 1) r)) (Spearman-Brown): that of the mean of the K maps. NaN where r <= 0 or is NaN.
    """
    r = found["reliability"]
    result = xr.Dataset({"of_one": np.sqrt(r.where(r > 0)), "of_mean": np.sqrt(spearman_brown(r, found["n_maps"]))})
    result["of_one"].attrs = {"long_name": "noise ceiling of one map", "units": "1"}
    result["of_mean"].attrs = {"long_name": "noise ceiling of the mean map", "units": "1"}
    return result


def similarity(maps: xr.DataArray, group: str = "architecture", *, along: str = "checkpoint") -> xr.Dataset:
    """Return for each neuron how alike its maps are between every two groups of checkpoints.

    ``similarity`` (group, group_other, ...) is the mean correlation over all pairs of one map of each group, and on the
    diagonal over the pairs within (the reliability). ``corrected`` divides it by the geometric mean of the two
    reliabilities (Spearman's correction for attenuation): 1 where the groups differ no more than their seeds do.

    NaN: a group has no map (the diagonal: fewer than two) that is finite and varies; ``corrected`` also where a
    reliability is not positive.
    """
    entries, groups = map_dims(maps), groups_of(maps, along, group)
    others = [dim for dim in maps.dims if dim != along and dim not in entries]
    g = len(groups.indices)
    values = np.full((g, g, *(maps.sizes[dim] for dim in others)), np.nan)
    for region, block in blocks(maps, along, entries):
        rows = standardised(block)
        usable = np.isfinite(rows).all(axis=-1)
        rows = np.where(usable[..., None], rows, 0.0)
        sums = np.stack([rows[..., index, :].sum(axis=-2) for index in groups.indices], axis=-2)
        counts = np.stack([usable[..., index].sum(axis=-1) for index in groups.indices], axis=-1).astype(float)
        products = np.einsum("...ap,...bp->...ab", sums, sums)
        own = counts[..., None] * np.eye(g)
        pairs = counts[..., :, None] * counts[..., None, :] - own
        mean = np.where(pairs > 0, (products - own) / np.where(pairs > 0, pairs, 1.0), np.nan)
        values[(slice(None), slice(None), *(region[dim] for dim in others))] = np.moveaxis(mean, (-2, -1), (0, 1))
    result = remaining(maps, along, entries)
    other = f"{group}_other"
    result["similarity"] = ((group, other, *others), values)
    labels = groups.coords[group][1]
    result = result.assign_coords({group: labels, other: labels})
    diagonal = np.moveaxis(np.diagonal(values), -1, 0)
    positive = np.where(diagonal > 0, diagonal, np.nan)
    result["corrected"] = result["similarity"] / np.sqrt(positive[:, None] * positive[None, :])
    result["similarity"].attrs = {"long_name": "mean correlation of maps between groups", "units": "1"}
    result["corrected"].attrs = {"long_name": "similarity over the geometric mean of the reliabilities", "units": "1"}
    return result

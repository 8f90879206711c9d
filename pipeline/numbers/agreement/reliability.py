"""How well maps of one neuron agree between seeds, folds and architectures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr

from pipeline.numbers.agreement import nulls
from pipeline.numbers.agreement.grouping import groups_of, map_dims, neuron_blocks, remaining, standardised

Null = Literal["neurons", "shift", "entries"]

#: Bytes of the maps from which null sets are drawn; of a larger population a random part of the neurons lends them.
DONOR_BYTES = 512 * 2**20

#: A share of this size, or less, is all that rounding leaves between two equal correlations.
ROUNDING = 1e-6


def reliability(
    maps: xr.DataArray,
    group: str | Sequence[str] | None = None,
    *,
    along: str = "checkpoint",
    null: Null = "neurons",
    n_null: int = 1000,
    rng: int | np.random.Generator = 0,
    report: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """How well the maps of each neuron agree within each group of checkpoints.

    ``reliability`` is the mean of the K (K - 1) / 2 Pearson correlations between the K maps of a group (seeds and
    folds of one architecture with ``group="architecture"``; seeds alone with ``group=["architecture", "fold"]``),
    after Atencio's ``calc_strf_RI``. ``z`` and ``p_value`` (one-sided) place it among null sets, of mean ``null_mean``
    and sd ``null_sd``; p = (1 + null sets as large) / (1 + null sets), and ``p_smallest`` is the least that this can
    give. ``common`` is the mean correlation of maps of different neurons, and ``specific`` the reliability of what is
    left of the maps without the mean map of all other neurons. ``chance_sd`` is how far a reliability strays by chance.

    Parameters
    ----------
    maps
        Maps with the dimension ``along`` and any others; work goes neuron by neuron in blocks of bounded size.
    group
        Coordinate(s) along ``along`` whose labels make the groups; all maps are one group without it.
    null
        What chance keeps. ``"neurons"``: a null set holds one map of each checkpoint, not all of one neuron, and the
        sets of all neurons are pooled. Maps keep where they have their energy and how smooth they are, and what all
        neurons have in common; reliable is what a neuron has beyond that. ``"shift"`` moves every map
        round the ends of its axes by a random amount: this keeps the smoothness, but calls maps reliable that share
        no more than the lags or bands where they have their energy. ``"entries"`` permutes the entries, which asks
        whether maps are more alike than white noise.
    n_null
        Null sets per neuron and group (``"shift"``, ``"entries"``), or at least as many in all (``"neurons"``, which
        takes 50 for each neuron if these are more, and never more than there are).
    rng
        Seed or generator. The result does not depend on how the neurons are blocked.
    report
        Called after every neuron of every group with the number that is done, and of all.

    Returns
    -------
    Variables with the dimension of the group and those of ``maps`` without ``along`` and the map's own. NaN: fewer
    than two maps of the group are finite and vary (``n_maps`` says how many); ``common``, ``chance_sd``, ``specific``
    and what the null of other neurons says: there is no other neuron.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> own = np.random.default_rng(0).standard_normal((1, 30, 8, 10))
    >>> noise = np.random.default_rng(1).standard_normal((4, 30, 8, 10))
    >>> maps = xr.DataArray(own + noise, dims=("checkpoint", "neuron", "frequency", "lag"))
    >>> found = reliability(maps)
    >>> round(float(found["reliability"].median()), 1), bool((found["p_value"] < 0.05).all())
    (0.5, True)
    """
    if null not in get_args(Null):
        raise ValueError(
            f"null={null!r} is no kind of chance; the p value depends on what chance keeps; give 'neurons', 'shift' or"
            " 'entries'"
        )
    if n_null < 1:
        raise ValueError(f"n_null = {n_null}; without null sets there is no p value; give 100 or more")
    entries, groups = map_dims(maps), groups_of(maps, along, group)
    others = [dim for dim in maps.dims if dim != along and dim not in entries]
    exchanged = "neuron" if "neuron" in others else str(others[-1]) if len(others) == 1 else None
    layered = [dim for dim in others if dim != exchanged]
    layers = list(np.ndindex(*(maps.sizes[dim] for dim in layered)))
    width = 1 if exchanged is None else maps.sizes[exchanged]
    found = {name: np.full((len(groups.indices), len(layers), width), np.nan) for name in LABELS}
    seed = int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else int(rng)
    total = len(groups.indices) * len(layers) * width
    for number, index in enumerate(groups.indices):
        for position, layer in enumerate(layers):
            part = maps.isel({along: index, **dict(zip(layered, layer, strict=True))})
            done = (number * len(layers) + position) * width
            told = None if report is None else lambda n, done=done: report(done + n, total)
            population = _Population(part, along, exchanged, entries)
            for name, values in population.agreement(null, n_null, [seed, number, *layer], told).items():
                found[name][number, position] = values
    result = remaining(maps, along, entries)
    shape = [len(groups.indices), *(maps.sizes[dim] for dim in [*layered, *([exchanged] if exchanged else [])])]
    for name in LABELS:
        dims = ("group", *layered, *([exchanged] if exchanged else []))
        result[name] = xr.Variable(dims, found[name].reshape(shape), LABELS[name]).transpose("group", *others)
    result.attrs["null"] = f"{null}, {n_null} sets, seed {seed}"
    return groups.label(result)


@dataclass(frozen=True)
class _Population:
    """The maps of one group of checkpoints, of all neurons."""

    maps: xr.DataArray
    along: str
    exchanged: str | None
    entries: Sequence[str]

    def agreement(
        self, null: Null, n_null: int, seed: Sequence[int], report: Callable[[int], None] | None
    ) -> dict[str, np.ndarray]:
        """Every variable of the result, one value per neuron."""
        n = 1 if self.exchanged is None else self.maps.sizes[self.exchanged]
        found = {name: np.full(n, np.nan) for name in LABELS}
        counts = np.zeros((n, self.maps.sizes[self.along]), dtype=bool)
        lends = self._lending(n, np.random.default_rng([*seed, 0])) if null == "neurons" else {}
        donors = np.zeros((counts.shape[1], len(lends), 0), dtype=np.float32)
        sum_of_all: np.ndarray | float = 0.0
        shape = [self.maps.sizes[dim] for dim in self.entries]
        for at, rows in self._rows():
            counts[at] = np.isfinite(rows).all(axis=1)
            kept = rows[counts[at]]
            # neuron by neuron, so that rounding does not depend on the blocks
            sum_of_all = sum_of_all + kept.sum(axis=0)
            if donors.shape[2] != rows.shape[1]:
                donors = np.zeros((*donors.shape[:2], rows.shape[1]), dtype=np.float32)
            if at in lends:
                donors[:, lends[at]] = np.where(counts[at][:, None], rows, 0.0)
            if len(kept) > 1:
                found["reliability"][at] = nulls.mean_correlation(kept)
                if null != "neurons":
                    own = np.random.default_rng([*seed, at])
                    chance = nulls.shifted(kept, shape, n_null, own) if null == "shift" else None
                    chance = nulls.permuted(kept, n_null, own) if chance is None else chance
                    _place(found, np.array([at]), np.sort(chance))
            if report is not None:
                report(at + 1)
        found["n_maps"] = counts.sum(axis=1).astype(float)
        found["n_pairs"] = found["n_maps"] * (found["n_maps"] - 1) / 2
        if null == "neurons":
            valid = counts[list(lends)].T
            draws = np.random.default_rng([*seed, 1])
            pairs = nulls.of_different_neurons(donors, valid, draws)
            if pairs.size > 1:
                found["common"][:] = pairs.mean()
                found["chance_sd"] = pairs.std(ddof=1) / np.sqrt(np.maximum(found["n_pairs"], 1))
            sets = nulls.of_other_neurons(donors, valid, counts, n_null, draws)
            for k, chance in sets.items():
                _place(found, np.flatnonzero(counts.sum(axis=1) == k), chance)
        if n > 1:
            found["specific"] = self._specific(sum_of_all, n)
        return found

    def _lending(self, n: int, rng: np.random.Generator) -> dict[int, int]:
        """The neurons that lend maps to null sets, each with its place among them."""
        bytes_each = 4 * self.maps.sizes[self.along] * int(np.prod([self.maps.sizes[dim] for dim in self.entries]))
        most = max(2, DONOR_BYTES // max(1, bytes_each))
        chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
        return {int(at): place for place, at in enumerate(chosen)}

    def _rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every neuron's place and its standardised maps (checkpoint, entry)."""
        for region, values in neuron_blocks(self.maps, self.along, self.entries):
            if self.exchanged is None:
                yield 0, standardised(values)
                continue
            for local in range(len(values)):
                yield region[self.exchanged].start + local, standardised(values[local])

    def _specific(self, sum_of_all: np.ndarray | float, n: int) -> np.ndarray:
        """Reliability of each neuron's maps without their part along the mean map of all other neurons."""
        found = np.full(n, np.nan)
        for at, rows in self._rows():
            kept = rows[np.isfinite(rows).all(axis=1)]
            common = sum_of_all - kept.sum(axis=0)
            norm = np.linalg.norm(common)
            if len(kept) > 1 and norm > ROUNDING:
                common = common / norm
                rest = standardised(kept - (kept @ common)[:, None] * common)
                rest = rest[np.isfinite(rest).all(axis=1)]
                found[at] = nulls.mean_correlation(rest) if len(rest) > 1 else np.nan
        return found


def _place(found: dict[str, np.ndarray], at: np.ndarray, chance: np.ndarray) -> None:
    """Set what the null says of the neurons ``at``, given its sorted values."""
    if not chance.size:
        return
    observed = found["reliability"][at]
    mean, sd = chance.mean(), chance.std(ddof=1) if chance.size > 1 else np.nan
    as_large = chance.size - np.searchsorted(chance, observed - ROUNDING)
    found["null_mean"][at], found["null_sd"][at] = mean, sd
    found["z"][at] = (observed - mean) / sd if sd > 0 else np.nan
    found["p_value"][at] = (1 + as_large) / (1 + chance.size)
    found["p_smallest"][at] = 1 / (1 + chance.size)


#: What each number of `reliability` is, for tables and axes.
LABELS = {
    "reliability": {"long_name": "mean pairwise correlation of maps", "units": "1"},
    "n_maps": {"long_name": "maps that are finite and vary", "units": "1"},
    "n_pairs": {"long_name": "pairs of maps", "units": "1"},
    "null_mean": {"long_name": "mean correlation in null sets", "units": "1"},
    "null_sd": {"long_name": "standard deviation over null sets", "units": "1"},
    "z": {"long_name": "distance from null sets in their standard deviations", "units": "1"},
    "p_value": {"long_name": "one-sided p value against null sets", "units": "1"},
    "p_smallest": {"long_name": "smallest p value that the null sets can give", "units": "1"},
    "common": {"long_name": "mean correlation of maps of different neurons", "units": "1"},
    "chance_sd": {"long_name": "standard deviation of the reliability of unrelated maps", "units": "1"},
    "specific": {"long_name": "mean pairwise correlation without the mean map of other neurons", "units": "1"},
}


def spearman_brown(reliability: xr.DataArray, factor: float | xr.DataArray) -> xr.DataArray:
    """Reliability of the mean of ``factor`` maps, factor r / (1 + (factor - 1) r), from that of one.

    Spearman 1910; Brown 1910. NaN where r <= 0, which no number of maps can make reliable.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.numbers.agreement import spearman_brown
    >>> float(spearman_brown(xr.DataArray(0.5), 2))
    0.6666666666666666
    """
    positive = reliability.where(reliability > 0)
    return positive * factor / (1 + (factor - 1) * positive)


def noise_ceiling(found: xr.Dataset) -> xr.Dataset:
    """Correlations with the truth that the result of `reliability` leaves room for.

    ``of_one`` = sqrt(r): the highest expected correlation of a single map with the map all seeds share. ``of_mean`` =
    sqrt(K r / (1 + (K - 1) r)) (Spearman-Brown): that of the mean of the K maps. NaN where r <= 0 or is NaN.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import noise_ceiling, reliability
    >>> found = reliability(maps, "architecture", rng=0)
    >>> sorted(map(str, noise_ceiling(found).data_vars))
    ['of_mean', 'of_one']
    """
    r = found["reliability"]
    result = xr.Dataset({"of_one": np.sqrt(r.where(r > 0)), "of_mean": np.sqrt(spearman_brown(r, found["n_maps"]))})
    result["of_one"].attrs = {"long_name": "noise ceiling of one map", "units": "1"}
    result["of_mean"].attrs = {"long_name": "noise ceiling of the mean map", "units": "1"}
    return result


def similarity(maps: xr.DataArray, group: str = "architecture", *, along: str = "checkpoint") -> xr.Dataset:
    """For each neuron, how alike its maps are between every two groups of checkpoints.

    ``similarity`` (group, group_other, ...) is the mean correlation over all pairs of one map of each group, and on the
    diagonal over the pairs within (the reliability). ``corrected`` divides it by the geometric mean of the two
    reliabilities (Spearman's correction for attenuation): 1 where the groups differ no more than their seeds do.

    NaN: a group has no map (the diagonal: fewer than two) that is finite and varies; ``corrected`` also where a
    reliability is not positive.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> seeds = {"architecture": ("checkpoint", ["linear", "linear", "gru", "gru"])}
    >>> values = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    >>> maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=seeds)
    >>> from pipeline.numbers.agreement import similarity
    >>> sorted(map(str, similarity(maps).data_vars))
    ['corrected', 'similarity']
    """
    entries, groups = map_dims(maps), groups_of(maps, along, group)
    others = [dim for dim in maps.dims if dim != along and dim not in entries]
    g = len(groups.indices)
    values = np.full((g, g, *(maps.sizes[dim] for dim in others)), np.nan)
    for region, block in neuron_blocks(maps, along, entries):
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

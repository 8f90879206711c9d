"""What a map looks like whatever its tuning: sign, balance, rank, concentration, memory, noise."""

from typing import Literal

import numpy as np
import xarray as xr

from pipeline.numbers.grid import rising, strf_grid
from pipeline.numbers.measures import ALL_ZERO, UNUSABLE, Measure
from pipeline.numbers.strf.block import DEFAULTS, StrfBlock, StrfSettings, measured, one, only


def norm(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the norm sqrt(sum g^2) of each map, in the units of the maps.

    For a neuron with an output nonlinearity this is the kernel's norm times the slope at the baseline: compare it
    between neurons only after normalising.

    NaN: the map is degenerate (an all-zero map is one: see the variable ``degenerate`` of `strf_summaries`).
    """
    result = one(maps, "norm", MEASURES["norm"], settings)
    return result.assign_attrs(units=str(maps.attrs.get("units", "1")))


def polarity(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the sign of each map's entry of largest magnitude: 1 excitatory, -1 inhibitory.

    NaN: the map is degenerate.
    """
    return one(maps, "polarity", MEASURES["polarity"], settings)


def inhibition_excitation_ratio(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the ratio of inhibitory and excitatory energy of each map, without unit.

    With V+ the sum of g^2 over g > 0 and V- over g < 0: V- / V+ where V+ >= V-, else -V+ / V- (Rodriguez et al.
    2010). 0: one sign only; near 1 or -1: as much of one as of the other; negative: inhibition dominates. It jumps
    from 1 to -1 at balance; `excitation_balance` does not.

    NaN: the map is degenerate.
    """
    return one(maps, "inhibition_excitation_ratio", MEASURES["inhibition_excitation_ratio"], settings)


def excitation_balance(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the balance (V+ - V-) / (V+ + V-) of each map, from -1 (all inhibitory) to 1 (all excitatory).

    V+ and V- as in `inhibition_excitation_ratio`.

    NaN: the map is degenerate.
    """
    return one(maps, "excitation_balance", MEASURES["excitation_balance"], settings)


def onset_class(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return for each map the sign of its earliest significant lobe: 1 ON, -1 OFF.

    The temporal profile in the best band (that of the largest |g|) is searched from lag 0 on for the first entry of
    at least ``settings.lobe`` (25 %) of the profile's peak and ``settings.lobe_noise`` (3) robust standard deviations
    (1.4826 median |g|) of the map. ON: energy in that band first raises the response.

    NaN: the map is degenerate, holds anything at one lag only, or its profile holds no significant lobe.
    """
    return one(maps, "onset_class", MEASURES["onset_class"], settings)


def phase_class(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the number of significant lobes of alternating sign in each map's temporal profile.

    1 monophasic, 2 biphasic, 3 three or more, for the profile and the lobes of `onset_class`.

    NaN: as for `onset_class`.
    """
    return one(maps, "phase_class", MEASURES["phase_class"], settings)


def on_off_index(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the share of energy (E_0 - E_1) / (E_0 + E_1) of the two channels of per-channel maps.

    E_c is the energy sum g^2 of channel c. For a prefilter with an ON and an OFF channel, in that order: 1 all ON,
    -1 all OFF.

    NaN: both channels are all zero, or one is degenerate otherwise.

    Raises
    ------
    ValueError
        If the maps have no dimension ``channel`` of size 2.
    """
    if maps.sizes.get("channel") != 2:
        raise ValueError(
            f"the maps have the sizes {dict(maps.sizes)}, not two channels; an ON/OFF index compares exactly two;"
            " select the two channels, or use onset_class for maps of one"
        )
    numbers = measured(maps, {"norm": MEASURES["norm"]}, settings)
    return channel_index(numbers["norm"], numbers["degenerate"])


def thresholded(maps: xr.DataArray, threshold: float = 3.0) -> xr.DataArray:
    """Return the maps with every entry set to zero that does not stand out of the noise.

    An entry stays where |g| >= ``threshold`` robust standard deviations, 1.4826 median |g|, of its map. Envelopes,
    durations and modulation functions add up whatever a map holds: of noisy maps they describe the noise, unless
    the maps pass through here first (Escabi's ``strfparam`` likewise takes significant maps). For a map that fills
    more than half of its window with signal the median is no measure of noise. Lazy for a dask-backed cube; NaN
    stays NaN.
    """
    dims = ["frequency", "lag"]
    maps = rising(maps)
    strf_grid(maps)

    def core(values: np.ndarray) -> np.ndarray:
        magnitude = np.abs(values)
        level = threshold * 1.4826 * np.median(magnitude, axis=(-2, -1), keepdims=True)
        return np.where(magnitude < level, np.zeros((), values.dtype), values)

    whole = maps.chunk(dict.fromkeys(dims, -1)) if maps.chunks is not None else maps
    found = xr.apply_ufunc(
        core,
        whole,
        input_core_dims=[dims],
        output_core_dims=[dims],
        dask="parallelized",
        output_dtypes=[maps.dtype],
        keep_attrs=True,
    )
    return found.transpose(*maps.dims).assign_attrs(threshold=f"entries under {threshold:g} robust sd are 0")


def channel_index(norms: xr.DataArray, degenerate: xr.DataArray) -> xr.DataArray:
    """Return the ON/OFF index from the norms of two channels."""
    energy = xr.where(degenerate == ALL_ZERO, 0.0, norms**2)
    first, second = energy.isel(channel=0, drop=True), energy.isel(channel=1, drop=True)
    total = first + second
    index = (first - second) / total.where(total > 0)
    return index.rename("on_off_index").assign_attrs(
        long_name="energy of the first channel against the second",
        units="1",
        description="1: all in the first (ON) channel, -1: all in the second;"
        " NaN where both are all zero or one is degenerate",
    )


def singular_values(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the singular values of each map (frequency x lag), descending, in the units of the maps.

    The dimension ``component`` counts from 1. Computed from the Gram matrix in double precision: values under about
    1e-8 of the first are rounding errors.

    NaN: the map is degenerate.
    """
    result = one(maps, "singular_values", MEASURES["singular_values"], settings)
    return result.assign_attrs(units=str(maps.attrs.get("units", "1")))


def inseparability(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return 1 - s_1^2 / sum s_i^2 of each map's singular values s: 0 for a separable map, towards 1 for none.

    Depireux, Simon, Klein and Shamma 2001. Papers also report s_1^2 / sum s_i^2 as a separability index: one minus
    this.

    NaN: the map is degenerate, or holds anything in one band or at one lag only, where it could not be but separable.
    """
    return one(maps, "inseparability", MEASURES["inseparability"], settings)


def sparseness(
    maps: xr.DataArray, kind: Literal["gini", "vinje_gallant"] = "gini", *, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return how few entries hold each map, from 0 (all alike) to 1 (a single one), without unit.

    ``"gini"``: sum_i (2 i - n - 1) |g|_(i) / (n sum |g|) over the n entries in ascending order (Hurley and Rickard
    2009). ``"vinje_gallant"``: (1 - (mean |g|)^2 / mean g^2) / (1 - 1/n) (Vinje and Gallant 2000).

    NaN: the map is degenerate.
    """
    name = f"sparseness_{kind}"
    if name not in MEASURES:
        raise ValueError(
            f"kind={kind!r} is no sparseness measure; the two have different values for one map; give 'gini' or"
            " 'vinje_gallant'"
        )
    return one(maps, name, MEASURES[name], settings)


def memory_length(maps: xr.DataArray, share: float = 0.9, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the lag (ms) up to which each map holds a share of its energy.

    The smallest L with sum over l <= L of g^2 >= ``share`` (0.9 or 0.99) of the sum over all lags, on the grid of
    frames.

    NaN: the map is degenerate or holds anything at one lag only.
    """
    name = {0.9: "memory_90", 0.99: "memory_99"}.get(share)
    if name is None:
        raise ValueError(
            f"share={share!r} is not one of the two memory lengths reported; lengths for different shares do not"
            " compare; give 0.9 or 0.99"
        )
    return one(maps, name, MEASURES[name], settings)


def oldest_share(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the share of each map's energy in the oldest tenth of its window (in whole frames, at least one).

    A large share says that the window cuts the map off. A tenth or so is what a map without any decay gives.

    NaN: the map is degenerate or holds anything at one lag only.
    """
    return one(maps, "oldest_share", MEASURES["oldest_share"], settings)


def signal_to_noise(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return max |g| / sd(g) of each map, without unit.

    The standard deviation is that of all entries, the field itself included (Atencio et al. 2012), so that broad maps
    have low values whatever their noise.

    NaN: the map is degenerate.
    """
    return one(maps, "signal_to_noise", MEASURES["signal_to_noise"], settings)


def significant(
    maps: xr.DataArray, *, latest_ms: float | None = None, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return 1 for each map whose peak stands out, otherwise 0.

    The peak must reach ``settings.significance`` (3) standard deviations of the map (Atencio et al. 2012) and, where
    ``latest_ms`` is given, lie at a lag no longer than that; their rule for cortex has 50 ms.

    NaN: the map is degenerate, or with ``latest_ms`` holds anything at one lag only.
    """
    from pipeline.numbers.strf.tuning import MEASURES as TUNING

    names = {"significant": MEASURES["significant"], "latency": TUNING["latency"]}
    numbers = measured(maps, names, settings)
    result = numbers["significant"]
    if latest_ms is not None:
        early = xr.where(numbers["latency"] <= latest_ms, 1.0, 0.0).where(numbers["latency"].notnull())
        result = (result * early).rename("significant").assign_attrs(result.attrs)
    return result


def _balance(block: StrfBlock) -> tuple[np.ndarray, np.ndarray]:
    energy = block.energy.reshape(len(block.flat), -1)
    positive = np.where(block.flat > 0, energy, 0.0).sum(axis=1)
    return positive, np.maximum(block.total - positive, 0.0)


def _ratio(block: StrfBlock) -> np.ndarray:
    positive, negative = _balance(block)
    larger = np.maximum(positive, negative)
    return np.where(positive >= negative, negative, -positive) / larger


def _excitation_balance(block: StrfBlock) -> np.ndarray:
    positive, negative = _balance(block)
    return (positive - negative) / (positive + negative)


def _polarity(block: StrfBlock) -> np.ndarray:
    band, lag, _ = block.peaks["peak"]
    return np.sign(block.maps[np.arange(len(band)), band, lag])


def _lobe_signs(block: StrfBlock) -> np.ndarray:
    """Sign of each entry (map, lag) of the temporal profile in the best band; 0 where not significant."""
    profile = block.maps[np.arange(len(block.maps)), block.peaks["peak"][0]]
    noise = 1.4826 * np.median(block.magnitude, axis=1)
    threshold = np.maximum(block.settings.lobe, block.settings.lobe_noise * noise)  # the peak is 1
    return np.where(np.abs(profile) >= threshold[:, None], np.sign(profile), 0.0)


def _onset(block: StrfBlock) -> np.ndarray:
    signs = _lobe_signs(block)
    first = np.argmax(signs != 0, axis=1)
    sign = signs[np.arange(len(signs)), first]
    return only(block, np.where(sign != 0, sign, np.nan), lags=True)


def _phases(block: StrfBlock) -> np.ndarray:
    signs = _lobe_signs(block)
    last = np.maximum.accumulate(np.where(signs != 0, np.arange(signs.shape[1]), -1), axis=1)
    held = np.where(last >= 0, np.take_along_axis(signs, np.maximum(last, 0), axis=1), 0.0)
    turns = (held[:, 1:] * held[:, :-1] < 0).sum(axis=1)
    count = np.where((signs != 0).any(axis=1), np.minimum(turns + 1, 3), np.nan)
    return only(block, count, lags=True)


def _gini(block: StrfBlock) -> np.ndarray:
    ordered = np.sort(block.magnitude, axis=1)
    n = ordered.shape[1]
    weights = 2 * np.arange(1, n + 1) - n - 1
    return (ordered * weights).sum(axis=1) / (n * ordered.sum(axis=1))


def _vinje_gallant(block: StrfBlock) -> np.ndarray:
    n = block.magnitude.shape[1]
    activity = block.magnitude.mean(axis=1) ** 2 / (block.total / n)
    return (1 - activity) / (1 - 1 / n)


def _memory(share: float) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        held = np.cumsum(block.energy_by_lag, axis=1)
        reached = held >= share * held[:, -1:] * (1 - 1e-12)  # rounding must not cost a frame
        return only(block, block.grid.lag[reached.argmax(axis=1)], lags=True)

    nan = f"{UNUSABLE}, or all energy lies at one lag"
    return Measure(compute, f"lag up to which the map holds {share:.0%} of its energy", "ms", nan)


def _oldest(block: StrfBlock) -> np.ndarray:
    tenth = max(1, round(block.energy_by_lag.shape[1] / 10))
    return only(block, block.energy_by_lag[:, -tenth:].sum(axis=1) / block.total, lags=True)


def _peak_over_sd(block: StrfBlock) -> np.ndarray:
    return 1.0 / block.flat.std(axis=1)


MEASURES: dict[str, Measure] = {
    "norm": Measure(lambda block: block.scale * np.sqrt(block.total), "norm of the map", "1", UNUSABLE),
    "polarity": Measure(
        _polarity, "sign of the largest entry", "1", UNUSABLE, flags={-1: "inhibitory", 1: "excitatory"}
    ),
    "inhibition_excitation_ratio": Measure(_ratio, "ratio of inhibition and excitation", "1", UNUSABLE),
    "excitation_balance": Measure(_excitation_balance, "excitation against inhibition", "1", UNUSABLE),
    "onset_class": Measure(
        _onset,
        "sign of the earliest significant lobe",
        "1",
        f"{UNUSABLE}, all energy lies at one lag, or no lobe is significant",
        flags={-1: "off", 1: "on"},
    ),
    "phase_class": Measure(
        _phases,
        "significant lobes of alternating sign",
        "1",
        f"{UNUSABLE}, all energy lies at one lag, or no lobe is significant",
        flags={1: "monophasic", 2: "biphasic", 3: "multiphasic"},
    ),
    "singular_values": Measure(
        lambda block: block.scale[:, None] * np.sqrt(block.squared_singular_values),
        "singular values",
        "1",
        UNUSABLE,
        axes={
            "component": lambda grid: xr.Variable(
                "component", np.arange(1, min(grid.frequency.size, grid.lag.size) + 1), {"long_name": "component"}
            )
        },
    ),
    "inseparability": Measure(
        lambda block: only(
            block,
            1 - block.squared_singular_values[:, 0] / block.squared_singular_values.sum(axis=1),
            bands=True,
            lags=True,
        ),
        "inseparability",
        "1",
        f"{UNUSABLE}, or all energy lies in one band or at one lag",
    ),
    "sparseness_gini": Measure(_gini, "sparseness (Gini)", "1", UNUSABLE),
    "sparseness_vinje_gallant": Measure(_vinje_gallant, "sparseness (Vinje and Gallant)", "1", UNUSABLE),
    "memory_90": _memory(0.9),
    "memory_99": _memory(0.99),
    "oldest_share": Measure(
        _oldest, "share of energy in the oldest tenth of the window", "1", f"{UNUSABLE}, or all energy lies at one lag"
    ),
    "signal_to_noise": Measure(_peak_over_sd, "peak over standard deviation of the map", "1", UNUSABLE),
    "significant": Measure(
        lambda block: (_peak_over_sd(block) >= block.settings.significance).astype(float),
        "whether the peak stands out of the map",
        "1",
        UNUSABLE,
        flags={0: "no", 1: "yes"},
    ),
}

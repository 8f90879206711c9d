"""What a map looks like whatever its tuning: sign, balance, rank, concentration, memory, noise."""

import numpy as np
import xarray as xr

from pipeline.numbers import map_reach as lags
from pipeline.numbers.map_axes import StrfGrid
from pipeline.numbers.measures import ALL_ZERO, OF_THE_MAP, ONE_LAG, ONE_LINE, STANDS_OUT, UNUSABLE, Measure
from pipeline.numbers.strf.block import StrfBlock, StrfSettings, only
from pipeline.numbers.strf.noise import ROUNDING, beyond_separable, gini, is_sparse, level, noise_beside_field

#: When a measure of the lobes is missing.
NO_LOBE = f"{UNUSABLE}, all energy lies at one lag, or no lobe stands out"
#: From which level on a lobe counts.
LOBES = "25 % of the profile's peak, and the level that the largest of so many lags of noise exceeds in 5 %"
#: How it is decided whether a map stands out.
SIGNIFICANT = (
    "the largest magnitude, in robust standard deviations (1.4826 median |g|), exceeds that of 95 % of simulated maps"
    " of normal noise with as many entries, as smooth as the map along either axis; an exponential decay of the noise"
    " over the lags is undone first"
)


def channel_index(norms: xr.DataArray, degenerate: xr.DataArray) -> xr.DataArray:
    """The ON/OFF index (E_0 - E_1) / (E_0 + E_1) from the norms of two channels, ON first.

    E_c is the energy sum g^2 of channel c: 1 all ON, -1 all OFF. NaN: both channels are all zero, or one is degenerate
    otherwise.
    """
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


def _balance_of_field(block: StrfBlock) -> np.ndarray:
    # noise adds as much to either sign: to the sum, not to the difference
    positive, negative = _balance(block)
    rest = block.total - block.flat.shape[1] * block.noise_beside_field**2
    found = np.clip((positive - negative) / np.where(rest > 0, rest, np.nan), -1.0, 1.0)
    return np.where(block.stands_out, found, np.nan)


def _polarity(block: StrfBlock) -> np.ndarray:
    band, lag, _ = block.peaks["peak"]
    return np.where(block.stands_out, np.sign(block.maps[np.arange(len(band)), band, lag]), np.nan)


def _lobe_signs(block: StrfBlock) -> np.ndarray:
    """Sign of each entry (map, lag) of the temporal profile in the best band; 0 where it does not stand out."""
    profile = block.maps[np.arange(len(block.maps)), block.peaks["peak"][0]]
    threshold = np.maximum(block.settings.lobe, level(profile.shape[1]) * block.noise)  # the peak is 1
    counted = (np.abs(profile) >= threshold[:, None]) & block.stands_out[:, None]
    return np.where(counted, np.sign(profile), 0.0)


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


def _inseparability(block: StrfBlock) -> np.ndarray:
    squares = block.squared_singular_values
    return only(block, 1 - squares[:, 0] / squares.sum(axis=1), bands=True, lags=True)


def _inseparability_of_field(block: StrfBlock) -> np.ndarray:
    # of noise, a separable part of norm s_1 takes F + L - 1 entries, and (F - 1)(L - 1) stay outside it
    bands, lags = block.maps.shape[1:]
    squares, noise = block.squared_singular_values, block.noise_beside_field**2
    rest = np.maximum(squares[:, 1:].sum(axis=1) - noise * (bands - 1) * (lags - 1), 0.0)
    first = np.maximum(squares[:, 0] - noise * (bands + lags - 1), 0.0)
    found = rest / np.where(rest + first > 0, rest + first, np.nan)
    return only(block, np.where(block.stands_out, found, np.nan), bands=True, lags=True)


def _inseparable(block: StrfBlock) -> np.ndarray:
    maps = block.even if block.even.shape[1] <= block.even.shape[2] else block.even.transpose(0, 2, 1)
    if min(maps.shape[1:]) < 2:
        return np.full(len(maps), np.nan)
    squares = np.clip(np.linalg.eigvalsh(maps @ maps.transpose(0, 2, 1)), 0.0, None)
    rest = squares[:, :-1].sum(axis=1)
    # rounding of a map that is exactly separable is no energy
    rest = np.where(rest > ROUNDING * squares.sum(axis=1), rest, 0.0)
    noise = noise_beside_field(squares, *block.even.shape[1:])
    found = beyond_separable(rest, noise, *block.even.shape[1:])
    return only(block, np.where(block.stands_out, found, np.nan), bands=True, lags=True)


def _vinje_gallant(block: StrfBlock) -> np.ndarray:
    n = block.magnitude.shape[1]
    activity = block.magnitude.mean(axis=1) ** 2 / (block.total / n)
    return (1 - activity) / (1 - 1 / n)


def _memory(share: float) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        return only(block, block.grid.lag[lags.memory(block.energy_by_lag, share)], lags=True)

    definition = f"smallest lag L with sum over l <= L of g^2 >= {share:g} of the sum over all, on the grid of frames"
    return Measure(compute, f"lag up to which the map holds {share:.0%} of its energy", "ms", definition, ONE_LAG)


def _oldest(block: StrfBlock) -> np.ndarray:
    return only(block, lags.oldest(block.energy_by_lag), lags=True)


def _peak_over_sd(block: StrfBlock) -> np.ndarray:
    return 1.0 / block.flat.std(axis=1)


def _components(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    count = min(grid.frequency.size, grid.lag.size)
    return xr.Variable("singular_value", np.arange(1, count + 1), {"long_name": "singular value, the largest first"})


#: The measures of this room, by name.
MEASURES: dict[str, Measure] = {
    "norm": Measure(
        lambda block: block.scale * np.sqrt(block.total),
        "norm of the map",
        OF_THE_MAP,
        "sqrt(sum g^2): for a neuron with an output nonlinearity, times its slope at the baseline",
        UNUSABLE,
    ),
    "polarity": Measure(
        _polarity,
        "sign of the largest entry",
        "1",
        "sign of g at argmax |g|",
        f"{UNUSABLE}, or the map does not stand out",
        threshold=STANDS_OUT,
        flags={-1: "inhibitory", 1: "excitatory"},
    ),
    "inhibition_excitation_ratio": Measure(
        _ratio,
        "ratio of inhibition and excitation",
        "1",
        "V-/V+ where V+ >= V-, else -V+/V-, with V+ the sum of g^2 over g > 0 and V- over g < 0",
        UNUSABLE,
        "Rodriguez, Read and Escabi 2010",
    ),
    "excitation_balance": Measure(
        _excitation_balance,
        "excitation against inhibition",
        "1",
        "(V+ - V-) / (V+ + V-), from -1 (all inhibitory) to 1 (all excitatory); noise draws it to 0",
        UNUSABLE,
        "bounded form of Rodriguez, Read and Escabi 2010",
    ),
    "excitation_balance_corrected": Measure(
        _balance_of_field,
        "excitation against inhibition, without the energy of the noise",
        "1",
        "(V+ - V-) / (V+ + V- - n s^2) for n entries, with the noise's s that the median singular value tells",
        f"{UNUSABLE}, or the map does not stand out",
        threshold=STANDS_OUT,
    ),
    "onset_class": Measure(
        _onset,
        "sign of the earliest significant lobe",
        "1",
        "sign of the first entry that stands out in the temporal profile of the best band, from lag 0 on",
        NO_LOBE,
        threshold=f"{STANDS_OUT}; lobes: {LOBES}",
        flags={-1: "off", 1: "on"},
    ),
    "phase_class": Measure(
        _phases,
        "significant lobes of alternating sign",
        "1",
        "number of lobes of alternating sign that stand out in the temporal profile of the best band",
        NO_LOBE,
        threshold=f"{STANDS_OUT}; lobes: {LOBES}",
        flags={1: "monophasic", 2: "biphasic", 3: "multiphasic"},
    ),
    "singular_values": Measure(
        lambda block: block.scale[:, None] * np.sqrt(block.squared_singular_values),
        "singular values",
        OF_THE_MAP,
        "singular values of the map (frequency x lag), descending; under 1e-8 of the first they are rounding errors",
        UNUSABLE,
        axes={"singular_value": _components},
    ),
    "inseparability": Measure(
        _inseparability,
        "inseparability",
        "1",
        "1 - s_1^2 / sum s_i^2: 0 for a separable map; noise raises it",
        ONE_LINE,
        "Depireux, Simon, Klein and Shamma 2001",
    ),
    "inseparability_corrected": Measure(
        _inseparability_of_field,
        "inseparability, without the energy of the noise",
        "1",
        "R / (R + S), R = sum of s_i^2 from the second on - (F - 1)(L - 1) s^2 and S = s_1^2 - (F + L - 1) s^2, each at"
        " least 0, with the noise's s that the median singular value tells (Gavish and Donoho 2014)",
        f"{ONE_LINE}, or the map does not stand out",
        threshold=STANDS_OUT,
    ),
    "inseparable": Measure(
        _inseparable,
        "whether the map is less separable than noise makes it",
        "1",
        "whether sum of s_i^2 from the second on exceeds the chi square of (F - 1)(L - 1) entries of noise",
        f"{ONE_LINE}, or the map does not stand out",
        threshold="5 % of separable maps with white noise; an exponential decay of the noise is undone first",
        flags={0: "no", 1: "yes"},
    ),
    "sparseness_gini": Measure(
        lambda block: gini(block.maps),
        "sparseness (Gini)",
        "1",
        "sum_i (2 i - n - 1) |g|_(i) / (n sum |g|) over the n entries in ascending order; 0.41 for white noise",
        UNUSABLE,
        "Hurley and Rickard 2009",
    ),
    "sparse": Measure(
        lambda block: is_sparse(block.even).astype(float),
        "whether fewer entries hold the map than hold noise",
        "1",
        "whether the Gini coefficient exceeds that of 95 % of simulated maps of normal noise with as many entries, as"
        " smooth as the map",
        UNUSABLE,
        threshold="5 % of maps of white, smooth or decaying noise; an exponential decay of the noise is undone first",
        flags={0: "no", 1: "yes"},
    ),
    "sparseness_vinje_gallant": Measure(
        _vinje_gallant,
        "sparseness (Vinje and Gallant)",
        "1",
        "(1 - (mean |g|)^2 / mean g^2) / (1 - 1/n)",
        UNUSABLE,
        "Vinje and Gallant 2000",
    ),
    "memory_90": _memory(0.9),
    "memory_99": _memory(0.99),
    "oldest_share": Measure(
        _oldest,
        "share of energy in the oldest tenth of the window",
        "1",
        "energy in the oldest tenth of the lags (whole frames, at least one) over all: a tenth without any decay",
        ONE_LAG,
    ),
    "signal_to_noise": Measure(
        _peak_over_sd,
        "peak over standard deviation of the map",
        "1",
        "max |g| / sd(g) over all entries, the field included; grows with the number of entries",
        UNUSABLE,
        "Atencio, Sharpee and Schreiner 2012",
    ),
    "significant": Measure(
        lambda block: block.stands_out.astype(float),
        "whether the peak stands out of the noise",
        "1",
        SIGNIFICANT,
        UNUSABLE,
        threshold="5 % of maps of white, smooth or decaying noise, whatever their size",
        flags={0: "no", 1: "yes"},
    ),
}

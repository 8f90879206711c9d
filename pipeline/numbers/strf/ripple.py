"""Ripple responses of a map: modulation rate, modulation scale, velocity, direction."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy import fft

from pipeline.numbers.map_axes import StrfGrid
from pipeline.numbers.measures import OF_THE_MAP, ONE_BAND, ONE_LAG, ONE_LINE, Measure, NeedsOfAxis
from pipeline.numbers.profiles import edges, moments, refined_peak
from pipeline.numbers.strf.block import StrfBlock, StrfSettings, only, ripple_axes

#: Codes of the types of a modulation transfer function.
CLASSES = {0: "low_pass", 1: "band_pass", 2: "high_pass", 3: "all_pass"}
#: Definition of the ripple transfer function.
TRANSFER = (
    "R(O, w) = |sum_{f,l} g(f, l) exp(-2 pi i (O x_f + w l))|, x in octaves, scales O >= 0 and rates w of both signs,"
    " positive = upward (frequency rises with time); the transform is four times longer than the map"
)
#: Source of the modulation transfer functions of magnitudes.
MILLER = "Miller, Escabi, Read and Schreiner 2002; sums of magnitudes, as Atencio and Schreiner's code"
#: Source, as the measures name it.
ATENCIO = "Atencio and Schreiner's code"
#: Source, as the measures name it.
ESCABI = "Escabi's rtfparam"
#: Source of what sets directions apart.
DEPIREUX = "Depireux, Simon, Klein and Shamma 2001"
#: Power above the floor, in definitions.
FLOORED = "R^2, 0 where it is under 10 % of its two-dimensional peak"


def _rates(grid: StrfGrid, settings: StrfSettings) -> np.ndarray:
    rates = ripple_axes(grid, settings)[1]
    return np.abs(rates[: rates.size // 2 + 1])


def _transfer(block: StrfBlock, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums of magnitudes along the other modulation, and their axis."""
    if axis == "rate":
        return block.temporal_transfer, _rates(block.grid, block.settings)
    return block.spectral_transfer, ripple_axes(block.grid, block.settings)[0]


def _power(block: StrfBlock, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums of power above the floor along the other modulation, and their axis, without the highest modulation."""
    if axis == "rate":
        return block.temporal_power[:, :-1], _rates(block.grid, block.settings)[:-1]
    return block.spectral_power[:, :-1], ripple_axes(block.grid, block.settings)[0][:-1]


def _mask(block: StrfBlock, numbers: np.ndarray, axis: str) -> np.ndarray:
    return only(block, numbers, bands=axis == "scale", lags=axis == "rate")


def _best(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    return lambda block: _mask(block, refined_peak(*_transfer(block, axis)), axis)


def _centroid_of_magnitude(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        transfer, positions = _transfer(block, axis)
        counted = np.where(transfer > block.settings.mtf_floor, transfer, 0.0)
        return _mask(block, moments(counted, positions)[0], axis)

    return compute


def _of_power(axis: str, number: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[StrfBlock], np.ndarray]:
    return lambda block: _mask(block, number(*moments(*_power(block, axis))), axis)


def _cutoff(axis: str, end: int) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        transfer, positions = _power(block, axis)
        low, high = edges(transfer, transfer.argmax(axis=1), 0.5, positions)
        return _mask(block, np.where(np.isnan(low), 0.0, low) if end == 0 else high, axis)

    return compute


def _pass_band(block: StrfBlock, axis: str) -> tuple[np.ndarray, np.ndarray]:
    transfer, positions = _transfer(block, axis)
    return edges(transfer, transfer.argmax(axis=1), block.settings.mtf_level, positions)


def _width(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = _pass_band(block, axis)
        return _mask(block, high - np.where(np.isnan(low), 0.0, low), axis)

    return compute


def _class(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = _pass_band(block, axis)
        drops_below, drops_above = ~np.isnan(low), ~np.isnan(high)
        code = np.select([drops_below & drops_above, drops_above, drops_below], [1.0, 0.0, 2.0], 3.0)
        return _mask(block, np.where(block.stands_out, code, np.nan), axis)

    return compute


def _direction(block: StrfBlock) -> np.ndarray:
    half = block.ripple.shape[2] // 2
    directed = block.ripple_power[:, 1:-1]
    up = directed[:, :, 1:half].sum(axis=(1, 2))
    down = directed[:, :, half + 1 :].sum(axis=(1, 2))
    total = up + down
    found = np.where(total > 0, (up - down) / np.where(total > 0, total, 1.0), 0.0)
    return only(block, found, bands=True, lags=True)


def _best_ripple(block: StrfBlock) -> tuple[np.ndarray, np.ndarray]:
    """Rate (signed) and scale at the peak of the two-dimensional transform, between its bins by a parabola each."""
    scales, rates = ripple_axes(block.grid, block.settings)
    n, width = len(block.ripple), rates.size
    at = block.ripple.reshape(n, -1).argmax(axis=1)
    row, column, maps = at // width, at % width, np.arange(n)
    along_rate = np.stack([block.ripple[maps, row, (column + step) % width] for step in (-1, 0, 1)], axis=1)
    # a map's power at (scale, rate) is that at (-scale, -rate), so that a profile along the scales goes on below 0
    last = scales.size - 1
    below = np.where(row > 0, block.ripple[maps, np.abs(row - 1), column], block.ripple[maps, 1, -column % width])
    above = np.where(row < last, block.ripple[maps, np.minimum(row + 1, last), column], below)
    along_scale = np.stack([below, block.ripple[maps, row, column], above], axis=1)
    rate = rates[column] + (rates[1] - rates[0]) * _offset(along_rate)
    scale = scales[row] + (scales[1] - scales[0]) * _offset(along_scale)
    # without a scale a ripple has no direction, and its rate no sign
    return np.where(row == 0, np.abs(rate), rate), np.maximum(scale, 0.0)


def _offset(three: np.ndarray) -> np.ndarray:
    curvature = three[:, 0] - 2 * three[:, 1] + three[:, 2]
    return np.where(curvature < 0, 0.5 * (three[:, 0] - three[:, 2]) / np.where(curvature < 0, curvature, 1.0), 0.0)


def _velocity(block: StrfBlock) -> np.ndarray:
    rate, scale = _best_ripple(block)
    step = ripple_axes(block.grid, block.settings)[0][1]
    return np.where(scale >= step, rate / np.where(scale >= step, scale, 1.0), np.nan)


def _quadrant(sign: int) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        bands, lags = block.maps.shape[1:]
        transform = fft.fft(fft.rfft(block.maps, axis=1), axis=2)
        rates = np.arange(1, (lags - 1) // 2 + 1) * sign
        quadrant = transform[:, 1 : (bands - 1) // 2 + 1, rates]
        if 0 in quadrant.shape[1:]:
            return np.full(len(block.maps), np.nan)
        short = quadrant if quadrant.shape[1] <= quadrant.shape[2] else quadrant.transpose(0, 2, 1)
        squares = np.clip(np.linalg.eigvalsh(short @ short.conj().transpose(0, 2, 1)), 0.0, None)
        total = squares.sum(axis=1)
        share = np.where(total > 1e-12 * block.total, squares[:, -1] / np.where(total > 0, total, 1.0), np.nan)
        return only(block, 1 - share, bands=True, lags=True)

    return compute


def _rate_axis(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    return xr.Variable("rate", _rates(grid, settings), {"long_name": "temporal modulation", "units": "Hz"})


def _signed_rate_axis(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    attributes = {"long_name": "temporal modulation, positive = upward", "units": "Hz"}
    return xr.Variable("rate", np.fft.fftshift(ripple_axes(grid, settings)[1]), attributes)


def _scale_axis(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    attributes = {"long_name": "spectral modulation", "units": "cycle/octave"}
    return xr.Variable("scale", ripple_axes(grid.on_octaves, settings)[0], attributes)


def _whole(block: StrfBlock) -> np.ndarray:
    transfer = fft.fftshift(block.ripple, axes=2) * block.scale[:, None, None]
    return only(block, transfer, bands=True, lags=True)


def _of_magnitudes(axis: str, word: str, units: str, nan: str, on: NeedsOfAxis) -> dict[str, Measure]:
    """The numbers of a modulation transfer function of magnitudes, and the function itself."""
    mtf = f"the sum of R over {'scales' if axis == 'rate' else 'rates'} (both directions), its maximum set to 1"
    name = f"{word} modulation transfer function"
    along = {"rate": _rate_axis} if axis == "rate" else {"scale": _scale_axis}
    return {
        f"best_{axis}": Measure(
            _best(axis), f"best {word} modulation", units, f"argmax of {mtf}, by a parabola", nan, MILLER, on
        ),
        f"{axis}_bandwidth": Measure(
            _width(axis),
            f"bandwidth of the {name}",
            units,
            f"distance of the points where {mtf}, falls to 0.7; a low-pass band begins at 0",
            f"{nan}, or the band runs past the highest modulation",
            MILLER,
            on,
        ),
        f"{axis}_class": Measure(
            _class(axis),
            f"type of the {name}",
            "1",
            f"by the sides of its maximum on which {mtf}, falls under 0.7",
            f"{nan}, or the map does not stand out",
            MILLER,
            on,
            "the largest entry stands out of the noise (see significant)",
            flags=CLASSES,
        ),
        f"{axis}_centroid_magnitude": Measure(
            _centroid_of_magnitude(axis),
            f"centroid of the {name} of magnitudes",
            units,
            f"centroid of {mtf}, where it is over 10 % of that; follows the noise",
            nan,
            ATENCIO,
            on,
        ),
        f"{word}_modulation": Measure(
            lambda block: _mask(block, _transfer(block, axis)[0], axis),
            name,
            "1",
            mtf,
            nan,
            MILLER,
            on,
            axes=along,
            summarised=False,
        ),
    }


def _of_powers(axis: str, word: str, units: str, nan: str, on: NeedsOfAxis) -> dict[str, Measure]:
    """The numbers of a modulation transfer function of power above a floor."""
    mtf = f"the sum over {'scales' if axis == 'rate' else 'rates'} (both directions) of {FLOORED}"
    name = f"{word} modulation transfer function of power"
    past = f"{nan}, or it does not fall so far"
    return {
        f"{axis}_centroid": Measure(
            _of_power(axis, lambda mean, sd: mean),
            f"centroid of the {name}",
            units,
            f"centroid of {mtf}",
            nan,
            ESCABI,
            on,
        ),
        f"{axis}_width": Measure(
            _of_power(axis, lambda mean, sd: 2 * sd),
            f"width of the {name} (2 sd)",
            units,
            f"twice the standard deviation of {mtf}",
            nan,
            ESCABI,
            on,
        ),
        f"{axis}_low": Measure(
            _cutoff(axis, 0),
            f"lower half-power cut-off of the {name}",
            units,
            f"where {mtf}, falls to half its maximum on the lower side; 0 where it does not",
            nan,
            ESCABI,
            on,
        ),
        f"{axis}_high": Measure(
            _cutoff(axis, 1),
            f"upper half-power cut-off of the {name}",
            units,
            f"where {mtf}, falls to half its maximum on the upper side",
            past,
            ESCABI,
            on,
        ),
    }


def _of_best_ripple() -> dict[str, Measure]:
    """The ripple at the peak of the transform in two dimensions."""
    peak = f"peak in two dimensions of {TRANSFER}"
    return {
        "best_ripple_rate": Measure(
            lambda block: only(block, _best_ripple(block)[0], bands=True, lags=True),
            "temporal modulation of the best ripple, positive = upward",
            "Hz",
            f"rate at the {peak}; no sign at scale 0",
            ONE_LINE,
            ESCABI,
            "octaves",
        ),
        "best_ripple_scale": Measure(
            lambda block: only(block, _best_ripple(block)[1], bands=True, lags=True),
            "spectral modulation of the best ripple",
            "cycle/octave",
            f"scale at the {peak}",
            ONE_LINE,
            ESCABI,
            "octaves",
        ),
        "best_velocity": Measure(
            lambda block: only(block, _velocity(block), bands=True, lags=True),
            "velocity of the best ripple, positive = upward",
            "octave/s",
            "rate / scale of the best ripple",
            f"{ONE_LINE}, or the best ripple has no scale",
            "Escabi and Schreiner 2002",
            "octaves",
        ),
    }


def _of_directions() -> dict[str, Measure]:
    """What sets upward apart from downward in the transform in two dimensions, and that transform itself."""
    nan = f"{ONE_LINE}, or the quadrant is empty"
    return {
        "direction_selectivity": Measure(
            _direction,
            "direction selectivity, positive = upward",
            "1",
            f"(P_up - P_down) / (P_up + P_down), sums over w > 0 and w < 0 at O > 0 of {FLOORED}",
            ONE_LINE,
            f"{DEPIREUX}, with the floor of Escabi's rtfparam",
            "octaves",
        ),
        "inseparability_upward": Measure(
            _quadrant(1),
            "inseparability of the upward quadrant",
            "1",
            "1 - s_1^2 / sum s_i^2 of the complex Fourier transform of the map at O > 0, w > 0: 0 for a map that is"
            " quadrant-separable",
            nan,
            DEPIREUX,
            "octaves",
        ),
        "inseparability_downward": Measure(
            _quadrant(-1),
            "inseparability of the downward quadrant",
            "1",
            "as inseparability_upward, at w < 0",
            nan,
            DEPIREUX,
            "octaves",
        ),
        "ripple_transfer_function": Measure(
            _whole,
            "ripple transfer function",
            OF_THE_MAP,
            TRANSFER,
            ONE_LINE,
            MILLER,
            "octaves",
            axes={"scale": _scale_axis, "rate": _signed_rate_axis},
            summarised=False,
        ),
    }


#: The measures of this room, by name.
MEASURES: dict[str, Measure] = {
    **_of_magnitudes("rate", "temporal", "Hz", ONE_LAG, "any"),
    **_of_powers("rate", "temporal", "Hz", ONE_LAG, "any"),
    **_of_magnitudes("scale", "spectral", "cycle/octave", ONE_BAND, "octaves"),
    **_of_powers("scale", "spectral", "cycle/octave", ONE_BAND, "octaves"),
    **_of_best_ripple(),
    **_of_directions(),
}

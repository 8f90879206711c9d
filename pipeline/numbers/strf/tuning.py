"""Where in frequency and time a map lies, how wide it is, how long it lasts."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import xarray as xr

from pipeline.numbers.grid import StrfGrid
from pipeline.numbers.measures import UNUSABLE, Measure
from pipeline.numbers.profiles import edges
from pipeline.numbers.strf.block import DEFAULTS, FIELDS, Field, StrfBlock, StrfSettings, one, only

Where = Literal["peak", "excitatory", "inhibitory", "envelope"]
WORDS = {
    "peak": "of the largest magnitude",
    "excitatory": "of the excitatory peak",
    "inhibitory": "of the inhibitory peak",
    "envelope": "of the envelope",
}
LACKS = "or the map has no entry of that sign (above float32 rounding)"


def best_frequency(maps: xr.DataArray, of: Where = "peak", *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the frequency (Hz) to which each map is tuned.

    The centre of the band that holds the peak: argmax |g| (``"peak"``), argmax g (``"excitatory"``) or argmin g
    (``"inhibitory"``), exact to one band (Escabi's ``strfparam``; Atencio and Schreiner for the signed peaks).
    ``"envelope"``: 2 ** sum_f x_f P_f, the centroid in octaves x of the spectral envelope P_f(f) = mean over lags
    of |H_f g|^2 (H: analytic signal along frequency of the mirrored map), normalised to sum 1 without the tail
    beyond the first bin under 5 % of its peak; finer than a band, and it needs a log-spaced frequency axis.

    NaN: the map is degenerate, holds anything in one band only, or has no entry of the asked sign.
    """
    return _choose(maps, "best_frequency", of, get_args(Where), settings)


def peak_latency(maps: xr.DataArray, of: Where = "peak", *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the lag (ms) to which each map is tuned.

    The lag of the peak: argmax |g| (``"peak"``), argmax g (``"excitatory"``) or argmin g (``"inhibitory"``), exact
    to one frame (Escabi's ``strfparam``; Atencio and Schreiner). ``"envelope"``: the delay sum_l l P_t(l), centroid
    of the temporal envelope P_t(l) = mean over frequency of |H_t g|^2, normalised to sum 1 without the tail beyond
    the first bin under 5 % of its peak; finer than a frame.

    NaN: the map is degenerate, holds anything at one lag only, or has no entry of the asked sign.
    """
    return _choose(maps, "latency", of, get_args(Where), settings)


def bandwidth(maps: xr.DataArray, of: Where = "peak", *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the spectral width (octaves) of each map.

    log2(f_hi / f_lo) where the spectral profile through the peak, at the peak's lag, falls to ``settings.edge`` (1/e)
    of the peak, interpolated between bands (Atencio et al. 2012). Needs frequencies above 0 Hz, not a log axis.
    ``"envelope"``: twice the standard deviation of the spectral envelope P_f (Escabi's ``strfparam``; see
    `best_frequency`), which needs a log-spaced axis.

    NaN: the map is degenerate, holds anything in one band only, has no entry of the asked sign, or the profile does
    not fall to that level before the axis ends.
    """
    return _choose(maps, "bandwidth", of, get_args(Where), settings)


def quality_factor(maps: xr.DataArray, of: Field = "peak", *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the sharpness of tuning Q = BF / (f_hi - f_lo) of each map, without unit.

    BF is the peak's frequency and the edges are those of `bandwidth`, in Hz (Atencio et al. 2012). Needs frequencies
    above 0 Hz.

    NaN: as for `bandwidth`.
    """
    return _choose(maps, "quality_factor", of, FIELDS, settings)


def temporal_width(maps: xr.DataArray, of: Field = "peak", *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the width in time (ms) of the subfield around each map's peak.

    Distance of the lags at which the temporal profile through the peak, in the peak's band, falls to
    ``settings.edge`` (1/e) of the peak, interpolated between frames (the temporal side of Atencio et al. 2012). A
    field that reaches lag 0 ends there.

    NaN: the map is degenerate, holds anything at one lag only, has no entry of the asked sign, or the profile does not
    fall to that level within the window.
    """
    return _choose(maps, "temporal_width", of, FIELDS, settings)


def duration(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return how long each map lasts (ms): twice the standard deviation of its temporal envelope.

    2 sqrt(sum_l (l - delay)^2 P_t(l)) with P_t and the delay as in `peak_latency` (Escabi's ``strfparam``).

    NaN: the map is degenerate or holds anything at one lag only.
    """
    return one(maps, "duration", MEASURES["duration"], settings)


def envelope_width(
    maps: xr.DataArray,
    along: Literal["frequency", "lag"],
    share: float = 0.5,
    *,
    settings: StrfSettings = DEFAULTS,
) -> xr.DataArray:
    """Return the full width of each map's envelope at a share of its peak, in octaves or ms.

    Distance of the points where P_f (log-spaced frequency axis needed) or P_t (see `best_frequency`, `peak_latency`)
    falls to ``share`` (0.5 or 0.1) of its peak, interpolated between bins (Escabi's ``strfparam``).

    NaN: the map is degenerate, holds anything in one band (at one lag) only, or the envelope does not fall to that
    level before the axis ends; lag 0 ends it.
    """
    name = {("frequency", 0.5): "bandwidth_50", ("frequency", 0.1): "bandwidth_10"}.get((along, share)) or {
        ("lag", 0.5): "duration_50",
        ("lag", 0.1): "duration_10",
    }.get((along, share))
    if name is None:
        raise ValueError(
            f"along={along!r} with share={share!r} is not defined; the widths reported are those at 0.5 and 0.1 of the"
            " envelope's peak, along 'frequency' or 'lag'; take one of these"
        )
    return one(maps, name, MEASURES[name], settings, REQUIREMENTS.get(name))


def _choose(
    maps: xr.DataArray, measure: str, of: str, allowed: tuple[str, ...], settings: StrfSettings
) -> xr.DataArray:
    if of not in allowed:
        raise ValueError(
            f"of={of!r} names no part of a map for {measure}; the peak, the signed peaks and the envelope give"
            f" different numbers; choose from {', '.join(allowed)}"
        )
    name = measure if of == "peak" else f"{measure}_{of}"
    return one(maps, name, MEASURES[name], settings, REQUIREMENTS.get(name))


def _best_frequency(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        band, _, valid = block.peaks[of]
        return only(block, np.where(valid, block.grid.frequency[band], np.nan), bands=True)

    nan = f"{UNUSABLE}, all energy lies in one band, {LACKS}"
    return Measure(compute, f"best frequency {WORDS[of]}", "Hz", nan)


def _latency(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        _, lag, valid = block.peaks[of]
        return only(block, np.where(valid, block.grid.lag[lag], np.nan), lags=True)

    return Measure(compute, f"latency {WORDS[of]}", "ms", f"{UNUSABLE}, all energy lies at one lag, {LACKS}")


def _bandwidth(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["frequency", of]
        return high - low

    nan = f"{UNUSABLE}, all energy lies in one band, the field runs off the frequency axis, {LACKS}"
    return Measure(compute, f"spectral width of the field {WORDS[of]}", "octave", nan)


def _quality_factor(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["frequency", of]
        return block.grid.frequency[block.peaks[of][0]] / (2.0**high - 2.0**low)

    nan = f"{UNUSABLE}, all energy lies in one band, the field runs off the frequency axis, {LACKS}"
    return Measure(compute, f"sharpness of tuning (Q) of the field {WORDS[of]}", "1", nan)


def _temporal_width(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["lag", of]
        return high - low

    nan = f"{UNUSABLE}, all energy lies at one lag, the field runs out of the window, {LACKS}"
    return Measure(compute, f"temporal width of the field {WORDS[of]}", "ms", nan)


def _full_width(along: Literal["frequency", "lag"], share: float) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        spectral = along == "frequency"
        profile = block.spectral_envelope if spectral else block.envelope
        positions = block.grid.octaves if spectral else block.grid.lag
        low, high = edges(profile, profile.argmax(axis=1), share * profile.max(axis=1), positions)
        if not spectral:
            low = np.where(np.isnan(low), positions[0], low)
        return only(block, high - low, bands=spectral, lags=not spectral)

    word, units = ("spectral", "octave") if along == "frequency" else ("temporal", "ms")
    nan = f"{UNUSABLE}, all energy lies in one band or at one lag, or the envelope does not fall so far on the axis"
    return Measure(compute, f"width of the {word} envelope at {share:.0%} of its peak", units, nan)


MEASURES: dict[str, Measure] = {
    **{"best_frequency" + ("" if of == "peak" else f"_{of}"): _best_frequency(of) for of in FIELDS},
    "best_frequency_envelope": Measure(
        lambda block: only(block, 2.0 ** block.spectral_moments[0], bands=True),
        "best frequency of the envelope (centroid in octaves)",
        "Hz",
        f"{UNUSABLE}, all energy lies in one band, or the frequency axis is not log-spaced",
    ),
    **{"latency" + ("" if of == "peak" else f"_{of}"): _latency(of) for of in FIELDS},
    "latency_envelope": Measure(
        lambda block: only(block, block.envelope_moments[0], lags=True),
        "latency of the envelope (centroid)",
        "ms",
        f"{UNUSABLE}, or all energy lies at one lag",
    ),
    **{"bandwidth" + ("" if of == "peak" else f"_{of}"): _bandwidth(of) for of in FIELDS},
    "bandwidth_envelope": Measure(
        lambda block: only(block, 2 * block.spectral_moments[1], bands=True),
        "spectral width of the envelope (2 sd)",
        "octave",
        f"{UNUSABLE}, all energy lies in one band, or the frequency axis is not log-spaced",
    ),
    "bandwidth_50": _full_width("frequency", 0.5),
    "bandwidth_10": _full_width("frequency", 0.1),
    **{"quality_factor" + ("" if of == "peak" else f"_{of}"): _quality_factor(of) for of in FIELDS},
    **{"temporal_width" + ("" if of == "peak" else f"_{of}"): _temporal_width(of) for of in FIELDS},
    "duration": Measure(
        lambda block: only(block, 2 * block.envelope_moments[1], lags=True),
        "duration of the envelope (2 sd)",
        "ms",
        f"{UNUSABLE}, or all energy lies at one lag",
    ),
    "duration_50": _full_width("lag", 0.5),
    "duration_10": _full_width("lag", 0.1),
}

REQUIREMENTS: dict[str, Callable[[StrfGrid], str | None]] = {
    **{name: StrfGrid.why_no_octaves for name in MEASURES if name.startswith(("bandwidth", "quality_factor"))},
    **dict.fromkeys(
        ("best_frequency_envelope", "bandwidth_envelope", "bandwidth_50", "bandwidth_10"), StrfGrid.why_not_log
    ),
}

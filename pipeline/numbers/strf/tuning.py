"""Where in frequency and time a map lies, how wide it is, how long it lasts."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from pipeline.numbers.measures import STANDS_OUT, UNUSABLE, Measure
from pipeline.numbers.profiles import edges
from pipeline.numbers.strf.block import FIELDS, Field, StrfBlock, only

#: Words for what is shown.
WORDS = {
    "peak": "of the largest magnitude",
    "excitatory": "of the excitatory peak",
    "inhibitory": "of the inhibitory peak",
}
#: Which entry each measure of a peak looks at.
PEAKS = {"peak": "argmax |g|", "excitatory": "argmax g", "inhibitory": "argmin g"}
#: When a measure of one sign is missing.
LACKS = "or the map has no entry of that sign (above float32 rounding)"
#: When a measure along the bands is missing.
BANDS = f"{UNUSABLE}, all energy lies in one band"
#: When a measure along the lags is missing.
LAGS = f"{UNUSABLE}, all energy lies at one lag"
#: Source, as the measures name it.
ESCABI = "Escabi's strfparam"
#: Source, as the measures name it.
ATENCIO = "Atencio, Sharpee and Schreiner 2012"


def _named(measure: str, of: Field) -> str:
    return measure if of == "peak" else f"{measure}_{of}"


def _best_frequency(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        band, _, valid = block.peaks[of]
        return only(block, np.where(valid, block.grid.frequency[band], np.nan), bands=True)

    definition = f"centre of the band that holds {PEAKS[of]}, exact to one band"
    nan = f"{BANDS}, {LACKS}"
    return Measure(compute, f"best frequency {WORDS[of]}", "Hz", definition, nan, _source(of))


def _latency(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        _, lag, valid = block.peaks[of]
        return only(block, np.where(valid, block.grid.lag[lag], np.nan), lags=True)

    definition = f"lag of {PEAKS[of]}, exact to one frame"
    return Measure(compute, f"latency {WORDS[of]}", "ms", definition, f"{LAGS}, {LACKS}", _source(of))


def _source(of: Field) -> str:
    return ESCABI if of == "peak" else ATENCIO


def _bandwidth(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["frequency", of]
        return high - low

    return Measure(
        compute,
        f"spectral width of the field {WORDS[of]}",
        "octave",
        "log2(f_hi / f_lo) where the spectral profile at the peak's lag falls to 1/e of the peak, interpolated",
        f"{BANDS}, the field runs off the frequency axis, {LACKS}",
        ATENCIO,
        axis="positive",
    )


def _quality_factor(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["frequency", of]
        return block.grid.frequency[block.peaks[of][0]] / (2.0**high - 2.0**low)

    return Measure(
        compute,
        f"sharpness of tuning (Q) of the field {WORDS[of]}",
        "1",
        "best frequency / (f_hi - f_lo), with the edges of the bandwidth",
        f"{BANDS}, the field runs off the frequency axis, {LACKS}",
        ATENCIO,
        axis="positive",
    )


def _temporal_width(of: Field) -> Measure:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = block.field_edges["lag", of]
        return high - low

    return Measure(
        compute,
        f"temporal width of the field {WORDS[of]}",
        "ms",
        "distance of the lags where the temporal profile in the peak's band falls to 1/e of the peak; lag 0 ends it",
        f"{LAGS}, the field runs out of the window, {LACKS}",
        f"the temporal side of {ATENCIO}",
    )


def _of_core(axis: Literal["frequency", "lag"], number: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable:
    def compute(block: StrfBlock) -> np.ndarray:
        found = np.where(block.stands_out, number(*block.core[axis]), np.nan)
        return only(block, found, bands=axis == "frequency", lags=axis == "lag")

    return compute


def _of_energy() -> dict[str, Measure]:
    what = "of the energy g^2 above that of the noise, within three standard deviations of its centroid"
    bands, lags = f"{BANDS}, or the map does not stand out", f"{LAGS}, or the map does not stand out"
    return {
        "best_frequency_envelope": Measure(
            _of_core("frequency", lambda mean, sd: 2.0**mean),
            "best frequency of the energy (centroid in octaves)",
            "Hz",
            f"2 ** centroid in octaves {what}",
            bands,
            axis="octaves",
            threshold=STANDS_OUT,
        ),
        "latency_envelope": Measure(
            _of_core("lag", lambda mean, sd: mean),
            "latency of the energy (centroid)",
            "ms",
            f"centroid {what}",
            lags,
            threshold=STANDS_OUT,
        ),
        "bandwidth_envelope": Measure(
            _of_core("frequency", lambda mean, sd: 2 * sd),
            "spectral width of the energy (2 sd)",
            "octave",
            f"twice the standard deviation in octaves {what}",
            bands,
            axis="octaves",
            threshold=STANDS_OUT,
        ),
        "duration": Measure(
            _of_core("lag", lambda mean, sd: 2 * sd),
            "duration of the energy (2 sd)",
            "ms",
            f"twice the standard deviation {what}",
            lags,
            threshold=STANDS_OUT,
        ),
    }


def _analytic() -> dict[str, Measure]:
    spectral = "the analytic spectral envelope P_f(f) = mean over lags of |H_f g|^2 of the mirrored map, cut at 5 %"
    temporal = "the analytic temporal envelope P_t(l) = mean over bands of |H_t g|^2 of the mirrored map, cut at 5 %"
    return {
        "best_frequency_analytic": Measure(
            lambda block: only(block, 2.0 ** block.spectral_moments[0], bands=True),
            "best frequency of the analytic envelope (centroid in octaves)",
            "Hz",
            f"2 ** centroid in octaves of {spectral}",
            BANDS,
            ESCABI,
            axis="octaves",
        ),
        "latency_analytic": Measure(
            lambda block: only(block, block.envelope_moments[0], lags=True),
            "latency of the analytic envelope (centroid)",
            "ms",
            f"centroid of {temporal}",
            LAGS,
            ESCABI,
        ),
        "bandwidth_analytic": Measure(
            lambda block: only(block, 2 * block.spectral_moments[1], bands=True),
            "spectral width of the analytic envelope (2 sd): 1.3 to 1.9 times too wide for one lobe",
            "octave",
            f"twice the standard deviation of {spectral}; follows the noise",
            BANDS,
            ESCABI,
            axis="octaves",
        ),
        "duration_analytic": Measure(
            lambda block: only(block, 2 * block.envelope_moments[1], lags=True),
            "duration of the analytic envelope (2 sd): 1.3 to 1.9 times too long for one lobe",
            "ms",
            f"twice the standard deviation of {temporal}; follows the noise",
            LAGS,
            ESCABI,
        ),
    }


def _full_width(along: Literal["frequency", "lag"], share: float) -> Measure:
    spectral = along == "frequency"

    def compute(block: StrfBlock) -> np.ndarray:
        profile = block.spectral_envelope if spectral else block.envelope
        positions = block.grid.octaves if spectral else block.grid.lag
        low, high = edges(profile, profile.argmax(axis=1), share * profile.max(axis=1), positions)
        if not spectral:
            low = np.where(np.isnan(low), positions[0], low)
        return only(block, high - low, bands=spectral, lags=not spectral)

    word, units = ("spectral", "octave") if spectral else ("temporal", "ms")
    return Measure(
        compute,
        f"width of the analytic {word} envelope at {share:.0%} of its peak",
        units,
        f"distance of the points where the analytic {word} envelope falls to {share:.0%} of its peak, interpolated",
        f"{BANDS if spectral else LAGS}, or the envelope does not fall so far on the axis",
        ESCABI,
        axis="octaves" if spectral else "any",
    )


#: The measures of this room, by name.
MEASURES: dict[str, Measure] = {
    **{_named("best_frequency", of): _best_frequency(of) for of in FIELDS},
    **{_named("latency", of): _latency(of) for of in FIELDS},
    **{_named("bandwidth", of): _bandwidth(of) for of in FIELDS},
    **{_named("quality_factor", of): _quality_factor(of) for of in FIELDS},
    **{_named("temporal_width", of): _temporal_width(of) for of in FIELDS},
    **_of_energy(),
    **_analytic(),
    "bandwidth_50": _full_width("frequency", 0.5),
    "bandwidth_10": _full_width("frequency", 0.1),
    "duration_50": _full_width("lag", 0.5),
    "duration_10": _full_width("lag", 0.1),
}

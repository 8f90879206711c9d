"""Intermediate results that the measures of one block of spectro-temporal maps share."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from scipy import fft

from pipeline.numbers import measures as engine
from pipeline.numbers.map_axes import StrfGrid
from pipeline.numbers.measures import Measure
from pipeline.numbers.profiles import around_peak, edges, envelope_power, moments
from pipeline.numbers.strf.noise import decay_undone, level, noise_beside_field, noise_of, stands_out

Field = Literal["peak", "excitatory", "inhibitory"]
#: Names of the settings that are levels.
FIELDS: tuple[Field, ...] = get_args(Field)

#: Entries under this share of the largest magnitude are float32 rounding errors, not a field of the other sign.
ROUNDING = 1e-6


@dataclass(frozen=True)
class StrfSettings:
    """The levels that the definitions leave open; a result records those it was computed with."""

    #: Share of a subfield's peak at which its edges lie: 1/e, or 0.75 (Atencio et al. 2012).
    edge: float = float(np.exp(-1))
    #: Envelopes are cut at the first bin under this share of their peak.
    tail: float = 0.05
    #: Share of the peak that bounds the pass-band of a modulation transfer function.
    mtf_level: float = 0.7
    #: Power under this share of the two-dimensional peak of a ripple transfer function does not count.
    mtf_floor: float = 0.1
    #: A lobe of the temporal profile counts from this share of the profile's peak on, and where it stands out of the
    #: noise of the map among so many lags.
    lobe: float = 0.25
    #: Entries under this many robust standard deviations of their map (1.4826 x median |g|) are taken as 0; 0 keeps
    #: all. What stands out of the noise is always decided on the whole map.
    threshold: float = 0.0
    #: Level to which the correlation index falls within its width.
    correlation: float = float(np.exp(-1))
    #: The Fourier transform is this many times longer than the map, which interpolates the modulation axes.
    padding: int = 4

    def __post_init__(self) -> None:
        for name in ("edge", "tail", "mtf_level", "mtf_floor", "lobe", "correlation"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(
                    f"{name} = {value}; it is a share of a peak, and no edge lies at a share outside (0, 1);"
                    f" leave it out for {getattr(StrfSettings, name):.3g}"
                )
        if self.threshold < 0:
            raise ValueError(
                f"threshold = {self.threshold}; it is a number of standard deviations that an entry must reach, and"
                " every entry reaches less than none; give 0 to keep all, or about 3"
            )
        if self.padding < 1:
            raise ValueError(f"padding = {self.padding}; a transform shorter than the map would cut it; give 1 or more")


#: Levels where nothing else is asked for.
DEFAULTS = StrfSettings()


@dataclass(frozen=True)
class StrfBlock:
    """Usable maps (map, frequency, lag), with what several measures need computed once."""

    values: np.ndarray
    grid: StrfGrid
    settings: StrfSettings

    def seen_by(self, measure: Measure) -> "StrfBlock":
        """These maps on the axis that a measure needs."""
        return self.on_octaves if measure.axis == "octaves" else self

    @cached_property
    def on_octaves(self) -> "StrfBlock":
        """The maps on an even octave axis; themselves where they are on one."""
        if self.grid.is_log:
            return self
        moved = np.einsum("nfl,fg->ngl", self.kept, self.grid.to_octaves)
        there = StrfBlock(moved, self.grid.on_octaves, replace(self.settings, threshold=0.0))
        there.__dict__["stands_out"] = self.stands_out  # interpolated noise is no longer white
        return there

    @cached_property
    def noise(self) -> np.ndarray:
        """Robust standard deviation of the entries of each whole map, over its largest magnitude."""
        return noise_of(self.values / self.scale[:, None, None])

    @cached_property
    def even(self) -> np.ndarray:
        """The whole maps, scaled, without an exponential decay of their noise over the lags."""
        return decay_undone(self.values / self.scale[:, None, None])

    @cached_property
    def stands_out(self) -> np.ndarray:
        """Whether the largest entry of each whole map is larger than that of noise of the same level and smoothness."""
        return stands_out(self.even)

    @cached_property
    def kept(self) -> np.ndarray:
        """The maps, with 0 where an entry is under the threshold that the settings ask for."""
        if self.settings.threshold == 0:
            return self.values
        floor = self.settings.threshold * self.noise * self.scale
        return np.where(np.abs(self.values) < floor[:, None, None], 0.0, self.values)

    @cached_property
    def scale(self) -> np.ndarray:
        """Largest magnitude of each map."""
        return np.abs(self.values).max(axis=(1, 2))

    @cached_property
    def maps(self) -> np.ndarray:
        """The maps over their largest magnitude, so that squares neither overflow nor vanish."""
        return self.kept / self.scale[:, None, None]

    @cached_property
    def flat(self) -> np.ndarray:
        """The scaled maps as rows."""
        return self.maps.reshape(len(self.maps), -1)

    @cached_property
    def magnitude(self) -> np.ndarray:
        """Magnitude of the scaled maps as rows."""
        return np.abs(self.flat)

    @cached_property
    def energy(self) -> np.ndarray:
        """Squares of the scaled maps."""
        return self.maps**2

    @cached_property
    def energy_by_lag(self) -> np.ndarray:
        """Energy (map, lag)."""
        return self.energy.sum(axis=1)

    @cached_property
    def total(self) -> np.ndarray:
        """Energy of each scaled map."""
        return self.energy_by_lag.sum(axis=1)

    @cached_property
    def spans_bands(self) -> np.ndarray:
        """Whether more than one band holds anything."""
        return np.count_nonzero(self.energy.max(axis=2), axis=1) > 1

    @cached_property
    def spans_lags(self) -> np.ndarray:
        """Whether more than one lag holds anything."""
        return np.count_nonzero(self.energy.max(axis=1), axis=1) > 1

    def code(self) -> np.ndarray:
        """Why some measures of a usable map are NaN."""
        code = np.where(self.spans_lags, engine.USABLE, engine.SINGLE_LAG)
        code = np.where(self.spans_bands, code, engine.SINGLE_BAND)
        return np.where(self.total > 0, code, engine.ALL_ZERO)

    @cached_property
    def peaks(self) -> dict[Field, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Band and lag of each field's peak, and whether the map has that field at all."""
        lags = self.maps.shape[2]
        highest, lowest = self.flat.argmax(axis=1), self.flat.argmin(axis=1)
        rows = np.arange(len(self.flat))
        top, bottom = self.flat[rows, highest], self.flat[rows, lowest]
        of = {
            "peak": (np.where(top >= -bottom, highest, lowest), np.ones(len(rows), dtype=bool)),
            "excitatory": (highest, top > ROUNDING),
            "inhibitory": (lowest, bottom < -ROUNDING),
        }
        return {name: (of[name][0] // lags, of[name][0] % lags, of[name][1]) for name in FIELDS}

    def slice_at_peak(self, field: Field, axis: Literal["frequency", "lag"]) -> tuple[np.ndarray, np.ndarray]:
        """Profile through a field's peak along ``axis``, signed so that the field is positive, and the peak's bin."""
        band, lag, _ = self.peaks[field]
        rows = np.arange(len(self.maps))
        sign = np.sign(self.maps[rows, band, lag])[:, None]
        if axis == "frequency":
            return self.maps[rows, :, lag] * sign, band
        return self.maps[rows, band, :] * sign, lag

    @cached_property
    def field_edges(self) -> dict[tuple[str, Field], tuple[np.ndarray, np.ndarray]]:
        """Edges of each field along ``frequency`` (octaves re 1 Hz) and ``lag`` (ms), at the level ``settings.edge``.

        Lag 0 bounds a field as an edge does, since no stimulus comes after it; the ends of the other axes do not.
        """
        found = {}
        for field in FIELDS:
            valid = self.peaks[field][2]
            for axis, positions in (("frequency", self.grid.octaves), ("lag", self.grid.lag)):
                profile, peak = self.slice_at_peak(field, axis)  # type: ignore[arg-type]
                height = profile[np.arange(len(profile)), peak]
                low, high = edges(profile, peak, self.settings.edge * height, positions)
                if axis == "lag":
                    low = np.where(np.isnan(low), positions[0], low)
                spans = self.spans_bands if axis == "frequency" else self.spans_lags
                found[axis, field] = (np.where(valid & spans, low, np.nan), np.where(valid & spans, high, np.nan))
        return found

    @cached_property
    def envelope(self) -> np.ndarray:
        """Temporal envelope P_t (map, lag)."""
        return envelope_power(self.maps, 2).sum(axis=1)

    @cached_property
    def spectral_envelope(self) -> np.ndarray:
        """Spectral envelope P_f (map, frequency)."""
        return envelope_power(self.maps, 1).sum(axis=2)

    @cached_property
    def envelope_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroid and standard deviation of the temporal envelope without its tail, in ms."""
        return moments(around_peak(self.envelope, self.settings.tail), self.grid.lag)

    @cached_property
    def spectral_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroid (octaves re 1 Hz) and standard deviation (octaves) of the spectral envelope without its tail."""
        return moments(around_peak(self.spectral_envelope, self.settings.tail), self.grid.octaves)

    @cached_property
    def squared_singular_values(self) -> np.ndarray:
        """Squared singular values of the scaled maps, descending."""
        maps = self.maps if self.maps.shape[1] <= self.maps.shape[2] else self.maps.transpose(0, 2, 1)
        return np.clip(np.linalg.eigvalsh(maps @ maps.transpose(0, 2, 1))[:, ::-1], 0.0, None)

    @cached_property
    def core(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Centroid and standard deviation of the energy along ``frequency`` (octaves re 1 Hz) and ``lag`` (ms).

        The energy of what stands out of the noise first; then, twice, all energy less that of the noise within three
        standard deviations of the centroid on both axes, which also holds the flanks that do not stand out.
        """
        floor = level(self.flat.shape[1]) * self.noise[:, None, None]
        weights = np.where(np.abs(self.maps) >= np.minimum(floor, 1.0), self.energy, 0.0)
        axes = (("frequency", 2, self.grid.octaves), ("lag", 1, self.grid.lag))
        found = {name: moments(weights.sum(axis=other), positions) for name, other, positions in axes}
        for _ in range(2):
            inside = []
            for name, _, positions in axes:
                centre, sd = found[name]
                step = (positions[-1] - positions[0]) / max(1, positions.size - 1)
                inside.append(np.abs(positions - centre[:, None]) <= 3 * np.maximum(sd, step)[:, None])
            window = inside[0][:, :, None] & inside[1][:, None, :]
            weights = np.where(window, self.energy - self.noise[:, None, None] ** 2, 0.0)
            found = {name: moments(weights.sum(axis=other), positions) for name, other, positions in axes}
        return found

    @cached_property
    def noise_beside_field(self) -> np.ndarray:
        """Standard deviation of the noise of the scaled maps, however much of the window the field fills."""
        return noise_beside_field(self.squared_singular_values, *self.maps.shape[1:])

    @cached_property
    def ripple(self) -> np.ndarray:
        """Magnitude of the two-dimensional Fourier transform (map, scale, rate), on the axes of ``ripple_axes``."""
        n_scale, n_rate = transform_sizes(self.grid, self.settings)
        return np.abs(fft.fft(fft.rfft(self.maps, n=n_scale, axis=1), n=n_rate, axis=2))

    @cached_property
    def ripple_power(self) -> np.ndarray:
        """Squared ``ripple``, 0 where it is under ``settings.mtf_floor`` of its peak."""
        power = self.ripple**2
        peak = power.max(axis=(1, 2), keepdims=True)
        return np.where(power >= self.settings.mtf_floor * peak, power, 0.0)

    @cached_property
    def temporal_transfer(self) -> np.ndarray:
        """Sum of magnitudes over scales (map, rate >= 0), both directions averaged, over its maximum."""
        return _over_peak(_folded(self.ripple.sum(axis=1)))

    @cached_property
    def spectral_transfer(self) -> np.ndarray:
        """Sum of magnitudes over rates (map, scale >= 0) over its maximum."""
        return _over_peak(self.ripple.sum(axis=2))

    @cached_property
    def temporal_power(self) -> np.ndarray:
        """Sum of power above the floor over scales of both signs (map, rate >= 0), over its maximum."""
        twice = np.full(self.ripple_power.shape[1], 2.0)
        twice[[0, -1]] = 1.0  # a real map has the power of (scale, rate) at (-scale, -rate) as well
        return _over_peak(_folded((self.ripple_power * twice[:, None]).sum(axis=1)))

    @cached_property
    def spectral_power(self) -> np.ndarray:
        """Sum of power above the floor over rates (map, scale >= 0), over its maximum."""
        return _over_peak(self.ripple_power.sum(axis=2))


def _folded(by_rate: np.ndarray) -> np.ndarray:
    half = by_rate.shape[1] // 2
    return by_rate[:, : half + 1] + by_rate[:, -np.arange(half + 1)]


def _over_peak(profile: np.ndarray) -> np.ndarray:
    return profile / profile.max(axis=1, keepdims=True)


def transform_sizes(grid: StrfGrid, settings: StrfSettings) -> tuple[int, int]:
    """Lengths of the Fourier transform along frequency and lag, both even."""
    return (
        2 * fft.next_fast_len(-(-settings.padding * grid.frequency.size // 2), real=True),
        2 * fft.next_fast_len(-(-settings.padding * grid.lag.size // 2), real=True),
    )


def ripple_axes(grid: StrfGrid, settings: StrfSettings) -> tuple[np.ndarray, np.ndarray]:
    """Scales (cycles per octave, >= 0) and the signed rates (Hz, in the transform's order)."""
    n_scale, n_rate = transform_sizes(grid, settings)
    return np.fft.rfftfreq(n_scale, grid.octaves_per_band), np.fft.fftfreq(n_rate, grid.frame_ms / 1000)


def only(block: StrfBlock, numbers: np.ndarray, *, bands: bool = False, lags: bool = False) -> np.ndarray:
    """The numbers, NaN for maps that hold anything in one band, or at one lag, only."""
    keep = np.ones(len(numbers), dtype=bool)
    if bands:
        keep &= block.spans_bands
    if lags:
        keep &= block.spans_lags
    return np.where(keep.reshape(-1, *[1] * (numbers.ndim - 1)), numbers, np.nan)

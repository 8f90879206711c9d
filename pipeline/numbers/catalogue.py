"""Every measure of a map by its name, with its definition."""

from collections.abc import Mapping

import xarray as xr

from pipeline.numbers.measures import Measure
from pipeline.numbers.strf.all_measures import MEASURES as STRF
from pipeline.numbers.strf.all_measures import strf_measure
from pipeline.numbers.strf.block import DEFAULTS, StrfSettings
from pipeline.numbers.waveform import MEASURES as WAVEFORM
from pipeline.numbers.waveform import waveform_measure

#: The measures of each kind of map.
MEASURES: Mapping[str, Mapping[str, Measure]] = {"strf": STRF, "waveform": WAVEFORM}

#: What a measure needs of the frequency axis, in words.
AXES = {"any": "", "positive": "above 0 Hz", "octaves": "an octave axis"}


def measure(maps: xr.DataArray, name: str, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """One measure of every map: of spectro-temporal maps, or of waveform maps where they have a ``waveform_lag``.

    ``docs/measures.md`` lists them with definition, unit and source, all of which the result carries as attributes.
    Measures with an axis of their own (``ripple_transfer_function``, ``temporal_modulation``, ``spectrum``, ...) are
    asked for here; those of one number come all at once from `strf_summaries` and `waveform_summaries`.

    Parameters
    ----------
    maps
        Maps with ``frequency`` (Hz) and ``lag`` (ms), or with ``waveform_lag`` (ms), and any other dimensions.
    name
        Name of the measure.
    settings
        The levels that the definitions of spectro-temporal measures leave open.

    Raises
    ------
    ValueError
        If there is no such measure, or the frequency axis does not allow it.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> frequency, lag = 200 * 2 ** np.linspace(0, 5, 41), np.arange(40) * 5.0
    >>> ripple = np.cos(2 * np.pi * (0.8 * np.log2(frequency / 200)[:, None] + 0.02 * lag))
    >>> maps = xr.DataArray(ripple, {"frequency": frequency, "lag": lag}, ("frequency", "lag"))
    >>> round(float(measure(maps, "best_velocity"))), measure(maps, "best_velocity").units
    (25, 'octave/s')
    """
    if "waveform_lag" in getattr(maps, "dims", ()):
        return waveform_measure(maps, name)
    return strf_measure(maps, name, settings)


def table_of(kind: str) -> str:
    """The measures of a kind of map as a table in Markdown: name, unit, definition, threshold, source, axis."""
    lines = ["| name | unit | what it is | needs | source |", "|---|---|---|---|---|"]
    for name, entry in MEASURES[kind].items():
        meaning = f"{entry.long_name}: {entry.definition}"
        meaning += f". Threshold: {entry.threshold}" if entry.threshold else ""
        meaning += f". {', '.join(f'{code} {word}' for code, word in entry.flags.items())}" if entry.flags else ""
        cells = (f"`{name}`", entry.units, meaning, AXES[entry.axis], entry.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


#: The page of all measures, into which the tables are printed.
PAGE = """# Measures

`pipeline.measure(maps, name)` gives one measure of every map; `strf_summaries` and `waveform_summaries` give all of one
number. In the cube and the table a measure of the map `strf` is called `strf_<name>`. These tables are printed from the
measures' own entries: `python -m pipeline.numbers.catalogue docs/measures.md`.

- **An octave axis**: maps of mel, ERB, gammatone or linear bands are interpolated, linearly in octaves, onto up to
  twice as many bands that are even in octaves; the attribute `resampling` says so. Where two neighbouring bands lie
  more than an octave apart the measure is left out, with the reason in `left_out`.
- **Threshold**: a class, and a number that would describe noise, is NaN where the map does not stand out. The null is
  simulated normal noise of as many entries, as smooth as the map, of even spread or decaying exponentially over the
  lags. Noise that is larger in some bands, or of heavier tails, is called significant, sparse and inseparable more
  often. A field that covers most of a small window (8 bands, 10 lags) cannot be told from smooth noise, and is not
  called significant. Whether maps mean anything is told by seeds: `gradmap reliability`. How often each threshold is
  passed under nulls stands in [statistics.md](statistics.md).
- `gradmap summarise --threshold 3` measures maps whose entries under three robust standard deviations are set to 0.

## Spectro-temporal maps

{strf}

## Waveform maps

{waveform}
"""


def page() -> str:
    """The page of all measures, in Markdown."""
    return PAGE.format(**{kind: table_of(kind) for kind in MEASURES})


if __name__ == "__main__":
    import sys
    from pathlib import Path

    Path(sys.argv[1]).write_text(page(), encoding="utf-8")

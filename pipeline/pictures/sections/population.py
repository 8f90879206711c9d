"""What the population looks like: distributions of summaries, and where they lie."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline.numbers.catalogue import measure
from pipeline.pictures.choosing import evenly, grouping
from pipeline.pictures.cube_reading import metadata_names
from pipeline.pictures.page import Markup, element, joined, numbers, picture, sentence
from pipeline.pictures.plots.maps import plot_ripple_transfer
from pipeline.pictures.plots.populations import plot_distribution, plot_population
from pipeline.pictures.sections.measured import Measured
from pipeline.pictures.sections.numbers_behind import maps_behind, values_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import new_figure, three_figures

#: Ripples on the page, at most.
MOST_RIPPLES = 200
#: Classes on the page, at most.
MOST_CLASSES = 24
#: Pictures side by side.
COLUMNS = 3


def population_section(entry: Outcome, found: Measured) -> Markup:
    """The distributions over the population, its map against metadata, and its mean ripple transfer function."""
    measured = found.numbers
    present = [name for name in found.told.labels if name in measured]
    by = grouping(measured)
    rows = -(-len(present) // COLUMNS)
    figure = new_figure(11.0, 2.7 * rows)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax, name in zip(panels, present, strict=False):
        log = name == found.told.frequency
        plot_distribution(measured[name], ax, by=by, log=log, label=found.told.labels[name])
    for ax in panels[len(present) :]:
        ax.remove()
    parts = [
        element("h3", f"{entry.name}: population"),
        element("p", _in_words(found)),
        picture(figure, f"distributions of summaries of {entry.name}", f"Maps measured: {found.how}."),
        _in_numbers(entry, found, present),
    ]
    left_out = [str(reason) for reason in np.atleast_1d(measured.attrs.get("left_out", []))]
    if left_out:
        parts.append(element("p", f"Not measured: {'; '.join(left_out)}.", class_="note"))
    return joined([*parts, _places(entry, found)])


def _in_numbers(entry: Outcome, found: Measured, present: Sequence[str]) -> Markup:
    """A row per map: its labels, and the numbers of the figures."""
    some = found.numbers[present]
    table = some.reset_coords(drop=True).transpose("checkpoint", "neuron", ...).to_dataframe().reset_index()
    return numbers(f"{entry.cohort}-{entry.name}-population", {str(name): table[name] for name in table.columns})


def _places(entry: Outcome, found: Measured) -> Markup:
    against = _metadata_to_show(found.numbers)
    ripple = _mean_ripple(found)
    count = len(against) + (ripple is not None)
    if not count or found.frequencies is None:
        return Markup("")
    figure = new_figure(min(11.0, 4.4 * count), 3.2)
    panels = figure.subplots(1, count, squeeze=False).ravel()
    label = found.told.labels[found.told.frequency]
    for ax, name in zip(panels, against, strict=False):
        plot_population(found.frequencies, ax, against=name)
        ax.set_ylabel(label)
    words = [sentence(f"{label} of each neuron against {' and '.join(against)}")] if against else []
    if ripple is not None:
        plot_ripple_transfer(ripple, panels[-1])
        words.append(
            f"Mean ripple transfer function of {ripple.attrs['maps']} maps, each divided by its maximum; a positive"
            " rate stands for frequencies that rise with time."
        )
    links = [values_behind(entry, "places", _where(found.frequencies, against))] if against else []
    links += [maps_behind(entry, "ripple", ripple)] if ripple is not None else []
    drawn = picture(figure, f"{label} and ripple transfer function of {entry.name}", " ".join(words))
    return joined([drawn, *links])


def _where(frequencies: xr.DataArray, against: Sequence[str]) -> dict[str, xr.DataArray]:
    """What the pictures of places show of each neuron: the quartiles over checkpoints, and its metadata."""
    others = [dim for dim in frequencies.dims if dim != "neuron"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of neurons without a value
        quartiles = frequencies.reset_coords(drop=True).quantile([0.25, 0.5, 0.75], others)
    named = {"lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75}
    found = {f"{frequencies.name} {name}": quartiles.sel(quantile=at) for name, at in named.items()}
    return found | {name: frequencies.coords[name] for name in against}


def _mean_ripple(found: Measured) -> xr.DataArray | None:
    if "direction_selectivity" not in found.numbers:
        return None  # the frequency axis is not logarithmic
    maps = found.maps
    measured = found.numbers["direction_selectivity"].sel(checkpoint=maps["checkpoint"], neuron=maps["neuron"])
    usable = np.argwhere(np.isfinite(measured.transpose("checkpoint", "neuron").values))
    if not len(usable):
        return None
    picked = usable[evenly(len(usable), MOST_RIPPLES)]
    where = {dim: xr.DataArray(picked[:, k], dims="one_map") for k, dim in enumerate(("checkpoint", "neuron"))}
    transfer = measure(maps.isel(where).drop_vars(["checkpoint", "neuron"]), "ripple_transfer_function")
    top = transfer.max(["rate", "scale"])
    mean = (transfer / top.where(top > 0)).mean("one_map", keep_attrs=True)
    for dim in ("rate", "scale"):
        mean[dim].attrs = transfer[dim].attrs
    return mean.assign_attrs(maps=len(picked))


def _metadata_to_show(numbers: xr.Dataset) -> list[str]:
    """The first number and the first class among the neurons' metadata that tell neurons apart."""
    names = metadata_names(numbers, "neuron")
    scales = [name for name in names if _distinct(numbers[name].values) > 1]
    texts = {name: {str(value) for value in numbers[name].values} for name in names if name not in scales}
    classes = [name for name, values in texts.items() if 1 < len(values) <= MOST_CLASSES]
    depths: Sequence[str] = [name for name in ("depth_um", "depth") if name in scales] or scales
    sites: Sequence[str] = [name for name in ("site", "area") if name in classes] or classes
    return [*depths[:1], *sites[:1]]


def _distinct(values: np.ndarray) -> int:
    """Number of different finite numbers; 0 for what is no number."""
    return np.unique(values[np.isfinite(values)]).size if np.issubdtype(values.dtype, np.number) else 0


def _in_words(found: Measured) -> str:
    words = []
    for name, label in list(found.told.labels.items())[:2]:
        values = found.numbers[name].values if name in found.numbers else np.empty(0)
        values = values[np.isfinite(values)]
        if values.size:
            show = _hertz if name == found.told.frequency else _milliseconds
            low, centre, high = (show(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
            words.append(f"{label.split(' (')[0]}: median {centre}, half of the maps between {low} and {high}")
    return sentence("; ".join(words)) if words else "No map could be measured."


def _hertz(value: float) -> str:
    return f"{value / 1000:.3g} kHz" if value >= 1000 else f"{value:.3g} Hz"


def _milliseconds(value: float) -> str:
    return f"{three_figures(value)} ms"

"""Every neuron of every checkpoint to be looked at, filtered, sorted and heard, by the page's own script."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import (
    COMPUTED,
    NOTICE,
    STANDINGS,
    TRUSTED,
    UNTRUSTED,
    as_text,
    flags,
    group_labels,
    in_words,
    metadata_names,
    own_dims,
    placed,
)
from pipeline.pictures.page import Markup, element, joined, plain_data
from pipeline.pictures.sections.measured import Measured, middle
from pipeline.pictures.sections.neurons import HEADS
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import COLOUR_MAP, STANDING_COLOURS
from pipeline.pictures.thumbnails import MISSING, Thumbnails, at_layer, thumbnails
from pipeline.text import harmless
from pipeline.words import FAILED, owner_of, role_of, variable_name

#: Numbers per neuron that are offered at most.
MOST_NUMBERS = 24

#: How the browser is used.
WORDS = (
    "A row per neuron, a column per checkpoint. Point at a map for Hz, ms and value; click it for its numbers"
    " and flags. A frame marks a map that failed or carries a flag. Arrow keys move."
)


@dataclass(frozen=True)
class _Number:
    """A number per map (checkpoint, neuron) of the layer that is shown first, and its median per neuron."""

    name: str
    label: str
    maps: np.ndarray | None
    neurons: np.ndarray


def browser_section(entry: Outcome, found: Measured | None, agreement: xr.Dataset | None) -> Markup:
    """The maps of one map of the config as a grid that is drawn, filtered and sorted by the page's own script.

    ``found``: Maps that were measured, where the cube holds no summaries. ``agreement``: What `over_seeds` found.
    """
    small = thumbnails(entry, entry.room)
    if small is None:
        return Markup("")
    numbers = _numbers(entry, found, agreement, small)
    content = _axes(entry, small) | _drawn(small) | _standings(entry, small)
    content["numbers"] = [_told(small, number) for number in numbers]
    return joined(
        [
            element("h3", f"{entry.name}: every neuron and checkpoint"),
            element("p", _how(entry, small), class_="note"),
            element("noscript", element("p", "This part is drawn by the page's own script, which is turned off here.")),
            element("div", plain_data(content), class_="browser", id=f"browse-{entry.cohort}-{entry.name}"),
        ]
    )


def _axes(entry: Outcome, small: Thumbnails) -> dict[str, Any]:
    codes = entry.standing
    about = metadata_names(codes, "neuron")
    texts = [[harmless(as_text(value)) for value in codes[name].values.tolist()] for name in about]
    groups = group_labels(entry.cube, "architecture")
    some = groups if len(groups) == codes.sizes["checkpoint"] else [""] * codes.sizes["checkpoint"]
    return {
        "neurons": [harmless(str(label)) for label in codes["neuron"].values],
        "checkpoints": [harmless(str(label)) for label in codes["checkpoint"].values],
        "about": [
            ", ".join(f"{name} {text[at]}" for name, text in zip(about, texts, strict=True) if text[at])
            for at in range(codes.sizes["neuron"])
        ],
        "groups": list(map(harmless, some)),
        "layers": [
            harmless(", ".join(f"{dim} {label}" for dim, label in layer.items())) or "the map" for layer in small.layers
        ],
        "keptLayers": len(small.layers),
        "keptCheckpoints": small.chosen.checkpoints.tolist(),
        "keptNeurons": small.chosen.neurons.tolist(),
    }


def _drawn(small: Thumbnails) -> dict[str, Any]:
    colours = matplotlib.colormaps[COLOUR_MAP](np.arange(-128, 128) / 254 + 0.5, bytes=True)[:, :3]
    sounds = small.sounds
    return {
        "codes": _text(small.codes),
        "tops": _text(small.tops),
        "rows": _text(small.rows),
        "columns": _text(small.columns),
        "trace": small.trace,
        "palette": _text(colours),
        "sound": sounds
        and {
            "places": sounds.places,
            "samples": _text(sounds.samples),
            "length": int(sounds.samples.shape[1]),
            "rate": sounds.rate,
        },
    }


def _standings(entry: Outcome, small: Thumbnails) -> dict[str, Any]:
    layers = [at_layer(entry.standing, layer) for layer in small.layers]
    raised = {
        flag: maps for flag, maps in flags(entry.cube, entry.shown).items() if flag.bit < 2**16 and maps.values.any()
    }
    health = np.zeros((len(layers), *layers[0].shape), np.uint16)
    for flag, maps in raised.items():
        for k, layer in enumerate(small.layers):
            health[k] |= np.where(at_layer(maps, layer).values, np.uint16(flag.bit), np.uint16(0))
    return {
        "standing": _text(np.stack([layer.values for layer in layers]).astype(np.uint8)),
        "health": _text(health),
        "flags": [
            {
                "bit": flag.bit,
                "name": harmless(in_words(flag)),
                "meaning": harmless(flag.meaning),
                "remedy": harmless(flag.remedy),
            }
            for flag in raised
        ],
        "words": {str(code): words for code, words in STANDINGS.items()},
        "colours": {str(code): colour for code, colour in STANDING_COLOURS.items()},
        "computed": COMPUTED,
        "framed": [NOTICE, *UNTRUSTED, FAILED],
    }


def _numbers(entry: Outcome, found: Measured | None, agreement: xr.Dataset | None, small: Thumbnails) -> list[_Number]:
    trusted = entry.best.isin(TRUSTED).reset_coords(drop=True)
    axes = {dim: entry.best[dim].values for dim in ("checkpoint", "neuron")}
    told: dict[str, tuple[str, xr.DataArray]] = {}
    if found is not None:
        present = {name: words for name, words in found.told.labels.items() if name in found.numbers}
        told |= {name: (HEADS.get(name, words), found.numbers[name]) for name, words in present.items()}
    told |= _stored(entry, told)
    if not {"norm", "gain"} & set(told):
        norms = np.full(trusted.shape, np.nan)
        norms[np.ix_(small.chosen.checkpoints, small.chosen.neurons)] = small.norms[0]
        told["gain"] = ("gain (norm of the map)", trusted.copy(data=norms))
    numbers: list[_Number] = []
    for name, (label, values) in told.items():
        if len(numbers) == MOST_NUMBERS:
            break
        maps = placed(values.reset_coords(drop=True)).reindex(axes).astype(float).where(trusted)
        of_neurons = middle(maps, axes["neuron"])
        if np.isfinite(of_neurons).any():
            numbers.append(_Number(name, label, maps.values, of_neurons))
    if agreement is not None:
        reliable = middle(agreement["reliability"], axes["neuron"])
        numbers.insert(1, _Number("reliability", "r over seeds", None, reliable))
    return [number for number in numbers if np.isfinite(number.neurons).any()][:MOST_NUMBERS]


def _stored(entry: Outcome, known: Mapping[str, Any]) -> dict[str, tuple[str, xr.DataArray]]:
    """Numbers per (checkpoint, neuron) that the cube holds of this map, and of the checkpoints' own metadata."""
    cube, prefix = entry.cube, f"{variable_name(entry.name, '')}_"
    found = {}
    for variable, values in cube.data_vars.items():
        role, dims = role_of(values.attrs), {str(dim) for dim in values.dims}
        own = role == "metadata" or (role in ("summary", "measure") and owner_of(cube, str(variable)) == entry.name)
        name = str(variable).removeprefix(prefix)
        sounds = {str(dim) for dim in entry.standing.dims[2:]} | {"stimulus"}
        if not own or name in known or values.dtype.kind not in "fiu" or "neuron" not in dims:
            continue
        if not dims <= {"checkpoint", "neuron", *sounds} or "flag_meanings" in values.attrs:
            continue
        label = HEADS.get(name) or name.replace("_", " ")
        others = [dim for dim in values.dims if dim not in ("checkpoint", "neuron")]
        found[name] = (harmless(label), values.median(others) if others else values.load())
    return found


def _told(small: Thumbnails, number: _Number) -> dict[str, Any]:
    maps = None if number.maps is None else number.maps[np.ix_(small.chosen.checkpoints, small.chosen.neurons)]
    return {
        "name": number.name,
        "label": number.label,
        "log": number.name.endswith("_frequency"),
        "maps": None if maps is None else _text(maps.astype(np.float32)),
        "neurons": _text(number.neurons.astype(np.float32)),
    }


def _how(entry: Outcome, small: Thumbnails) -> str:
    drawn = int((small.codes[..., 0, 0] != MISSING).sum())
    alone = ", ".join(f"{dim} {label}" for dim, label in small.layers[0].items()) if len(small.layers) == 1 else ""
    own = tuple(entry.gradmap.sizes[dim] for dim in own_dims(entry.gradmap))
    each = "means over neighbouring bins" if own != small.codes.shape[-2:] else "all bins"
    if small.trace:
        each = "the smallest and the largest sample of each column"
    words = (
        f"{WORDS} {drawn:,} maps are drawn ({small.chosen.how}{f'; {alone}' if alone else ''}), in 8 bits and"
        f" {' x '.join(map(str, small.codes.shape[-2:]))} pixels each: {each}."
        " Colours end at the largest magnitude of a map, or where a few pixels"
        " would hide the rest, at its 99th percentile."
    )
    if small.sounds is not None:
        words += f" {len(small.sounds.places):,} of them can be heard, in 8 bits."
    return words


def _text(values: Sequence[Any] | np.ndarray) -> str:
    """Numbers as bytes in base 64, little-endian."""
    array = np.ascontiguousarray(values)
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).decode()

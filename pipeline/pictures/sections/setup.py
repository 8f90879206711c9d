"""What was run: the config, the versions, the checkpoints with their metadata."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import as_text, decoded, metadata_names
from pipeline.pictures.page import Markup, element, homeless, joined, table

#: Checkpoints on the page, at most.
MOST_CHECKPOINTS = 400
#: Characters of a text on the page, at most.
LONGEST_TEXT = 20_000
#: Attributes that hold the config's text.
CONFIG_NAMES = ("config", "config_text")
#: Attributes that the page shows in other places.
ELSEWHERE = ("failures", "fingerprints", "maps", "coordinates", "state", "label_digests", *CONFIG_NAMES)


def setup_section(cohorts: Mapping[str, xr.Dataset]) -> Markup:
    """What was run, cohort by cohort; a config that several share is shown once."""
    configs: dict[str, list[str]] = {}
    parts = []
    for cohort, cube in cohorts.items():
        text = next((str(cube.attrs[name]) for name in CONFIG_NAMES if name in cube.attrs), None)
        if text is not None:
            configs.setdefault(text, []).append(str(cohort))
        parts += [element("h3", cohort), _attributes(cube), _checkpoints(cube)]
    for text, names in configs.items():
        shown = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "\n…"
        parts.append(
            element(
                "details", element("summary", f"Config of {', '.join(names)}"), element("pre", homeless(shown)), open=""
            )
        )
    return joined(parts)


def _attributes(cube: xr.Dataset) -> Markup:
    rows = []
    for name, value in sorted(cube.attrs.items(), key=lambda entry: str(entry[0])):
        if name in ELSEWHERE:
            continue
        text = _in_words(decoded(value))
        rows.append([str(name), homeless(text if len(text) <= 500 else text[:500] + "…")])
    first = [dim for dim in ("checkpoint", "neuron") if dim in cube.sizes]
    axes = ", ".join(f"{dim} {cube.sizes[dim]}" for dim in [*first, *sorted({*map(str, cube.sizes)} - {*first})])
    return table(["attribute", "value"], [["axes", axes], *rows])


def _in_words(value: object) -> str:
    if not isinstance(value, Mapping):
        return as_text(value)
    if value and all(isinstance(entry, Mapping) for entry in value.values()):
        # one word per checkpoint, such as its route: how many checkpoints share it
        counts = {key: Counter(map(as_text, entry.values())).most_common(8) for key, entry in value.items()}
        return "; ".join(
            f"{key}: " + ", ".join(f"{word} ({count} checkpoints)" for word, count in entry)
            for key, entry in counts.items()
        )
    some = ", ".join(f"{key} {as_text(entry)}" for key, entry in list(value.items())[:12])
    return some + (f" and {len(value) - 12} more" if len(value) > 12 else "")


def _checkpoints(cube: xr.Dataset) -> Markup:
    if "checkpoint" not in cube.dims:
        return Markup("")
    columns = metadata_names(cube, "checkpoint")
    per_neuron = sorted(
        str(name)
        for name, entry in cube.data_vars.items()
        if set(entry.dims) == {"checkpoint", "neuron"}
        and entry.dtype.kind == "f"
        and entry.attrs.get("role") == "metadata"
    )
    labels = cube["checkpoint"].values
    metadata = {name: cube[name].values for name in columns}
    means = {name: _means(cube[name]) for name in per_neuron}
    prints = decoded(cube.attrs.get("fingerprints", "{}"))
    prints = prints if isinstance(prints, Mapping) else {}
    rows = [
        [
            str(label),
            str(prints.get(str(label), ""))[:12],
            *(as_text(values[at]) for values in metadata.values()),
            *(f"{values[at]:.3g}" for values in means.values()),
        ]
        for at, label in enumerate(labels[:MOST_CHECKPOINTS])
    ]
    header = ["checkpoint", "fingerprint", *columns, *(f"{name} (mean over neurons)" for name in per_neuron)]
    more = f", the first {MOST_CHECKPOINTS} of them shown" if len(labels) > MOST_CHECKPOINTS else ""
    return element(
        "details", element("summary", f"{len(labels)} checkpoints with their metadata{more}"), table(header, rows)
    )


def _means(values: xr.DataArray) -> np.ndarray:
    numbers = values.transpose("checkpoint", "neuron").values.astype(float)
    present = np.isfinite(numbers)
    totals = np.where(present, numbers, 0.0).sum(axis=1)
    return np.where(present.any(axis=1), totals / np.maximum(1, present.sum(axis=1)), np.nan)

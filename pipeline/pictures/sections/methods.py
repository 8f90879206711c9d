"""How the maps were made, in sentences and references that a paper can take over, written from what the cubes say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import COMPUTED, UNTRUSTED, as_text, decoded, flags, group_labels, in_words, placed
from pipeline.pictures.page import Markup, element, joined
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import short_hertz
from pipeline.text import counted

#: Title and author of what is cited, by the name of the package.
CITED = {
    "gradmap-pipeline": (
        "gradmap-pipeline: gradient receptive fields of trained auditory models",
        "{The gradmap-pipeline developers}",
        "",
    ),
    "deepSTRF": (
        "deepSTRF: a PyTorch-based library and benchmark for fitting sensory neural responses",
        "Rançon, Ulysse",
        "https://github.com/urancon/deepSTRF",
    ),
}

#: What an objective is, in words.
OBJECTIVES = {
    "last": "its last frame",
    "peak": "its largest frame",
    "sum": "its sum over frames",
    "mean": "its mean over frames",
}

BASELINES = {
    "null": "the spectrogram of zeros",
    "silence": "a constant spectrogram (silence)",
    "mean": "the mean of the stimuli",
    "stimuli": "each stimulus",
}


def methods_section(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> Markup:
    """A paragraph per cohort, and BibTeX entries of the software."""
    versions: dict[str, str] = {}
    parts = [
        element("p", "Written from what the cubes say; to be read and shortened before it is used.", class_="note")
    ]
    for cohort, cube in cohorts.items():
        told = decoded(cube.attrs.get("versions", "{}"))
        versions |= {str(name): as_text(version) for name, version in told.items()} if isinstance(told, Mapping) else {}
        own = [entry for entry in results if entry.cohort == str(cohort)]
        if own:
            parts.append(element("p", _cohort(str(cohort), cube, own, versions)))
    entries = [_bibtex(name, versions[name]) for name in CITED if name in versions]
    if entries:
        parts.append(element("details", element("summary", "BibTeX"), element("pre", "\n\n".join(entries))))
    return joined(parts)


def _cohort(name: str, cube: xr.Dataset, results: Sequence[Outcome], versions: Mapping[str, str]) -> str:
    checkpoints, neurons = (results[0].best.sizes[dim] for dim in ("checkpoint", "neuron"))
    architectures = [group for group in dict.fromkeys(group_labels(results[0].cube, "architecture")) if group]
    models = f" ({', '.join(architectures)})" if 0 < len(architectures) <= 8 else ""
    software = ", ".join(f"{key} {versions[key]}" for key in ("torch", "deepSTRF", "ray") if key in versions)
    words = [
        f"Cohort {name}: gradient receptive fields of {counted(neurons, 'neuron')} in"
        f" {counted(checkpoints, 'trained model')}{models} were"
        f" computed with gradmap-pipeline {versions.get('gradmap-pipeline', '(version not recorded)')}"
        f"{f' ({software})' if software else ''}{_devices(cube)}."
    ]
    words.append("A positive value means that more energy there raises the response.")
    words += [sentence for entry in results for sentence in _map(entry, cube)]
    return " ".join(words)


def _map(entry: Outcome, cube: xr.Dataset) -> list[str]:
    attributes = entry.gradmap.attrs
    objective = as_text(attributes.get("objective", ""))
    what = f"The map {entry.name} is the gradient of the response"
    if objective:
        what += f" ({OBJECTIVES.get(objective, f'objective {objective}')})"
    if "baseline" in attributes:
        baseline = as_text(attributes["baseline"])
        what += f" around {BASELINES.get(baseline, baseline)}"
    routes = decoded(cube.attrs.get("routes", "{}"))
    ways = Counter(as_text(way) for way in routes.get(entry.name, {}).values()) if isinstance(routes, Mapping) else {}
    how = f", by reverse or forward differentiation (routes: {', '.join(ways)})" if ways else ""
    return [f"{what}{_extent(entry.gradmap)}{how}.", _left_out(entry)]


def _extent(gradmap: xr.DataArray) -> str:
    words = []
    for dim in gradmap.dims:
        places = gradmap[dim].values if dim in gradmap.coords else np.empty(0)
        if not places.size or places.dtype.kind not in "fiu":
            continue
        if dim == "frequency":
            words.append(f"{places.size} bands from {short_hertz(places.min())} to {short_hertz(places.max())} Hz")
        elif str(dim).endswith("lag"):
            words.append(f"{places.size} lags up to {places.max():.4g} ms")
    return f", over {' and '.join(words)}" if words else ""


def _left_out(entry: Outcome) -> str:
    done, doubted = entry.count(*COMPUTED), entry.count(*UNTRUSTED)
    if not doubted:
        return f"Of {entry.size} maps {done} were computed, and none was left out."
    chosen = np.isin(entry.standing.values, UNTRUSTED)
    raised = {flag: int((placed(maps).values & chosen).sum()) for flag, maps in flags(entry.cube, entry.shown).items()}
    why = ", ".join(f"{in_words(flag)}: {count}" for flag, count in raised.items() if count)
    return f"Of {entry.size} maps {done} were computed; left out of all numbers: {doubted} ({why})."


def _devices(cube: xr.Dataset) -> str:
    told: Any = decoded(cube.attrs.get("devices", "{}"))
    if not isinstance(told, Mapping):
        return ""
    names = {as_text(name) for entry in told.values() if isinstance(entry, Mapping) for name in entry.values()}
    some = sorted({part.strip() for name in names for part in name.split(",")} - {""})
    return f" on {', '.join(some)}" if some else ""


def _bibtex(name: str, version: str) -> str:
    title, author, url = CITED[name]
    lines = [f"  title = {{{title}}}", f"  author = {{{author}}}", f"  version = {{{version}}}"]
    lines += [f"  url = {{{url}}}"] if url else []
    return f"@software{{{name.lower().replace('-', '_')},\n" + ",\n".join(lines) + "\n}"

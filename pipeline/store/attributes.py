"""What a cohort's group says of itself in its attributes."""

import json
import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.plan.config import as_json
from pipeline.plan.run_plan import CohortPlan, RunPlan
from pipeline.store.array_specs import SIGN, ArraySpec
from pipeline.store.backend import scrub
from pipeline.store.failures import pruned
from pipeline.store.groups import FORMAT, READY


def coordinate_names(specs: list[ArraySpec]) -> list[str]:
    """Names of the further coordinates: everything known of a single axis that is not the axis itself."""
    return [spec.name for spec in specs if spec.role == "metadata" and len(spec.dims) == 1]


def group_attributes(
    plan: RunPlan,
    cohort: CohortPlan,
    fingerprints: Mapping[str, str],
    coordinates: list[str],
    stored: Mapping[str, Any],
) -> dict[str, Any]:
    """What a reader has to know of a cohort; `routes` and `failures` follow as the run goes."""
    given = {
        key: value if isinstance(value, (str, int, float)) else json.dumps(as_json(value), default=str)
        for key, value in cohort.attributes.items()
        if key != "versions"
    }
    kept = {key: value for key, value in stored.items() if key not in ("intent", "state")}
    before = json.loads(stored.get("maps", "{}"))
    maps = before | {entry.name: {"kind": entry.kind, **entry.settings.facts()} for entry in cohort.maps}
    failures = kept.get("failures", "{}")
    prints_before = json.loads(stored.get("fingerprints", "{}"))
    replaced = {key for key, value in fingerprints.items() if prints_before.get(key, value) != value}
    return {
        **kept,
        **given,
        "gradmap_format": FORMAT,
        "state": READY,
        "Conventions": "CF-1.12",
        "title": f"gradmaps of the cohort {cohort.name}",
        "sign": SIGN,
        "frame_ms": cohort.frame_ms,
        "maps": json.dumps(maps),
        "versions": json.dumps({**_versions(), **dict(cohort.attributes.get("versions", {}))}, default=str),
        "config": scrub(plan.config.text),
        "fingerprints": json.dumps(dict(fingerprints)),
        "routes": kept.get("routes", "{}"),
        "blocks": kept.get("blocks", "{}"),
        "devices": kept.get("devices", "{}"),
        "failures": pruned(failures, replaced) if replaced else failures,
        "coordinates": " ".join(dict.fromkeys(coordinates)),
    }


def label_digests(specs: Iterable[ArraySpec]) -> dict[str, str]:
    """Digests of the labels and metadata among these arrays, by name."""
    return {
        spec.name: spec.digest()
        for spec in specs
        if spec.role in ("coordinate", "metadata") and spec.values is not None
    }


def with_label_digests(attributes: dict[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """A group's attributes with the digests of its labels."""
    return {**attributes, "label_digests": json.dumps(dict(sorted(digests.items())))}


@lru_cache(maxsize=1)  # the same for every cohort, and slow to read
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("gradmap-pipeline", "torch", "deepSTRF", "ray", "numpy", "xarray", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""From a checked config to a written cube: prepare the run, compute its shards, keep the record."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.run.driver import Bundle, OpenedRun, RunReport, bundles, open_run, run_locally
    from pipeline.run.prepare import plan_shards, prepare_run
    from pipeline.run.shard import run_bundle, run_shard

__all__ = [
    "Bundle",
    "OpenedRun",
    "RunReport",
    "bundles",
    "open_run",
    "plan_shards",
    "prepare_run",
    "run_bundle",
    "run_locally",
    "run_shard",
]

_HOMES = {
    "driver": ("Bundle", "OpenedRun", "RunReport", "bundles", "open_run", "run_locally"),
    "prepare": ("plan_shards", "prepare_run"),
    "shard": ("run_bundle", "run_shard"),
}


def __getattr__(name: str) -> Any:
    # Only what computes a shard waits for torch.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

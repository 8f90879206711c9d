"""From a checked config to a written cube: prepare the run, compute its shards, keep the record."""

from pipeline.run.driver import (
    Bundle,
    OpenedRun,
    RunReport,
    bundles,
    open_run,
    run_locally,
)
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

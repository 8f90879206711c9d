"""The plain loop of a run in one process: a shard is computed while the one before is written."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from torch import nn

from pipeline.plan.run_plan import RunPlan
from pipeline.plan.shard_reports import ShardReport
from pipeline.plan.shards import Shard
from pipeline.run.crash_note import noted
from pipeline.run.driver import STORAGE_PAUSES, Bundle, Models, OpenedRun
from pipeline.run.shard import compute_shard, store_shard

T = TypeVar("T")


def compute_bundles(
    opened: OpenedRun, waiting: Sequence[Bundle], models: Models, stop: Callable[[], bool], device: str
) -> str:
    """Why nothing more could be written, if so, after bundles were computed and recorded one after the other.

    ``models``: Modules that need not be loaded again. ``stop``: Asked before every shard; once it answers True nothing
    more is started.
    """
    with _Writer(opened) as writer, noted(opened.plan.store) as note:
        for bundle in waiting:
            checkpoint = opened.plan.cohort(bundle.cohort).checkpoints[bundle.checkpoint]
            model = models.take(checkpoint)
            for number, shard in enumerate(bundle.shards):
                if writer.failure or stop():
                    break
                note(f"{bundle.cohort}/{checkpoint.id} {shard.map}")
                writer.write(*_computed(opened.plan, shard, device, number == 0, model))
            else:
                continue
            break
        writer.finish()
        return writer.failure


class _Writer:
    """The writing of one shard's maps while the next one is computed, and the record of what was written.

    ``failure`` says why nothing more can be written, once that is so.
    """

    def __init__(self, opened: OpenedRun) -> None:
        self.failure = ""
        self._opened = opened
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[ShardReport] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._settle()  # an interrupt may have come after a shard was written and before it was recorded

    def write(self, computed: ShardReport, arrays: dict[str, np.ndarray] | None) -> None:
        """Have a shard written, once the one before is."""
        self._settle()
        if not self.failure:
            self._writing = self._thread.submit(
                _patiently, lambda: store_shard(self._opened.plan, computed, arrays), lambda report: report
            )

    def finish(self) -> None:
        """Wait for the last shard and record everything; after a failure the end of the run does that, once."""
        self._settle()
        if not self.failure:
            self._opened.flush()

    def _settle(self) -> None:
        if self._writing is None:
            return
        outcome, self._writing = self._writing.result(), None
        if outcome.problem is not None and outcome.problem.cause == "storage":
            self.failure = outcome.problem.message
            return
        self._opened.record(outcome)


def _computed(
    plan: RunPlan, shard: Shard, device: str, with_probe: bool, model: nn.Module | None
) -> tuple[ShardReport, dict[str, np.ndarray] | None]:
    """A shard's maps; a checkpoint or a sound that cannot be read for the moment is read again after a pause."""
    return _patiently(
        lambda: compute_shard(plan, shard, device, with_probe=with_probe, model=model), lambda computed: computed[0]
    )


def _patiently(attempt: Callable[[], T], report_of: Callable[[T], ShardReport]) -> T:
    """What an attempt gives, tried again after a pause where its report says that the storage failed."""
    for pause in STORAGE_PAUSES:
        made = attempt()
        problem = report_of(made).problem
        if problem is None or problem.cause != "storage":
            return made
        time.sleep(pause)
    return attempt()

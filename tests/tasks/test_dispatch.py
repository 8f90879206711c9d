"""The driver's loop on a real Ray, with plain functions in place of the gradmaps."""

import importlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.plan.axes import Block
from pipeline.plan.config import CheckpointsConfig, CohortConfig, RunConfig
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.plan.run_plan import RunPlan
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from tasks.dispatch import BUNDLES_PER_SLOT, Dispatcher, Limits
from tasks.ledger import Ledger
from tasks.on_ray import RayExecutor

pytestmark = pytest.mark.usefixtures("own_ray")


class Record:
    """Keeps what the driver would write."""

    def __init__(self) -> None:
        self.reports: list[ShardReport] = []
        self.flushes = 0

    def record(self, report: ShardReport) -> None:
        self.reports.append(report)

    def flush(self) -> None:
        self.flushes += 1


def a_plan(folder: Path) -> RunPlan:
    cohort = CohortConfig(
        name="a", frame_ms=1.0, lags=1, frequencies_hz=(1.0,), checkpoints=(CheckpointsConfig(path="x"),)
    )
    config = RunConfig(store=str(folder), cohort=(cohort,), maps={"strf": StrfMapConfig(kind="strf")})
    return RunPlan(store=str(folder), cohorts=(), config=config)


def shards_of(checkpoint: int, count: int) -> list[Shard]:
    return [Shard("a", checkpoint, "strf", Block(k, k + 1), None) for k in range(count)]


def log(plan, shard):
    """Note that a shard began; one line appended at once, so that it survives the death of the process."""
    line = json.dumps([shard.checkpoint, shard.neurons.start, os.getpid(), time.time()]) + "\n"
    with open(Path(plan.store, "log"), "a") as file:
        file.write(line)


def begun(plan):
    lines = Path(plan.store, "log").read_text().splitlines() if Path(plan.store, "log").exists() else []
    return [tuple(json.loads(line)) for line in lines]


def healthy(plan, shards, device):
    for shard in shards:
        log(plan, shard)
        yield ShardReport(shard, seconds=0.001)


def dies_once(plan, shards, device):
    """The first process that comes to shard 3 of checkpoint 0 dies of SIGKILL."""
    for shard in shards:
        log(plan, shard)
        flag = Path(plan.store, "died")
        if shard.checkpoint == 0 and shard.neurons.start == 3 and not flag.exists():
            flag.touch()
            time.sleep(0.5)  # the reports of the shards before are on their way
            os.kill(os.getpid(), signal.SIGKILL)
        yield ShardReport(shard, seconds=0.001)


def segfaults_in_checkpoint_0(plan, shards, device):
    for shard in shards:
        log(plan, shard)
        if shard.checkpoint == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield ShardReport(shard, seconds=0.001)


def hangs_in_checkpoint_0(plan, shards, device):
    for shard in shards:
        log(plan, shard)
        if shard.checkpoint == 0:
            time.sleep(600)
        yield ShardReport(shard, seconds=0.001)


def slow(plan, shards, device):
    for shard in shards:
        log(plan, shard)
        time.sleep(0.7)
        yield ShardReport(shard, seconds=0.7)


def raises(plan, shards, device):
    for shard in shards:
        if shard.checkpoint == 0:
            raise ArithmeticError("a bug of ours")
        yield ShardReport(shard, seconds=0.001)


def storage_fails_twice(plan, shards, device):
    for shard in shards:
        log(plan, shard)
        attempts = sum(entry[:2] == (shard.checkpoint, shard.neurons.start) for entry in begun(plan))
        failing = shard.neurons.start == 0 and attempts <= 2
        yield ShardReport(shard, Problem("storage", "OSError: try later") if failing else None)


def dispatch(tmp_path, shards, work, *, gpus=0.0, **settings):
    plan, record = a_plan(tmp_path), Record()
    ledger = Ledger(shards)
    finished = Dispatcher(RayExecutor(plan, work, gpus=gpus), ledger, record, **settings).run()
    return plan, record, ledger, finished


def outcomes(record):
    return Counter((r.shard.checkpoint, r.problem.cause if r.problem else "done") for r in record.reports)


def test_every_shard_is_computed_once_and_recorded_once(tmp_path):
    shards = [shard for checkpoint in range(5) for shard in shards_of(checkpoint, 7)]
    plan, record, _, finished = dispatch(tmp_path, shards, healthy)
    assert finished
    assert len(record.reports) == len(begun(plan)) == 35
    assert {report.shard for report in record.reports} == set(shards)


def test_a_killed_worker_costs_only_the_shard_it_was_at(tmp_path):
    shards = [*shards_of(0, 8), *shards_of(1, 8)]
    plan, record, ledger, finished = dispatch(tmp_path, shards, dies_once)
    times = Counter(entry[:2] for entry in begun(plan))
    assert finished
    assert outcomes(record) == {(0, "done"): 8, (1, "done"): 8}
    assert times.pop((0, 3)) == 2
    assert set(times.values()) == {1}
    assert ledger.faults == {"crash": 1}
    assert next(r.attempts for r in record.reports if r.shard == shards[3]) == 2


def test_a_segfaulting_checkpoint_is_quarantined_as_crash_after_four_tries_and_its_neighbours_finish(tmp_path):
    plan, record, _, finished = dispatch(tmp_path, [*shards_of(0, 9), *shards_of(1, 9)], segfaults_in_checkpoint_0)
    assert finished
    assert outcomes(record) == {(0, "crash"): 9, (1, "done"): 9}
    assert Counter(entry[0] for entry in begun(plan)) == {0: 4, 1: 9}


def test_a_hanging_checkpoint_is_ended_at_its_deadline_twice_and_quarantined(tmp_path):
    started = time.monotonic()
    limits = Limits(shard_s=1.0)
    plan, record, _, finished = dispatch(
        tmp_path, [*shards_of(0, 20), *shards_of(1, 9)], hangs_in_checkpoint_0, limits=limits
    )
    assert finished
    assert outcomes(record) == {(0, "hang"): 20, (1, "done"): 9}
    assert Counter(entry[0] for entry in begun(plan)) == {0: 2, 1: 9}
    assert time.monotonic() - started < 120


def test_time_in_the_queue_does_not_count_towards_the_deadline(tmp_path):
    # Eight bundles of one shard each on two slots: the last ones wait longer than the deadline.
    shards = [shard for checkpoint in range(8) for shard in shards_of(checkpoint, 1)]
    _, record, ledger, _ = dispatch(tmp_path, shards, slow, limits=Limits(shard_s=1.4))
    assert all(report.done for report in record.reports)
    assert ledger.faults == {}


class Watched(Ledger):
    """Counts the shards on the way to workers at the moments at which that number is largest."""

    def __init__(self, shards: list[Shard]) -> None:
        super().__init__(shards)
        self.total, self.ended, self.most = len(shards), 0, 0

    def take(self, slots=1):
        assignment = super().take(slots)
        self.most = max(self.most, self.total - self.waiting - self.ended)
        return assignment

    def done(self, report):
        self.ended += 1
        return super().done(report)


def test_no_more_than_two_bundles_per_slot_are_on_the_way(tmp_path):
    # One shard each, so that each bundle is one shard.
    ledger = Watched([shard for checkpoint in range(60) for shard in shards_of(checkpoint, 1)])
    record = Record()
    assert Dispatcher(RayExecutor(a_plan(tmp_path), healthy), ledger, record).run()
    assert len(record.reports) == 60
    assert ledger.most == BUNDLES_PER_SLOT * 2


def test_an_error_that_escapes_the_work_is_a_compute_problem_and_is_not_retried(tmp_path):
    _, record, _, finished = dispatch(tmp_path, [*shards_of(0, 1), *shards_of(1, 1)], raises)
    assert finished
    assert outcomes(record) == {(0, "compute"): 1, (1, "done"): 1}
    assert "ArithmeticError: a bug of ours" in next(r.problem.message for r in record.reports if r.problem)


def test_storage_that_fails_twice_is_tried_again_with_exact_call_counts(tmp_path):
    plan, record, _, finished = dispatch(tmp_path, shards_of(0, 4), storage_fails_twice)
    assert finished
    assert outcomes(record) == {(0, "done"): 4}
    assert Counter(entry[1] for entry in begun(plan)) == {0: 3, 1: 1, 2: 1, 3: 1}


def test_a_stop_is_answered_within_a_second_and_what_came_back_is_recorded(tmp_path):
    shards = [shard for checkpoint in range(6) for shard in shards_of(checkpoint, 5)]
    asked = []

    def stop():
        if len(begun(a_plan(tmp_path))) > 4:  # the first of them have come back
            asked.append(time.monotonic())
        return bool(asked)

    plan, record, _, finished = dispatch(tmp_path, shards, slow, stop=stop)
    assert not finished
    assert time.monotonic() - asked[0] < 1.0
    assert 0 < len(record.reports) < len(shards)
    assert len(begun(plan)) - len(record.reports) <= 2


def test_a_cluster_that_cannot_satisfy_the_request_is_named_and_not_waited_for_in_silence(tmp_path):
    sentences = []
    dispatch(
        tmp_path,
        shards_of(0, 1),
        healthy,
        gpus=4.0,
        limits=Limits(silence_s=1.0),
        say=sentences.append,
        stop=lambda: len(sentences) >= 2,
    )
    assert "1 CPU and 4 GPU" in sentences[0]
    assert "2 CPU, 0 GPU on 1 node(s)" in sentences[0]


class BrokenRecord(Record):
    """A store that does not take the record any more."""

    def flush(self) -> None:
        raise PermissionError(13, "read-only")

    record = lambda self, report: self.flush()  # noqa: E731


def test_a_record_that_cannot_be_written_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.dispatch.RECORD_TRIES", 2)
    ledger = Ledger(shards_of(0, 3))
    finished = Dispatcher(RayExecutor(a_plan(tmp_path), healthy), ledger, BrokenRecord()).run()
    assert not finished
    assert "read-only" in ledger.stop_reason


def test_workers_that_lack_a_module_stop_the_run_at_once_with_its_name(tmp_path, monkeypatch):
    """Not a loss of infrastructure, which would be waited for and tried a hundred times."""
    (tmp_path / "only_on_the_driver.py").write_text("def work(plan, shards, device):\n    yield from ()\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("only_on_the_driver")
    _, record, ledger, finished = dispatch(tmp_path, shards_of(0, 3), module.work)
    assert not finished
    assert "workers cannot be set up" in ledger.stop_reason
    assert "only_on_the_driver" in ledger.stop_reason
    assert (record.reports, ledger.faults, ledger.waiting) == ([], {}, 3)

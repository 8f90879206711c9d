"""The driver's loop and the ledger on a place that is no cluster: what holds there holds for every executor."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dispatch import BUNDLES_PER_SLOT, Dispatcher, Limits
from tasks.executor import Executor
from tasks.ledger import POLICIES, Ledger
from tests.tasks.fake import FakeExecutor
from tests.tasks.test_dispatch import Record, outcomes, shards_of


def drive(executor: Executor, shards, **options):
    record, ledger = Record(), Ledger(shards, rng=random.Random(0))
    finished = Dispatcher(executor, ledger, record, **options).run()
    return record, ledger, finished


def test_every_shard_is_computed_and_recorded_once_with_two_bundles_per_slot_on_the_way():
    shards = [shard for checkpoint in range(20) for shard in shards_of(checkpoint, 3)]
    executor = FakeExecutor(n_slots=3)
    record, _, finished = drive(executor, shards)
    assert finished
    assert Counter(report.shard for report in record.reports) == Counter(shards)
    assert set(executor.begun.values()) == {1}
    assert executor.most == BUNDLES_PER_SLOT * 3


def test_a_bundle_that_dies_costs_one_more_attempt_of_the_shard_it_was_at():
    shards = shards_of(0, 6)
    executor = FakeExecutor(lambda shard, attempt: "dies: crash" if shard == shards[3] and attempt == 1 else None)
    record, ledger, finished = drive(executor, shards)
    assert finished
    assert all(report.done for report in record.reports)
    assert executor.begun == Counter(shards) + Counter([shards[3]])
    assert ledger.faults == {"crash": 1}


def test_what_ends_with_its_node_is_tried_again_without_a_charge_and_the_run_stops_at_its_cap():
    executor = FakeExecutor(lambda shard, attempt: "dies: infrastructure" if attempt <= 3 else None)
    record, ledger, finished = drive(executor, shards_of(0, 2))
    assert finished
    assert [report.done for report in record.reports] == [True, True]
    endless = FakeExecutor(lambda shard, attempt: "dies: infrastructure")
    record, ledger, finished = drive(endless, shards_of(0, 2))
    assert not finished
    assert "lost" in ledger.stop_reason
    assert record.reports == []


def test_workers_that_cannot_begin_stop_the_run_with_the_reason_and_blame_no_shard():
    executor = FakeExecutor(setup="No module named 'lab_models'")
    record, ledger, finished = drive(executor, shards_of(0, 4))
    assert not finished
    assert "No module named 'lab_models'" in ledger.stop_reason
    assert (record.reports, ledger.faults, ledger.waiting) == ([], {}, 4)


def test_a_shard_that_hangs_is_ended_at_its_deadline_and_given_up_after_two():
    bad, good = shards_of(0, 3), shards_of(1, 3)
    executor = FakeExecutor(lambda shard, attempt: "hangs" if shard.checkpoint == 0 else None)
    record, _, finished = drive(executor, [*bad, *good], limits=Limits(shard_s=0.05))
    assert finished
    assert outcomes(record) == {(0, "hang"): 3, (1, "done"): 3}
    assert len(executor.cancelled) == 2


def test_nothing_is_submitted_to_a_place_that_does_not_answer_and_the_run_stops_once_it_is_lost():
    executor = FakeExecutor(n_slots=None)
    sentences = []
    asked = iter(range(10**6))
    drive(executor, shards_of(0, 2), say=sentences.append, stop=lambda: next(asked) > 20)
    assert executor.submitted == []
    _, ledger, finished = drive(FakeExecutor(n_slots=None, lost="the head is gone"), shards_of(0, 2))
    assert not finished
    assert ledger.stop_reason == "the head is gone"


def test_a_run_that_waits_says_what_for():
    sentences = []
    executor = FakeExecutor(n_slots=0)
    executor.poll = lambda bundles, timeout_s: []  # there is room for nothing
    drive(
        executor, shards_of(0, 2), limits=Limits(silence_s=0.0), say=sentences.append, stop=lambda: len(sentences) > 0
    )
    assert "each bundle asks for a slot, and there are none" in sentences[0]


def test_a_stop_takes_what_has_arrived_and_ends_the_rest():
    executor = FakeExecutor(n_slots=1)
    record = Record()
    dispatcher = Dispatcher(executor, Ledger(shards_of(0, 50)), record, stop=lambda: len(record.reports) >= 5)
    assert not dispatcher.run()
    assert len(record.reports) >= 5
    assert set(executor.begun.values()) == {1}
    assert len(record.reports) == sum(executor.begun.values())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), slots=st.integers(1, 4)
)
def test_whatever_becomes_of_bundles_each_shard_ends_once_and_none_is_tried_too_often(seed, counts, slots):
    """The pauses after storage trouble are left out: they are the clock's, which the ledger's own tests hold."""
    rng = random.Random(seed)
    causes = ["load", "compute", "non-finite", "out of memory"]
    deaths = ["dies: crash", "dies: infrastructure", "dies: out of memory"]
    executor = FakeExecutor(lambda shard, attempt: rng.choice([None] * 12 + causes + deaths), n_slots=slots)
    shards = [shard for checkpoint, count in enumerate(counts) for shard in shards_of(checkpoint, count)]
    record, ledger, finished = drive(executor, shards)
    assert finished
    assert Counter(report.shard for report in record.reports) == Counter(shards)
    most = sum(policy.tries for policy in POLICIES.values())
    lost = ledger.faults["infrastructure"]
    assert all(times <= most + lost for times in executor.begun.values())


@pytest.mark.parametrize("cause", ["load", "non-finite"])
def test_a_bug_is_tried_once_on_any_executor(cause):
    executor = FakeExecutor(lambda shard, attempt: cause)
    record, _, _ = drive(executor, shards_of(0, 1))
    assert [report.problem.cause for report in record.reports] == [cause]
    assert set(executor.begun.values()) == {1}

"""What the ledger does about each kind of failure."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan.axes import Block
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from tasks.ledger import FIRST_BUNDLE, POLICIES, Ledger


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shards_of(checkpoint, count, name="strf"):
    return [Shard("a", checkpoint, name, Block(k, k + 1), None) for k in range(count)]


def ledger_of(*groups, clock=None):
    return Ledger([shard for group in groups for shard in group], clock=clock or Clock(), rng=random.Random(0))


def play(ledger, outcome, clock, *, slots=2, most=100_000):
    """Run every bundle at once with outcomes from a function; return the final reports and how often each shard ran."""
    finals, runs = [], Counter()
    for _ in range(most):
        if ledger.stop_reason is not None or not ledger.waiting:
            return finals, runs
        assignment = ledger.take(slots)
        if assignment is None:
            clock.now += max(ledger.next_due_s(), 0.001)
            continue
        for position, shard in enumerate(assignment.shards):
            runs[shard] += 1
            problem = outcome(shard, runs[shard], assignment)
            if problem is None:
                finals.append(ledger.done(ShardReport(shard, seconds=1.0)))
                continue
            finals += ledger.failed(shard, Problem(problem, "told so"))
            if problem in ("crash", "hang", "infrastructure", "storage"):
                finals += ledger.give_back(assignment.shards[position + 1 :])
                break
    raise AssertionError("the ledger never comes to an end")


def test_every_shard_of_a_healthy_run_is_computed_once():
    clock = Clock()
    group = [shard for checkpoint in range(3) for shard in shards_of(checkpoint, 40)]
    finals, runs = play(ledger_of(group, clock=clock), lambda *_: None, clock)
    assert {report.shard for report in finals} == set(group)
    assert len(finals) == len(group)
    assert set(runs.values()) == {1}
    assert all(report.done and report.attempts == 1 for report in finals)


def test_nothing_else_of_a_checkpoint_is_sent_before_its_canary_came_back():
    ledger = ledger_of(shards_of(0, 100), shards_of(1, 100))
    first, second, third = ledger.take(8), ledger.take(8), ledger.take(8)
    assert {first.shards[0].checkpoint, second.shards[0].checkpoint} == {0, 1}
    assert third is None
    ledger.done(ShardReport(first.shards[0], seconds=1.0))
    assert ledger.take(8).shards[0].checkpoint == 0


def test_bundles_grow_to_a_minute_of_work_and_shrink_towards_the_end():
    ledger = ledger_of(shards_of(0, 1000))
    first = ledger.take(1)
    assert len(first.shards) == FIRST_BUNDLE
    for shard in first.shards:
        ledger.done(ShardReport(shard, seconds=0.5))
    assert len(ledger.take(1).shards) == 120
    while ledger.waiting > 10:
        ledger.take(1)
    assert len(ledger.take(4).shards) <= 2


@pytest.mark.parametrize("cause", ["load", "compute", "non-finite"])
def test_poison_is_not_retried(cause):
    clock = Clock()
    finals, runs = play(ledger_of(shards_of(0, 1), clock=clock), lambda *_: cause, clock)
    assert [report.problem.cause for report in finals] == [cause]
    assert set(runs.values()) == {1}


def test_a_checkpoint_that_cannot_be_loaded_is_tried_once_for_all_its_shards():
    clock = Clock()
    bad, good = shards_of(0, 50), shards_of(1, 50)
    finals, runs = play(
        ledger_of(bad, good, clock=clock), lambda shard, *_: "load" if shard.checkpoint == 0 else None, clock
    )
    failed = [report.shard for report in finals if not report.done]
    assert set(failed) == set(bad)
    assert sum(runs[shard] for shard in bad) <= FIRST_BUNDLE
    assert all(runs[shard] == 1 for shard in good)


def test_a_shard_with_non_finite_maps_leaves_the_others_of_its_checkpoint_alone():
    clock = Clock()
    group = shards_of(0, 30)
    finals, _ = play(
        ledger_of(group, clock=clock), lambda shard, *_: "non-finite" if shard.neurons.start % 3 == 0 else None, clock
    )
    assert [report.shard.neurons.start for report in finals if not report.done] == list(range(0, 30, 3))


def test_a_map_that_fails_three_times_in_a_checkpoint_is_not_tried_further_but_its_other_maps_are():
    clock = Clock()
    finals, runs = play(
        ledger_of([*shards_of(0, 30, "bad"), *shards_of(0, 30, "good")], clock=clock),
        lambda shard, *_: "compute" if shard.map == "bad" else None,
        clock,
    )
    assert {report.shard.map for report in finals if report.done} == {"good"}
    assert sum(report.done for report in finals) == 30
    assert sum(not report.done for report in finals) == 30
    assert sum(count for shard, count in runs.items() if shard.map == "bad") <= FIRST_BUNDLE


def test_a_crashed_shard_is_retried_alone_and_the_others_are_not_repeated():
    clock = Clock()
    group = shards_of(0, 20)
    alone = []

    def outcome(shard, times, assignment):
        if times > 1:
            alone.append(len(assignment.shards))
        return "crash" if shard == group[5] and times < 3 else None

    finals, runs = play(ledger_of(group, clock=clock), outcome, clock)
    assert all(report.done for report in finals)
    assert runs[group[5]] == 3
    assert alone == [1, 1]
    assert all(runs[shard] == 1 for shard in group if shard != group[5])
    assert next(report.attempts for report in finals if report.shard == group[5]) == 3


def test_a_checkpoint_whose_canary_crashes_four_times_is_quarantined_whole():
    clock = Clock()
    finals, runs = play(
        ledger_of(shards_of(0, 40), shards_of(1, 40), clock=clock),
        lambda shard, *_: "crash" if shard.checkpoint == 0 else None,
        clock,
    )
    assert sum(count for shard, count in runs.items() if shard.checkpoint == 0) == 4
    assert Counter((report.shard.checkpoint, report.done) for report in finals) == {(0, False): 40, (1, True): 40}
    assert all("not tried" in report.problem.message for report in finals[1:] if not report.done)


def test_a_hanging_checkpoint_costs_two_deadlines_however_many_shards_it_has():
    clock = Clock()
    _, runs = play(ledger_of(shards_of(0, 500), clock=clock), lambda *_: "hang", clock)
    assert runs.total() == POLICIES["hang"].tries == 2


def test_out_of_memory_is_retried_with_half_the_memory_and_given_up_after_three_times():
    clock = Clock()
    halvings = []

    def outcome(shard, times, assignment):
        halvings.append(assignment.halvings)
        return "out of memory"

    finals, _ = play(ledger_of(shards_of(0, 1), clock=clock), outcome, clock)
    assert halvings == [0, 1, 2]
    assert [report.problem.cause for report in finals] == ["out of memory"]


def test_lost_nodes_are_not_charged_to_the_shards_they_hit():
    clock = Clock()
    group = shards_of(0, 1)
    finals, runs = play(
        ledger_of(group, clock=clock), lambda shard, times, _: "infrastructure" if times < 20 else None, clock
    )
    assert finals[0].done
    assert runs[group[0]] == 20


def test_a_run_that_loses_nodes_without_end_stops():
    clock = Clock()
    ledger = Ledger(shards_of(0, 3), infrastructure_cap=7, clock=clock)
    finals, runs = play(ledger, lambda *_: "infrastructure", clock)
    assert finals == []
    assert runs.total() == 8
    assert "7" in ledger.stop_reason
    assert ledger.waiting == 3


def test_storage_that_fails_twice_is_waited_for_and_then_used():
    clock = Clock()
    group = shards_of(0, 3)
    starts = []

    def outcome(shard, times, assignment):
        if shard == group[0]:
            starts.append(clock.now)
        return "storage" if shard == group[0] and times < 3 else None

    finals, runs = play(ledger_of(group, clock=clock), outcome, clock)
    assert all(report.done for report in finals)
    assert runs == {group[0]: 3, group[1]: 1, group[2]: 1}
    first_wait, second_wait = starts[1] - starts[0], starts[2] - starts[1]
    assert 0.25 <= first_wait <= 1.0
    assert 0.5 <= second_wait <= 2.0


def test_storage_that_stays_away_stops_the_run_without_a_storm_and_blames_no_shard():
    clock = Clock()
    ledger = ledger_of(*(shards_of(checkpoint, 20) for checkpoint in range(200)), clock=clock)
    finals, runs = play(ledger, lambda *_: "storage", clock)
    assert finals == []
    assert runs.total() <= 25
    assert "storage" in ledger.stop_reason


def test_eight_shards_that_meet_one_moment_of_trouble_with_the_storage_are_one_trouble_and_all_are_done_after_it():
    clock = Clock()
    groups = [shards_of(checkpoint, 1) for checkpoint in range(8)]
    ledger = ledger_of(*groups, clock=clock)
    sent = [ledger.take(8) for _ in groups]
    for assignment in sent:
        assert ledger.failed(assignment.shards[0], Problem("storage", "try later")) == []
    assert ledger.stop_reason is None
    assert ledger.take(8) is None  # everything waits, whatever it is
    clock.now += ledger.next_due_s() + 0.3
    finals, runs = play(ledger, lambda *_: None, clock)
    assert {report.shard for report in finals if report.done} == {shard for group in groups for shard in group}
    assert set(runs.values()) == {1}


def test_a_success_gives_the_storage_all_its_tries_again():
    clock = Clock()
    ledger = ledger_of(*(shards_of(checkpoint, 1) for checkpoint in range(12)), clock=clock)

    def taken():
        while (assignment := ledger.take(1)) is None:
            clock.now += max(ledger.next_due_s(), 0.001)
        return assignment.shards[0]

    tries = POLICIES["storage"].tries
    for _ in range(2):
        ledger.done(ShardReport(taken(), seconds=1.0))
        for _ in range(tries - 1):
            ledger.failed(taken(), Problem("storage", "away"))
            assert ledger.stop_reason is None
    ledger.failed(taken(), Problem("storage", "away"))
    assert f"{tries} times in a row" in ledger.stop_reason


def test_one_shard_without_storage_is_left_pending_while_the_rest_finishes():
    clock = Clock()
    group = shards_of(0, 10)
    ledger = ledger_of(group, clock=clock)
    finals, _ = play(ledger, lambda shard, *_: "storage" if shard == group[4] else None, clock)
    assert ledger.stop_reason is None
    assert {report.shard for report in finals if report.done} == {*group} - {group[4]}
    assert list(ledger.left) == [group[4]]


OUTCOMES = st.sampled_from([None, None, None, *POLICIES])


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    outcomes=st.lists(OUTCOMES, min_size=1, max_size=40),
    slots=st.integers(1, 5),
)
def test_whatever_happens_every_shard_ends_once_or_is_left_and_none_is_tried_too_often(counts, seed, outcomes, slots):
    clock = Clock()
    rng = random.Random(seed)
    everything = [shard for checkpoint, count in enumerate(counts) for shard in shards_of(checkpoint, count)]
    ledger = Ledger(everything, clock=clock, rng=rng, infrastructure_cap=10_000)
    finals, _ = play(ledger, lambda *_: rng.choice(outcomes), clock, slots=slots, most=20_000)
    ended = Counter(report.shard for report in finals)
    assert set(ended.values()) <= {1}
    assert not set(ended) & set(ledger.left)
    if ledger.stop_reason is None:
        assert set(ended) | set(ledger.left) == set(everything)
    else:
        assert ledger.waiting + len(ended) + len(ledger.left) == len(everything)

"""Which shards are stragglers, and how often that is said."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.axes import Block
from pipeline.plan.shard_reports import ShardReport
from pipeline.plan.shards import Shard
from pipeline.plan.stragglers import FEWEST, LEAST_S, TIMES, Pace
from tests.store.plans import cohort, run_plan, strf

NEURONS = 40


def a_pace():
    """The pace of a run over four checkpoints, of which the last is of another size."""
    names = ["gru-0", "gru-1", "gru-2", "mamba-0"]
    lab = cohort(names, n_neurons=NEURONS, bands=1, lags=1, maps=[strf(NEURONS, 1, 1, block=1)])
    checkpoints = (*lab.checkpoints[:3], replace(lab.checkpoints[3], n_parameters=10_000_000))
    return Pace(run_plan("store", replace(lab, checkpoints=checkpoints))), lab


def shard(neuron, checkpoint=0):
    return Shard("speech", checkpoint, "strf", Block(neuron, neuron + 1), None)


def finish(pace, seconds, checkpoint=0):
    for neuron, each in enumerate(seconds):
        pace.finished(ShardReport(shard(neuron, checkpoint), seconds=each))


def test_a_shard_that_takes_much_longer_is_told_once_and_its_time_is_kept():
    pace, lab = a_pace()
    finish(pace, [3.0, 4.0, 5.0, 4.5, 3.5])
    late = shard(30, 1)
    assert pace.running(late, 16.0) is None
    told = pace.running(late, 16.1, "node-7")
    assert (told.cohort, told.checkpoint, told.map, told.neurons) == ("speech", "gru-1", "strf", (lab.neurons[30],))
    assert (told.seconds, told.median_s, told.alike, told.node) == (16.1, 4.0, 5, "node-7")
    assert (
        str(told)
        == f"speech/gru-1 strf, neuron {lab.neurons[30]}: 16 s on node-7; 5 shards like it took 4.00 s (median)"
    )
    assert pace.running(late, 50.0) is None
    pace.finished(ShardReport(late, seconds=49.0))
    assert [straggler.seconds for straggler in pace.stragglers] == [50.0]


def test_a_shard_that_was_slow_is_told_of_though_nobody_asked_while_it_ran():
    pace, _ = a_pace()
    finish(pace, [1.0] * 10 + [30.0])
    assert [(straggler.seconds, straggler.node) for straggler in pace.stragglers] == [(30.0, "")]


def test_a_shard_that_loads_its_checkpoint_is_compared_with_others_that_did():
    pace, _ = a_pace()
    for checkpoint in range(2):
        pace.finished(ShardReport(shard(0, checkpoint), seconds=12.0, probe=np.zeros(NEURONS)))
        for neuron in range(1, 6):
            pace.finished(ShardReport(shard(neuron, checkpoint), seconds=1.0))
    assert pace.running(shard(0, 2), 40.0, first=True) is None
    assert pace.running(shard(0, 2), 49.0, first=True) is not None
    assert pace.running(shard(1, 2), 11.0) is not None


def test_a_checkpoint_of_another_size_is_compared_with_its_own_kind_only():
    pace, _ = a_pace()
    finish(pace, [1.0] * 20)
    finish(pace, [60.0] * 20, checkpoint=3)
    assert pace.running(shard(30, 3), 200.0) is None
    assert pace.running(shard(30, 3), 300.0) is not None
    assert len(pace.stragglers) == 1


@pytest.mark.parametrize("known", range(FEWEST))
def test_nothing_is_said_before_enough_shards_are_done(known):
    pace, _ = a_pace()
    finish(pace, [1.0] * known)
    assert pace.running(shard(30), 1e6) is None


@given(median=st.floats(0.001, 1e4), factors=st.lists(st.floats(1.0, TIMES), min_size=FEWEST, max_size=30))
def test_times_within_the_factor_are_never_told(median, factors):
    pace, _ = a_pace()
    finish(pace, [median * factor for factor in factors])
    finish(pace, [LEAST_S] * NEURONS, checkpoint=1)
    assert pace.stragglers == ()


@given(times=st.lists(st.floats(0.0, 1e4), min_size=FEWEST, max_size=30), seconds=st.floats(0.0, 1e5))
def test_a_shard_is_a_straggler_beyond_the_factor_and_the_least_time_whatever_the_others_took(times, seconds):
    pace, _ = a_pace()
    finish(pace, times)
    median = sorted(times)[len(times) // 2]
    told = pace.running(shard(35), seconds)
    assert (told is not None) == (seconds > LEAST_S and seconds > TIMES * median)
    assert pace.running(shard(35), 2 * seconds) is None or told is None

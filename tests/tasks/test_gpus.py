"""Which share of a GPU a task takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.config import ConfigError
from tasks.cli import main
from tasks.gpus import MOST_TASKS, PROCESS_BYTES, USABLE, gpus_per_task, share_of_gpu
from tests.tasks.test_dispatch import a_plan


@given(task=st.integers(0, 2**38), gpu=st.integers(2**30, 2**38))
def test_as_many_tasks_share_a_gpu_as_its_memory_takes_and_their_shares_are_no_more_than_one(task, gpu):
    share = share_of_gpu(task, gpu)
    tasks = int(1 / share + 1e-9)
    assert 0 < share <= 1
    assert tasks * share <= 1
    assert 1 <= tasks <= MOST_TASKS
    assert tasks == 1 or tasks * (task + PROCESS_BYTES) <= USABLE * gpu
    assert tasks == MOST_TASKS or (tasks + 1) * (task + PROCESS_BYTES) > USABLE * gpu


@pytest.mark.usefixtures("own_ray")
def test_auto_on_a_cluster_without_gpus_is_refused_and_a_share_is_taken_as_it_is(tmp_path: Path):
    with pytest.raises(ConfigError, match="it has none"):
        gpus_per_task("auto", a_plan(tmp_path), print)
    assert gpus_per_task(None, a_plan(tmp_path), print) == 0.0
    assert gpus_per_task(0.25, a_plan(tmp_path), print) == 0.25


def test_the_command_takes_auto(tmp_path, capsys):
    assert main(["run", "nowhere.toml", "--gpus", "auto"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err

"""`make chaos`: a run under random kills, a lost node, a dead driver and four poisons, compared with a calm one."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from pipeline import load_config, open_cube, run_locally
from tests.tasks.trouble import begun, paced, write_lab

POISON = {"cut": "load", "hanging": "hang", "not_a_number": "non-finite", "segfaulting": "crash"}
TROUBLES = {"cut": "cut", "hanging": "hang", "not_a_number": "nan", "segfaulting": "segfault"}


@dataclass(frozen=True)
class Storm:
    """How much is broken, and how much of it."""

    healthy: int = 8
    neurons: int = 12
    kills: int = 11
    kill_every_s: float = 3.0
    lose_node_after: int = 4
    kill_driver_after: int = 7
    deadline_s: float = 8.0


SHORT = Storm(healthy=3, neurons=4, kills=3, kill_every_s=2.0, lose_node_after=1, kill_driver_after=2)


@dataclass(frozen=True)
class Outcome:
    """What was left when the storm was over."""

    healthy: int
    exact: int
    wrong: int
    causes: dict[str, str]
    again: int
    kills: int
    third_run: int
    orphans: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing was lost and everything is blamed rightly."""
        return (
            self.exact == self.healthy and self.wrong == self.third_run == self.orphans == 0 and self.causes == POISON
        )


def chaos(folder: Path, storm: Storm, seed: int) -> Outcome:
    """Run the lab in a calm and in a storm, and compare."""
    started = time.monotonic()
    rng = random.Random(seed)
    calm, stormy = folder / "calm", folder / "storm"
    report = run_locally(load_config(write_lab(calm, healthy=storm.healthy, neurons=storm.neurons)))
    assert report.done == storm.healthy * storm.neurons
    config = write_lab(stormy, TROUBLES, healthy=storm.healthy, neurons=storm.neurons)
    store = stormy / "cube.zarr"
    with _cluster() as (nodes, environment):
        kills = _rage(config, store, nodes, environment, storm, rng)
        counts = begun(store)
        executed = sum(counts.values())
        rows = {str(label): row for row, label in enumerate(open_cube(store).checkpoint.values)}
        healthy_rows = [row for label, row in rows.items() if label not in POISON]
        again = sum(count - 1 for key, count in counts.items() if int(key.split("/")[1]) in healthy_rows)
        third = _drive(config, nodes.address, environment, storm)
        assert third.wait(timeout=300) == 0
        third_run = sum(begun(store).values()) - executed
    truth, cube = open_cube(calm / "cube.zarr"), open_cube(store)
    exact = wrong = 0
    for label in truth.checkpoint.values:
        done = cube.strf_status.sel(checkpoint=label).values == 1
        same = (cube.strf.sel(checkpoint=label).values == truth.strf.sel(checkpoint=label).values).all(axis=(1, 2))
        exact += int((done & same).sum())
        wrong += int((done & ~same).sum())
    for label in POISON:
        done = cube.strf_status.sel(checkpoint=label).values == 1
        wrong += int(done.sum()) + int(np.isfinite(cube.strf.sel(checkpoint=label).values).any())
    entries = json.loads(cube.attrs["failures"]).get("entries", [])
    return Outcome(
        healthy=storm.healthy * storm.neurons,
        exact=exact,
        wrong=wrong,
        causes={entry["checkpoint"]: entry["cause"] for entry in entries},
        again=again,
        kills=kills,
        third_run=third_run,
        orphans=len(list(store.rglob("*.partial"))),
        seconds=time.monotonic() - started,
    )


@contextmanager
def _cluster() -> Iterator[tuple]:
    """A head without slots and two nodes with one each, behind a token; and the environment of its drivers."""
    from ray.cluster_utils import Cluster

    from tasks.session import _environment

    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    with _environment(settings):
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1)
            yield nodes, os.environ | settings
        finally:
            nodes.shutdown()


def _rage(config: Path, store: Path, nodes, environment: dict[str, str], storm: Storm, rng: random.Random) -> int:
    """Disturb a run until the kills are spent, start its driver again after its death, and let it finish."""
    kills = 0
    driver = _drive(config, nodes.address, environment, storm)
    while driver.poll() is None:
        time.sleep(storm.kill_every_s * rng.uniform(0.5, 1.5))
        if kills >= storm.kills or not Path(str(store) + ".log").exists():
            continue
        if not _kill_a_worker(rng):
            continue
        kills += 1
        if kills == storm.lose_node_after:
            workers = [node for node in nodes.list_all_nodes() if node is not nodes.head_node]
            nodes.remove_node(rng.choice(workers), allow_graceful=False)
            nodes.add_node(num_cpus=1)
        if kills == storm.kill_driver_after:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = _drive(config, nodes.address, environment, storm)
    return kills


def _kill_a_worker(rng: random.Random) -> bool:
    """SIGKILL one worker of this process's cluster that is computing."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "compute_bundle" in "".join(process.cmdline()):
                workers.append(process)
        except psutil.Error:
            continue
    if not workers:
        return False
    rng.choice(workers).kill()
    return True


def _drive(config: Path, address: str, environment: dict[str, str], storm: Storm) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.chaos", "--drive", str(config), address, str(storm.deadline_s)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def drive(config: str, address: str, deadline_s: str) -> None:
    """One driver, in a process that can be killed."""
    from tasks.cluster import run_on_ray
    from tasks.dispatch import Limits

    run_on_ray(load_config(config), address=address, work=paced, limits=Limits(shard_s=float(deadline_s)))


def main() -> int:
    """Print what was left of a run after a storm; 1 where something was lost."""
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    tally = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcome = chaos(Path(folder), SHORT if arguments.short else Storm(), seed)
        print(f"seed {seed}: {outcome.healthy} healthy shards, {outcome.exact} exact, {outcome.wrong} wrong")
        print(f"  poisoned, with cause: {', '.join(f'{k} ({v})' for k, v in sorted(outcome.causes.items()))}")
        print(f"  {outcome.again} executed again, for {outcome.kills} workers killed, 1 node lost, 1 driver killed")
        print(f"  third run: {outcome.third_run} shards; orphans: {outcome.orphans}; {outcome.seconds:.0f} s")
        print(f"  {'nothing lost' if outcome.good else 'SOMETHING WAS LOST'}", flush=True)
        tally[outcome.good] += 1
    return 1 if tally[False] else 0


if __name__ == "__main__":
    raise SystemExit(main())

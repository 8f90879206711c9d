"""Whatever is done to a store, in whatever order, it agrees with a plain dict of what was computed."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import cut_shards
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.lease import hold_lease
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.verify import verify_store
from pipeline.words import DONE, FAILED, PENDING
from tests.damage import damage
from tests.store.plans import HEALTH, checkpoint, cohort, done, numbers, pending_shards, run_plan, write

pick = st.randoms(use_true_random=False)


class Store(RuleBasedStateMachine):
    """A store beside a dict from (checkpoint, map, first neuron) to its state."""

    @initialize()
    def lay_out(self):
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "x.zarr"
        self.names = ["a"]
        self.prints = {"a": "first"}
        self.model: dict[tuple, int] = {}
        self.damaged: set[tuple] = set()
        self._start()

    def _start(self):
        entries = [checkpoint(name, fingerprint=self.prints[name]) for name in self.names]
        plan = run_plan(self.store, cohort(checkpoints=entries, n_neurons=3, bands=2, lags=2, block=2, stimuli=("s",)))
        with hold_lease(self.store):
            create_or_extend(plan, health_flags=HEALTH)
        self.plan = align(plan)
        for shard in self._all():
            self.model.setdefault(self._key(shard), PENDING)

    def _key(self, shard):
        name = self.plan.cohorts[0].checkpoints[shard.checkpoint].id
        return name, shard.map, shard.neurons.start

    def _all(self):
        return list(cut_shards(self.plan.cohorts[0]))

    def _write(self, shard):
        write(self.plan, shard)

    def _object(self, shard):
        row, block = shard.checkpoint, shard.neurons.start // 2
        place = f"{row}/{block}/0/0" if shard.map == "strf" else f"{row}/0/0/0"
        return self.store / "speech" / shard.map / "c" / place

    @rule(random=pick, count=st.integers(1, 4))
    def run_some(self, random, count):
        shards = pending_shards(self.plan)
        shards = random.sample(shards, min(count, len(shards)))
        for shard in shards:
            self._write(shard)
        record(self.plan, [done(self.plan, shard) for shard in shards])
        for shard in shards:
            self.model[self._key(shard)] = DONE
            self.damaged.discard(self._key(shard))

    @rule(random=pick)
    def fail_one(self, random):
        shards = pending_shards(self.plan)
        if shards:
            shard = random.choice(shards)
            record(self.plan, [ShardReport(shard, Problem("compute", "broke"))])
            self.model[self._key(shard)] = FAILED

    @rule(random=pick)
    def be_killed_before_the_record(self, random):
        shards = pending_shards(self.plan)
        if shards:
            self._write(random.choice(shards))

    @rule()
    def start_again(self):
        self._start()

    @precondition(lambda self: len(self.names) < 4)
    @rule(first=st.booleans())
    def add_a_checkpoint(self, first):
        name = "bcd"[len(self.names) - 1]
        self.names.insert(0 if first else len(self.names), name)
        self.prints[name] = "first"
        self._start()

    @rule(random=pick)
    def mend_a_checkpoint_of_which_nothing_is_done(self, random):
        free = [n for n in self.names if not any(key[0] == n and state == DONE for key, state in self.model.items())]
        if free:
            name = random.choice(free)
            self.prints[name] += "'"
            self._start()
            self.model |= {key: PENDING for key in self.model if key[0] == name}

    @rule(random=pick, how=st.sampled_from(["flip", "cut", "delete"]))
    def damage(self, random, how):
        finished = [s for s in self._all() if self.model[self._key(s)] == DONE and self._key(s) not in self.damaged]
        if not finished:
            return
        shard = random.choice(finished)
        damage(self._object(shard), how, random)
        self.damaged.add(self._key(shard))

    @rule()
    def requeue(self):
        verify_store(self.store, requeue=True)
        for key, state in self.model.items():
            if state == FAILED or key in self.damaged:
                self.model[key] = PENDING
        self.damaged.clear()

    @invariant()
    def the_store_agrees(self):
        assert {self._key(shard) for shard in pending_shards(self.plan)} == {
            key for key, state in self.model.items() if state == PENDING
        }
        found = verify_store(self.store)
        wrong = {
            (f.checkpoint, f.name, int(f.neurons[0][1:])) for f in found.findings if f.kind in ("missing", "damaged")
        }
        assert wrong == self.damaged
        assert found.complete == (all(state == DONE for state in self.model.values()) and not self.damaged)
        cube = open_cube(self.store)
        for shard in self._all():
            key = self._key(shard)
            if key in self.damaged:
                continue
            shown = cube[shard.map].isel(shard.region(self.plan.cohorts[0].map_plan(shard.map)))[0].values
            if self.model[key] == DONE:
                np.testing.assert_array_equal(shown, numbers(self.plan, shard))
            else:
                assert np.isnan(shown).all()

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=4, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)

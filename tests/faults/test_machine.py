"""Whatever happens between runs, in whatever order, the store agrees with a dict of what was done."""

import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline import load_config, open_cube, run_locally
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from pipeline.words import DONE, FAILED, PENDING
from tests.damage import damage
from tests.faults.lab import truth, write_lab, written
from tests.run.lab import NEURONS, write_checkpoint

pick = st.randoms(use_true_random=False)


class Runs(RuleBasedStateMachine):
    """Runs over one config, beside a dict from (checkpoint, neuron) to its state."""

    zygote = None  # given by the test

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.folder / "cube.zarr"
        self.config = write_lab(self.folder, 1)
        self.broken: set[str] = set()
        self.names = ["c00"]  # in the folder
        self.model: dict[tuple[str, int], int] = {}  # in the store
        self.damaged: set[tuple[str, int]] = set()
        self.ready = False
        self.renewed: set[str] = set()  # mended since they failed

    # What a user does

    @precondition(lambda self: len(self.names) < 4)
    @rule(sound=st.booleans(), first=st.booleans())
    def add_a_checkpoint(self, sound, first):
        name = f"{'a' if first else 'd'}{len(self.names):02d}"
        write_checkpoint(self.folder / "checkpoints" / name, 10 + len(self.names))
        self.names.append(name)
        if not sound:
            path = self.folder / "checkpoints" / name / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-30])
            self.broken.add(name)

    @precondition(lambda self: self.broken)
    @rule(random=pick)
    def replace_the_weights_of_a_broken_one(self, random):
        name = random.choice(sorted(self.broken))
        write_checkpoint(self.folder / "checkpoints" / name, random.randrange(100, 200))
        self.broken.discard(name)
        self.renewed.add(name)

    @rule()
    def run(self):
        report = run_locally(load_config(self.config))
        self._lay_out()
        todo = [key for key, state in self.model.items() if state == PENDING]
        assert report.computed == sum(key[0] not in self.broken for key in todo)
        assert report.pending == 0
        self._finish(todo)

    @rule(shards=st.integers(0, 5))
    def run_and_ask_it_to_stop(self, shards):
        asked = iter([False] * shards)
        report = run_locally(load_config(self.config), stop=lambda: next(asked, True))
        self._lay_out()
        todo = [key for key, state in self.model.items() if state == PENDING]
        # What cannot be loaded is recorded first.
        self._finish([key for key in todo if key[0] in self.broken])
        assert report.computed == min(shards, sum(key[0] not in self.broken for key in todo))
        self._adopt()

    @rule(write=st.integers(1, 60))
    def run_and_kill_it_at_a_write(self, write):
        status, said = self.zygote.run("run", "--local", self.config, die_at=write)
        if status == -signal.SIGKILL:
            self._adopt()
            return
        assert status in (0, 3), said  # it was over before
        self._lay_out()
        self._finish([key for key, state in self.model.items() if state == PENDING])

    @rule(place=st.sampled_from(["strf/c/", "strf_status/c/", "strf_memory_99/c/"]), number=st.integers(1, 3))
    def run_and_kill_it_at_a_place(self, place, number):
        status, said = self.zygote.run("run", "--local", self.config, die_at=number, match=place)
        if status == -signal.SIGKILL:
            self._adopt()
            return
        assert status in (0, 3), said
        self._lay_out()
        self._finish([key for key, state in self.model.items() if state == PENDING])

    @precondition(lambda self: self._sound())
    @rule(random=pick, how=st.sampled_from(["flip", "cut", "delete"]))
    def damage_an_object(self, random, how):
        key = random.choice(self._sound())
        path = self.store / f"lab/strf/c/{self._row(key[0])}/{key[1]}/0/0"
        damage(path, how, random)
        self.damaged.add(key)

    @precondition(lambda self: self.ready)
    @rule()
    def requeue(self):
        again = [key for key, state in self.model.items() if state == FAILED or key in self.damaged]
        found = verify_store(self.store, requeue=True)
        assert found.requeued == len(again)
        self.model |= dict.fromkeys(again, PENDING)
        self.damaged.clear()
        self.renewed -= {name for name, _ in again}

    # What the dict says

    def _sound(self):
        return (
            sorted(k for k, state in self.model.items() if state == DONE and k not in self.damaged)
            if self.ready
            else []
        )

    def _row(self, name):
        return list(open_cube(self.store).checkpoint.values).index(name)

    def _lay_out(self):
        """A run has described every checkpoint in the store, and given those with new weights another chance."""
        self.ready = True
        for name in self.names:
            for neuron in range(NEURONS):
                before = self.model.setdefault((name, neuron), PENDING)
                if before == FAILED and name in self.renewed:
                    self.model[name, neuron] = PENDING
        self.renewed.clear()

    def _finish(self, keys):
        for key in keys:
            self.model[key] = FAILED if key[0] in self.broken else DONE
            self.damaged.discard(key)

    def _states(self):
        """What the store says, None where it was left half laid out."""
        try:
            if [cohort.state for cohort in store_status(self.store)] != ["ready"]:
                return None
        except ValueError:
            return None
        cube = open_cube(self.store)
        return {
            (str(name), neuron): int(state)
            for name, states in zip(cube.checkpoint.values, cube.strf_status.values, strict=True)
            for neuron, state in enumerate(states)
        }

    def _adopt(self):
        """Take over what a run that was cut short has recorded, after a look at whether it may have."""
        states = self._states()
        self.ready = states is not None
        if states is None:
            return
        assert set(self.model) <= set(states)
        for key, state in states.items():
            before = self.model.get(key, PENDING)
            allowed = {before}
            if before == FAILED and key[0] in self.renewed:
                allowed = {FAILED, PENDING, DONE}
            elif before == PENDING:
                allowed = {PENDING, FAILED if key[0] in self.broken else DONE}
            assert state in allowed, (key, before, state)
            if before == FAILED and state != FAILED:
                self.renewed.discard(key[0])
            self.model[key] = state

    @invariant()
    def the_store_agrees(self):
        if not self.ready:
            return
        assert self._states() == self.model
        found = verify_store(self.store)
        wrong = {(f.checkpoint, int(f.neurons[0][1:])) for f in found.findings if f.kind in ("missing", "damaged")}
        assert wrong == self.damaged
        assert found.complete == (set(self.model.values()) <= {DONE} and not self.damaged)
        cube = open_cube(self.store)
        for (name, neuron), state in self.model.items():
            if (name, neuron) in self.damaged:
                continue
            shown = cube.strf.sel(checkpoint=name).values[neuron] if not self._unreadable(name) else None
            if shown is None:
                continue
            if state == DONE:
                np.testing.assert_allclose(shown, truth(self.folder / "checkpoints" / name)[neuron], atol=1e-6)
            else:
                assert np.isnan(shown).all()

    def _unreadable(self, name):
        """Whether a damaged object of this checkpoint would be read with the others."""
        return any(key[0] == name for key in self.damaged)

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        try:
            self._heal()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _heal(self):
        """However it stands: mend, requeue and run, and everything is there; a further run computes nothing."""
        for name in self.broken:
            write_checkpoint(self.folder / "checkpoints" / name, 300)
        run_locally(load_config(self.config))
        verify_store(self.store, requeue=True)
        run_locally(load_config(self.config))
        assert verify_store(self.store).complete
        before = written(self.store)
        assert len(before) == len(self.names) * NEURONS
        cube = open_cube(self.store).load()
        for name in self.names:
            maps = cube.strf.sel(checkpoint=name)
            np.testing.assert_allclose(maps, truth(self.folder / "checkpoints" / name), atol=1e-6)
        assert run_locally(load_config(self.config)).computed == 0
        assert written(self.store) == before


def explore(zygote, examples: int, steps: int) -> None:
    Runs.zygote = zygote
    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_runs_in_any_order_with_any_accident_agree_with_a_dict(zygote):
    explore(zygote, examples=3, steps=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_runs_in_any_order_with_any_accident_agree_with_a_dict(zygote):
    explore(zygote, examples=30, steps=15)

"""A model that hangs where no deadline watches: a signal ends the run, and what was done before it is kept."""

import os
import signal
import time

from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from tests.run.lab import NEURONS
from tests.tasks.trouble import write_lab


def test_a_run_without_ray_that_hangs_in_c_ends_by_a_signal_within_three_seconds_and_keeps_what_was_done(
    tmp_path, zygote
):
    config, store = write_lab(tmp_path, {"hanging": "hang in C"}, healthy=1), tmp_path / "cube.zarr"
    child = zygote.start("run", "--local", config)
    limit = time.monotonic() + 600
    while len(list(store.glob("lab/strf/c/*/*/*/*"))) < NEURONS:
        assert time.monotonic() < limit
        time.sleep(0.05)
    time.sleep(0.5)  # it hangs now
    started = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    status = zygote.wait(child)
    assert time.monotonic() - started < 3.4  # three, and some for a machine that other tests keep busy
    assert status == 4, child.said
    assert child.said.splitlines()[-1].startswith("gradmap: stopped, and can be continued:")
    (found,) = store_status(store)
    assert (found.regions.done, found.regions.failed, found.regions.pending) == (NEURONS, 0, NEURONS)
    assert verify_store(store).sound

"""One driver per store: a second one is refused, a dead one is followed at once, a silent one after a while."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import xarray as xr
from zarr.core.sync import sync

from pipeline.plan.config import ConfigError
from pipeline.store.backend import open_store, read_json, write_json
from pipeline.store.cube import create_or_extend
from pipeline.store.fence import LeaseLostError
from pipeline.store.lease import StoreBusyError, hold_lease
from tests.store.plans import HEALTH, run_plan

KEY = "_lease/zarr.json"

HOLDER = """
import sys, time
from pipeline.store.lease import hold_lease
with hold_lease(sys.argv[1], owner="the other run", heartbeat_s=0.2, stale_s=1.0):
    print("ready", flush=True)
    time.sleep(60)
"""


def record_of(store):
    return read_json(open_store(store), KEY)["attributes"]["lease"]


def put_record(store, **entries):
    """The lease of a driver on some other machine, as it would stand in the store."""
    found = {"owner": "far away", "host": "elsewhere", "pid": 1, "lock": "boot:1:2", "heartbeat_s": 0.05}
    record = {**found, "token": "theirs", "beat": 0, **entries}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"lease": record}}
    write_json(open_store(store, writable=True), KEY, document)
    return record


@pytest.fixture
def laid(store):
    create_or_extend(run_plan(store), health_flags=HEALTH)
    return store


def test_a_second_driver_is_refused_and_told_by_whom(laid):
    with (
        hold_lease(laid, owner="first run"),
        pytest.raises(StoreBusyError, match=rf"held by first run \(process {os.getpid()} on .*stop it"),
        hold_lease(laid, owner="second run"),
    ):
        pass
    assert issubclass(StoreBusyError, ConfigError)


def test_the_store_is_free_again_after_the_context(laid):
    for owner in ("first", "second"):
        with hold_lease(laid, owner=owner) as lease:
            assert record_of(laid)["owner"] == owner
            lease.check()
    assert not (laid / "_lease").exists()


def test_the_lease_is_given_up_when_the_run_fails(laid):
    with pytest.raises(RuntimeError, match="broke"), hold_lease(laid, owner="x"):
        raise RuntimeError("broke")
    with hold_lease(laid, owner="y"):
        pass


def test_another_process_is_refused_while_it_lives_and_followed_at_once_when_killed(laid):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(laid)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(StoreBusyError, match="the other run"), hold_lease(laid, owner="x"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert record_of(laid)["owner"] == "the other run"
    started = time.monotonic()
    with hold_lease(laid, owner="x", stale_s=60.0):
        assert time.monotonic() - started < 5.0


def test_a_stopped_process_of_this_machine_keeps_its_lease(laid):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(laid)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreBusyError), hold_lease(laid, owner="x", stale_s=0.1, heartbeat_s=0.05):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_silent_driver_elsewhere_is_followed_after_its_patience(laid):
    put_record(laid)
    told = []
    started = time.monotonic()
    with hold_lease(laid, owner="x", stale_s=0.6, heartbeat_s=0.05, on_wait=told.append):
        assert 0.6 <= time.monotonic() - started < 10.0
        assert record_of(laid)["owner"] == "x"
    assert "far away (process 1 on elsewhere)" in told[0]


def test_a_driver_elsewhere_may_be_silent_for_a_minute(laid):
    class StoppedError(Exception):
        """Stands for a user who stops the run rather than wait."""

    def stop(message):
        raise StoppedError(message)

    put_record(laid)
    with pytest.raises(StoppedError, match="watching its heartbeat for 60 s"), hold_lease(laid, on_wait=stop):
        pass
    assert record_of(laid)["owner"] == "far away"


def test_patience_is_at_least_three_heartbeats_of_the_other(laid):
    put_record(laid, heartbeat_s=0.4)
    started = time.monotonic()
    with hold_lease(laid, owner="x", stale_s=0.1, heartbeat_s=0.05):
        assert time.monotonic() - started >= 1.2


def test_a_beating_driver_elsewhere_is_not_robbed_however_its_clock_goes(laid):
    stop = threading.Event()

    def beat():
        count = 0
        while not stop.wait(0.05):
            put_record(laid, beat=(count := count + 1), written="1970-01-01T00:00:00")
            os.utime(laid / KEY, (0, 0))

    beating = threading.Thread(target=beat)
    put_record(laid)
    beating.start()
    try:
        with pytest.raises(StoreBusyError, match="far away"), hold_lease(laid, owner="x", stale_s=3.0, heartbeat_s=0.1):
            pass
    finally:
        stop.set()
        beating.join()
    assert record_of(laid)["token"] == "theirs"


@pytest.mark.parametrize("other", ["writes", "deletes"])
def test_of_two_drivers_at_one_moment_the_one_written_last_has_the_store(tmp_path, other):
    url = f"memory://{tmp_path.name}/{other}"
    create_or_extend(run_plan(url), health_flags=HEALTH)
    opened = open_store(url, writable=True)

    def overtake():
        while (read_json(opened, KEY) or {}).get("attributes", {}).get("lease", {}).get("owner") != "x":
            time.sleep(0.01)
        put_record(url) if other == "writes" else sync(opened.delete(KEY))

    overtaking = threading.Thread(target=overtake, daemon=True)
    overtaking.start()
    with (
        pytest.raises(StoreBusyError, match="far away" if other == "writes" else "another"),
        hold_lease(url, owner="x"),
    ):
        pass
    overtaking.join(timeout=10)


def test_an_old_timestamp_alone_makes_no_lease_stale(laid):
    put_record(laid)
    os.utime(laid / KEY, (0, 0))
    started = time.monotonic()
    with hold_lease(laid, owner="x", stale_s=0.5, heartbeat_s=0.05):
        assert time.monotonic() - started >= 0.5


def test_the_heartbeat_goes_on_while_the_run_works(laid):
    with hold_lease(laid, owner="x", heartbeat_s=0.05):
        first = record_of(laid)["beat"]
        deadline = time.monotonic() + 120.0
        while record_of(laid)["beat"] < first + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert record_of(laid)["beat"] >= first + 2


def test_a_driver_that_was_robbed_learns_of_it_and_leaves_the_other_alone(laid):
    with hold_lease(laid, owner="x", heartbeat_s=0.05) as lease:
        put_record(laid)
        deadline = time.monotonic() + 120.0
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(LeaseLostError, match=r"taken over by far away.*start `gradmap run` again"):
            lease.check()
    assert record_of(laid)["token"] == "theirs"


def test_a_refused_run_leaves_no_store_behind(store):
    with pytest.raises(ConfigError), hold_lease(store, owner="x"):
        raise ConfigError("refused")
    assert not store.exists()


def test_a_folder_of_something_else_is_not_leased(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"not empty \(notes.txt\)"), hold_lease(tmp_path, owner="x"):
        pass


def test_readers_do_not_see_the_lease(laid):
    with hold_lease(laid, owner="x"):
        assert list(xr.open_datatree(laid).children) == ["speech"]
        assert json.loads((laid / KEY).read_text())["attributes"]["lease"]["owner"] == "x"
        create_or_extend(run_plan(laid), health_flags=HEALTH)
        assert list(xr.open_datatree(laid).children) == ["speech"]

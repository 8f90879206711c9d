"""How a command answers SIGTERM and Ctrl-C, each in a process of its own."""

import signal
import subprocess
import sys
import time

import pytest

PROMPT = """
import sys, time
from tasks.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.05)
    print("recorded", flush=True)
    time.sleep(1.5)  # a record that takes its time is not interrupted
sys.exit(4)
"""

BUSY_IN_PYTHON = """
import sys
from tasks.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    try:
        while True:
            pass
    except KeyboardInterrupt:
        print("recorded", flush=True)
        sys.exit(4)
"""

BUSY_IN_C = """
import hashlib
from tasks.signals import StopRequest
with StopRequest(lambda: print("last words", flush=True)) as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**8)
"""


@pytest.fixture
def start():
    """Start processes that do not outlive the test."""
    started = []

    def start_one(code):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def end(process, *signals):
    started = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3 if len(signals) > 1 else 0.0)  # two of a kind at once would arrive as one
    out, _ = process.communicate(timeout=300)
    return process.returncode, out, time.monotonic() - started


@pytest.mark.parametrize(
    ("code", "said", "number"),
    [
        (PROMPT, "recorded\n", signal.SIGTERM),
        (BUSY_IN_PYTHON, "recorded\n", signal.SIGINT),
        (BUSY_IN_C, "last words\n", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_process_with_status_4_within_three_seconds(start, code, said, number):
    status, out, seconds = end(start(code), number)
    assert status == 4
    assert out == said
    assert seconds < 3.4  # three, and some for a machine that other tests keep busy


def test_a_second_ctrl_c_interrupts_at_once(start):
    status, out, seconds = end(start(BUSY_IN_PYTHON), signal.SIGINT, signal.SIGINT)
    assert (status, out) == (4, "recorded\n")
    assert seconds < 1.0


def test_handlers_are_put_back():
    from tasks.signals import StopRequest

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    with StopRequest() as stop:
        assert not stop()
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before

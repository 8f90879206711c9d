"""A process that keeps freed memory takes no page of it twice."""

import gc
import subprocess
import sys

import pytest

from tasks.allocating import Collecting

MEASURED = """
import resource, sys
import numpy as np
from tasks.allocating import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def shard():
    held = [np.ones(2**21, dtype=np.uint8) for _ in range(8)]
shard()
before = pages()
for _ in range(10):
    shard()
print(pages() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_kept_memory_is_not_taken_from_the_system_again():
    taken = {
        how: int(
            subprocess.run([sys.executable, "-c", MEASURED, how], check=True, capture_output=True, text=True).stdout
        )
        for how in ("kept", "given back")
    }
    assert taken["kept"] < 100 < taken["given back"]


def test_garbage_is_searched_for_again_as_before_without_what_was_loaded():
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with Collecting() as collecting:
        assert not gc.isenabled()
        loaded = [[] for _ in range(1000)]
        collecting.resume()
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(loaded)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_who_searches_for_no_garbage_is_left_alone():
    gc.disable()
    try:
        with Collecting() as collecting:
            collecting.resume()
        assert not gc.isenabled()
    finally:
        gc.enable()

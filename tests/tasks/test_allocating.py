"""A process that keeps freed memory takes no page of it twice."""

import subprocess
import sys

import pytest

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

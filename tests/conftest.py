"""Fixtures that several rooms share."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"

# A busy machine is no fault of the code.
settings.register_profile("gradmap", deadline=None, print_blob=True)
settings.load_profile("gradmap")


#: Folders and files whose tests start Ray, measure how long something takes, or lock one store of a machine: side by
#: side they would disturb each other, so one process has them all. Every other file stays whole, with the fixtures of
#: its module.
ONE_AT_A_TIME = ("tests/tasks/", "tests/faults/", "tests/run/test_speech.py", "tests/store/test_lease.py")

#: Files among those whose tests do none of that: they take long, and go beside the others.
BESIDE_OTHERS = (
    "tests/faults/test_machine.py",
    "tests/faults/test_objects_s3.py",
    "tests/tasks/test_many_sites.py",
    "tests/tasks/test_reference.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together where pytest-xdist has several processes, by their files.

    Not by marks: pytest-xdist 3.8 writes the group into an attribute that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            alone = file.startswith(ONE_AT_A_TIME) and file not in BESIDE_OTHERS
            return "one at a time" if alone else file

    return Together(config, log)


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of trained checkpoints, sounds and spectrograms beside the checkout."""
    if not SPEECH.is_dir():
        pytest.skip(f"the trained speech checkpoints are not at {SPEECH}")
    return SPEECH


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished small demo."""
    from tasks.cli import main

    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert main(["demo", "--quick", "--local", str(folder)]) == 0
    return folder / "gradmaps.zarr"

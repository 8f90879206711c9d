"""Fixtures that several rooms share."""

from pathlib import Path

import pytest
from hypothesis import settings

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"

# A busy machine is no fault of the code.
settings.register_profile("gradmap", deadline=None, print_blob=True)
settings.load_profile("gradmap")


#: Folders and files whose tests start Ray, or measure how long something takes: side by side they would disturb each
#: other, so one process has them all. Every other file stays whole, with the fixtures of its module.
ONE_AT_A_TIME = ("tests/tasks/", "tests/faults/", "tests/run/test_speech.py", "tests/store/test_lease.py")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say which tests stay together where pytest-xdist has several processes, before it reads the marks."""
    file = item.nodeid.partition("::")[0]
    group = "one at a time" if file.startswith(ONE_AT_A_TIME) else file
    item.add_marker(pytest.mark.xdist_group(group))


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

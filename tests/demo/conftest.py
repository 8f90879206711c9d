"""A quick demo's files, made once for all tests of the demo."""

import pytest

from pipeline.demo import DemoFiles, prepare_demo


@pytest.fixture(scope="session")
def told() -> list[tuple[str, float]]:
    """What the demo reported while it was made."""
    return []


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory, told) -> DemoFiles:
    """Files of a quick demo; tests only read them."""
    return prepare_demo(tmp_path_factory.mktemp("demo") / "quick", quick=True, report=lambda *event: told.append(event))

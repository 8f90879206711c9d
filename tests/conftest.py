"""Fixtures that several rooms share."""

from pathlib import Path

import pytest

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of trained checkpoints, sounds and spectrograms beside the checkout."""
    if not SPEECH.is_dir():
        pytest.skip(f"the trained speech checkpoints are not at {SPEECH}")
    return SPEECH

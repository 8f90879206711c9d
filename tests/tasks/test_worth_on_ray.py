"""Contributions, best sounds, fits and checks on a cluster: the same bytes as in one process."""

import pytest

from pipeline import load_config, run_locally
from tasks.cluster import run_on_ray
from tests.run.lab import write_checkpoint, write_config, write_spectrograms
from tests.tasks.trouble import files_of

MAPS = """
[maps.strf]
kind = "strf"
[maps.parts]
kind = "integrated"
stimuli = "sounds.npz"
samples = 2
noise = 0.2
[maps.best]
kind = "synthesis"
steps = 10
[fitted]
stimuli = "sounds.npz"
[checks]
filter_test = "sounds.npz"
randomise = true
infidelity = true
"""


@pytest.mark.usefixtures("own_ray")
def test_ray_writes_the_same_bytes(tmp_path):
    for seed in range(2):
        write_checkpoint(tmp_path / f"checkpoints/lab-{seed}", seed)
    write_spectrograms(tmp_path / "sounds.npz", frames=30)
    config = write_config(tmp_path, maps=MAPS)
    run_locally(load_config(config))
    store = tmp_path / "cube.zarr"
    expected = files_of(store)
    store.rename(tmp_path / "local.zarr")
    report = run_on_ray(load_config(config))
    assert (report.done, report.failed, report.pending) == (16, 0, 0)
    assert files_of(store) == expected

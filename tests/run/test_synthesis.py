"""Best sounds end to end: the cube holds those of models where they are known."""

import numpy as np
import pytest
import soundfile
import torch

from pipeline import load_config, open_cube, run_locally, summarise
from pipeline.pictures.sound import write_sound
from pipeline.plan.config import ConfigError
from pipeline.run.prepare import plan_shards
from tasks.cli import main
from tests.gradients.test_attribution import energy
from tests.run.lab import BANDS, HOP, KERNEL, RATE, kernel_of, kernels_of, write_checkpoint, write_config, write_pair
from tests.run.lab import write_sound as write_noise

LAGS = 6


def best_map(more: str = "", name: str = "best") -> str:
    return f'[maps.{name}]\nkind = "synthesis"\nsteps = 40\n{more}\n'


@pytest.fixture
def lab(tmp_path):
    return write_pair(tmp_path, frames=20)


def directions(folder):
    """Kernels of both checkpoints, of norm 1."""
    kernels = kernels_of(folder)
    return kernels / np.sqrt(np.square(kernels).sum(axis=(2, 3), keepdims=True))


def test_the_best_sound_of_a_linear_neuron_is_its_kernel_at_the_norm(lab):
    assert run_locally(load_config(write_config(lab, maps=best_map("norm = 2.0")))).done == 2
    cube = open_cube(lab / "cube.zarr", "lab")
    np.testing.assert_allclose(cube.best.values[..., :KERNEL], 2.0 * directions(lab), atol=1e-4)
    np.testing.assert_allclose(cube.best.values[..., KERNEL:], 0.0, atol=1e-4)
    assert (np.diff(cube.best_trace.values, axis=-1) >= -1e-5).all()
    kernels = kernels_of(lab)
    rise = 2.0 * np.sqrt(np.square(kernels).sum(axis=(2, 3)))
    np.testing.assert_allclose(cube.best_trace.values[..., -1] - cube.best_start_response, rise, rtol=1e-4)
    assert (cube.best_health == 0).all()


def test_an_energy_neuron_finds_the_stronger_of_its_filters(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save(energy(3).state_dict(), tmp_path / "checkpoints/energy.pt")
    (tmp_path / "squares.py").write_text(
        "import torch\nfrom tests.gradients.test_attribution import energy\n"
        "def build(path):\n"
        "    model = energy(3, seed=1)\n"
        "    model.load_state_dict(torch.load(path, weights_only=True))\n"
        "    return model\n"
    )
    entries = '[[cohort.checkpoints]]\npath = "checkpoints/*"\nfactory = "squares:build"\n'
    maps = best_map("").replace("steps = 40", "steps = 200")
    assert run_locally(load_config(write_config(tmp_path, maps=maps, entries=entries))).done == 1
    strongest = energy(3).readout.kernels.detach()[:, 0].numpy()
    cosine = (open_cube(tmp_path / "cube.zarr", "lab").best.values[0] * strongest).sum(axis=(1, 2))
    np.testing.assert_allclose(np.abs(cosine), 1.0, atol=1e-3)


def test_from_a_sound_the_change_is_kept_beside_it_and_bounds_hold(lab):
    more = 'start = "two"\nstimuli = "sounds.npz"\nnorm = 1.5\nlowest = -4.0\nhighest = 3.5'
    more_silence = 'start = "silence"\nsilence_level = -1.0\nframes = 9\nnorm = 0.5'
    run_locally(load_config(write_config(lab, maps=best_map(more) + best_map(more_silence, "quiet"))))
    cube = open_cube(lab / "cube.zarr", "lab")
    with np.load(lab / "sounds.npz") as sounds:
        start = sounds["two"][:, ::-1]
    np.testing.assert_allclose(cube.best - start, cube.best_added, atol=1e-6)
    assert cube.best.values.max() <= 3.5 + 1e-6
    assert np.sqrt(np.square(cube.best_added.values).sum(axis=(2, 3))).max() <= 1.5 + 1e-5
    assert (cube.best_trace[..., -1] > cube.best_start_response).all()
    assert cube.quiet.shape[-1] == 9
    np.testing.assert_allclose(cube.quiet_added.values[..., :KERNEL], 0.5 * directions(lab), atol=1e-4)
    np.testing.assert_allclose(cube.quiet - cube.quiet_added, -1.0, atol=1e-6)


def test_the_best_waveform_of_a_linear_neuron_is_its_kernel_and_can_be_heard(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0, hears=True)
    write_noise(tmp_path / "sounds/noise.wav")
    maps = best_map('space = "waveform"\nnorm = 0.5') + best_map(
        'space = "waveform"\nstart = "noise"\nstimuli = "sounds/*.wav"\nnorm = 0.5', "louder"
    )
    assert run_locally(load_config(write_config(tmp_path, maps=maps))).done == 2
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    kernel = kernel_of(tmp_path / "checkpoints/lab-0")
    expected = np.zeros((len(kernel), LAGS, HOP), dtype=float)
    expected[:, :KERNEL, :BANDS] = kernel.transpose(0, 2, 1)  # the bands are the newest samples of each frame
    expected *= 0.5 / np.sqrt(np.square(expected).sum(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(cube.best.values[0], expected.reshape(len(kernel), -1), atol=1e-4)
    first = cube.best.isel(checkpoint=0, neuron=0)
    samples, rate = soundfile.read(write_sound(first, tmp_path / "best.wav"))
    assert rate == RATE
    played = first.values[::-1]
    np.testing.assert_allclose(samples, played * 0.9 / np.abs(played).max(), atol=1e-4)
    louder = write_sound(cube.louder.isel(checkpoint=0, neuron=1), tmp_path / "louder.wav")
    assert soundfile.info(louder).frames == 20 * HOP


def test_a_neuron_that_no_sound_moves_keeps_the_start_and_is_flagged(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    (tmp_path / "deaf.py").write_text(
        "import torch\nfrom tests.run.lab import LabModel\n"
        "def build(path):\n"
        "    torch.manual_seed(0)\n"
        "    model = LabModel()\n"
        "    model.readout.weight.data[1] = 0.0\n"
        "    return model\n"
    )
    entries = '[[cohort.checkpoints]]\npath = "checkpoints/*"\nfactory = "deaf:build"\n'
    run_locally(load_config(write_config(tmp_path, maps=best_map(), entries=entries)))
    cube = open_cube(tmp_path / "cube.zarr", "lab").isel(checkpoint=0)
    assert (cube.best.values[1] == 0).all()
    flags = dict(zip(cube.best_health.flag_meanings.split(), cube.best_health.flag_masks, strict=True))
    assert cube.best_health.values.tolist() == [0, flags["all_zero_map"], 0]


def test_the_cube_is_sound_finished_summarised_shown_and_the_same_in_blocks(lab):
    config = write_config(lab, maps=best_map())
    assert run_locally(load_config(config)).failed == 0
    assert main(["verify", str(lab / "cube.zarr")]) == 0
    assert run_locally(load_config(config)).computed == 0
    cube = open_cube(lab / "cube.zarr", "lab")
    assert "best_latency" in summarise(cube)
    page = lab / "page.html"
    assert main(["report", str(lab / "cube.zarr"), "--output", str(page)]) == 0
    assert "best: how the responses rose" in page.read_text()
    (lab / "cut.toml").write_text(
        config.read_text().replace("cube.zarr", "blocks.zarr")
        + f"\n[storage]\nobject_mib = {BANDS * LAGS * 4 / 2**20}\n"
    )
    assert len(plan_shards(load_config(lab / "cut.toml"))) == 6
    run_locally(load_config(lab / "cut.toml"))
    np.testing.assert_allclose(open_cube(lab / "blocks.zarr", "lab").best, cube.best, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('start = "silence"', "silence_level"),
        ('start = "three"', "stimuli are needed"),
        ('stimuli = "sounds.npz"', "not used from"),
        ('start = "three"\nstimuli = "sounds.npz"', "none of the stimuli one, two"),
        ("norm = 0.0", "norm"),
        ("lowest = 1.0\nhighest = 0.0", "no level is allowed"),
        ("lowest = 1.0", "outside lowest and highest"),
        ('start = "one"\nstimuli = "sounds.npz"\nlowest = 0.0', "below lowest = 0, so ascent would begin outside"),
        ('start = "one"\nstimuli = "sounds.npz"\nhighest = 0.5', "above highest = 0.5"),
        ('space = "waveform"', "no front-end"),
        ("objective = {frame = 6}", "6 frames"),
        ('start = "one"\nstimuli = "sounds.npz"\nframes = 3', "length of its own"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_compute(lab, more, words):
    with pytest.raises(ConfigError, match=words):
        plan_shards(load_config(write_config(lab, maps=best_map(more))))

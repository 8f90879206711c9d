"""Integrated gradients end to end: the cube holds the contributions of models where they are known."""

import numpy as np
import pytest

from pipeline import load_config, open_cube, run_locally, summarise
from pipeline.plan.config import ConfigError
from pipeline.run.prepare import plan_shards
from tasks.cli import main
from tests.run.lab import BANDS, KERNEL, kernels_of, write_checkpoint, write_config, write_pair, write_spectrograms

LAGS = 6


def integrated_map(more: str = "", name: str = "attribution") -> str:
    return f'[maps.{name}]\nkind = "integrated"\nstimuli = "sounds.npz"\n{more}\n'


@pytest.fixture
def lab(tmp_path):
    return write_pair(tmp_path, frames=20)


def kernel_and_sounds(folder, frame=19):
    """Kernels (checkpoint, neuron, frequency, lag) and what lies under them (stimulus, frequency, lag)."""
    kernels = kernels_of(folder)
    with np.load(folder / "sounds.npz") as sounds:
        under = np.stack([sounds[name][:, frame - KERNEL + 1 : frame + 1][:, ::-1] for name in ("one", "two")])
    return kernels, under


@pytest.mark.parametrize(
    ("more", "level"), [("", 0.0), ('baseline = "silence"\nsilence_level = 0.7', 0.7), ('baseline = "mean"', None)]
)
def test_contributions_to_a_linear_response_are_kernel_times_stimulus(lab, more, level):
    assert run_locally(load_config(write_config(lab, maps=integrated_map(more)))).done == 2
    cube = open_cube(lab / "cube.zarr", "lab")
    kernels, under = kernel_and_sounds(lab)
    if level is None:
        with np.load(lab / "sounds.npz") as sounds:
            level = np.concatenate([sounds["one"], sounds["two"]], axis=1).mean(axis=1)[:, None]
    expected = kernels[:, None] * (under - level)[None, :, None]
    np.testing.assert_allclose(cube.attribution.values[..., :KERNEL], expected, atol=1e-5)
    assert (cube.attribution.values[..., KERNEL:] == 0).all()
    np.testing.assert_allclose(cube.attribution_difference, expected.sum(axis=(3, 4)), atol=1e-4)
    assert cube.attribution_completeness.max() < 1e-5
    assert (cube.attribution_outside == 0).all()
    assert (cube.attribution_frame == 19).all()
    assert (cube.attribution_health == 0).all()


def test_what_lies_before_the_window_is_told_and_flagged(lab):
    run_locally(load_config(write_config(lab, maps=integrated_map(), lags="3")))
    cube = open_cube(lab / "cube.zarr", "lab")
    kernels, under = kernel_and_sounds(lab)
    whole = kernels[:, None] * under[None, :, None]
    difference = whole.sum(axis=(3, 4))
    scale = np.maximum(np.abs(difference), 0.01 * np.abs(whole).sum(axis=(3, 4)))
    np.testing.assert_allclose(cube.attribution_outside, whole[..., 3:].sum(axis=(3, 4)) / scale, rtol=1e-3, atol=1e-5)
    flags = dict(zip(cube.attribution_health.flag_meanings.split(), cube.attribution_health.flag_masks, strict=True))
    energy = np.square(whole).sum(axis=3)
    truncated = energy[..., 3:].sum(axis=-1) > 0.01 * energy.sum(axis=-1)
    told = (cube.attribution_health.values & flags["truncated_window"]) > 0
    np.testing.assert_array_equal(told, truncated.transpose(0, 2, 1))
    assert truncated.any()


def test_noisy_copies_of_a_linear_neuron_give_the_kernel_times_their_mean_whatever_the_blocks(lab):
    maps = integrated_map("samples = 5\nnoise = 0.3\nseed = 4\nnodes = 2")
    run_locally(load_config(write_config(lab, maps=maps)))
    cube = open_cube(lab / "cube.zarr", "lab")
    kernels, _ = kernel_and_sounds(lab)
    mean = cube.attribution.values[..., :KERNEL] / kernels[:, None]
    np.testing.assert_allclose(mean, np.broadcast_to(mean[:1, :, :1], mean.shape), rtol=1e-2, atol=1e-3)
    _, under = kernel_and_sounds(lab)
    added = mean[0, :, 0] - under
    assert 0.3 / np.sqrt(5) / 2 < added.std() < 0.3 / np.sqrt(5) * 2
    assert np.abs(added[0] - added[1]).max() > 1e-2  # every sound has noise of its own
    text = (lab / "run.toml").read_text().replace("cube.zarr", "blocks.zarr")
    (lab / "cut.toml").write_text(text + f"\n[storage]\nobject_mib = {BANDS * LAGS * 4 / 2**20}\n")
    assert len(plan_shards(load_config(lab / "cut.toml"))) == 12
    run_locally(load_config(lab / "cut.toml"))
    blocks = open_cube(lab / "blocks.zarr", "lab")
    np.testing.assert_allclose(blocks.attribution, cube.attribution, rtol=1e-5, atol=1e-6)


def test_the_cube_is_sound_finished_summarised_and_shown(lab):
    config = write_config(lab, maps='[maps.strf]\nkind = "strf"\n' + integrated_map())
    assert run_locally(load_config(config)).failed == 0
    assert main(["verify", str(lab / "cube.zarr")]) == 0
    assert run_locally(load_config(config)).computed == 0
    assert "attribution_latency" in summarise(open_cube(lab / "cube.zarr", "lab"))
    page = lab / "page.html"
    assert main(["report", str(lab / "cube.zarr"), "--output", str(page)]) == 0
    assert "attribution: do the contributions add up?" in page.read_text()


def test_the_plan_says_what_it_would_take(lab, capsys):
    assert main(["plan", str(write_config(lab, maps=integrated_map()))]) == 0
    told = capsys.readouterr().out
    assert "attribution_completeness" in told
    assert "null to 2 sounds" in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("samples = 3", "samples and noise go together"),
        ("noise = 0.1", "samples and noise go together"),
        ("nodes = 32\nmost_nodes = 8", "most_nodes = 8 is less than nodes = 32"),
        ('baseline = "silence"', "silence_level"),
        ('baseline = "stimuli"', "baseline"),
        ("objective = {frame = 20}", "has 20 frames"),
        ("completeness = 0.0", "completeness"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_compute(lab, more, words):
    with pytest.raises(ConfigError, match=words):
        plan_shards(load_config(write_config(lab, maps=integrated_map(more))))


def test_gaps_that_are_not_reached_are_flagged(tmp_path):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    write_spectrograms(tmp_path / "sounds.npz", frames=20)
    (tmp_path / "sharp.py").write_text(
        "import torch\nfrom tests.run.lab import LabModel\n"
        "class Sharp(LabModel):\n"
        "    def forward(self, x):\n"
        "        return torch.sin(40.0 * super().forward(x))\n"
        "def build(path):\n"
        "    torch.manual_seed(0)\n"
        "    return Sharp()\n"
    )
    entries = '[[cohort.checkpoints]]\npath = "checkpoints/*"\nfactory = "sharp:build"\n'
    maps = integrated_map("nodes = 2\nmost_nodes = 4\ncompleteness = 1e-6")
    config = write_config(tmp_path, maps=maps, entries=entries)
    assert run_locally(load_config(config)).failed == 0
    cube = open_cube(tmp_path / "cube.zarr", "lab")
    flags = dict(zip(cube.attribution_health.flag_meanings.split(), cube.attribution_health.flag_masks, strict=True))
    assert (cube.attribution_completeness > 1e-6).all()
    assert ((cube.attribution_health.values & flags["incomplete_path"]) > 0).all()
    assert cube.attribution_nodes.isin([2, 4]).all()  # those of the smaller gap
    assert np.isfinite(cube.attribution).all()

"""Models of one's own: what they take and give, said by patterns, checked by running them once."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import RunConfig, adapt, dynamic_strfs, run_locally, strf_gradmaps
from pipeline.gradients.contract import check_contract
from pipeline.inputs.adapters import AdaptError, look_at
from pipeline.inputs.checkpoints import load_checkpoint
from tests.inputs import foreign_models
from tests.inputs.foreign_models import BANDS, CELLS, LAYOUTS, trained
from tests.inputs.lab import describe_checkpoint, refused, save_best, source

HERE = foreign_models.__name__

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers", "ignore::FutureWarning:transformers")


def response(name: str, module: nn.Module, stimulus: torch.Tensor) -> torch.Tensor:
    """Response (neuron, time) of a module itself to a stimulus (frequency, time)."""
    given = module(stimulus.T[None])
    select = LAYOUTS[name].get("select")
    return (given if select is None else given[select])[0].T


def gradient(name: str, module: nn.Module, stimulus: torch.Tensor, frame: int, lags: int) -> torch.Tensor:
    """Gradient (neuron, frequency, lag) of every response at a frame, by one backward pass each in double precision."""
    module = module.double()
    leaf = stimulus.double().clone().requires_grad_(True)
    rates = response(name, module, leaf)[:, frame]
    rows = [torch.autograd.grad(rate, leaf, retain_graph=True)[0] for rate in rates]
    module.float()
    return torch.stack(rows)[:, :, frame - lags + 1 : frame + 1].flip(-1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_maps_of_three_foreign_models_are_their_own_gradients(name):
    module = trained(name)
    model = adapt(module, bands=BANDS, **LAYOUTS[name])
    stimulus = torch.randn(BANDS, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(stimulus[None, None])[0, :, 0], response(name, module, stimulus))
    found = strf_gradmaps(model, 12, around=stimulus)
    expected = gradient(name, module, stimulus, 29, 12)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)
    null = strf_gradmaps(model, 12)
    zero = torch.zeros(BANDS, 12)
    torch.testing.assert_close(null, gradient(name, module, zero, 11, 12).float(), rtol=1e-4, atol=1e-6)


def test_dynamic_strfs_of_an_adapted_model_are_its_own():
    module = trained("ConvolutionalField")
    model = adapt(module, bands=BANDS, **LAYOUTS["ConvolutionalField"])
    stimulus = torch.randn(BANDS, 30, generator=torch.Generator().manual_seed(1))
    frame = 20
    expected = gradient("ConvolutionalField", module, stimulus, frame, 7)
    ((frames, maps),) = dynamic_strfs(model, stimulus, lags=7, frames=[frame])
    assert list(frames) == [frame]
    torch.testing.assert_close(maps[:, 0], expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_config_maps_a_foreign_model_and_says_what_it_saw(name, tmp_path):
    save_best(tmp_path / "net", trained(name))
    entry = {"class": f"{HERE}.{name}", "adapt": {"bands": BANDS, "neurons": CELLS, **LAYOUTS[name]}}
    checkpoint = describe_checkpoint(source(tmp_path / "net", **entry))
    assert checkpoint.error is None
    assert (checkpoint.model_class, checkpoint.n_neurons, checkpoint.n_bands) == (name, CELLS, BANDS)
    (note,) = checkpoint.notes
    assert f"(1, 1, {BANDS}, 64) goes in as (1, 64, {BANDS})" in note
    assert f"becomes (1, {CELLS}, 1, 64): {CELLS} neurons, {BANDS} bands, 64 frames for 64, causal" in note
    stimulus = torch.randn(1, 1, BANDS, 20)
    assert torch.equal(
        load_checkpoint(checkpoint.source)(stimulus)[0, :, 0], response(name, trained(name), stimulus[0, 0])
    )


def test_a_factory_with_arguments_and_a_layout_is_one_entry(tmp_path):
    torch.save({"state_dict": trained("RateGRU").state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    entry = {"factory": f"{HERE}:build", "arguments": {"name": "RateGRU"}, "adapt": {"bands": BANDS}}
    entry["adapt"] |= LAYOUTS["RateGRU"]
    one = describe_checkpoint(source(tmp_path / "last.ckpt", **entry))
    assert (one.error, one.n_neurons) == (None, CELLS)
    entry["arguments"] = {"name": "RateGRU", "n_hidden": 4}
    other = describe_checkpoint(source(tmp_path / "last.ckpt", **entry))
    assert "none of the numbers" in refused(other)
    assert other.fingerprint != one.fingerprint


def test_the_module_is_shared_and_left_in_its_mode():
    module = trained("RateGRU").train()
    model = adapt(module, bands=BANDS, **LAYOUTS["RateGRU"])
    assert model.training
    assert module.training
    model.eval()
    assert not module.training
    assert model.module is module


def test_neurons_and_bands_may_be_found_out():
    model = adapt(trained("RateGRU"), bands=BANDS, **LAYOUTS["RateGRU"])
    assert (model.O, model.F) == (CELLS, BANDS)
    with pytest.raises(AdaptError, match="write `bands"):
        adapt(trained("RateGRU"), **LAYOUTS["RateGRU"])


def test_a_model_that_hears_the_future_is_seen():
    module = nn.GRU(BANDS, 3, batch_first=True, bidirectional=True).eval()
    model = adapt(module, bands=BANDS, input="b 1 f t -> b t f", output="b t n -> b n 1 t", select=0)
    assert not look_at(model).causal
    assert "hears the future" in look_at(model).text()


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ({"input": None}, r"RateGRU cannot be run with a tensor of shape \(1, 1, 6, 64\)"),
        ({"input": "b f t -> b t f"}, r"input = 'b f t -> b t f' does not suit a tensor of shape \(1, 1, 6, 64\)"),
        ({"output": None}, r"gives a tensor \(1, 64, 5\), which adapt makes \(1, 64, 5\) of"),
        ({"output": "b t n -> b n t 1"}, r"not the contract's \(batch, neuron, 1, time\)"),
        ({"output": "b t n -> b m 1 t"}, "does not suit a tensor"),
        ({"neurons": 6}, "neurons = 6, but RateGRU gives .* has 5"),
        ({"bands": 7}, "mend `bands` or `input`"),
        ({"select": "rates"}, "select = 'rates' is no tensor of it; take `select` out"),
    ],
)
def test_a_layout_that_does_not_fit_is_told_with_the_shapes(layout, told):
    with pytest.raises(AdaptError, match=told):
        adapt(trained("RateGRU"), **{"bands": BANDS, **LAYOUTS["RateGRU"], **layout})


class Noisy(nn.Conv1d):
    """Another response each time."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), training=True)


class OfASubject(nn.Conv1d):
    """It takes more than a spectrogram."""

    def forward(self, x, subject):
        return super().forward(x) + subject


def test_what_cannot_be_mapped_is_said_of_the_class_that_its_author_knows():
    patterns = {"bands": BANDS, "input": "b 1 f t -> b f t", "output": "b n t -> b n 1 t"}
    shorter = adapt(nn.Conv1d(BANDS, 3, 9).eval(), **patterns)
    assert look_at(shorter).text().endswith("56 frames for 64, so lags cannot be counted, 165 parameters")
    with pytest.raises(ValueError, match=r"^Conv1d gave 4 response frames for a stimulus of 12 frames"):
        check_contract(shorter, None, frames=12)
    noisy = adapt(Noisy(BANDS, 3, 1).eval(), **patterns)
    assert "another response each time" in look_at(noisy).text()
    with pytest.raises(ValueError, match=r"^Noisy answers to the same stimulus twice"):
        check_contract(noisy, None, frames=12)
    with pytest.raises(AdaptError, match=r"missing 1 .*'subject'.* give a `factory` that returns a module"):
        adapt(OfASubject(BANDS, 3, 1).eval(), **patterns)


def test_several_outputs_are_listed_where_none_is_selected():
    for name, choice in (("ConvolutionalField", "select = 0"), ("Listening", 'select = "hidden", select = "rates"')):
        layout = {key: value for key, value in LAYOUTS[name].items() if key != "select"}
        with pytest.raises(AdaptError) as refusal:
            adapt(trained(name), bands=BANDS, **layout)
        assert f"write one of {choice}" in str(refusal.value)


def test_a_layout_that_does_not_fit_fails_its_checkpoint_alone(tmp_path):
    save_best(tmp_path / "net", trained("RateGRU"))
    entry = {"class": f"{HERE}.RateGRU", "adapt": {"bands": BANDS}}
    assert "cannot be run with a tensor" in refused(describe_checkpoint(source(tmp_path / "net", **entry)))


def test_a_run_from_python_objects_writes_the_maps_of_a_foreign_model(tmp_path):
    import xarray as xr

    from pipeline.plan.config import AdaptConfig, CheckpointsConfig, CohortConfig

    for seed in range(2):
        save_best(tmp_path / f"gru-seed{seed}", trained("RateGRU", seed))
    layout = AdaptConfig(bands=BANDS, neurons=CELLS, **LAYOUTS["RateGRU"])
    entry = CheckpointsConfig(path="gru-seed{seed}", class_name=f"{HERE}.RateGRU", adapt=layout)
    cohort = CohortConfig(
        name="gru",
        frame_ms=10.0,
        lags=8,
        frequencies_hz=tuple(100.0 * 2**i for i in range(BANDS)),
        checkpoints=(entry,),
    )
    run = RunConfig(store="maps.zarr", cohort=(cohort,), maps={"strf": {"kind": "strf"}}, folder=str(tmp_path))
    report = run_locally(run)
    assert (report.done, report.failed) == (2, 0)
    cube = xr.open_zarr(tmp_path / "maps.zarr", group="gru")
    expected = gradient("RateGRU", trained("RateGRU", 1), torch.zeros(BANDS, 8), 7, 8)
    np.testing.assert_allclose(cube.strf.sel(checkpoint="gru-seed1").values, expected, rtol=1e-4, atol=1e-6)
    assert cube.strf.where(cube.seed.compute() == 1, drop=True).sizes["checkpoint"] == 1

"""A kind of map that no file of the library knows, registered by the doors that any other kind uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from pipeline import load_config, open_cube, run_locally, summarise, write_report
from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.page import Markup, element
from pipeline.pictures.sections.outcome import Outcome
from pipeline.plan.axes import Axis
from pipeline.plan.config import ConfigError
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import CohortFacts, Cost, MapConfig, Stimuli, Variable, check_spectrograms
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.run.prepare import prepare_run
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from pipeline.words import Hears
from tasks.cli import main
from tasks.cluster import run_on_ray
from tests.run.lab import kernel_of, write_checkpoint, write_config, write_spectrograms
from tests.tasks.trouble import files_of

MAPS = """
[maps.scaled]
kind = "scaled"
stimuli = "spectrograms.npz"
factors = [0.5, -2.0]
"""


@KINDS.register("scaled")
class ScaledConfig(MapConfig):
    """Mean gradient over the stimuli, copies of it times some factors, and the response to each stimulus."""

    kind: Literal["scaled"]
    stimuli: str
    """Spectrograms."""
    factors: tuple[float, ...] = Field(min_length=1)
    """What the mean map is multiplied by."""
    ensemble: str | None = None
    """A label of the checkpoints."""

    cut_along: ClassVar[tuple[str, ...]] = ("neuron",)
    companions: ClassVar[tuple[str, ...]] = ("health",)
    most: ClassVar[Cost] = Cost(seconds=2.0, bytes=2**30)

    @property
    def hears(self) -> Hears:
        return "spectrograms"

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        check_spectrograms(where, cohort, stimuli)
        if 0.0 in self.factors:
            raise ConfigError(f"{where}: a factor of 0 leaves nothing; take it out")

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        signs = tuple("up" if factor > 0 else "down" for factor in self.factors)
        factor = Axis("factor", self.factors, "what the mean is multiplied with", "1", {"sign": signs})
        return (stimuli.axis(), cohort.neuron_axis(), factor, cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        one_map = ("neuron", "frequency", "lag")
        frames = tuple(float(len(name)) for name in axes["stimulus"].values)
        return (
            Variable("mean", ("checkpoint", *one_map), "mean gradient", "response per unit"),
            Variable("copy", ("checkpoint", "neuron", "factor", "frequency", "lag"), "mean times a factor"),
            Variable("last", ("checkpoint", "stimulus", "neuron"), "last response", dtype="float64", role="measure"),
            Variable("letters", ("stimulus",), "letters of the name", dtype="int32", values=frames),
        )

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        return Cost(seconds=float(block["neuron"]), bytes=1)


@COMPUTE.register("scaled")
def compute(job: Job) -> Computed:
    """The arrays of a shard; the measure has no value for the first neuron of the first stimulus."""
    asked = job.map.settings
    assert isinstance(asked, ScaledConfig)
    (stimuli,) = job.stacks(job.spectrograms())
    models = [model for model, _ in job.members()]
    maps = [compute_strf_gradmaps(model, stimuli, job.cohort.lags, neurons=list(job.neurons)) for model in models]
    mean = np.mean([each.values.mean(0).numpy() for each in maps], axis=0)
    with torch.no_grad():
        last = models[0](stimuli[:, None])[:, list(job.neurons), 0, -1].double().numpy()
    if 0 in job.neurons:
        last[0, job.neurons.index(0)] = np.nan
    copies = mean[:, None] * np.float32(asked.factors)[None, :, None, None]
    health = np.zeros(len(job.neurons), np.uint16)
    return Computed({"mean": mean, "copy": copies, "last": last}, {"health": health}, route="by hand")


@SECTIONS.register("scaled")
def section(entry: Outcome) -> Markup:
    """A sentence with a number from each variable."""
    largest = float(abs(entry.cube[f"{entry.name}_copy"]).max())
    return element("p", f"{entry.name} has {len(entry.variables)} maps, the largest entry is {largest:.4f}.")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A config over two checkpoints, whose gradients are their kernels whatever the stimulus."""
    for seed in (1, 2):
        write_checkpoint(tmp_path / f"checkpoints/m{seed}", seed)
    write_spectrograms(tmp_path / "spectrograms.npz")
    return write_config(tmp_path, maps=MAPS)


def shown(lab: Path):
    return open_cube(lab.parent / "cube.zarr").load()


def assert_right(lab: Path) -> None:
    """Every variable against the planted kernels."""
    cube = shown(lab)
    for name in ("m1", "m2"):
        kernel = kernel_of(lab.parent / "checkpoints" / name)
        mean = cube["scaled_mean"].sel(checkpoint=name).values[..., : kernel.shape[-1]]
        np.testing.assert_allclose(mean, kernel, rtol=1e-5)
        copies = cube["scaled_copy"].sel(checkpoint=name)
        np.testing.assert_array_equal(copies.sel(factor=-2.0), -2 * cube["scaled_mean"].sel(checkpoint=name))
    assert cube["scaled_last"].isnull().sum() == 2
    assert (cube["scaled_status"] == 1).all()


def test_a_new_kind_goes_through_config_plan_run_resume_verify_summary_and_page(lab, capsys):
    assert main(["plan", str(lab)]) == 0
    assert "scaled_copy" in capsys.readouterr().out
    store = lab.parent / "cube.zarr"
    stops = iter([False, True])
    begun = run_locally(load_config(lab), stop=lambda: next(stops))
    assert (begun.done, begun.pending) == (1, 3)  # blocks of two neurons, by their cost
    rest = run_locally(load_config(lab))
    assert (rest.done, rest.computed, rest.pending) == (4, 3, 0)
    assert run_locally(load_config(lab)).computed == 0
    assert_right(lab)
    cube = shown(lab)
    assert cube["scaled_status"].dims == ("checkpoint", "neuron")
    assert cube["scaled_last"].dims == ("checkpoint", "stimulus", "neuron")
    assert cube["factor_sign"].values.tolist() == ["up", "down"]
    assert cube["factor"].attrs["units"] == "1"
    assert cube["scaled_letters"].values.tolist() == [3, 3]
    assert "scaled_memory_90" not in cube
    assert [entry.name for entry in store_status(store)[0].maps] == ["scaled"]
    summaries = summarise(cube).filter_by_attrs(role="summary")
    assert "scaled_mean_best_frequency" in summaries
    assert not [name for name in summaries if str(name).startswith(("scaled_copy_", "scaled_last_"))]
    page = write_report({"lab": cube}, lab.parent / "page.html").read_text()
    assert f"scaled has 2 maps, the largest entry is {float(abs(cube['scaled_copy']).max()):.4f}." in page


@pytest.mark.parametrize("name", ["scaled_mean/c/1/0/0/0", "scaled_copy/c/1/0/0/0/0", "scaled_last/c/1/0/0"])
def test_damage_to_any_variable_is_found_and_computed_again(lab, name):
    run_locally(load_config(lab))
    store = lab.parent / "cube.zarr"
    before = files_of(store)
    assert verify_store(store).sound
    (store / "lab" / name).unlink()
    found = verify_store(store, requeue=True)
    assert [(entry.kind, entry.name, entry.checkpoint) for entry in found.findings] == [
        ("missing", name.partition("/")[0], "m2")
    ]
    assert found.requeued == 1
    again = run_locally(load_config(lab))
    assert (again.computed, again.pending) == (1, 0)
    assert files_of(store) == before


def test_other_settings_or_other_arrays_under_the_name_are_refused(lab):
    run_locally(load_config(lab))
    text = lab.read_text()
    lab.write_text(text.replace("-2.0", "-3.0"))
    with pytest.raises(ConfigError, match="factor"):
        run_locally(load_config(lab))
    lab.write_text(text.replace("[0.5, -2.0]", "[0.0]"))
    with pytest.raises(ConfigError, match="a factor of 0"):
        prepare_run(load_config(lab))
    lab.write_text(text + '[maps.scaled_mean]\nkind = "strf"\n')
    with pytest.raises(ConfigError, match=r"maps\.scaled_mean writes 'scaled_mean'"):
        prepare_run(load_config(lab))
    lab.write_text(text.replace("factors", "factor"))
    with pytest.raises(ConfigError, match="did you mean 'factors'"):
        load_config(lab)
    lab.write_text(text.replace('kind = "scaled"', 'kind = "scale"'))
    with pytest.raises(ConfigError, match=r"'scale' is not known.*'scaled', 'strf'"):
        load_config(lab)


def test_an_ensemble_is_a_row_and_a_shard_of_its_own(lab):
    """Its map is the mean of its members', other maps have nothing there, and nothing is missing."""
    write_checkpoint(lab.parent / "checkpoints/other", 7, {"architecture": "another"})
    write_config(lab.parent, maps=f'{MAPS}ensemble = "seed"\n[maps.strf]\nkind = "strf"\n')
    report = run_locally(load_config(lab))
    assert (report.done, report.failed, report.pending) == (2 + 3, 0, 0)
    assert run_locally(load_config(lab)).computed == 0
    cube = shown(lab)
    assert cube["checkpoint"].values.tolist() == ["m1", "m2", "other", "m1 and 1 more over seed"]
    assert cube["ensemble_over"].isnull().values.tolist() == [True, True, True, False]
    assert cube["ensemble_over"].values[3] == "seed"
    mean = np.mean([kernel_of(lab.parent / "checkpoints" / name) for name in ("m1", "m2")], axis=0)
    found = cube["scaled_mean"][-1].values[..., : mean.shape[-1]]
    np.testing.assert_allclose(found, mean, rtol=1e-5)
    assert cube["scaled_mean"][:3].isnull().all()
    assert cube["strf"][-1].isnull().all()
    (status,) = store_status(lab.parent / "cube.zarr")
    assert status.complete
    assert {entry.name: list(entry.by_checkpoint) for entry in status.maps} == {
        "scaled": ["m1 and 1 more over seed"],
        "strf": ["m1", "m2", "other"],
    }
    assert verify_store(lab.parent / "cube.zarr").complete
    page = write_report({"lab": cube}, lab.parent / "page.html").read_text()
    assert "Every map is done." in page
    write_config(lab.parent, maps=f'{MAPS}ensemble = "sex"\n')
    with pytest.raises(ConfigError, match="there are no two of them"):
        prepare_run(load_config(lab))


def test_two_kinds_of_one_name_are_refused():
    with pytest.raises(ValueError, match="have one name"):
        KINDS.register("scaled")(MapConfig)


def test_a_variable_without_an_axis_that_shards_cut_is_refused(lab, monkeypatch):
    monkeypatch.setattr(ScaledConfig, "cut_along", ("neuron", "stimulus"))
    with pytest.raises(ValueError, match="take it out of cut_along"):
        prepare_run(load_config(lab))


@pytest.mark.usefixtures("own_ray")
def test_ray_writes_the_same_bytes(lab):
    run_locally(load_config(lab))
    store = lab.parent / "cube.zarr"
    expected = files_of(store)
    store.rename(lab.parent / "local.zarr")
    report = run_on_ray(load_config(lab))
    assert (report.done, report.failed, report.pending) == (4, 0, 0)
    assert files_of(store) == expected

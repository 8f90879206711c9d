"""The page on models of one's own: its Python runs, its configs are taken, and its table of files is true."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.inputs.checkpoints import load_checkpoint
from pipeline.plan.config import load_config
from tests.inputs.lab import HERE, cells, describe_checkpoint, refused, source

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")

CELLS = f"{HERE}.Cells"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_python_runs():
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "docs/models.md", "exec"), names)
    assert names["maps"].dims == ("neuron", "frequency", "lag")
    assert names["maps"].shape == (119, 32, 40)
    assert names["measures"]["strf_best_frequency"].sizes == {"neuron": 119}
    assert list(names["run"].maps) == ["strf", "peak"]


def test_its_configs_are_taken(tmp_path):
    for number, block in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        assert load_config(path).cohort
    assert number == 1


class Lit(nn.Module):
    """Stands for what a training framework makes of a module: its names begin with the attribute's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = cells(seed=4)


def lightning_file(module: nn.Module) -> dict:
    """What Lightning 2.6 writes: the weights among loops, callbacks, optimisers and hyper-parameters."""
    optimizer = torch.optim.Adam(module.parameters())
    module.model(torch.randn(1, 1, 4, 6)).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": Lit().state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5), "kth_value": None}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"width": 4, "lr": 0.1},
    }


def saved(kind: str, folder: Path) -> Path:
    path, weights = folder / "last.ckpt", cells(seed=4).state_dict()
    content = {
        "lightning": lightning_file(Lit()),
        "parallel": {f"module.{name}": value for name, value in weights.items()},
        "compiled": {f"_orig_mod.{name}": value for name, value in weights.items()},
        "nested": {"epoch": 3, "model": weights, "optimizer": {"state": {}}},
        "whole module": cells(seed=4),
    }[kind]
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"), [("lightning", {"strip_prefix": "model."}), ("parallel", {}), ("compiled", {}), ("nested", {})]
)
def test_files_of_the_wild_are_loaded_as_its_table_says(tmp_path, kind, words):
    checkpoint = describe_checkpoint(source(saved(kind, tmp_path), **{"class": CELLS, **words}))
    assert checkpoint.error is None
    found = load_checkpoint(checkpoint.source).state_dict()
    assert all(torch.equal(found[name], value) for name, value in cells(seed=4).state_dict().items())


def test_what_is_refused_names_the_key_that_cures_it(tmp_path):
    text = refused(describe_checkpoint(source(saved("lightning", tmp_path), **{"class": CELLS})))
    assert 'add `strip_prefix = "model."`' in text
    text = refused(describe_checkpoint(source(saved("whole module", tmp_path), **{"class": CELLS})))
    assert "save model.state_dict()" in text
    assert "`factory`" in text

"""Of many epochs in one folder the best is taken, by what Lightning or metadata.json says of them."""

import json

import pytest
import torch

from pipeline.inputs.checkpoints import discover, load_checkpoint
from pipeline.plan.config import ConfigError
from tests.inputs.lab import HERE, cells
from tests.inputs.test_wildcards import config

CELLS = f"{HERE}.Cells"


class Foreign:
    """A class that a checkpoint may name, and that is never imported for it."""


def write(path, step, best, monitor="val_cc"):
    path.parent.mkdir(parents=True, exist_ok=True)
    model = cells(seed=step)
    state = {"monitor": monitor, "best_model_path": f"/elsewhere/{best}", "best_model_score": torch.tensor(0.5)}
    callbacks = {f"ModelCheckpoint{{'monitor': '{monitor}'}}": state, "EarlyStopping": {"wait_count": 1}}
    torch.save({"global_step": step, "state_dict": model.state_dict(), "callbacks": callbacks}, path)
    return model


def chosen(folder, **entry):
    run = config(folder, {"path": "runs/{run}/epoch=*.ckpt", "id": "{run}", "class": CELLS, **entry})
    return {source.id: source for source in discover(run, run.cohort[0])}


def test_the_file_that_the_latest_callback_calls_best_is_taken(tmp_path):
    for run in ("a", "b"):
        for epoch in range(4):
            best = f"epoch={min(epoch, 2 if run == 'a' else 1)}.ckpt"
            model = write(tmp_path / f"runs/{run}/epoch={epoch}.ckpt", epoch, best)
            del model
    found = chosen(tmp_path, best="val_cc")
    assert {name: source.location.rpartition("/")[2] for name, source in found.items()} == {
        "a": "epoch=2.ckpt",
        "b": "epoch=1.ckpt",
    }
    weight = load_checkpoint(found["a"]).readout.weight
    torch.testing.assert_close(weight, cells(seed=2).readout.weight, rtol=0, atol=0)
    assert found["a"].labels == {"run": "a"}


@pytest.mark.parametrize(("best", "epoch"), [("loss", 2), ("-loss", 1)])
def test_scores_beside_the_files_are_compared(tmp_path, best, epoch):
    for number in range(3):
        write(tmp_path / f"runs/a/epoch={number}.ckpt", number, "epoch=0.ckpt")
    scores = {"epoch=0.ckpt": 0.5, "epoch=1": 0.25, "epoch=2.ckpt": 0.75}
    (tmp_path / "runs/a/metadata.json").write_text(json.dumps({"loss": scores}))
    assert chosen(tmp_path, best=best)["a"].location.endswith(f"epoch={epoch}.ckpt")


def test_scores_of_folders_are_compared_and_one_alone_needs_none(tmp_path):
    for number, score in enumerate((0.1, 0.3, 0.2)):
        write(tmp_path / f"runs/a/epoch={number}/best.pt", number, "")
        (tmp_path / f"runs/a/epoch={number}/metadata.json").write_text(json.dumps({"cc_test": score}))
    write(tmp_path / "runs/b/epoch=7/best.pt", 7, "")
    found = chosen(tmp_path, path="runs/{run}/epoch=*", best="cc_test")
    assert found["a"].location.endswith("a/epoch=1")
    assert found["b"].location.endswith("b/epoch=7")


def test_nothing_that_says_which_is_best_is_refused_with_what_was_looked_for(tmp_path):
    for number in range(2):
        write(tmp_path / f"runs/a/epoch={number}.ckpt", number, "epoch=0.ckpt", monitor="val_loss")
    with pytest.raises(ConfigError, match=r"epoch=0\.ckpt, epoch=1\.ckpt in .*best 'val_cc'.*metadata\.json"):
        chosen(tmp_path, best="val_cc")
    assert chosen(tmp_path, best="val_loss")["a"].location.endswith("epoch=0.ckpt")


def test_asking_a_file_for_its_callbacks_runs_nothing_of_it(tmp_path):
    write(tmp_path / "runs/a/epoch=0.ckpt", 0, "epoch=0.ckpt")
    path = tmp_path / "runs/a/epoch=1.ckpt"
    held = torch.load(tmp_path / "runs/a/epoch=0.ckpt", weights_only=True)
    torch.save({**held, "global_step": 5, "hyper_parameters": Foreign()}, path)
    assert chosen(tmp_path, best="val_cc")["a"].location.endswith("epoch=0.ckpt")
    path.write_bytes(b"damaged")
    assert chosen(tmp_path, best="val_cc")["a"].location.endswith("epoch=0.ckpt")

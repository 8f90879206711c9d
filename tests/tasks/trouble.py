"""Models that misbehave when they are called, and workers that die at a chosen moment."""

import atexit
import ctypes
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import tests.run.lab
from pipeline.run.shard import run_bundle
from tests.run.lab import NEURONS, LabModel, entry, write_checkpoint, write_config

#: The command as it is installed.
GRADMAP = str(Path(sys.executable).with_name("gradmap"))


class Trouble(LabModel):
    """A linear model with something wrong in its forward pass, named by ``trouble``."""

    def __init__(self, trouble: str = "", **arguments) -> None:
        super().__init__(**arguments)
        self.trouble = trouble

    def forward(self, x):
        response = super().forward(x)
        if self.trouble == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.trouble == "crash in a run" and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.trouble == "hang":
            while True:
                time.sleep(0.01)
        if self.trouble == "hang in C":
            time.sleep(600)
        if self.trouble == "hang in C with the lock":
            ctypes.PyDLL(None).sleep(600)  # no thread of this interpreter runs meanwhile
        if self.trouble == "raise":
            raise RuntimeError("this model always fails")
        if self.trouble == "exit":
            sys.exit(0)
        if self.trouble == "exit at once":
            os._exit(0)
        if self.trouble == "rude":
            print("what a model prints")
            sys.stdout.close()
            os.chdir("/")
        if self.trouble == "linger":
            atexit.register(lambda: os._exit(0))
            threading.Thread(target=time.sleep, args=(600,)).start()
        if self.trouble == "interrupt":
            raise KeyboardInterrupt
        if self.trouble == "shout":
            raise RuntimeError(f"\x1b[2J\x1b]0;owned\x07 two\nlines {'x' * 2**20}")
        if self.trouble == "nan":
            response = response * torch.where(torch.arange(response.shape[1]) == 1, torch.nan, 1.0)[:, None, None]
        if self.trouble == "slow":
            time.sleep(0.3)
        return response


def write_lab(
    folder: Path, troubles: dict[str, str] | None = None, healthy: int = 3, neurons: int = NEURONS, **config
) -> Path:
    """Checkpoints of which some are troubled, one shard per neuron, and the config over them."""
    for seed in range(healthy):
        write_checkpoint(folder / f"checkpoints/good-{seed}", seed, n_neurons=neurons)
    entries = [entry("checkpoints/good-*")] if healthy else []
    for number, (name, trouble) in enumerate((troubles or {}).items()):
        path = write_checkpoint(folder / f"checkpoints/{name}", 100 + number, n_neurons=neurons)
        config_file = path / "config.json"
        config_file.write_text(config_file.read_text().replace("LabModel", "Trouble"))
        if trouble == "cut":
            weights = path / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-50])
            trouble = ""
        model = "tests.tasks.trouble.Trouble"
        entries.append(entry(f"checkpoints/{name}", model, f'arguments = {{trouble = "{trouble}"}}'))
    # Objects of one map each, so that each checkpoint has a shard per neuron.
    storage = f"[storage]\nobject_mib = {4 * 4 * 6 / 2**20}\n"
    return write_config(folder, **{"entries": "\n".join(entries), "more": storage, **config})


def lab_with_our_names(folder: Path) -> Path:
    """A lab's folder with two checkpoints, the module of their class, and files named as modules that others import.

    The store lies beside it, so that it outlives a copy of the folder.
    """
    lab = folder / "lab"
    config = write_lab(lab, healthy=2)
    text = config.read_text().replace("tests.run.lab.LabModel", "models_of_ours.LabModel")
    config.write_text(text.replace('store = "cube.zarr"', f'store = "{folder}/cube.zarr"'))
    shutil.copy(Path(tests.run.lab.__file__), lab / "models_of_ours.py")
    for name in ("tasks", "pipeline"):
        (lab / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the lab was imported')\n")
    return lab


def note(plan, shard) -> None:
    """One line per shard begun, appended at once, so that it survives the death of the process."""
    with open(str(plan.store) + ".log", "a") as file:
        file.write(json.dumps([shard.key(), os.getpid(), time.time()]) + "\n")


def noted(store: Path | str) -> list[tuple[str, int, float]]:
    """Shard, process and time of everything that was begun, in that order."""
    lines = Path(str(store) + ".log").read_text().splitlines()
    return [tuple(json.loads(line)) for line in lines]


def begun(store: Path) -> Counter[str]:
    """How often each shard was begun."""
    return Counter(key for key, _, _ in noted(store))


def logged(plan, shards, device):
    """The real work, with a note of each shard."""
    for shard in shards:
        note(plan, shard)
        yield from run_bundle(plan, [shard], device)


def paced(plan, shards, device):
    """The real work with a note of each shard, slow enough to be disturbed."""
    for shard in shards:
        note(plan, shard)
        time.sleep(0.3)
        yield from run_bundle(plan, [shard], device)


def straggling(plan, shards, device):
    """The real work; the twelfth shard that is begun takes five seconds, and as long as others need to be begun."""
    for shard in shards:
        note(plan, shard)
        if [key for key, _, _ in noted(plan.store)[11:12]] == [shard.key()]:
            until = time.monotonic() + 300.0
            time.sleep(5.0)
            while len(noted(plan.store)) < 18 and time.monotonic() < until:
                time.sleep(0.1)
        yield from run_bundle(plan, [shard], device)


def once(plan, name: str) -> bool:
    """True the first time that it is asked in a run."""
    try:
        Path(f"{plan.store}.{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def killed_before_computing(plan, shards, device):
    for shard in shards:
        note(plan, shard)
        if shard.checkpoint == 1 and once(plan, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from run_bundle(plan, [shard], device)


def killed_after_the_data(plan, shards, device):
    for shard in shards:
        note(plan, shard)
        reports = list(run_bundle(plan, [shard], device))
        if shard.checkpoint == 1 and once(plan, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from reports


def killed_after_the_report(plan, shards, device):
    for number, shard in enumerate(shards):
        if number == 1 and shard.checkpoint == 1 and once(plan, "killed"):
            time.sleep(1.0)  # the report of the first shard is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        note(plan, shard)
        yield from run_bundle(plan, [shard], device)


def files_of(store: Path) -> dict[str, Any]:
    """Every object of a store's cubes; attributes without the order in which their entries came."""
    return {
        str(path.relative_to(store)): _unordered(path.read_text()) if path.suffix == ".json" else path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and not path.relative_to(store).parts[0].startswith("_")
    }


def _unordered(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _unordered(json.loads(value))
    if isinstance(value, dict):
        return {key: _unordered(entry) for key, entry in value.items()}
    return value

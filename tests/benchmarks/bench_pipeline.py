"""What the pipeline adds to the engine: 100 checkpoints of 100 neurons, end to end, in one process and on two workers.

    python tests/benchmarks/bench_pipeline.py [--checkpoints 100] [--neurons 100] [--json FILE]

The engine's own time is what its calls took inside the same run, health checks included. Reading the config,
describing and loading every checkpoint, writing every map and keeping the record is the pipeline's part.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

CONFIG = """
store = "cube-{executor}.zarr"
[[cohort]]
name = "population"
frame_ms = 5.0
lags = 64
frequencies_hz = {{min = 500.0, max = 20000.0, count = 34, scale = "log"}}
[[cohort.checkpoints]]
path = "checkpoints/*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Softplus"
[maps.strf]
kind = "strf"
"""


def write_population(folder: Path, checkpoints: int, neurons: int) -> None:
    """Checkpoints of a recurrent model, as deepSTRF saves them."""
    from pipeline.inputs.torchaudio_standin import ensure_torchaudio

    ensure_torchaudio()
    from deepSTRF.models.audio import StateNet

    for seed in range(checkpoints):
        torch.manual_seed(seed)
        model = StateNet(n_frequency_bands=34, out_neurons=neurons, output_activation=torch.nn.Softplus())
        model.save_pretrained(folder / f"checkpoints/statenet-seed{seed:03d}", metadata={"seed": seed}, model_card="x")


def measure(checkpoints: int, neurons: int) -> dict[str, Any]:
    """Seconds of the whole run and of its engine calls, for both executors."""
    from pipeline import load_config, run_locally
    from tasks.cluster import run_on_ray

    figures: dict[str, Any] = {"checkpoints": checkpoints, "neurons": neurons, "machine": platform.processor()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_population(folder, checkpoints, neurons)
        for executor, run in (("local", run_locally), ("ray", lambda config: run_on_ray(config, workers=2))):
            config = folder / f"{executor}.toml"
            config.write_text(CONFIG.format(executor=executor))
            started = time.perf_counter()
            report = run(load_config(config))
            wall = time.perf_counter() - started
            assert report.done == checkpoints, report
            figures[executor] = {"wall_s": wall, "engine_s": report.engine_seconds, "run_s": report.seconds}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--neurons", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    measure(2, arguments.neurons)  # the first calls pay for imports
    figures = measure(arguments.checkpoints, arguments.neurons)
    local, ray = figures["local"], figures["ray"]
    ratio, gain = local["wall_s"] / local["engine_s"], local["wall_s"] / ray["wall_s"]
    print(f"one process:  {local['wall_s']:.2f} s, engine {local['engine_s']:.2f} s, ratio {ratio:.2f}")
    print(f"two workers:  {ray['wall_s']:.2f} s with Ray's start, {gain:.2f} times as fast as one process")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

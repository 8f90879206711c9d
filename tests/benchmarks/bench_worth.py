"""What it costs to ask what maps are worth, for one checkpoint, on one core.

    python tests/benchmarks/bench_worth.py [--json FILE]

Times are those of the processor, which do not count what others do; other work on the machine still makes them longer,
as it shares caches and memory, so the load stands beside them.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from pipeline.gradients.attribution import integrated_gradients, synthesise
from pipeline.gradients.question import Question
from pipeline.numbers.prediction import filter_r, fit_strf, ridge_basis, windows_of
from tests.zoo import make, spectrogram

N_NEURONS, N_BANDS, LAGS = 119, 34, 40
SOUNDS, FRAMES = 4, 120
TURNS = 7


@dataclass(frozen=True)
class Row:
    """One piece of work: its time, the most that it may take, and what it was done for."""

    work: str
    seconds: float
    most: float
    size: str

    @property
    def met(self) -> bool:
        """Whether it took no longer than it may."""
        return self.seconds <= self.most


def median_seconds(work: Callable[[], object], turns: int = TURNS) -> float:
    """Median over some turns, after one that warms up."""
    times = []
    for turn in range(turns + 1):
        started = time.process_time()
        work()
        if turn:
            times.append(time.process_time() - started)
    return statistics.median(times)


def predictions() -> list[Row]:
    """The filter test, the fit, and the decomposition that a worker makes once for all checkpoints of a cohort."""
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal((N_BANDS, FRAMES)).astype(np.float32) for _ in range(SOUNDS)]
    windows = windows_of(sounds, LAGS)
    maps = rng.standard_normal((N_NEURONS, N_BANDS, LAGS))
    responses = np.logaddexp(0.0, maps.reshape(N_NEURONS, -1) @ windows.values.T / 10.0)
    basis = ridge_basis(windows)
    size = f"{N_NEURONS} neurons, {len(windows.values)} frames of {SOUNDS} sounds"
    return [
        Row("filter test", median_seconds(lambda: filter_r(maps, windows, responses)), 0.005, size),
        Row("fitted STRF", median_seconds(lambda: fit_strf(basis, responses)), 0.020, size),
        Row("decomposition, once per cohort", median_seconds(lambda: ridge_basis(windows)), 0.3, size),
    ]


def gradients() -> list[Row]:
    """Integrated gradients with 16 nodes, and the ascent of a whole population."""
    model, sound = make("StateNet", N_NEURONS, n_bands=N_BANDS, rnn_type="GRU"), spectrogram(300, n_bands=N_BANDS)

    def integrate() -> None:
        integrated_gradients(model, sound, Question(LAGS, list(range(10))), nodes=16, most_nodes=16)

    def climb() -> None:
        synthesise(model, torch.zeros(N_BANDS, LAGS), steps=20)

    return [
        Row("integrated gradients, 16 nodes", median_seconds(integrate, 3), 1.0, "10 neurons, 300 frames"),
        Row("best sound, 20 steps", median_seconds(climb, 3), 4.0, f"{N_NEURONS} neurons, {LAGS} frames"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [*predictions(), *gradients()]
    load = os.getloadavg()[0]
    for row in rows:
        verdict = "" if row.met else "  MISSED"
        print(f"{row.work:32} {1e3 * row.seconds:8.1f} ms of {1e3 * row.most:6.0f}  {row.size}{verdict}")
    print(f"load {load:.1f}")
    if arguments.json is not None:
        figures = {"rows": [asdict(row) for row in rows], "load": load}
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

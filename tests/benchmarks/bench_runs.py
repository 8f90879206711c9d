"""Whole runs, each in a process of its own, by the processor's time: imports, checks, maps, numbers, writing.

    python tests/benchmarks/bench_runs.py [--only TEXT] [--speech FOLDER] [--before FOLDER] [--turns 3] [--json FILE]

``--speech`` is a folder of trained checkpoints (``checkpoints/linear-*``, ``ln-*``, ...), ``frequencies.txt``,
``neurons.csv`` and ``spectrograms.npz``. ``--before`` is a checkout of an earlier commit, which the same work is then
done with as well, turn by turn. Of several turns the quickest counts: whatever else the machine does only adds to it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.bench_engine import machine  # noqa: E402
from tests.benchmarks.bench_pipeline import CONFIG, write_population  # noqa: E402

SPEECH_MODELS = ("linear", "ln", "nrf", "dnet", "transformer", "statenet_gru")

DYNAMIC = """
[maps.dstrf]
kind = "dynamic"
stimuli = "{stimuli}"
"""

SECOND = """
import sys, time, torch
torch.set_num_threads(1)
from tests.zoo import make
from pipeline.gradients.gradmaps import compute_strf_gradmaps
models = [make("StateNet", {neurons}, seed, n_bands=34, rnn_type="GRU") for seed in range(10)]
times = []
for model in models * 5:
    started = time.process_time()
    compute_strf_gradmaps(model, None, 64)
    times.append(time.process_time() - started)
print(min(times[1:]))
"""


@dataclass(frozen=True)
class Row:
    """Seconds of one piece of work, and of the same with an earlier commit; None where there is no such checkout."""

    work: str
    seconds: float
    at_most_s: float | None
    before_s: float | None
    at_least: float | None

    @property
    def met(self) -> bool:
        """Whether the work is done in time, and so many times as fast as before."""
        in_time = self.at_most_s is None or self.seconds <= self.at_most_s
        return in_time and (not self.before_s or self.at_least is None or self.before_s >= self.at_least * self.seconds)


def command_s(checkout: Path, folder: Path, config: Path) -> float:
    """Seconds of ``gradmap run --local`` of a checkout, its store made anew."""
    store = f"cube-{len(list(folder.glob('cube-*')))}.zarr"
    copy = folder / f"{store}.toml"
    copy.write_text(config.read_text().replace("cube.zarr", store))
    return process_s(checkout, [sys.executable, "-m", "tasks", "run", "--local", str(copy)])[0]


def second_s(checkout: Path, neurons: int) -> float:
    """Seconds of the null maps of one checkpoint, others of its class and shape having been met."""
    return float(process_s(checkout, [sys.executable, "-c", SECOND.format(neurons=neurons)])[1])


def process_s(checkout: Path, command: list[str]) -> tuple[float, str]:
    """Seconds of a process in a checkout, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def rows(only: str, speech: Path | None, before: Path | None, turns: int) -> Iterator[Row]:
    """Every row whose name holds ``only``."""
    runs: dict[str, tuple[float | None, float | None, Callable[[Path], Path]]] = {
        "300 checkpoints x 1,000 neurons, null maps": (None, 1.5, many_checkpoints),
        "one checkpoint, 119 neurons, 340 frames, dynamic": (6.0, None, one_dynamic),
    }
    if speech is not None:
        name = "speech checkpoints x 6 sounds x 10 neurons, dynamic"
        runs[name] = (90.0, None, partial(of_speech, speech=speech.resolve()))
    for name, (at_most, at_least, prepare) in runs.items():
        if only in name:
            with tempfile.TemporaryDirectory() as folder:
                work = partial(command_s, folder=Path(folder), config=prepare(Path(folder)))
                yield in_turn(name, at_most, at_least, work, before, turns)
    for neurons, at_least in ((119, 2.0), (1000, None)):
        name = f"null maps of a second checkpoint, GRU, {neurons} neurons"
        if only in name:
            yield in_turn(name, None, at_least, partial(second_s, neurons=neurons), before, turns)


def in_turn(
    name: str,
    at_most: float | None,
    at_least: float | None,
    work: Callable[[Path], float],
    before: Path | None,
    turns: int,
) -> Row:
    """The quickest of several turns of each checkout; maps that the earlier commit did not have are not asked of it."""
    both = before is not None and at_most is None
    ours, theirs = [], []
    for _ in range(turns):
        ours.append(work(ROOT))
        if both and before is not None:
            theirs.append(work(before))
    return Row(name, min(ours), at_most, min(theirs) if theirs else None, at_least)


def many_checkpoints(folder: Path) -> Path:
    """The config of null maps of 300 recurrent checkpoints."""
    write_population(folder, 300, 1000)
    return written(folder, CONFIG.format(executor="0").replace("cube-0.zarr", "cube.zarr"))


def one_dynamic(folder: Path) -> Path:
    """The config of dynamic maps of one recurrent checkpoint along one sound."""
    write_population(folder, 1, 119)
    np.savez(folder / "sounds.npz", sound=np.random.default_rng(0).random((34, 340), dtype=np.float32))
    whole = CONFIG.format(executor="0").replace("cube-0.zarr", "cube.zarr").replace("lags = 64", "lags = 40")
    head = whole[: whole.index("[maps.strf]")]
    return written(folder, head + DYNAMIC.format(stimuli="sounds.npz"))


def of_speech(folder: Path, speech: Path) -> Path:
    """The config of dynamic maps of every trained checkpoint that hears spectrograms."""
    parts = [
        f'store = "cube.zarr"\n[[cohort]]\nname = "speech"\nframe_ms = 10.0\nlags = 40\n'
        f'frequencies_hz = "{speech}/frequencies.txt"\nneurons = "{speech}/neurons.csv"\n'
    ]
    for name in SPEECH_MODELS:
        parts.append(f'[[cohort.checkpoints]]\npath = "{speech}/checkpoints/{name}-*"\n')
        if name not in ("linear", "nrf"):
            parts.append('[cohort.checkpoints.modules.output_activation]\nclass = "torch.nn.Identity"\n')
    return written(folder, "".join(parts) + DYNAMIC.format(stimuli=f"{speech}/spectrograms.npz"))


def written(folder: Path, text: str) -> Path:
    """A config file of this text."""
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def main() -> int:
    """The table, and 1 where a row is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--speech", type=Path, help="folder of trained checkpoints")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--turns", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file")
    arguments = parser.parse_args()
    found = []
    print(f"{'work':56} {'seconds':>8} {'at most':>8} {'before':>8} {'ratio':>6} {'at least':>9}", flush=True)
    for row in rows(arguments.only, arguments.speech, arguments.before, arguments.turns):
        found.append(row)
        ratio = row.before_s / row.seconds if row.before_s else None
        cells = (row.at_most_s, row.before_s, ratio, row.at_least)
        shown = ["-" if cell is None else f"{cell:.3g}" for cell in cells]
        figures = f"{row.seconds:8.3g} {shown[0]:>8} {shown[1]:>8} {shown[2]:>6} {shown[3]:>9}"
        print(f"{row.work:56} {figures}{'' if row.met else '   NOT MET'}", flush=True)
    if arguments.json:
        record = {"machine": machine(), "results": [asdict(row) | {"met": row.met} for row in found]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The engine against deepSTRF 0.1.0's own methods: ratios of times taken in one process, turn by turn.

    python tests/benchmarks/bench_engine.py [--quick] [--only TEXT] [--json FILE]

Every row times both in turn, so that whatever else the machine does falls on both, and compares medians. The time per
neuron of deepSTRF's waveform method does not depend on the neuron: ten neurons stand for its loop over a hundred.

The last table says how far 5,000 neurons are from what cannot be avoided: the product of the readout's slopes with the
features' maps, of 2 x neurons x features x bands x lags operations, into memory that nothing has written to before.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.gradients.gradmaps import compute_strf_gradmaps, strf_gradmaps, waveform_gradmaps
from pipeline.inputs.torchaudio_standin import ensure_torchaudio

ensure_torchaudio()

from deepSTRF.models import audio, wav2spec  # noqa: E402  (imports torchaudio)

AUDIO_HZ = 16000
FRAME_MS = 5.0
WARM_UP_S = 1.5

STRF_ROWS = {  # name: (builder, lags, required ratio at 1000 neurons)
    "StateNet GRU": (lambda n: audio.StateNet(out_neurons=n, rnn_type="GRU"), 64, 50),
    "StateNet LSTM": (lambda n: audio.StateNet(out_neurons=n, rnn_type="LSTM"), 64, 50),
    "StateNet RNN": (lambda n: audio.StateNet(out_neurons=n, rnn_type="RNN"), 64, 50),
    "StateNet LMU": (lambda n: audio.StateNet(out_neurons=n, rnn_type="LMU"), 64, 50),
    "Transformer": (lambda n: audio.Transformer(out_neurons=n), 64, 50),
    "StateNet Mamba": (lambda n: audio.StateNet(out_neurons=n, rnn_type="Mamba"), 64, 40),
    "Linear": (lambda n: audio.Linear(out_neurons=n), 9, 80),
    "LinearNonlinear": (lambda n: audio.LinearNonlinear(out_neurons=n), 9, 80),
    "NRF": (lambda n: audio.NetworkReceptiveField(out_neurons=n), 9, 30),
    "DNet": (lambda n: audio.DNet(out_neurons=n), 9, 10),
    "ConvNet2D": (lambda n: audio.ConvNet2D(out_neurons=n), 24, 10),
}
GROWING = ("StateNet GRU", "StateNet LSTM", "StateNet RNN", "StateNet LMU", "Transformer")
WAVEFORM_ROWS = {"mel": ("n_mels", 30), "sincnet": ("n_filters", 30), "gammatone": ("n_filters", 10)}
ROUTES = ("auto", "factored", "batched", "replicated", "loop", "per_neuron", "forward")


@dataclass(frozen=True)
class Result:
    """One row: ``figure`` is what is required to be at least, or at most, ``required``."""

    work: str
    measure: str
    figure: float
    required: float
    at_least: bool
    ours_ms: float
    theirs_ms: float
    route: str

    @property
    def met(self) -> bool:
        return self.figure >= self.required if self.at_least else self.figure <= self.required


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="enable_nested_tensor")
    print(f"{'work':44} {'measure':26} {'figure':>9} {'required':>9}  {'ours':>10} {'deepSTRF':>11}  route", flush=True)
    results = []
    for result in rows(arguments.quick, arguments.only):
        results.append(result)
        sign = ">=" if result.at_least else "<="
        print(
            f"{result.work:44} {result.measure:26} {result.figure:9.3g} {sign}{result.required:7.3g}  "
            f"{result.ours_ms:7.1f} ms {result.theirs_ms:8.1f} ms  {result.route}"
            f"{'' if result.met else '   NOT MET'}",
            flush=True,
        )
    floors = []
    names = [name for name in GROWING if arguments.only in name]
    if names:
        print(f"\n{'5000 neurons':16} {'product':>9} {'all done':>9}  {'product':>10} {'119 neurons':>12} {'5000':>9}")
    for name in names:
        floors.append(found := floor(name, *STRF_ROWS[name][:2]))
        print(
            f"{name:16} {found.product_gflop:6.2f} GF {found.done_gflop:6.2f} GF  {found.product_ms:7.1f} ms"
            f" {found.few_ms:9.1f} ms {found.many_ms:6.1f} ms",
            flush=True,
        )
    missed = [result for result in results if not result.met]
    host = machine()
    met = f"{len(results) - len(missed)} of {len(results)} met"
    print(f"\n{met}, on {host['processor']}, {host['threads']} threads")
    if arguments.json:
        listed = [asdict(one) | {"met": one.met} for one in results]
        record = {
            "machine": host,
            "quick": arguments.quick,
            "results": listed,
            "floors": [asdict(one) for one in floors],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if missed else 0


def rows(quick: bool, only: str) -> Iterator[Result]:
    n_neurons = 1000
    for name, (build, lags, required) in STRF_ROWS.items():
        if only in name:
            yield large_population(name, build, lags, required, n_neurons, quick)
    for name in GROWING:
        if only in name:
            yield growth(name, *STRF_ROWS[name][:2], quick)
    for name, (build, lags, _) in STRF_ROWS.items():
        if only in name:
            yield small_population(name, build, lags, quick)
    for name, (size, required) in WAVEFORM_ROWS.items():
        if only in f"waveform {name}":
            yield waveforms(name, size, required, quick)
    for name, (build, lags, _) in STRF_ROWS.items():
        if only in name:
            yield precision(name, build, lags)


def large_population(
    name: str, build: Callable[[int], nn.Module], lags: int, required: float, n_neurons: int, quick: bool
) -> Result:
    model = seeded(build, n_neurons)
    route = compute_strf_gradmaps(model, None, lags).route
    ours, theirs = in_turn(
        lambda: strf_gradmaps(model, lags), lambda: their_strf(model, lags), 1 if quick else 3, ours_per_turn=3
    )
    return Result(
        f"{name}, {n_neurons} neurons, T = {lags}",
        "deepSTRF / ours",
        theirs / ours,
        required,
        True,
        ours,
        theirs,
        route,
    )


def growth(name: str, build: Callable[[int], nn.Module], lags: int, quick: bool) -> Result:
    few, many = seeded(build, 119), seeded(build, 5000)
    many_ms, few_ms = in_turn(lambda: strf_gradmaps(many, lags), lambda: strf_gradmaps(few, lags), 5 if quick else 15)
    return Result(
        f"{name}, 5000 against 119 neurons", "time ratio, ours", many_ms / few_ms, 2, False, many_ms, few_ms, ""
    )


@dataclass(frozen=True)
class Floor:
    """Operations of the product that every method needs and of all that was done, in 1e9, and the times beside it."""

    work: str
    product_gflop: float
    done_gflop: float
    product_ms: float
    few_ms: float
    many_ms: float


def floor(name: str, build: Callable[[int], nn.Module], lags: int) -> Floor:
    few, many = seeded(build, 119), seeded(build, 5000)
    width = next(part for part in many.readout.modules() if isinstance(part, nn.Linear)).in_features
    slopes, features = torch.randn(5000, width), torch.randn(width, many.F * lags)
    product_ms, many_ms = in_turn(lambda: torch.matmul(slopes, features), lambda: strf_gradmaps(many, lags), 15)
    few_ms, _ = in_turn(lambda: strf_gradmaps(few, lags), lambda: None, 15)
    with FlopCounterMode(display=False) as done:
        strf_gradmaps(seeded(build, 5000), lags)
    product = 2e-9 * slopes.numel() * features.shape[1]
    return Floor(name, product, 1e-9 * done.get_total_flops(), product_ms, few_ms, many_ms)


def small_population(name: str, build: Callable[[int], nn.Module], lags: int, quick: bool) -> Result:
    model = seeded(build, 10)
    ours, theirs = in_turn(lambda: strf_gradmaps(model, lags), lambda: their_strf(model, lags), 9 if quick else 31)
    return Result(f"{name}, 10 neurons", "ours / deepSTRF", ours / theirs, 1.2, False, ours, theirs, "")


def waveforms(name: str, size: str, required: float, quick: bool) -> Result:
    front_end = wav2spec.make_wav2spec(name, AUDIO_HZ, FRAME_MS, **{size: 34}, f_min=100.0, f_max=7600.0)
    model = seeded(lambda n: audio.StateNet(out_neurons=n, wav2spec=front_end), 100)
    sound = 0.1 * torch.randn(2 * AUDIO_HZ, generator=torch.Generator().manual_seed(0))
    neurons = iter(range(10**6))
    ours, theirs = in_turn(
        lambda: waveform_gradmaps(model, sound),
        lambda: [model.waveform_gradmap(sound, neuron=next(neurons) % 100) for _ in range(10)],
        1 if quick else 3,
    )
    theirs *= 10
    return Result(
        f"waveform {name}, 100 neurons, 2 s", "deepSTRF / ours", theirs / ours, required, True, ours, theirs, ""
    )


def precision(name: str, build: Callable[[int], nn.Module], lags: int) -> Result:
    """The largest relative difference of any route in float32 from float64."""
    model = seeded(build, 12)
    exact = strf_gradmaps(model, lags, dtype=torch.float64, route="loop")
    worst, where = 0.0, ""
    for route in ROUTES:
        try:
            maps = compute_strf_gradmaps(model, None, lags, route=route, check=False).values[0].double()
        except RuntimeError:
            continue
        difference = float((maps - exact).abs().max() / exact.abs().max())
        if difference >= worst:
            worst, where = difference, route
    return Result(f"{name}, every route", "relative to float64", worst, 1e-5, False, 0.0, 0.0, where)


def their_strf(model: nn.Module, lags: int) -> None:
    model.STRF_gradmap(lags)


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int, ours_per_turn: int = 1
) -> tuple[float, float]:
    """Medians in ms, after one turn of theirs and a while of ours, in which memory and threads find their places."""
    times: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    theirs()
    while time.perf_counter() < started + WARM_UP_S:
        ours()
    for _ in range(turns):
        for _ in range(ours_per_turn):
            times[0].append(timed(ours))
        times[1].append(timed(theirs))
    return statistics.median(times[0]), statistics.median(times[1])


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def seeded(build: Callable[[int], nn.Module], n_neurons: int) -> nn.Module:
    torch.manual_seed(0)
    return build(n_neurons).eval()


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())

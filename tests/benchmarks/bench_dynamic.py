"""Maps at every frame of a sound: ratios of times taken in one process on one core, turn by turn.

    python tests/benchmarks/bench_dynamic.py [--quick] [--only TEXT] [--json FILE]

What takes minutes is timed for a few frames and multiplied. The yardsticks are plain autograd: one backward pass per
neuron and frame, one batched backward pass per frame from the features (around the whole sound, or around a window of
as many frames as there are lags), and the route "rows", which takes each frame by the quickest route for gradmaps at
one frame. The product of the readout's slopes with the features' maps is what every method needs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.strfs import dynamic_strfs
from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.gradients.passes import class_cache
from pipeline.numbers import dynamic
from pipeline.numbers.sound_windows import stimulus_windows
from tests.benchmarks.bench_engine import machine
from tests.zoo import make, spectrogram

from deepSTRF.models import prefiltering  # isort: skip  (needs what tests.zoo prepares)

N_BANDS, LAGS, N_FRAMES, N_NEURONS = 34, 40, 1000, 100


@dataclass(frozen=True)
class Row:
    """One ratio, and what it must be at least, or at most where ``at_least`` is not set."""

    work: str
    measure: str
    figure: float
    required: float
    at_least: bool
    ours_s: float
    theirs_s: float
    route: str

    @property
    def met(self) -> bool:
        """Whether the figure is what is required."""
        return self.figure >= self.required if self.at_least else self.figure <= self.required


def state_net(kind: str, n_neurons: int, prefilter_ms: float | None = None) -> nn.Module:
    """A StateNet, behind adaptation over some hundred frames where ``prefilter_ms`` gives their width."""
    model = make("StateNet", n_neurons, n_bands=N_BANDS, rnn_type=kind)
    if prefilter_ms is None:
        return model
    from deepSTRF.models import audio

    torch.manual_seed(0)
    front = prefiltering.make_prefiltering("adaptrans", N_BANDS, prefilter_ms)
    return audio.StateNet(n_frequency_bands=N_BANDS, out_neurons=n_neurons, rnn_type=kind, prefiltering=front).eval()


def transformer(n_layers: int, n_neurons: int) -> nn.Module:
    """A transformer of so many layers."""
    return make("Transformer", n_neurons, n_bands=N_BANDS, n_layers=n_layers)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    **{kind: partial(state_net, kind) for kind in ("GRU", "LSTM", "RNN", "LMU", "Mamba", "S4")},
    "AdapTrans + GRU": partial(state_net, "GRU", prefilter_ms=10.0),
    **{f"Transformer {count}": partial(transformer, count) for count in (1, 2, 4)},
    "NRF": partial(make, "NetworkReceptiveField", n_bands=N_BANDS),
    "DNet": partial(make, "DNet", n_bands=N_BANDS),
    "ConvNet2D": partial(make, "ConvNet2D", n_bands=N_BANDS),
}

# At least so many times as fast as a batched backward pass per frame: around the whole sound, around a window.
FEATURES = {
    "GRU": (300, 12),
    "AdapTrans + GRU": (300, 12),
    "LMU": (300, 3),
    "Transformer 1": (200, 4),
    "Transformer 2": (100, 1.7),
    "Transformer 4": (80, 1.3),
    "NRF": (200, 20),
    "DNet": (100, 12),
    "S4": (150, 4),
    "ConvNet2D": (30, 2),
}


def main() -> int:
    """The table, and 1 where a row is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sounds of 300 frames, fewer turns")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file")
    parser.add_argument("--peak-of", nargs=2, metavar=("MODEL", "FRAMES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="enable_nested_tensor")
    if arguments.peak_of:
        print(json.dumps(memory_of(arguments.peak_of[0], int(arguments.peak_of[1]))))
        return 0
    n_frames = 300 if arguments.quick else N_FRAMES
    print(f"{'work':44} {'measure':38} {'figure':>8} {'required':>9} {'ours':>10} {'theirs':>11}  route", flush=True)
    results = []
    for row in rows(n_frames, arguments.only, 1 if arguments.quick else 3):
        results.append(row)
        sign = ">=" if row.at_least else "<="
        print(
            f"{row.work:44} {row.measure:38} {row.figure:8.3g} {sign}{row.required:7.4g} {row.ours_s:8.2f} s"
            f" {row.theirs_s:9.1f} s  {row.route}{'' if row.met else '   NOT MET'}",
            flush=True,
        )
    missed = [row for row in results if not row.met]
    host = machine()
    print(f"\n{len(results) - len(missed)} of {len(results)} met, on {host['processor']}, one thread")
    if arguments.json:
        listed = [asdict(row) | {"met": row.met} for row in results]
        record = {"machine": host, "frames": n_frames, "results": listed}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if missed else 0


def rows(n_frames: int, only: str, turns: int) -> Iterator[Row]:
    """Every row whose name holds ``only``."""
    for name in ("GRU", "LSTM", "RNN"):
        if only in f"maps {name}":
            yield from all_maps(name, n_frames, turns)
            yield against_product(name, n_frames, turns)
    for name in FEATURES:
        if only in f"features {name}":
            yield from all_features(name, n_frames, turns)
    if only in "features Mamba":
        yield against_rows("Mamba", n_frames, turns, 300)
    if only in "peak GRU":
        yield from peaks(200 if n_frames == N_FRAMES else 20, turns)
    if only in "second checkpoint":
        yield from second_checkpoint(turns)
    if only in "numbers GRU":
        yield default_numbers(turns)
    for name in ("GRU", "LSTM", "AdapTrans + GRU", "Transformer 1", "NRF", "ConvNet2D"):
        if only in f"growth {name}":
            yield growth(name, turns)
            yield memory_growth(name)


def streamed(model: nn.Module, stimulus: Tensor, neurons: list[int] | None = None) -> tuple[Tensor, Tensor, str]:
    """Mean and standard deviation of all maps, and the route."""
    blocks = dynamic_strfs(model, stimulus, LAGS, neurons=neurons)
    return *blocks.mean_and_sd(), blocks.record.route


def all_maps(name: str, n_frames: int, turns: int) -> Iterator[Row]:
    """All maps with mean and deviation, over two ways to have them frame by frame."""
    model, stimulus = MODELS[name](N_NEURONS), spectrogram(n_frames, n_bands=N_BANDS)
    few = spread(n_frames, 4)
    ours, theirs = in_turn(
        lambda: streamed(model, stimulus),
        lambda: list(dynamic_strfs(model, stimulus, LAGS, frames=few, route="rows")),
        turns,
    )
    each = theirs * n_frames / len(few)
    route = streamed(model, stimulus)[2]
    work = f"maps {name}, N = {N_NEURONS}, T = {n_frames}"
    yield Row(work, "frame by frame / ours", each / ours, 40, True, ours, each, route)
    slowest = one_backward(model, stimulus, few) * n_frames * N_NEURONS
    yield Row(work, "backward per neuron and frame / ours", slowest / ours, 1000, True, ours, slowest, route)


def against_product(name: str, n_frames: int, turns: int) -> Row:
    """All maps of 1,000 neurons with mean and deviation, over the maps' own product alone."""
    model, stimulus = MODELS[name](1000), spectrogram(n_frames, n_bands=N_BANDS)
    width = next(part for part in model.readout.modules() if isinstance(part, nn.Linear)).in_features
    slopes, features = torch.randn(1000, width), torch.randn(width, LAGS * N_BANDS)
    out = torch.empty(1000, LAGS * N_BANDS)

    def product() -> None:
        for _ in range(n_frames):
            torch.mm(slopes, features, out=out)

    ours, alone = in_turn(lambda: streamed(model, stimulus), product, turns)
    route = streamed(model, stimulus)[2]
    return Row(f"maps {name}, N = 1000, T = {n_frames}", "ours / product", ours / alone, 1.5, False, ours, alone, route)


def all_features(name: str, n_frames: int, turns: int) -> Iterator[Row]:
    """The features' maps at all frames, over one batched backward pass per frame."""
    model, stimulus = MODELS[name](N_NEURONS), spectrogram(n_frames, n_bands=N_BANDS)
    few = spread(n_frames, 3)
    whole, window = FEATURES[name]
    ours, theirs = in_turn(
        lambda: streamed(model, stimulus, [0]), lambda: batched_per_frame(model, stimulus, few), turns
    )
    short, _ = in_turn(
        lambda: [batched_per_frame(model, stimulus[:, frame - LAGS : frame], [LAGS - 1]) for frame in few],
        lambda: None,
        turns,
    )
    route = streamed(model, stimulus, [0])[2]
    each, each_short = theirs * n_frames / len(few), short * n_frames / len(few)
    scale = n_frames / N_FRAMES
    work = f"features {name}, T = {n_frames}"
    yield Row(work, "batched backward per frame / ours", each / ours, whole * scale, True, ours, each, route)
    yield Row(work, "the same on a window / ours", each_short / ours, window, True, ours, each_short, route)


def against_rows(name: str, n_frames: int, turns: int, required: float) -> Row:
    """All maps, over the way frame by frame."""
    model, stimulus = MODELS[name](N_NEURONS), spectrogram(n_frames, n_bands=N_BANDS)
    few = spread(n_frames, 2)
    ours, theirs = in_turn(
        lambda: streamed(model, stimulus),
        lambda: list(dynamic_strfs(model, stimulus, LAGS, frames=few, route="rows")),
        turns,
    )
    each, route = theirs * n_frames / len(few), streamed(model, stimulus)[2]
    required *= n_frames / N_FRAMES
    return Row(f"maps {name}, T = {n_frames}", "frame by frame / ours", each / ours, required, True, ours, each, route)


def peaks(n_sounds: int, turns: int) -> Iterator[Row]:
    """Maps at each neuron's own peak around many sounds, over the way back through whole sounds."""
    model = MODELS["GRU"](N_NEURONS)
    sounds = torch.rand(n_sounds, N_BANDS, 300, generator=torch.Generator().manual_seed(0))

    def by(route: str, some: Tensor) -> str:
        return compute_strf_gradmaps(model, some, LAGS, objective="peak", route=route).route

    few = sounds[: max(1, n_sounds // 10)]
    ours, theirs = in_turn(lambda: by("auto", sounds), lambda: by("factored", few), turns)
    each = theirs * n_sounds / len(few)
    work = f"peak GRU, {n_sounds} sounds of 300, N = {N_NEURONS}"
    yield Row(work, "whole way back / ours", each / ours, 3, True, ours, each, by("auto", few))
    command = [sys.executable, __file__, "--peak-of", "peaks", str(n_sounds)]
    _, whole = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    yield Row(work, "memory of the process, MiB", whole, 1536, False, ours, 0.0, "resumed")


def second_checkpoint(turns: int) -> Iterator[Row]:
    """Null maps of a checkpoint whose class and shape were met before, over those of one whose were not."""
    for n_neurons in (119, 1000):
        models = [make("StateNet", n_neurons, seed, n_bands=N_BANDS, rnn_type="GRU") for seed in range(8)]

        def maps(anew: bool, models: list[nn.Module] = models) -> None:
            for model in models:
                if anew:
                    class_cache.forget_all()
                compute_strf_gradmaps(model, None, 64)

        ours, theirs = in_turn(partial(maps, False), partial(maps, True), 3 * turns)
        work = f"second checkpoint, GRU, N = {n_neurons}, T = 64"
        yield Row(work, "searched anew / ours", theirs / ours, 1, True, ours / 8, theirs / 8, "factored")
        started = time.process_time()
        models[0].STRF_gradmap(T=64)
        slow = time.process_time() - started
        required = 150 if n_neurons == 1000 else 1
        yield Row(work, "deepSTRF / ours", 8 * slow / ours, required, True, ours / 8, slow, "factored")


def default_numbers(turns: int) -> Row:
    """Seconds of all default numbers of one checkpoint, maps included."""
    model, stimulus = MODELS["GRU"](119), spectrogram(340, n_bands=N_BANDS)
    windows = stimulus_windows(stimulus.numpy(), LAGS)

    def numbers() -> None:
        blocks = dynamic_strfs(model, stimulus, LAGS)
        maps = torch.cat([each.permute(0, 1, 3, 2) for _, each in blocks], dim=1).numpy()
        for measure in (dynamic.gain, dynamic.complexity, dynamic.temporal_hold, dynamic.components):
            measure(maps)
        dynamic.local_linearity(maps, windows, blocks.responses.numpy())

    ours, _ = in_turn(numbers, lambda: None, turns)
    return Row("numbers GRU, N = 119, T = 340", "seconds", ours, 6, False, ours, 0.0, "")


def growth(name: str, turns: int) -> Row:
    """Time per frame along a long sound, over that along a short one."""
    model = MODELS[name](N_NEURONS)
    short, long = (spectrogram(count, n_bands=N_BANDS) for count in (300, 3000))
    ours, theirs = in_turn(lambda: streamed(model, long), lambda: streamed(model, short), turns)
    required = 2.0 if "AdapTrans" in name else 1.5
    route = streamed(model, short)[2]
    return Row(
        f"growth {name}, 3000 / 300 frames", "time per frame", ours / theirs / 10, required, False, ours, theirs, route
    )


def memory_growth(name: str) -> Row:
    """Memory beyond a forward pass along a long sound, over that along a short one; processes of their own.

    With blocks of a megabyte given back to the system as soon as they are freed: what the C library keeps of what was
    freed is not what is held.
    """
    figures = []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    for n_frames in (300, 3000):
        command = [sys.executable, __file__, "--peak-of", name, str(n_frames)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        figures.append(json.loads(done.stdout))
    (forward, whole), (long_forward, long_whole) = figures
    short_extra, long_extra = max(1, whole - forward), max(1, long_whole - long_forward)
    return Row(
        f"growth {name}, 3000 / 300 frames",
        f"memory beyond forward ({short_extra}, {long_extra} MiB)",
        long_extra / short_extra,
        1.5,
        False,
        0.0,
        0.0,
        "",
    )


def memory_of(name: str, n_frames: int) -> tuple[int, int]:
    """Peak memory in MiB of a forward pass that keeps its graph, and of all maps after that; or of peaks of sounds."""
    if name == "peaks":
        sounds = torch.rand(n_frames, N_BANDS, 300, generator=torch.Generator().manual_seed(0))
        before = peak_mib()
        compute_strf_gradmaps(MODELS["GRU"](N_NEURONS), sounds, LAGS, objective="peak")
        return before, peak_mib()
    model, stimulus = MODELS[name](N_NEURONS), spectrogram(n_frames, n_bands=N_BANDS)
    streamed(model, stimulus[:, :100])
    forget_peak()
    model(stimulus[None, None].requires_grad_(True))
    forward = peak_mib()
    streamed(model, stimulus)
    return forward, peak_mib()


def forget_peak() -> None:
    """Let the most memory held be what is held now, where the system can; what ran before counts for nothing then."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> int:
    """Most memory that this process has held, in MiB.

    Not by `getrusage`: a process that another one started counts what that one held when it did.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024


def one_backward(model: nn.Module, stimulus: Tensor, frames: list[int]) -> float:
    """Seconds of one backward pass for one neuron and frame."""
    free = stimulus.clone().requires_grad_(True)
    response = model(free[None, None])[0, :, 0]
    torch.autograd.grad(response[0, frames[0]], free, retain_graph=True)
    started = time.process_time()
    for frame in frames:
        torch.autograd.grad(response[0, frame], free, retain_graph=True)
    return (time.process_time() - started) / len(frames)


def batched_per_frame(model: nn.Module, stimulus: Tensor, frames: list[int]) -> None:
    """One forward pass, and a batched backward pass from the last linear layer's input at each frame."""
    last = [part for part in model.readout.modules() if isinstance(part, nn.Linear)][-1]
    heard: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    free = stimulus.clone().requires_grad_(True)
    try:
        model(free[None, None])
    finally:
        handle.remove()
    width = heard[0].shape[-1]
    for frame in frames:
        units = torch.zeros(width, *heard[0].shape)
        units[torch.arange(width), 0, frame, torch.arange(width)] = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.autograd.grad(heard[0], free, units, retain_graph=True, is_grads_batched=True)


def spread(n_frames: int, count: int) -> list[int]:
    """A few frames from all over the sound, none so early that its window reaches before it."""
    return [LAGS + (n_frames - LAGS - 1) * number // (count - 1) for number in range(count)]


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> tuple[float, float]:
    """Medians in seconds of the processor's time, which does not count what others do, after one turn of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for mine, work in zip(times, (ours, theirs), strict=True):
            started = time.process_time()
            work()
            if turn:
                mine.append(time.process_time() - started)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    sys.exit(main())

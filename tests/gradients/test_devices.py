"""Everything runs on a CUDA device through the same code, and gives there what it gives on the CPU.

Each test runs on a GPU (marker ``gpu``), and on a pretended one where there is none: that shows no arithmetic of a
GPU, but that no tensor is made on the wrong device. A check computes on both sides and returns what is to be compared,
so that it can run in the process in which the device is pretended.
"""

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.strfs import dynamic_strfs
from pipeline.gradients.gradmaps import compute_strf_gradmaps, compute_waveform_gradmaps, strf_gradmaps
from pipeline.gradients.health.assessment import assess
from pipeline.gradients.question import Question
from pipeline.gradients.routes.cheapest import ROUTES
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.gradients.window import find_window
from pipeline.plan.config import load_config
from pipeline.run.driver import run_locally
from pipeline.store.reader import open_cube
from tests.gradients import pretended
from tests.gradients.small import Recurrent, relative, seeded
from tests.run.lab import write_checkpoint, write_config, write_sound, write_spectrograms
from tests.zoo import FRONT_ENDS, PREFILTERED, ZOO, hearing, sound, spectrogram

DEVICE = "cuda:0"
TOLERANCE = 1e-4
LAGS = 8
SLOW = pytest.mark.slow  # -m gpu runs these too

# S4 keeps what it worked out when it first heard something, on the device where it was then.
UNHEARD = {"StateNet-S4": {"heard_before": False}}


@pytest.fixture(scope="module")
def pretending() -> Iterator[ProcessPoolExecutor]:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so none need be pretended")
    if not pretended.can_install():
        pytest.skip(f"torch {torch.__version__} lets no device be written in Python")
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned, initializer=begin_to_pretend) as process:
        yield process


def begin_to_pretend() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error", module=r"(pipeline|tests)\.")
    for known in ("enable_nested_tensor is True", "PyTorch was compiled without cuDNN"):
        warnings.filterwarnings("ignore", message=known)
    pretended.install()


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "pretended"])
def on_device(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a check where ``DEVICE`` can be used."""
    if request.param == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
        return lambda check, *arguments: check(*arguments)
    process = request.getfixturevalue("pretending")
    return lambda check, *arguments: process.submit(check, *arguments).result()


def check_rules() -> list[bool]:
    """Whether torch refuses what it must refuse, and takes what it must take."""
    there, here = torch.ones(3).to(DEVICE), torch.ones(3)
    refused: list[Callable[[], Any]] = [
        lambda: there + here,
        lambda: torch.tensor(1.0, device=DEVICE) + here,
        lambda: torch.stack([there, here]),
        lambda: torch.where(there > 0, here, there),
        lambda: here[torch.tensor([0], device=DEVICE)],
        lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
        lambda: there.numpy(),
    ]
    there[[0, 2]] += there[torch.tensor([0, 1])] * torch.tensor(2.0)
    there.copy_(here)
    found = []
    for operation in refused:
        try:
            operation()
            found.append(False)
        except (RuntimeError, TypeError):
            found.append(True)
    return found


def test_tensors_of_two_devices_do_not_mix(on_device):
    assert all(on_device(check_rules))


def both(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return build(), build().to(DEVICE)


def model_of(name: str, n_neurons: int) -> nn.Module:
    return {**ZOO, **PREFILTERED}[name](n_neurons, **UNHEARD.get(name, {}))


def difference(there: Tensor, here: Tensor) -> float:
    """Relative to the largest entry; a map that is zero everywhere must be so on both sides."""
    assert there.device == torch.device(DEVICE)
    assert here.device.type == "cpu"
    there = there.cpu()
    return relative(there, here) if here.any() else float(there.abs().max())


def check_strf(name: str, n_neurons: int, noisy: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Maps of one model, and what is said of them."""
    model, moved = both(lambda: model_of(name, n_neurons))
    stimuli = torch.stack([spectrogram(LAGS + 3, seed) for seed in (1, 2)]) if noisy else None
    here = compute_strf_gradmaps(model, stimuli, LAGS, **settings)
    there = compute_strf_gradmaps(moved, stimuli, LAGS, **settings)
    about = Question(**{key: value for key, value in settings.items() if key in ("objective", "neurons", "space")})
    healthy, healthy_there = assess(model, here, stimuli, about), assess(moved, there, stimuli, about)
    return {
        "difference": difference(there.values, here.values),
        "frames": torch.equal(there.frames.cpu(), here.frames),
        "responses": relative(there.responses.cpu(), here.responses) < TOLERANCE,
        "flags": torch.equal(healthy_there.flags.cpu(), healthy.flags),
        "future": torch.equal(healthy_there.future_share, healthy.future_share),
        "disagreement": there.disagreement < TOLERANCE,
    }


def same(found: dict[str, Any]) -> bool:
    return found["difference"] < TOLERANCE and all(value for name, value in found.items() if name != "difference")


@pytest.mark.parametrize(
    ("n_neurons", "noisy"),
    [(60, True), *(pytest.param(*some, marks=SLOW) for some in ((4, False), (4, True), (60, False)))],
)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_gives_the_maps_and_health_that_it_gives_on_the_cpu(on_device, name, n_neurons, noisy):
    found = on_device(check_strf, name, n_neurons, noisy, {})
    assert same(found), found


def check_few(name: str) -> float:
    model, moved = both(lambda: model_of(name, 4))
    return difference(strf_gradmaps(moved, LAGS), strf_gradmaps(model, LAGS))


@pytest.mark.parametrize("name", ["LinearNonlinear", "Transformer", "StateNet-GRU"])
def test_a_handful_of_neurons_gives_the_same_maps_around_silence(on_device, name):
    assert on_device(check_few, name) < TOLERANCE
    found = on_device(check_strf, name, 4, False, {})
    assert same(found), found


@pytest.mark.parametrize("name", PREFILTERED)
def test_prefiltered_models_give_the_same_maps(on_device, name):
    found = on_device(check_strf, name, 20, True, {"space": "prefiltered"})
    assert same(found), found


def loudest(response: Tensor) -> Tensor:
    return response.square().sum(dim=-1)


def share(response: Tensor) -> Tensor:
    return response[:, -1] / response[:, -1].sum()


@pytest.mark.parametrize(
    "settings",
    [
        *({"objective": objective} for objective in ("peak", "sum", "mean", {"frame": 9}, {"mean_over": [3, 9]})),
        {"objective": loudest},
        {"objective": share, "neurons": [1, 4, 19]},
        {"neurons": "sum"},
        {"neurons": [7, 0, 7]},
        {"dtype": torch.float64},
        {"memory_bytes": 1},
    ],
    ids=lambda settings: ", ".join(f"{name} {getattr(value, '__name__', value)}" for name, value in settings.items()),
)
def test_objectives_neurons_precision_and_small_blocks_give_the_same_maps(on_device, settings):
    found = on_device(check_strf, "StateNet-GRU", 20, True, settings)
    assert same(found), found


def check_route(name: str, route: str) -> float | str:
    model, moved = both(lambda: model_of(name, 5))
    stimuli = spectrogram(LAGS)[None]
    expected = compute_strf_gradmaps(model, stimuli, LAGS, route="loop", check=False)
    try:
        found = compute_strf_gradmaps(moved, stimuli, LAGS, route=route, check=False)
    except (NotImplementedError, RuntimeError) as error:
        return str(error)
    return difference(found.values, expected.values)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["Linear", "Transformer", "StateNet-LSTM"])
def test_every_route_gives_the_same_maps_or_says_why_not(on_device, name, route):
    found = on_device(check_route, name, route)
    if route == "forward" and name == "StateNet-LSTM":
        # Torch knows no forward mode of the recurrent cells that it uses on a GPU.
        assert "forward AD" in found
    elif route == "resumed" and name != "StateNet-LSTM":
        assert "recurrent layer" in found
    else:
        assert found < TOLERANCE


def check_waveform(front_end: str, model_name: str, objective: str, window: int | None) -> dict[str, Any]:
    model, moved = both(lambda: hearing(front_end, model_name, 20))
    sounds = torch.stack([sound(8, seed) for seed in (1, 2)])
    here = compute_waveform_gradmaps(model, sounds, window, objective=objective)
    there = compute_waveform_gradmaps(moved, sounds, window, objective=objective)
    healthy = assess(model, here, sounds, Question(objective=objective))
    healthy_there = assess(moved, there, sounds, Question(objective=objective))
    return {
        "difference": difference(there.values, here.values),
        "frames": torch.equal(there.frames.cpu(), here.frames),
        "flags": torch.equal(healthy_there.flags.cpu(), healthy.flags),
        "disagreement": there.disagreement < TOLERANCE,
    }


@pytest.mark.parametrize(("objective", "window"), [("peak", 300), pytest.param("last", None, marks=SLOW)])
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_front_end_gives_the_same_waveform_maps(on_device, front_end, objective, window):
    found = on_device(check_waveform, front_end, "StateNet-GRU", objective, window)
    assert same(found), found


def check_window(name: str) -> tuple[Any, Any]:
    here, there = (find_window(model, maximum=64) for model in both(lambda: model_of(name, 4)))
    return (here.lags, here.converged, here.reason), (there.lags, there.converged, there.reason)


@pytest.mark.parametrize("name", ["Linear", "Transformer", "StateNet-GRU", "adaptrans-ConvNet2D"])
def test_the_window_found_is_the_same(on_device, name):
    here, there = on_device(check_window, name)
    assert here[:2] == there[:2]


def check_frames() -> float:
    worst = 0.0
    for name in ("StateNet-GRU", "Transformer", "LinearNonlinear", "StateNet-LMU"):
        model, moved = both(lambda name=name: model_of(name, 20))
        pairs = zip(*(dynamic_strfs(one, spectrogram(20), 6, frames=[3, 19]) for one in (model, moved)), strict=True)
        worst = max(worst, *(difference(there, here) for (_, here), (_, there) in pairs))
    return worst


def test_maps_along_a_sound_are_the_same(on_device):
    assert on_device(check_frames) < TOLERANCE


PRECISIONS: dict[str, Callable[[], Any]] = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "matmul": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "neither": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "by-operator": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "cudnn-off": lambda: setattr(torch.backends.cudnn, "enabled", False),
}


def switches() -> list[Any]:
    found: list[Any] = [torch.backends.cudnn.enabled, torch.backends.fp32_precision]
    for backend in (torch.backends.mkldnn, torch.backends.cudnn):
        found += [backend.conv.fp32_precision, backend.rnn.fp32_precision]
    found += [torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision]
    for older in (lambda: torch.backends.cuda.matmul.allow_tf32, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(older())
        except RuntimeError:
            found.append("contradictory")
    return found


class Curious(nn.Module):
    """A prefilter that looks at torch's older switches, as products on a GPU and others' code do."""

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        return x


def check_precision(setting: str, ask: bool) -> dict[str, Any]:
    """Maps under a caller's settings, in a process whose own are put back."""
    model, moved = both(lambda: model_of("StateNet-GRU", 20))
    expected = strf_gradmaps(model, LAGS)
    if ask:
        moved.prefiltering = Curious().eval()
    original = switches()
    try:
        PRECISIONS[setting]()
        before = switches()
        there = strf_gradmaps(moved, LAGS)
        return {"difference": difference(there, expected), "before": before, "after": switches()}
    finally:
        torch.backends.fp32_precision = original[1]
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.enabled = original[0]
        backends = (torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)
        for backend, value in zip(backends, original[2:4], strict=True):
            backend.fp32_precision = value
        torch.backends.mkldnn.matmul.fp32_precision = original[6]
        torch.backends.cuda.matmul.fp32_precision = original[7]
        assert switches() == original


@pytest.mark.parametrize("setting", PRECISIONS)
def test_the_callers_precision_does_not_matter_and_is_the_callers_again(on_device, setting):
    found = on_device(check_precision, setting, setting != "by-operator")
    assert found["difference"] < TOLERANCE
    assert found["before"] == found["after"]


class Drawing(nn.Module):
    """A prefilter that draws numbers on the device, to no effect."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * torch.rand_like(x)


def check_traces() -> dict[str, bool]:
    """What is the same after the maps were computed."""
    model = model_of("StateNet-GRU", 20)
    model.prefiltering = Drawing().eval()
    model.to(DEVICE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = [id(part) for part in model.modules()]
    drawn = torch.cuda.get_rng_state(DEVICE), torch.get_rng_state()
    strf_gradmaps(model, LAGS)
    strf_gradmaps(model, LAGS, dtype=torch.float64)
    return {
        "weights": all(torch.equal(value, before[name]) for name, value in model.state_dict().items()),
        "gradients": all(parameter.grad is None for parameter in model.parameters()),
        "parts": parts == [id(part) for part in model.modules()],
        "device": all(value.device == torch.device(DEVICE) for value in model.state_dict().values()),
        "random state": torch.equal(torch.cuda.get_rng_state(DEVICE), drawn[0])
        and torch.equal(torch.get_rng_state(), drawn[1]),
    }


def test_the_model_and_the_random_state_are_left_alone(on_device):
    found = on_device(check_traces)
    assert all(found.values()), found


MAPS = """
[maps.null]
kind = "strf"
[maps.noise]
kind = "strf"
baseline = "stimuli"
stimuli = "spectrograms.npz"
objective = "peak"
[maps.heard]
kind = "waveform"
stimuli = "*.wav"
window_ms = 60.0
"""


def check_run(folder: Path) -> tuple[dict[str, float], dict[str, bool]]:
    """How the cube of a run on the device differs from that of a run on the CPU: the maps, and whether the rest."""
    cubes = []
    for device in ("cpu", DEVICE):
        config = load_config(folder / f"{device}.toml")
        report = run_locally(config, device=device)
        assert report.failed == report.pending == 0, report.failures
        cubes.append(open_cube(folder / f"{device[:3]}.zarr").load())
    here, there = cubes
    maps = {
        name: float(abs(there[name] - here[name]).max() / abs(here[name]).max()) for name in ("null", "noise", "heard")
    }
    others = [f"{name}_{what}" for name in maps for what in ("status", "health", "frame")]
    return maps, {name: bool((here[name] == there[name]).all()) for name in others}


def test_a_run_gives_the_same_cube(on_device, tmp_path):
    write_checkpoint(tmp_path / "checkpoints" / "one", 0, hears=True)
    write_sound(tmp_path / "sound.wav")
    write_spectrograms(tmp_path / "spectrograms.npz")
    for device in ("cpu", DEVICE):
        written = write_config(tmp_path, maps=MAPS, name=f"{device}.toml")
        written.write_text(written.read_text().replace("cube.zarr", f"{device[:3]}.zarr"))
    maps, others = on_device(check_run, tmp_path)
    assert max(maps.values()) < TOLERANCE, maps
    assert all(others.values()), others


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
    ],
)
def test_a_library_of_the_device_that_ran_out_of_memory_is_understood(text):
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.gpu
def test_after_the_device_ran_out_of_memory_smaller_blocks_give_the_same_maps():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    model, moved = both(lambda: seeded(lambda: Recurrent(n_neurons=2000)))
    expected = strf_gradmaps(model, 20)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved(DEVICE) + 256 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info(DEVICE)[1], DEVICE)
    try:
        # The cotangents of all rows alone would take 320 MB.
        found = compute_strf_gradmaps(moved, None, 20, route="replicated", memory_bytes=2**40)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert found.block < 2000
    assert difference(found.values[0], expected) < TOLERANCE

"""What the demo's run reads, written to a folder: checkpoints, sounds, axes, truth and the configuration."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from safetensors.torch import save_file
from torch import nn

from pipeline.demo.ear import log_frequencies
from pipeline.demo.nonlinear import MovingModel, MovingPopulation, plant_moving_population
from pipeline.demo.simulate import (
    HIGH_HZ,
    LAGS,
    LOW_HZ,
    PlantedNeuron,
    Population,
    Recording,
    heard_clips,
    lags_ms,
    plant_population,
    planted_strfs,
)
from pipeline.demo.train import ARCHITECTURES, WAVEFORM_BANDS, Report, TrainedModel, train

#: Name of the demo's store.
STORE = "gradmaps.zarr"
#: Seeds of each architecture.
SEEDS = (0, 1)
#: Raised where an older folder of the demo no longer fits.
FORMAT = 2


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo's files lie; the store is only named here, the pipeline's run makes it."""

    folder: Path
    config: Path
    store: Path
    planted: Path
    neurons: Path
    checkpoints: tuple[Path, ...]
    sounds: tuple[Path, ...]
    population: Population
    moving: MovingPopulation = field(compare=False)


@dataclass(frozen=True)
class _Size:
    """How much is heard and learnt: clips in all, held out and written as sounds, and the share of the epochs."""

    n_clips: int
    clip_seconds: float
    n_test: int
    n_sounds: int
    epochs: float


_FULL = _Size(n_clips=24, clip_seconds=4.0, n_test=6, n_sounds=4, epochs=1.0)
_QUICK = _Size(n_clips=12, clip_seconds=3.0, n_test=3, n_sounds=2, epochs=0.35)


def prepare_demo(folder: str | Path, *, seed: int = 0, quick: bool = False, report: Report | None = None) -> DemoFiles:
    """The files of a demo: a planted population, models trained on what it heard, and a ``run.toml`` over them.

    A folder that already holds the same demo is taken as it is, so that an interrupted run of the pipeline over it
    can go on; an unfinished one is made anew.

    Parameters
    ----------
    folder
        Made where it is missing.
    seed
        Draws the population, the sounds and the noise. Each architecture is trained from two seeds of its own.
    quick
        Fewer and shorter clips and fewer epochs: the same files within seconds, at some cost in accuracy.
    report
        Called with what is being done and the share of all work that is done, 0 to 1.

    Raises
    ------
    ValueError
        If the folder holds another demo, or a run that is not a demo.
    """
    folder = Path(folder)
    tell = report if report is not None else lambda _text, _share: None
    settings = {"format": FORMAT, "seed": seed, "quick": quick}
    if _is_finished(folder, settings):
        tell("found the same demo, already trained", 1.0)
        return _files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "demo.json", settings | {"finished": False})
    size = _QUICK if quick else _FULL
    tell("planting receptive fields and synthesising sounds", 0.0)
    population = plant_population(seed=seed)
    recording = heard_clips(population, size.n_clips, size.clip_seconds)
    _write_inputs(folder, population, recording, size)
    _write_moving(folder, plant_moving_population(recording.frequencies_hz, seed=seed), recording.frame_ms)
    for trained in _train_all(recording, size, tell):
        checkpoint = folder / "checkpoints" / f"{trained.architecture.name}-seed{trained.seed}"
        _write_checkpoint(checkpoint, trained, population, recording.frame_ms)
    neurons = [asdict(neuron) for neuron in population.neurons]
    _write_json(folder / "demo.json", settings | {"finished": True, "population": {"seed": seed, "neurons": neurons}})
    tell("demo files written", 1.0)
    return _files(folder)


def load_population(folder: str | Path) -> Population:
    """The planted population of a finished demo folder."""
    path = Path(folder) / "demo.json"
    truth = (json.loads(path.read_text()) if path.exists() else {}).get("population")
    if truth is None:
        raise ValueError(
            f"{path} names no planted population; without it nothing can be compared with the truth; give the folder"
            " of a finished demo, or make one with `gradmap demo`"
        )
    return Population(tuple(PlantedNeuron(**neuron) for neuron in truth["neurons"]), truth["seed"])


def _is_finished(folder: Path, settings: dict[str, int | bool]) -> bool:
    """Whether the folder holds exactly this demo; refuses a folder that holds anything else of the kind."""
    marker = folder / "demo.json"
    if not marker.exists():
        taken = [name for name in ("run.toml", "checkpoints", "neurons.csv") if (folder / name).exists()]
        if taken:
            raise ValueError(
                f"{folder} already holds {', '.join(taken)} and is not a demo folder; the demo would overwrite them;"
                " give the demo a folder of its own"
            )
        return False
    found = json.loads(marker.read_text())
    differing = [f"{key} {found.get(key)}, not {value}" for key, value in settings.items() if found.get(key) != value]
    if differing:
        raise ValueError(
            f"{folder} holds a demo with {'; '.join(differing)}; its cube would mix two populations; give another"
            " folder, or delete that one"
        )
    return bool(found.get("finished"))


def _train_all(recording: Recording, size: _Size, tell: Report) -> Iterator[TrainedModel]:
    jobs = [(architecture, seed) for architecture in ARCHITECTURES for seed in SEEDS]
    for index, (architecture, seed) in enumerate(jobs):
        epochs = max(1, round(size.epochs * architecture.epochs))
        within = _share_of(tell, f"training {architecture.name}, seed {seed}", index / len(jobs), 1.0 / len(jobs))
        yield train(architecture, recording, size.n_test, seed=seed, epochs=epochs, report=within)


def _share_of(tell: Report, title: str, start: float, share: float) -> Report:
    """Reports one training as its share of the whole."""
    return lambda text, done: tell(f"{title}: {text}", start + share * done)


def _write_inputs(folder: Path, population: Population, recording: Recording, size: _Size) -> None:
    """Everything but the checkpoints. The sounds are clips the models are not trained on."""
    (folder / "sounds").mkdir(exist_ok=True)
    spectrograms = {}
    for clip in range(size.n_clips - size.n_test, size.n_clips - size.n_test + size.n_sounds):
        name = f"clip{clip:02d}"
        soundfile.write(folder / "sounds" / f"{name}.wav", recording.waveforms[clip], recording.audio_fs, "PCM_16")
        spectrograms[name] = recording.spectrograms[clip]
    np.savez(folder / "spectrograms.npz", **spectrograms)
    np.savetxt(folder / "frequencies.txt", recording.frequencies_hz, fmt="%.4f")
    np.savetxt(folder / "wav_frequencies.txt", log_frequencies(LOW_HZ, HIGH_HZ, WAVEFORM_BANDS), fmt="%.4f")
    np.savez(
        folder / "planted.npz",
        neuron=np.array(population.labels),
        frequency=recording.frequencies_hz,
        lag=lags_ms(),
        strf=planted_strfs(population, recording.frequencies_hz, lags_ms()),
        best_frequency_hz=np.array([neuron.best_frequency_hz for neuron in population.neurons]),
        latency_ms=np.array([neuron.latency_ms for neuron in population.neurons]),
    )
    _write_neurons(folder / "neurons.csv", population)
    (folder / "run.toml").write_text(_run_toml(recording.frame_ms))


_PLANTED = ("best_frequency_hz", "latency_ms", "bandwidth_oct", "duration_ms", "polarity", "direction")


def _write_neurons(path: Path, population: Population) -> None:
    columns = ["neuron", "site"] + [f"planted_{name}" for name in _PLANTED]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for neuron in population.neurons:
            values = [getattr(neuron, name) for name in _PLANTED]
            cells = [round(value, 4) if isinstance(value, float) else value for value in values]
            table.writerow([neuron.label, neuron.site, *cells])


def _write_checkpoint(folder: Path, trained: TrainedModel, population: Population, frame_ms: float) -> None:
    metadata = {
        "architecture": trained.architecture.name,
        "seed": trained.seed,
        "dt_ms": frame_ms,
        "dataset": f"planted population of {len(population.neurons)} neurons, seed {population.seed}",
        "neurons": list(population.labels),
        "cc_test": [round(cc, 4) for cc in trained.cc_test],
    }
    _write_model(folder, trained.model, trained.arguments, metadata)


def _write_model(
    folder: Path, model: nn.Module, arguments: Mapping[str, object], metadata: Mapping[str, object]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {"_model_class": type(model).__name__, **arguments})
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    _write_json(folder / "metadata.json", metadata)


def _write_moving(folder: Path, population: MovingPopulation, frame_ms: float) -> None:
    """The planted neurons whose fields move, as a checkpoint of a model that is not trained, and their kinds."""
    n_neurons, _, bands, lags = population.kernels.shape
    arguments = {"n_frequency_bands": bands, "temporal_window_size": lags, "out_neurons": n_neurons}
    model = MovingModel(**arguments)
    model.readout.plant(population)
    metadata = {"architecture": "planted", "dt_ms": frame_ms, "neurons": list(population.labels)}
    _write_model(folder / "planted" / "moving", model, arguments, metadata)
    with (folder / "moving_neurons.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("neuron", "nonlinearity"))
        table.writerows(zip(population.labels, population.kinds, strict=True))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(text)
    unfinished.replace(path)


def _files(folder: Path) -> DemoFiles:
    population = load_population(folder)
    return DemoFiles(
        folder=folder,
        config=folder / "run.toml",
        store=folder / STORE,
        planted=folder / "planted.npz",
        neurons=folder / "neurons.csv",
        checkpoints=tuple(sorted((folder / "checkpoints").iterdir())),
        sounds=tuple(sorted((folder / "sounds").glob("*.wav"))),
        population=population,
        moving=plant_moving_population(np.loadtxt(folder / "frequencies.txt"), seed=population.seed),
    )


def _run_toml(frame_ms: float) -> str:
    """The pipeline's configuration: one cohort per kind of stimulus that the models hear, and the planted one."""
    heard = {
        waveform: {f"checkpoints/{a.name}-*": a.model_class for a in ARCHITECTURES if a.hears_waveform == waveform}
        for waveform in (False, True)
    }
    cohorts = (
        _cohort_toml("demo", frame_ms, "frequencies.txt", "neurons.csv", heard[False]),
        _cohort_toml("demo_wav", frame_ms, "wav_frequencies.txt", "neurons.csv", heard[True]),
        "\n# Neurons whose fields move with the sound, exactly as they were planted.",
        _cohort_toml("demo_moving", frame_ms, "frequencies.txt", "moving_neurons.csv", {"planted/moving": MovingModel}),
    )
    return f'store = "{STORE}"\n{"".join(cohorts)}{_MAPS_TOML}'


def _cohort_toml(name: str, frame_ms: float, frequencies: str, neurons: str, checkpoints: Mapping[str, type]) -> str:
    entries = "".join(
        f"""
[[cohort.checkpoints]]
path = "{path}"
class = "{model.__module__}.{model.__qualname__}"
"""
        for path, model in checkpoints.items()
    )
    return f"""
[[cohort]]
name = "{name}"
frame_ms = {frame_ms}
lags = {LAGS}
frequencies_hz = "{frequencies}"
neurons = "{neurons}"
{entries}"""


_MAPS_TOML = """
# The models were trained on z-scored levels, so that the null stimulus is the mean sound.
[maps.strf]
kind = "strf"
cohorts = ["demo", "demo_wav"]

[maps.strf_sound]
kind = "strf"
cohorts = ["demo"]
baseline = "stimuli"
stimuli = "spectrograms.npz"
objective = "peak"

[maps.waveform]
kind = "waveform"
cohorts = ["demo_wav"]
stimuli = "sounds/*.wav"
objective = "peak"
window_ms = 250.0

# At every frame of every sound: how far the fields move.
[maps.dstrf]
kind = "dynamic"
cohorts = ["demo", "demo_moving"]
stimuli = "spectrograms.npz"
"""

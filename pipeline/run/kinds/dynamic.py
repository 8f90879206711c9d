"""Dynamic STRFs of a block of neurons along all sounds of a map, and the numbers that are kept of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pipeline.gradients.dynamic.strfs import Record, dynamic_strfs
from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.gradients.health.energy import memory_length, oldest_share
from pipeline.gradients.health.flags import ROUTES_TOLERANCE, SHORTEST_SOUND, TRUNCATED_SHARE
from pipeline.gradients.health.raising import raised
from pipeline.numbers import dynamic
from pipeline.numbers.sound_windows import stimulus_windows
from pipeline.plan.kinds.dynamic import DynamicConfig
from pipeline.run.backward_checks import backward_flags
from pipeline.run.contract_checks import contract_flags
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@dataclass(frozen=True)
class _Sound:
    """What is kept of one sound while its numbers are taken.

    ``maps`` are (neuron, frame, lag, frequency) at ``frames``, ``windows`` (frame, lag, frequency) what lay under them,
    ``responses`` (neuron, frame) those of the model; ``kept`` are the maps at single frames that the config names.
    """

    name: str
    maps: np.ndarray
    windows: np.ndarray
    responses: np.ndarray
    kept: dict[int, np.ndarray]


@dataclass
class _Records:
    """How the maps were computed, the share of each neuron's energy beyond the window, over sounds and members.

    ``lengths`` are the frames of each sound.
    """

    all: list[Record] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    beyond: list[np.ndarray] = field(default_factory=list)

    @property
    def route(self) -> str:
        return "+".join(dict.fromkeys(record.route for record in self.all))

    @property
    def disagreement(self) -> float:
        return max((one.disagreement for one in self.all if not math.isnan(one.disagreement)), default=math.nan)


@COMPUTE.register("dynamic")
def compute(job: Job) -> Computed:
    """The numbers of one block of neurons.

    The maps of the block along all sounds are held at one time, which is what the plan has cut it for. Numbers that
    belong to a sound are taken sound by sound, the others over the frames of all.
    """
    settings = job.map.settings
    assert isinstance(settings, DynamicConfig)
    told = contract_flags(job) | backward_flags(job, _lively(job.spectrograms()[0], 2 * job.cohort.lags))
    records = _Records()
    sounds = [_heard(job, settings, name, heard, records) for name, heard in _stimuli(job)]
    maps = np.concatenate([sound.maps for sound in sounds], axis=1)
    arrays = _over_all_frames(settings, maps) | _per_sound(job, settings, sounds)
    if settings.keep:
        kept = [
            sound.kept[frame]
            for name, frames in settings.keep.items()
            for sound in sounds
            if sound.name == name
            for frame in frames
        ]
        arrays["kept"] = np.stack(kept, axis=1)
    return Computed(
        arrays={suffix: np.asarray(values, dtype=np.float32) for suffix, values in arrays.items()},
        companions=_companions(job, maps, records, told),
        route=records.route,
    )


def _companions(job: Job, maps: np.ndarray, records: _Records, told: np.ndarray) -> dict[str, np.ndarray]:
    """Health and memory of each neuron, by the energy of all its maps at each lag."""
    energy = np.stack([np.einsum("tlf,tlf->l", one, one, dtype=np.float64, casting="same_kind") for one in maps])
    # As one map of one band whose entries are the roots of the energies.
    rooted = torch.from_numpy(np.sqrt(energy))[None, :, None]
    oldest = oldest_share(rooted)
    disagrees = torch.full(oldest.shape, records.disagreement > ROUTES_TOLERANCE)
    flags = (
        raised("all_zero_map", rooted.amax(dim=(2, 3)) == 0)
        | raised("truncated_window", torch.from_numpy(np.max(records.beyond, axis=0))[None] > TRUNCATED_SHARE)
        | raised("routes_disagree", disagrees)
        | raised("short_sound", torch.full(oldest.shape, min(records.lengths) < SHORTEST_SOUND * job.cohort.lags))
        | raised("not_checked", torch.full(oldest.shape, math.isnan(records.disagreement)))
    )
    step_ms = np.float32(job.cohort.frame_ms)

    def memory(share: float) -> np.ndarray:
        lags = memory_length(rooted, share)[0].numpy()
        return np.where(lags > 0, (lags - 1) * step_ms, np.float32(np.nan))

    return {
        "health": flags[0].numpy().astype(np.uint16) | told,
        "memory_90": memory(0.9),
        "memory_99": memory(0.99),
        "oldest_share": oldest[0].numpy(),
    }


def _stimuli(job: Job) -> Iterator[tuple[str, np.ndarray]]:
    return zip(job.stimulus_names(), job.spectrograms(), strict=True)


def _heard(job: Job, settings: DynamicConfig, name: str, heard: np.ndarray, records: _Records) -> _Sound:
    """The maps along one sound, averaged over the members of an ensemble frame by frame."""
    lags = job.cohort.lags
    records.lengths.append(heard.shape[1])
    taken = list(range(settings.skipped(lags, job.cohort.frame_ms), heard.shape[1], settings.every))
    kept = list(dict.fromkeys(settings.keep.get(name, ())))
    frames = sorted({*taken, *kept})
    members = [_along(job, settings, model, neurons, heard, frames, records) for model, neurons in job.members()]
    maps = _together([maps for maps, _ in members], settings.consistency)
    responses = np.mean([responses for _, responses in members], axis=0)
    at = np.searchsorted(frames, taken)
    return _Sound(
        name=name,
        maps=maps if len(taken) == len(frames) else maps[:, at],
        windows=stimulus_windows(heard, lags, np.asarray(taken, dtype=int)),
        responses=responses[:, at],
        kept={frame: maps[:, frames.index(frame)].transpose(0, 2, 1) for frame in kept},
    )


def _along(
    job: Job,
    settings: DynamicConfig,
    model: nn.Module,
    neurons: tuple[int, ...],
    heard: np.ndarray,
    frames: Sequence[int],
    records: _Records,
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (neuron, frame, lag, frequency) and responses (neuron, frame) of one model."""
    shape = (len(neurons), len(frames), job.cohort.lags, heard.shape[0])
    maps = np.zeros(shape, dtype=np.float64 if job.dtype == torch.float64 else np.float32)
    if not frames:
        return maps, np.zeros(shape[:2])
    blocks = dynamic_strfs(
        model,
        torch.as_tensor(heard, dtype=job.dtype, device=job.device),
        job.cohort.lags,
        neurons=list(neurons),
        frames=frames,
        dtype=job.dtype,
        route=settings.route,
        memory_bytes=job.memory_bytes,
    )
    done = 0
    for block, values in blocks:
        maps[:, done : done + len(block)] = values.permute(0, 1, 3, 2).cpu().numpy()
        done += len(block)
    records.all.append(blocks.record)
    records.beyond.append(_beyond_window(job, model, neurons, heard[:, : frames[-1] + 1]))
    return maps, blocks.responses.cpu().numpy()


def _beyond_window(job: Job, model: nn.Module, neurons: tuple[int, ...], heard: np.ndarray) -> np.ndarray:
    """Share of the energy of each neuron's map at the last frame that lies in as many lags again as are kept."""
    lags = job.cohort.lags
    if heard.shape[1] <= lags:
        return np.zeros(len(neurons))
    stimulus = torch.as_tensor(heard, dtype=job.dtype, device=job.device)[None]
    wide = compute_strf_gradmaps(model, stimulus, 2 * lags, neurons=list(neurons), dtype=job.dtype, check=False)
    energy = wide.values[0].double().square().sum(dim=-2).cpu().numpy()  # (neuron, lag)
    total = energy.sum(axis=1)
    return np.divide(energy[:, lags:].sum(axis=1), total, out=np.zeros(len(neurons)), where=total > 0)


def _lively(heard: np.ndarray, frames: int) -> list[np.ndarray]:
    """Of each half of a sound the part, of at most so many frames, in which most changes; a short sound itself."""
    if heard.shape[1] <= 2 * frames:
        return [heard[:, -frames:]]
    energy = np.square(heard - heard.mean(axis=1, keepdims=True)).sum(axis=0)
    sums = np.convolve(energy, np.ones(frames), mode="valid")
    half = len(sums) // 2
    starts = (int(sums[:half].argmax()), half + int(sums[half:].argmax()))
    return [heard[:, start : start + frames] for start in starts]


def _together(members: list[np.ndarray], consistency: float | None) -> np.ndarray:
    """The mean over members; with ``consistency`` q, 0 where their quantiles q and 1 - q differ in sign."""
    if len(members) == 1:
        return members[0]
    stacked = np.stack(members)
    mean = stacked.mean(axis=0, dtype=np.float64).astype(stacked.dtype)
    if consistency is None:
        return mean
    low, high = np.quantile(stacked, [consistency, 1.0 - consistency], axis=0)
    return np.where(low * high > 0, mean, 0.0).astype(stacked.dtype)


def _over_all_frames(settings: DynamicConfig, maps: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, deviation and components over the frames of all sounds."""
    arrays = {
        "mean": np.stack([one.mean(axis=0, dtype=np.float64) for one in maps]).transpose(0, 2, 1),
        "sd": np.stack([one.std(axis=0, ddof=1, dtype=np.float64) for one in maps]).transpose(0, 2, 1),
    }
    if "components" in settings.asked:
        found = dynamic.components(maps, settings.components, settings.first_component)
        arrays |= {
            "component": found.component.transpose(0, 1, 3, 2),
            "component_sd": found.component_sd,
            "noise_floor": found.noise_floor,
            "components_above_floor": found.above_floor,
            "size_90": found.size_90,
            "size_95": found.size_95,
        }
    if "population" in settings.asked:
        shared = dynamic.population_components(lambda: [maps], settings.components)
        arrays |= {
            "population_component": shared.component.transpose(0, 2, 1),
            "population_component_sd": shared.component_sd,
            "population_share": shared.share,
        }
    return arrays


def _per_sound(job: Job, settings: DynamicConfig, sounds: Sequence[_Sound]) -> dict[str, np.ndarray]:
    """Numbers of each sound (stimulus, neuron); NaN for a sound too short to have them."""
    found: dict[str, list[np.ndarray]] = {}
    for sound in sounds:
        for suffix, numbers in _of_sound(job, settings, sound).items():
            found.setdefault(suffix, []).append(numbers)
    return {suffix: np.stack(rows) for suffix, rows in found.items()}


def _of_sound(job: Job, settings: DynamicConfig, sound: _Sound) -> dict[str, np.ndarray]:
    asked, maps = settings.asked, sound.maps
    nothing = np.full(len(maps), np.nan)
    changes = maps.shape[1] > 1
    numbers: dict[str, np.ndarray] = {}
    if "gain" in asked:
        strength = dynamic.gain(maps) if maps.shape[1] else np.full((len(maps), 1), np.nan)
        numbers["gain"] = strength.mean(axis=1)
        numbers["gain_change"] = strength.std(axis=1, ddof=1) if changes else nothing
    if "complexity" in asked:
        numbers["complexity"] = dynamic.complexity(maps) if changes else nothing
    if "temporal_hold" in asked:
        numbers["temporal_hold"] = dynamic.temporal_hold(maps) * job.cohort.frame_ms if changes else nothing
    if "shape_change" in asked:
        numbers["shape_change"] = dynamic.shape_change(maps) if changes else nothing
    if "local_linearity" in asked:
        numbers["local_linearity"] = (
            dynamic.local_linearity(maps, sound.windows, sound.responses) if changes else nothing
        )
    return numbers

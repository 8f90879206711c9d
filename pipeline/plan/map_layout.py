"""One map laid out in the cube of its cohort: names of its axes, chunks of its variables, blocks of its shards."""

from bisect import bisect_left
from collections.abc import Mapping
from math import prod

import numpy as np

from pipeline.plan.axes import Axis
from pipeline.plan.config import RunConfig, StorageConfig
from pipeline.plan.map_config import CohortFacts, MapConfig, Stimuli, Variable
from pipeline.plan.run_plan import MapPlan, VariablePlan
from pipeline.plan.urls import ConfigError
from pipeline.words import RESERVED_NAMES, own_axis, variable_name


def lay_out_maps(
    config: RunConfig, cohort: CohortFacts, settings: Mapping[str, MapConfig], stimuli: Mapping[str, Stimuli]
) -> tuple[MapPlan, ...]:
    """The maps of a cohort, each with the names that its axes and variables have in the cube.

    Raises `ConfigError` if two arrays would have one name.
    """
    asked = {name: entry.axes(cohort, stimuli[name]) for name, entry in settings.items()}
    variables = {name: entry.variables({axis.name: axis for axis in asked[name]}) for name, entry in settings.items()}
    maps = tuple(
        _lay_out(config, name, entry, asked[name], variables[name], stimuli[name], _axis_names(asked, variables, name))
        for name, entry in settings.items()
    )
    _refuse_one_name_for_two(cohort, maps)
    return maps


def _axis_names(
    asked: Mapping[str, tuple[Axis, ...]], variables: Mapping[str, tuple[Variable, ...]], name: str
) -> dict[str, str]:
    """What the axes of a map are called in the cube, by their plain names.

    Maps with the same labels share an axis, and the first one has the plain name. An axis with other labels than the
    cohort's first is called after the first map that has it: ``<map>_<axis>``, or ``<map>_<axis>_number`` where one of
    that map's variables is called so.
    """
    names = {}
    for axis in asked[name]:
        alike = {key: own for key, axes in asked.items() for own in axes if own.name == axis.name}
        owner = next(key for key, own in alike.items() if own == axis)
        taken = axis.name in {entry.suffix for entry in variables[owner]}
        own = own_axis(owner, f"{axis.name}_number" if taken else axis.name)
        names[axis.name] = axis.name if owner == next(iter(alike)) else own
    return names


def _lay_out(
    config: RunConfig,
    name: str,
    settings: MapConfig,
    asked: tuple[Axis, ...],
    variables: tuple[Variable, ...],
    stimuli: Stimuli,
    names: Mapping[str, str],
) -> MapPlan:
    axes = {axis.name: axis for axis in asked}
    block = block_lengths(settings, axes, variables, config.storage.object_mib)
    if config.storage.chunks_per_object is None:
        block = in_whole_chunks(block)
    return MapPlan(
        name=name,
        settings=settings,
        axes={names[axis.name]: axis for axis in asked},
        variables=tuple(_variable(name, entry, axes, names, block, config.storage) for entry in variables),
        blocks={names[axis]: length for axis, length in block.items()},
        stimuli=stimuli,
        precision=config.engine.precision,
    )


def _variable(
    map_name: str,
    asked: Variable,
    axes: Mapping[str, Axis],
    names: Mapping[str, str],
    block: Mapping[str, int],
    storage: StorageConfig,
) -> VariablePlan:
    chunks = {dim: 1 if dim == "checkpoint" else block.get(dim, len(axes[dim])) for dim in asked.dims}
    per_object = storage.chunks_per_object if asked.role == "map" else 1
    return VariablePlan(
        **{**vars(asked), "dims": tuple(names.get(dim, dim) for dim in asked.dims)},
        name=variable_name(map_name, asked.suffix),
        chunks=tuple(chunks.values()),
        inner_chunks=inner_chunk_shape(chunks, per_object),
    )


def block_lengths(
    settings: MapConfig, axes: Mapping[str, Axis], variables: tuple[Variable, ...], object_mib: float
) -> dict[str, int]:
    """Positions in one shard of each axis along which shards cut a map.

    The largest variable fits an object of about ``object_mib`` that holds one checkpoint and never cuts a single map,
    and a shard costs no more than its kind allows. Neurons share an object first, then stimuli: a reader mostly wants
    all neurons of one checkpoint.
    """
    cut: list[str] = [axis for axis in ("neuron", "stimulus") if axis in axes and axis in settings.cut_along]
    computed = [entry for entry in variables if entry.computed]
    uncut = [entry.suffix for entry in computed if not set(cut) <= set(entry.dims)]
    if uncut:
        raise ValueError(
            f"the variables {', '.join(map(repr, uncut))} of kind {settings.kind!r} lack one of the axes"
            f" {', '.join(cut)} along which shards cut the map, so several shards would write one object; give them the"
            " axis, or take it out of cut_along"
        )
    budget = max(1, int(object_mib * 2**20 / max(_bytes_of_one(entry, axes, cut) for entry in computed)))
    lengths: dict[str, int] = {}
    for axis in cut:
        lengths[axis] = _even(len(axes[axis]), budget)
        budget = max(1, budget // lengths[axis])
    for axis in reversed(cut):
        # Stimuli first: what is the same for all neurons of a stimulus is then done once.
        lengths[axis] = _affordable(settings, axes, lengths, axis)
    return lengths


def _affordable(settings: MapConfig, axes: Mapping[str, Axis], lengths: Mapping[str, int], axis: str) -> int:
    """The longest equal blocks of an axis, no longer than given, of which a shard costs what its kind allows."""
    size = len(axes[axis])

    def fits(pieces: int) -> bool:
        cost = settings.cost(axes, {**lengths, axis: -(-size // pieces)})
        return cost.seconds <= settings.most.seconds and cost.bytes <= settings.most.bytes

    candidates = range(-(-size // lengths[axis]), size + 1)
    fewest = candidates[min(bisect_left(candidates, True, key=fits), len(candidates) - 1)]
    return -(-size // fewest)


def _even(size: int, most: int) -> int:
    """Length of equal blocks of at most ``most``, as no task is wasted on a short remainder then."""
    pieces = -(-size // max(1, min(size, most)))
    return -(-size // pieces)


def _bytes_of_one(entry: Variable, axes: Mapping[str, Axis], cut: list[str]) -> int:
    """Bytes of a variable for one checkpoint and one position of each axis that is cut."""
    others = (len(axes[dim]) for dim in entry.dims if dim != "checkpoint" and dim not in cut)
    return np.dtype(entry.dtype).itemsize * prod(others)


#: Most neurons of one chunk inside an object, where the config does not say how many chunks there are. So one neuron of
#: hundreds of checkpoints is read without its whole population.
CHUNK_NEURONS = 64


def in_whole_chunks(block: Mapping[str, int]) -> dict[str, int]:
    """Blocks of which the one along the neurons consists of equal chunks of at most `CHUNK_NEURONS`."""
    neurons = block.get("neuron", 0)
    parts = -(-neurons // CHUNK_NEURONS)
    return {**block, "neuron": -(-neurons // parts) * parts} if parts > 1 else dict(block)


def inner_chunk_shape(chunks: Mapping[str, int], per_object: int | None) -> tuple[int, ...] | None:
    """Chunks inside an object: its neurons cut into equal parts; None where that is one part.

    ``per_object``: Most parts; None for as few as hold at most `CHUNK_NEURONS` each.
    """
    neurons = chunks.get("neuron", 1)
    parts = -(-neurons // CHUNK_NEURONS) if per_object is None else per_object
    parts = max(k for k in range(1, parts + 1) if neurons % k == 0)
    return None if parts == 1 else tuple(size // parts if dim == "neuron" else size for dim, size in chunks.items())


def _refuse_one_name_for_two(cohort: CohortFacts, maps: tuple[MapPlan, ...]) -> None:
    owners: dict[str, str] = {}
    for entry in maps:
        beside = [variable_name(entry.name, ending) for ending in ("status", *entry.settings.companions)]
        labels = [f"{dim}_{label}" for dim, axis in entry.axes.items() for label in axis.labels]
        for array in (*(variable.name for variable in entry.variables), *beside, *labels):
            known = owners.setdefault(array, entry.name)
            if array in RESERVED_NAMES or (known != entry.name and array not in labels):
                raise ConfigError(
                    f"cohort {cohort.name!r}: maps.{entry.name} writes {array!r}, which"
                    f" {'the cube itself' if array in RESERVED_NAMES else f'maps.{known}'} uses as well, so one would"
                    " hide the other; give the map another name"
                )

"""What a cube needs to know of trained checkpoints: their files, their labels, and what their modules tell."""

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.inputs.checkpoint_files import Files, files_of, fingerprint_of, folder_of, json_beside, unreadable
from pipeline.inputs.checkpoint_memory import Learnt, Memory
from pipeline.inputs.files import CheckpointError, FileTooLargeError, join, split
from pipeline.inputs.fit_records import read_training
from pipeline.inputs.metadata import Metadata, read_metadata
from pipeline.inputs.recipes import UNWRAPPED, Recipe, recipe_of
from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import Checkpoint, CheckpointSource
from pipeline.text import of_error, printable

if TYPE_CHECKING:
    from torch import nn

#: Takes each checkpoint that is built, with its module.
Keep = Callable[[Checkpoint, "nn.Module"], None]

#: Checkpoints that are read ahead of the one that is built; each is held in memory until it is its turn.
READ_AHEAD = 4


def describe_checkpoints(
    sources: Sequence[CheckpointSource],
    keep: Keep | None = None,
    memory: Memory | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checkpoint]:
    """What the cube needs to know of each checkpoint, in order.

    Files are read and fingerprinted side by side; modules are built one after the other, since libraries and random
    states that they share are no place for threads. Where an entry of the config suits some of its checkpoints, those
    that it does not suit fail alone. Where a checkpoint's own files are at fault its ``error`` says so, and the other
    fields hold what could be found out, labels among them.

    Parameters
    ----------
    keep
        Given each checkpoint that is built with its module.
    memory
        What was learnt before, which need not be built; what is learnt now is added.
    report
        Called with how many are described, and of how many.

    Raises
    ------
    ConfigError
        If an entry of the config suits none of its checkpoints.
    """
    described = []
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        later = iter(sources)
        waiting = deque(pool.submit(_read, source, memory) for source in islice(later, READ_AHEAD))
        for number, source in enumerate(sources):
            read = waiting.popleft().result()
            waiting += [pool.submit(_read, one, memory) for one in islice(later, 1)]
            described.append(_describe(source, read, keep, memory))
            report(number + 1, len(sources))
    for entry in dict.fromkeys(source.where for source in sources):
        refusals = [refusal for found, refusal in described if found.source.where == entry]
        if all(refusals):
            raise refusals[0]  # type: ignore[misc]
    return _refuse_odd_wrappers(
        [
            found
            if refusal is None
            else replace(found, error=f"{refusal}; or give this checkpoint an entry of its own")
            for found, refusal in described
        ]
    )


def _refuse_odd_wrappers(described: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints, without those that alone of their entry have a wrapper's prefix before their names.

    Where all of an entry have it, it is how the lab trains. One among others comes from another script, and is not
    stacked with them unasked.
    """
    wrapped = {
        entry.id for entry in described if entry.usable and any(note.endswith(UNWRAPPED) for note in entry.notes)
    }
    plain_entries = {entry.source.where for entry in described if entry.usable and entry.id not in wrapped}
    return [
        replace(
            found,
            error=f"{found.source.where}: the names of the weights in {found.source.location} have a wrapper's prefix"
            f" ({next(note for note in found.notes if note.endswith(UNWRAPPED)).removesuffix(UNWRAPPED).strip()}) that"
            " other checkpoints of the entry do not have, so another script trained it; if it belongs to them all the"
            ' same, add `strip_prefix = "module."` (or "_orig_mod.") to the entry, which takes it off where it stands',
        )
        if found.id in wrapped and found.source.where in plain_entries and not found.source.entry.strip_prefix
        else found
        for found in described
    ]


@dataclass(frozen=True)
class _Read:
    """The files of a checkpoint as far as they could be read, with what was wrong with each."""

    metadata: Metadata = field(default_factory=Metadata)
    damage: str | None = None
    files: Files | Mapping[str, str] | None = None
    fingerprint: str = ""
    error: Exception | None = None


def _read(source: CheckpointSource, memory: Memory | None = None) -> _Read:
    """What lies on disk of a checkpoint; nothing is built."""
    recipe = recipe_of(source.entry, source.where)
    read = _Read()
    try:
        try:
            read = replace(read, metadata=_metadata(source.location, memory))
        except (CheckpointError, FileTooLargeError) as error:
            read = replace(read, damage=str(error))
        files = files_of(source.location, recipe)
        return replace(read, files=files, fingerprint=fingerprint_of(files, recipe))
    except (ConfigError, CheckpointError, FileTooLargeError, OSError, MemoryError) as error:
        return replace(read, error=error)


def _describe(
    source: CheckpointSource, read: _Read, keep: Keep | None, memory: Memory | None
) -> tuple[Checkpoint, ConfigError | None]:
    """A checkpoint as far as it could be described, and what is wrong with its entry of the config."""
    recipe = recipe_of(source.entry, source.where)
    metadata = replace(read.metadata, scalars={**read.metadata.scalars, **source.labels})
    found = Checkpoint(source=source, fingerprint="", scalars=metadata.scalars)
    damage = read.damage
    try:
        if read.error is not None:
            raise read.error
        assert read.files is not None
        named = _recorded_class(read.files, recipe)
        found = replace(found, fingerprint=read.fingerprint, model_class=named, scalars=_with_class(metadata, named))
        known = None if memory is None or damage is not None else memory.models.take(_remembered_by(source, read))
        model = None
        if known is None:
            # Only here does torch have to be there: what is remembered needs none of it.
            from pipeline.inputs.checkpoints import build, model_fields
            from pipeline.inputs.lab_code import asked_interrupts_only

            with asked_interrupts_only():
                model, notes = build(read.files, source.location, recipe)
                found = replace(found, **model_fields(model, recipe, source.location), notes=notes)
            known = Learnt.of(found)
        else:
            found = replace(found, **{entry.name: getattr(known, entry.name) for entry in fields(known)})
        found = replace(found, **_placed(metadata, found))
        if damage is None and memory is not None:
            memory.models.keep(_remembered_by(source, read), known)
        if damage is None and model is not None and keep is not None:
            keep(found, model)
    except ConfigError as error:
        return found, error
    except (CheckpointError, FileTooLargeError) as error:
        damage = damage or str(error)
    except (OSError, MemoryError) as error:
        damage = damage or unreadable(source.location, error)
    except (Exception, SystemExit) as error:  # a lab's class may raise anything where it is only looked at
        damage = damage or _strange(source, error)
    return replace(found, error=damage), None


def _strange(source: CheckpointSource, error: BaseException) -> str:
    return (
        f"{source.where}: the module that was built for {source.location} cannot be looked at ({of_error(error)}), so"
        " nothing can be told of its weights and sizes; mend what its class overrides (state_dict, eval, a property),"
        " or store the weights as plain tensors"
    )


def _remembered_by(source: CheckpointSource, read: _Read) -> str:
    """What tells a checkpoint from every other: its fingerprint, and the names by which its files are read."""
    named = read.files.weights_path if isinstance(read.files, Files) else source.location
    words = (read.fingerprint, split(named)[1])
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _with_class(metadata: Metadata, name: str) -> dict[str, str | float | int | bool]:
    return {**metadata.scalars, **({"class": name} if name else {})}


def _placed(metadata: Metadata, found: Checkpoint) -> dict[str, Any]:
    """What the metadata say of the neurons of a model, and what of them has no place in the cube."""
    per_neuron, left_out = metadata.for_neurons(found.n_neurons)
    return {
        "scalars": _with_class(metadata, found.model_class),
        "neurons": metadata.names(found.n_neurons),
        "per_neuron": per_neuron,
        "notes": (*found.notes, *left_out),
    }


def _metadata(location: str, memory: Memory | None) -> Metadata:
    """What lies beside the weights and says things about them."""
    folder, _ = folder_of(location)
    if folder is None:
        return Metadata()
    raw = json_beside(folder, "metadata.json")
    stated = Metadata() if raw is None else read_metadata(raw, join(folder, "metadata.json"))
    trained = read_training(folder, memory)
    return replace(stated, scalars={**trained.scalars, **stated.scalars}, lists={**trained.lists, **stated.lists})


def _recorded_class(files: Files | Mapping[str, str], recipe: Recipe) -> str:
    """The class by name, as far as it is known without building anything."""
    saved = files.saved if isinstance(files, Files) else None
    recorded = (saved or {}).get("_model_class")
    return (recipe.class_name or "").rpartition(".")[2] or (
        printable(recorded, 80) if isinstance(recorded, str) else ""
    )

"""`gradmap plan`: what a run would compute and write, before anything is."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.plan.config import ConfigError, load_config
from pipeline.plan.run_plan import Checkpoint, CohortPlan, MapPlan, RunPlan, VariablePlan, told_twins
from pipeline.plan.run_weight import variable_bytes, weight_of
from pipeline.plan.urls import refuse_passing
from pipeline.text import counted, printable, readable_bytes
from tasks.finished import COMPLETE, FAILURES, Finished, fault_of, named
from tasks.parsing import new_command
from tasks.terminal import BAD, LONGEST_LINE, tell, tell_lines, tell_table, text_table

#: Most notes on the checkpoints of one cohort that are printed.
MOST_NOTES = 10

#: From so many cohorts on they are folded to a line each, of which so many are printed, as of checkpoints at fault.
MANY = 4
FOLDED = 20

#: Faults of checkpoints that are listed on the screen.
LISTED = 15


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    summary = "check the config, and say what a run would compute and write"
    parser = new_command(commands, plan, summary, "plan run.toml", "plan run.toml --json - | jq .weight.map_bytes")
    parser.add_argument("config", type=Path, help="run configuration (TOML)")
    parser.add_argument("--cohort", metavar="NAME", help="describe only this cohort (default: all, folded if many)")


#: Frames shorter than this, in ms, and bands that all lie below this, in Hz, are probably in another unit.
SHORTEST_FRAME_MS, LOWEST_HZ = 0.1, 20.0


def plan(arguments: argparse.Namespace) -> Finished:
    """What a run would be, printed; the exit status is 3 where a checkpoint cannot be used."""
    from pipeline.inputs.lab_code import left_behind
    from pipeline.run.contract_checks import with_contracts
    from pipeline.run.driver import Models
    from pipeline.run.prepare import prepare_run
    from pipeline.store.groups import refuse_place

    models = Models()
    config = load_config(arguments.config)
    refuse_passing(config.store_location())
    refuse_place(config.store_location())
    loads = prepare_run(config, models.keep)
    prepared = with_contracts(loads, models.modules)
    weight = weight_of(prepared)
    _print_cohorts(prepared, arguments.cohort)
    broken, unloadable = _broken(prepared), _broken(loads)
    tell_lines(_alike(broken, unloadable), BAD, most=LISTED, others=" faults; --json lists all")
    figures: dict[str, Any] = {
        "checkpoints": weight.checkpoints,
        "shards": weight.shards,
        "bytes of maps, uncompressed": readable_bytes(weight.map_bytes),
        "objects in the store": weight.objects,
        "requests to write them": weight.requests,
        "memory per task": readable_bytes(weight.largest_task_bytes),
        "store": prepared.store,
    }
    for name, value in figures.items():
        tell(f"{name:28} {value:,}" if isinstance(value, int) else f"{name:28} {value}")
    notes = {
        cohort.name: {entry.id: entry.notes for entry in cohort.checkpoints if entry.notes}
        for cohort in prepared.cohorts
    }
    listed = [{"cohort": cohort, "checkpoint": label, "error": error} for cohort, label, error in broken]
    content = {"store": prepared.store, "weight": weight, "broken": listed, "notes": notes}
    if broken:
        many = f"{counted(len(broken), 'checkpoint')} of {weight.checkpoints}"
        line = f"gradmap: {many} cannot be used (exit status 3)"
        return Finished(FAILURES, line, content, at_once=left_behind())
    return Finished(COMPLETE, f"gradmap: ready to run: {counted(weight.shards, 'shard')} (exit status 0)", content)


def _print_cohorts(prepared: RunPlan, name: str | None) -> None:
    """What each cohort would be: in full where they are few or one is named, otherwise a line for each."""
    chosen = [cohort for cohort in prepared.cohorts if name in (None, cohort.name)]
    if not chosen:
        some = ", ".join(cohort.name for cohort in prepared.cohorts[:FOLDED])
        raise ConfigError(f"--cohort {name}: the config has no such cohort; name one of {some}")
    if len(chosen) <= MANY:
        for cohort in chosen:
            tell("\n".join([_cohort_text(cohort), *_doubts(cohort), *_notes(cohort.checkpoints)]) + "\n")
        return
    header = ("cohort", "checkpoints", "neurons", "bands", "frames", "classes")
    rows = [
        (one.name, len(one.checkpoints), len(one.neurons), len(one.frequencies_hz), one.lags, _classes(one))
        for one in chosen
    ]
    others = " cohorts; --cohort NAME describes one in full"
    tell_table(header, rows[:FOLDED], left_out=len(rows) - FOLDED, others=others)
    for line in _notes([checkpoint for cohort in chosen for checkpoint in cohort.checkpoints]):
        tell(line)
    tell()


def _doubts(cohort: CohortPlan) -> list[str]:
    """What is told of checkpoints that are one model, and of labels that look like another unit's."""
    told = told_twins({entry.id: entry.fingerprint for entry in cohort.checkpoints if entry.usable})
    if cohort.frame_ms < SHORTEST_FRAME_MS:
        told.append(f"note: frame_ms = {cohort.frame_ms:g} labels lags in steps of that many ms; is it in seconds?")
    if max(cohort.frequencies_hz) < LOWEST_HZ:
        told.append(
            f"note: frequencies_hz end at {max(cohort.frequencies_hz):g} Hz, which nobody hears; are they in kHz?"
        )
    return told


def _broken(prepared: RunPlan) -> list[tuple[str, str, str]]:
    return [
        (cohort.name, checkpoint.id, checkpoint.error)
        for cohort in prepared.cohorts
        for checkpoint in cohort.checkpoints
        if checkpoint.error is not None
    ]


def _alike(broken: Sequence[tuple[str, str, str]], unloadable: Sequence[tuple[str, str, str]]) -> list[str]:
    """One line for each fault, with the checkpoints that have it: their messages differ in paths and counts at most."""
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for one in broken:
        why = "cannot be loaded" if one in unloadable else "breaks the contract of models"
        found.setdefault((why, fault_of(one[2], one[1])), []).append(one)
    lines = []
    for (why, _), members in found.items():
        lines.append(f"{why}: {named([f'{cohort}/{label}' for cohort, label, _ in members])}: {members[0][2]}")
    return lines


def _cohort_text(cohort: CohortPlan) -> str:
    head = (
        f"{cohort.name}: {counted(len(cohort.checkpoints), 'checkpoint')} ({_classes(cohort)}),"
        f" {counted(len(cohort.neurons), 'neuron')}, {counted(len(cohort.frequencies_hz), 'band')},"
        f" {cohort.lags} frames of {cohort.frame_ms:g} ms"
    )
    header = ("map", "kind", "objective", "around", "axes", "shape", "one object", "bytes")
    rows = [_row(cohort, entry, variable) for entry in cohort.maps for variable in entry.computed]
    return head + "\n" + text_table(header, rows)


def _classes(cohort: CohortPlan) -> str:
    """Names of the classes of a cohort's models."""
    names = {checkpoint.model_class.rpartition(".")[2] for checkpoint in cohort.checkpoints} - {""}
    return ", ".join(sorted(names)) or "none loads"


def _notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What was noticed while the checkpoints were described, once for all that it holds of."""
    holders: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        for note in checkpoint.notes:
            holders.setdefault(note, []).append(checkpoint.id)
    lines = [
        printable(f"note: {ids[0] if len(ids) == 1 else counted(len(ids), 'checkpoint')}: {note}", LONGEST_LINE)
        for note, ids in holders.items()
    ]
    more = len(lines) - MOST_NOTES
    return lines if more <= 0 else [*lines[:MOST_NOTES], f"note: {more} more, all of them in --json"]


def _row(cohort: CohortPlan, entry: MapPlan, variable: VariablePlan) -> tuple[object, ...]:
    return (
        variable.name,
        entry.kind,
        *entry.settings.summary(entry.stimuli),
        ", ".join(variable.dims),
        " x ".join(map(str, entry.shape(variable, len(cohort.checkpoints)))),
        " x ".join(map(str, variable.chunks)),
        readable_bytes(variable_bytes(cohort, entry, variable)),
    )

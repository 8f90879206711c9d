"""`gradmap plan`: what a run would compute and write, before anything is."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config import load_config
from pipeline.plan.shards import CohortPlan, MapPlan, RunPlan, VariablePlan
from pipeline.plan.weight import variable_bytes, weigh
from pipeline.text import printable
from tasks.outcome import COMPLETE, FAILURES, Finished, counted, readable_bytes
from tasks.parsing import new_command
from tasks.terminal import BAD, LONGEST_LINE, tell, text_table

#: Most notes on the checkpoints of one cohort that are printed.
MOST_NOTES = 10


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    parser = new_command(
        commands,
        "plan",
        plan,
        summary="check the config, and say what a run would compute and write",
        examples=["plan run.toml", "plan run.toml --json - | jq .weight.map_bytes"],
    )
    parser.add_argument("config", type=Path, help="run configuration (TOML)")


def plan(arguments: argparse.Namespace) -> Finished:
    """What a run would be, printed; the exit status is 3 where a checkpoint cannot be used."""
    from pipeline.inputs.foreign import left_behind
    from pipeline.run import prepare_run
    from pipeline.run.contract import with_contracts
    from pipeline.run.driver import Models

    models = Models()
    loads = prepare_run(load_config(arguments.config), models.keep)
    prepared = with_contracts(loads, models.modules)
    weight = weigh(prepared)
    for cohort in prepared.cohorts:
        tell("\n".join([_cohort_text(cohort), *_notes(cohort)]) + "\n")
    broken, unloadable = _broken(prepared), _broken(loads)
    for one in broken:
        why = "cannot be loaded" if one in unloadable else "breaks the contract of models"
        tell(printable(f"{why}: {one[0]}/{one[1]}: {one[2]}", LONGEST_LINE), BAD)
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


def _broken(prepared: RunPlan) -> list[tuple[str, str, str]]:
    return [
        (cohort.name, checkpoint.id, checkpoint.error)
        for cohort in prepared.cohorts
        for checkpoint in cohort.checkpoints
        if checkpoint.error is not None
    ]


def _cohort_text(cohort: CohortPlan) -> str:
    classes = sorted({checkpoint.model_class.rpartition(".")[2] for checkpoint in cohort.checkpoints} - {""})
    head = (
        f"{cohort.name}: {counted(len(cohort.checkpoints), 'checkpoint')} ({', '.join(classes) or 'none loads'}),"
        f" {counted(len(cohort.neurons), 'neuron')}, {counted(len(cohort.frequencies_hz), 'band')},"
        f" {cohort.lags} frames of {cohort.frame_ms:g} ms"
    )
    header = ("map", "kind", "objective", "around", "axes", "shape", "one object", "bytes")
    rows = [_row(cohort, entry, variable) for entry in cohort.maps for variable in entry.computed]
    return head + "\n" + text_table(header, rows)


def _notes(cohort: CohortPlan) -> list[str]:
    """What was noticed while the checkpoints were described, once for all that it holds of."""
    holders: dict[str, list[str]] = {}
    for checkpoint in cohort.checkpoints:
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

"""What a run came to: how much is done, what failed and why, and which maps are not to be trusted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.pictures.page import Markup, bar, cell, element, joined, picture, table
from pipeline.pictures.plots.standings import plot_standing, worst_standing
from pipeline.pictures.reading import STANDINGS, UNTRUSTED, failures, flags, omitted_failures, standing
from pipeline.pictures.style import STANDING_COLOURS
from pipeline.words import DONE, FAILED, PENDING, axis_named, health_name, map_names

MOST_FAILURES = 60
MOST_HEALTH_ROWS = 40
MOST_UNTRUSTED_ROWS = 25
MOST_NAMES = 12


@dataclass(frozen=True)
class Outcome:
    """The standing of every map of one variable of one cohort, reduced to (checkpoint, neuron) by the worst."""

    cohort: str
    cube: xr.Dataset
    name: str
    worst: xr.DataArray

    def count(self, *codes: int) -> int:
        """Number of maps with one of these standings."""
        return int(np.isin(self.worst.values, codes).sum())

    def checkpoints_with(self, code: int) -> list[str]:
        """Checkpoints of which at least one map has this standing."""
        return [str(label) for label in self.worst["checkpoint"].values[(self.worst.values == code).any(axis=1)]]


def outcomes(cohorts: Mapping[str, xr.Dataset]) -> list[Outcome]:
    """Return the outcome of every map of every cohort."""
    found = []
    for cohort, cube in cohorts.items():
        names = map_names(cube)
        small = [f"{name}_{ending}" for name in names for ending in ("status", "health")]
        # read once: every panel asks for them
        cube = cube.assign({entry: cube[entry].compute() for entry in small if entry in cube})
        found += [Outcome(str(cohort), cube, name, worst_standing(standing(cube, name))) for name in names]
    return found


def glance(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> Markup:
    """Return the verdict in a few lines, and one row of counts per map."""
    rows = []
    for entry in results:
        total = max(1, entry.worst.size)
        parts = [(STANDING_COLOURS[code], entry.count(code) / total) for code in STANDINGS]
        rows.append(
            [
                entry.cohort,
                entry.name,
                _kind(entry),
                f"{entry.worst.sizes['checkpoint']} x {entry.worst.sizes['neuron']}",
                element("td", bar(parts)),
                cell(f"{_percent(entry.count(DONE, UNTRUSTED), entry.worst.size)} %"),
                cell(entry.count(UNTRUSTED), "warn" if entry.count(UNTRUSTED) else ""),
                cell(entry.count(FAILED), "bad" if entry.count(FAILED) else ""),
                cell(entry.count(PENDING), "warn" if entry.count(PENDING) else ""),
            ]
        )
    header = [
        "cohort",
        "map",
        "what it is",
        "checkpoints x neurons",
        "maps",
        "done",
        "not to be trusted",
        "failed",
        "not computed",
    ]
    return joined([*_verdicts(cohorts, results), table(header, rows)])


def failure_section(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> Markup:
    """Return what failed, by cause and checkpoint, with the message of each; also failures without a recorded cause."""
    rows = _failure_rows(cohorts, results)
    if not rows:
        return element("p", "Nothing failed.")
    counts: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for cohort, checkpoint, cause, _, _ in rows:
        counts[cause].add((cohort, checkpoint))
    causes = ", ".join(f"{cause}: {_some(len(where), 'checkpoint')}" for cause, where in sorted(counts.items()))
    shown = [
        [cohort, cell(name, "bad"), cause, maps, _shortened(message)] for cohort, name, cause, maps, message in rows
    ]
    left_out = len(rows) - MOST_FAILURES
    note = f"{left_out} more are in the attribute “failures” of the cubes." if left_out > 0 else ""
    uncounted = [
        f"{cohort}, {cause}: {count}"
        for cohort, cube in cohorts.items()
        for cause, count in omitted_failures(cube).items()
    ]
    note += f" The cubes count more without their messages ({'; '.join(uncounted)})." if uncounted else ""
    return joined(
        [
            element("p", f"By cause: {causes}."),
            table(["cohort", "checkpoint", "cause", "maps", "message"], shown[:MOST_FAILURES]),
            element("p", note, class_="note") if note else Markup(""),
        ]
    )


def standing_section(results: Sequence[Outcome]) -> Markup:
    """Return the picture of what is done for each map of one cohort."""
    parts = []
    for entry in results:
        if not entry.worst.size:
            continue
        axes = plot_standing(entry.cube, entry.name)
        alt = f"{entry.name}: {entry.count(DONE, UNTRUSTED)} of {entry.worst.size} maps done"
        words = "One field per checkpoint and neuron" + (
            "; with several stimuli, the worst of them." if _has_stimuli(entry) else "."
        )
        parts.append(joined([element("h4", entry.name), picture(axes, alt, words)]))
    return joined(parts)


def health_section(results: Sequence[Outcome]) -> Markup:
    """Return how many maps carry each health flag, checkpoint by checkpoint, and the maps not to trust."""
    parts = []
    for entry in results:
        by_flag = {words: over_stimuli(raised) for words, raised in flags(entry.cube, entry.name).items()}
        raised = {words: maps for words, maps in by_flag.items() if maps.values.any()}
        if health_name(entry.name) not in entry.cube:
            parts.append(element("p", f"{entry.name}: the cube records no health of this map."))
        elif not entry.count(DONE, UNTRUSTED):
            parts.append(element("p", f"{entry.name}: no map is done, so none has a health."))
        elif not raised:
            parts.append(element("p", f"{entry.name}: no map carries a flag."))
        else:
            parts.append(joined([element("h4", entry.name), _flag_counts(raised), _untrusted_table(entry, raised)]))
    return joined(parts)


def over_stimuli(raised: xr.DataArray) -> xr.DataArray:
    """Return for each (checkpoint, neuron) whether any of its stimuli is marked; a population map is one neuron."""
    for dim, label in (("checkpoint", "this checkpoint"), ("neuron", "all neurons")):
        if dim not in raised.dims:
            raised = raised.drop_vars(dim, errors="ignore").expand_dims({dim: [label]})
    others = [dim for dim in raised.dims if dim not in ("checkpoint", "neuron")]
    return (raised.any(others) if others else raised).transpose("checkpoint", "neuron")


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many follow."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _verdicts(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> list[Markup]:
    causes: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for cohort, checkpoint, cause, _, _ in _failure_rows(cohorts, results):
        causes[cohort, checkpoint][cause] = None
    failed = {
        cohort: [f"{name}: {', '.join(causes[cohort, name])}" for name in names]
        for cohort, names in _by_cohort(results, FAILED).items()
    }
    missing = _by_cohort(results, PENDING)
    total, done = sum(entry.worst.size for entry in results), sum(entry.count(DONE, UNTRUSTED) for entry in results)
    lines = []
    if failed:
        lines.append(_verdict("bad", "Failed: ", failed))
    if missing:
        lines.append(_verdict("warn", "Not finished (gradmap run computes what is missing): ", missing))
    if total and done == total:
        lines.append(element("div", element("p", element("strong", "Every map is done.")), class_="verdict"))
    doubts = [_doubt(entry) for entry in results if entry.count(UNTRUSTED)]
    if doubts:
        head = element("p", element("strong", "Not to be trusted:"))
        lines.append(element("div", head, *doubts, class_="verdict warn"))
    elif total:
        lines.append(element("div", element("p", "No map carries a health flag."), class_="verdict"))
    return lines


def _doubt(entry: Outcome) -> Markup:
    raised = {words: int(over_stimuli(maps).sum()) for words, maps in flags(entry.cube, entry.name).items()}
    reasons = ", ".join(f"{words}: {count}" for words, count in raised.items() if count)
    names = entry.checkpoints_with(UNTRUSTED)
    return element(
        "p",
        f"{entry.cohort}, {entry.name}: {entry.count(UNTRUSTED)} of {entry.worst.size} maps ({reasons}) in"
        f" {_some(len(names), 'checkpoint')}: {listed(names)}.",
    )


def _verdict(kind: str, start: str, names: Mapping[str, list[str]]) -> Markup:
    text = "; ".join(
        f"{cohort}: {_some(len(checkpoints), 'checkpoint')} ({listed(checkpoints)})"
        for cohort, checkpoints in names.items()
    )
    return element("div", element("p", element("strong", start), text + "."), class_=f"verdict {kind}")


def _by_cohort(results: Sequence[Outcome], code: int) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in results:
        found[entry.cohort].update(dict.fromkeys(entry.checkpoints_with(code)))
    return {cohort: list(names) for cohort, names in found.items() if names}


def _failure_rows(
    cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]
) -> list[tuple[str, str, str, str, str]]:
    rows: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for cohort, cube in cohorts.items():
        labels = {str(label) for label in cube["checkpoint"].values} if "checkpoint" in cube.coords else set()
        for entry in failures(cube):
            if labels and entry.get("checkpoint", "") not in {*labels, ""}:
                continue  # the cube is a part of a larger one
            key = (
                str(cohort),
                entry.get("checkpoint", ""),
                entry.get("cause", "not recorded"),
                entry.get("message", ""),
            )
            rows[key].append(entry.get("map", "all"))
    explained = {(*key[:2], name) for key, names in rows.items() for name in names}
    for result in results:
        for name in result.checkpoints_with(FAILED):
            if not {(result.cohort, name, result.name), (result.cohort, name, "all")} & explained:
                rows[(result.cohort, name, "not recorded", "the cube holds no message for it")].append(result.name)
    return [(*key[:3], ", ".join(dict.fromkeys(maps)), key[3]) for key, maps in rows.items()]


def _flag_counts(raised: Mapping[str, xr.DataArray]) -> Markup:
    some = next(iter(raised.values()))
    totals = np.sum([maps.sum("neuron").values for maps in raised.values()], axis=0)
    order = [int(at) for at in np.argsort(-totals, kind="stable") if totals[at]]
    rows = [
        [str(some["checkpoint"].values[at]), *(int(maps.values[at].sum()) for maps in raised.values())]
        for at in order[:MOST_HEALTH_ROWS]
    ]
    if len(order) > MOST_HEALTH_ROWS:
        rest = order[MOST_HEALTH_ROWS:]
        rows.append([f"{len(rest)} more checkpoints", *(int(maps.values[rest].sum()) for maps in raised.values())])
    rows.append(["all", *(int(maps.values.sum()) for maps in raised.values())])
    return table(["maps with this flag, by checkpoint", *raised], rows)


def _untrusted_table(entry: Outcome, raised: Mapping[str, xr.DataArray]) -> Markup:
    """One row per checkpoint and set of flags, with the neurons that carry it."""
    together = np.stack([maps.values for maps in raised.values()])
    found: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    labels = [str(label) for label in entry.worst["neuron"].values]
    for c, n in np.argwhere(together.any(axis=0)):
        words = tuple(word for word, up in zip(raised, together[:, c, n], strict=True) if up)
        found[int(c), words].append(labels[n])
    total = entry.worst.sizes["neuron"]
    rows = [
        [
            str(entry.worst["checkpoint"].values[c]),
            ", ".join(words),
            f"all {total}" if len(names) == total > 1 else listed(names),
        ]
        for (c, words), names in found.items()
    ]
    shown = table(["checkpoint", "not to be trusted because", "neurons"], rows[:MOST_UNTRUSTED_ROWS])
    left_out = len(rows) - MOST_UNTRUSTED_ROWS
    note = f"{left_out} more rows like these; every such map is marked in {health_name(entry.name)}."
    return joined([shown, element("p", note, class_="note")] if left_out > 0 else [shown])


def _kind(entry: Outcome) -> str:
    attributes = entry.cube[entry.name].attrs
    words = [
        str(attributes.get("kind", "")),
        f"objective {attributes['objective']}" if "objective" in attributes else "",
    ]
    words.append(f"around {attributes['baseline']}" if "baseline" in attributes else "")
    return ", ".join(word for word in words if word)


def _has_stimuli(entry: Outcome) -> bool:
    return axis_named("stimulus", entry.cube[entry.name].dims) is not None


def _percent(count: int, total: int) -> str:
    """Share in percent that reads 100 only where nothing is missing, and 0 only where there is nothing."""
    share = 100 * count / total if total else 0.0
    if 0 < share < 100:
        share = min(max(share, 0.1), 99.9)
    return f"{share:.1f}".removesuffix(".0")


def _shortened(message: str, longest: int = 600) -> str:
    return message if len(message) <= longest else f"{message[:longest]}…"


def _some(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")

"""What a run came to: how much is done, what failed and why, and which maps are not to be trusted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import (
    COMPUTED,
    NOTICE,
    STANDINGS,
    UNTRUSTED,
    best_standing,
    failures,
    flags,
    in_words,
    omitted_failures,
    placed,
    standing,
)
from pipeline.pictures.page import (
    Markup,
    bar,
    cell,
    element,
    homeless,
    joined,
    numbers,
    numbers_left_out,
    picture,
    table,
)
from pipeline.pictures.plots.standings import plot_standing
from pipeline.pictures.style import STANDING_COLOURS
from pipeline.text import counted, listed
from pipeline.words import ENSEMBLE, FAILED, PENDING, Flag, health_name, map_names, owner_of, role_of, status_name

#: Failures on the page, at most.
MOST_FAILURES = 60
#: Health rows on the page, at most.
MOST_HEALTH_ROWS = 40
#: Untrusted rows on the page, at most.
MOST_UNTRUSTED_ROWS = 25
#: Names on the page, at most.
MOST_NAMES = 12
#: Rows of the CSV of what is done, at most.
MOST_NUMBERED = 5000

#: Numbers beside the maps of a cohort that are read at once, in bytes; more are read as they are asked for.
MOST_LOADED_BYTES = 16 * 2**20

#: Bytes of all thumbnails and sounds of a page, which take a third more as text.
THUMBNAIL_BYTES = 6_000_000


@dataclass(frozen=True)
class Outcome:
    """The standing of every entry of one map of one cohort: (checkpoint, neuron) and the sound where there are any.

    ``best`` is that of the best entry of each checkpoint and neuron: where it can be used, some sound's can.
    ``variables`` are the names of the arrays that hold its maps; the first one is shown. ``room`` is how many bytes of
    the page its thumbnails may take; ``brief`` says that it is one of many, of which no pictures are shown.
    """

    cohort: str
    cube: xr.Dataset
    name: str
    standing: xr.DataArray
    best: xr.DataArray
    variables: tuple[str, ...]
    room: int = THUMBNAIL_BYTES
    brief: bool = False

    @property
    def shown(self) -> str:
        """Name of the variable that stands for the map in a grid."""
        return self.variables[0]

    @property
    def gradmap(self) -> xr.DataArray:
        """The variable that stands for the map in a grid."""
        return self.cube[self.shown]

    @property
    def kind(self) -> str:
        """The kind of map."""
        return str(self.gradmap.attrs.get("kind", ""))

    @property
    def size(self) -> int:
        """Number of maps."""
        return self.standing.size

    @property
    def sounds(self) -> int:
        """Number of sounds around which there is a map each; 1 where the map has no such axis."""
        return int(np.prod(self.standing.shape[2:]))

    def count(self, *codes: int) -> int:
        """Number of maps with one of these standings."""
        return int(np.isin(self.standing.values, codes).sum())

    def checkpoints_with(self, *codes: int) -> list[str]:
        """Checkpoints of which at least one map has one of these standings."""
        there = np.isin(self.standing.values, codes).any(axis=tuple(range(1, self.standing.ndim)))
        return [str(label) for label in self.standing["checkpoint"].values[there]]


def outcomes(cohorts: Mapping[str, xr.Dataset]) -> list[Outcome]:
    """The outcome of every map of every cohort."""
    found = []
    for cohort, cube in cohorts.items():
        variables: dict[str, list[str]] = defaultdict(list)
        for variable in map_names(cube):
            variables[owner_of(cube, variable)].append(variable)
        small = {entry for name in variables for entry in (status_name(name), health_name(name)) if entry in cube}
        beside = {str(name) for name, entry in cube.data_vars.items() if role_of(entry.attrs) != "map"}
        if sum(cube[name].nbytes for name in beside) <= MOST_LOADED_BYTES:
            small |= beside
        # read once: every panel asks for them
        cube = cube.assign(cube[sorted(small)].compute().data_vars)
        for name, members in variables.items():
            asked = _rows_of(cube, name)
            codes = placed(standing(asked, members[0]))
            found.append(Outcome(str(cohort), asked, name, codes, best_standing(codes), tuple(members)))
    # every map of the page has room in proportion to how many it is
    total = max(1, sum(entry.size for entry in found))
    return [replace(entry, room=THUMBNAIL_BYTES * entry.size // total) for entry in found]


def _rows_of(cube: xr.Dataset, name: str) -> xr.Dataset:
    """The checkpoints that a map is computed for: single ones, or the ensembles over its label."""
    if ENSEMBLE not in cube.coords or status_name(name) not in cube:
        return cube
    return cube.isel(checkpoint=cube[ENSEMBLE].values == cube[status_name(name)].attrs.get(ENSEMBLE, ""))


def glance(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> Markup:
    """The verdict in a few lines, and one row of counts per map."""
    rows = []
    for entry in results:
        total = max(1, entry.size)
        parts = [(STANDING_COLOURS[code], entry.count(code) / total) for code in STANDINGS]
        sizes = " x ".join(str(size) for size in entry.standing.shape)
        rows.append(
            [
                entry.cohort,
                entry.name,
                _kind(entry),
                f"{sizes} sounds" if entry.standing.ndim > 2 else sizes,
                element("td", bar(parts)),
                cell(entry.size),
                cell(f"{_percent(entry.count(*COMPUTED), entry.size)} %"),
                cell(entry.count(*UNTRUSTED), "warn" if entry.count(*UNTRUSTED) else ""),
                cell(entry.count(FAILED), "bad" if entry.count(FAILED) else ""),
                cell(entry.count(PENDING), "warn" if entry.count(PENDING) else ""),
            ]
        )
    header = [
        "cohort",
        "map",
        "what it is",
        "checkpoints x neurons",
        "",
        "maps",
        "done",
        "not to be trusted",
        "failed",
        "not computed",
    ]
    return joined([*_verdicts(cohorts, results), table(header, rows)])


def failure_section(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> Markup:
    """What failed, by cause and checkpoint, with the message of each; also failures without a recorded cause."""
    rows = _failure_rows(cohorts, results)
    if not rows:
        return element("p", "Nothing failed.")
    counts: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for cohort, checkpoint, cause, _, _ in rows:
        counts[cause].add((cohort, checkpoint))
    causes = ", ".join(f"{cause}: {counted(len(where), 'checkpoint')}" for cause, where in sorted(counts.items()))
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
    """The picture of what is done for each map of one cohort."""
    parts = []
    for entry in results:
        if not entry.size:
            continue
        axes = plot_standing(entry.cube, entry.shown)
        alt = f"{entry.name}: {entry.count(*COMPUTED)} of {entry.size} maps done"
        words = f"One field per map: {'checkpoint and sound' if entry.standing.ndim > 2 else 'checkpoint'} x neuron."
        parts.append(joined([element("h4", entry.name), picture(axes, alt, words), _standings_in_numbers(entry)]))
    return joined(parts)


def _standings_in_numbers(entry: Outcome) -> Markup:
    if entry.size > MOST_NUMBERED:
        return numbers_left_out(f"{entry.size:,} rows")
    places = [
        axis.ravel()
        for axis in np.meshgrid(*(entry.standing[dim].values for dim in entry.standing.dims), indexing="ij")
    ]
    columns = {str(dim): axis for dim, axis in zip(entry.standing.dims, places, strict=True)}
    return numbers(
        f"{entry.cohort}-{entry.name}-standing",
        {**columns, "standing": [STANDINGS[c] for c in entry.standing.values.ravel()]},
    )


def health_section(results: Sequence[Outcome]) -> Markup:
    """How many maps carry each health flag, checkpoint by checkpoint, what it means, and which maps they are."""
    parts = []
    for entry in results:
        raised = {flag: maps for flag, maps in flags(entry.cube, entry.shown).items() if maps.values.any()}
        if health_name(entry.name) not in entry.cube:
            parts.append(element("p", f"{entry.name}: the cube records no health of this map."))
        elif not entry.count(*COMPUTED):
            parts.append(element("p", f"{entry.name}: no map is done, so none has a health."))
        elif not raised:
            parts.append(element("p", f"{entry.name}: no map carries a flag."))
        else:
            maps = {flag: placed(where) for flag, where in raised.items()}
            told = (_flag_meanings(maps), _flag_counts(maps), _flagged_table(entry, maps))
            parts.append(element("details", element("summary", _health_in_words(entry, maps)), *told))
    return joined(parts)


def _health_in_words(entry: Outcome, raised: Mapping[Flag, xr.DataArray]) -> str:
    """One line that says whether the tables below are worth opening."""
    reasons = ", ".join(f"{in_words(flag)} {int(maps.values.sum())}" for flag, maps in raised.items())
    return (
        f"{entry.name}: {entry.count(*UNTRUSTED)} of {entry.size} maps not to be trusted, {entry.count(NOTICE)} with a"
        f" notice ({reasons})"
    )


def _verdicts(cohorts: Mapping[str, xr.Dataset], results: Sequence[Outcome]) -> list[Markup]:
    causes: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for cohort, checkpoint, cause, _, _ in _failure_rows(cohorts, results):
        causes[cohort, checkpoint][cause] = None
    failed = {
        cohort: [f"{name}: {', '.join(causes[cohort, name])}" for name in names]
        for cohort, names in _by_cohort(results, FAILED).items()
    }
    missing = _by_cohort(results, PENDING)
    total, done = sum(entry.size for entry in results), sum(entry.count(*COMPUTED) for entry in results)
    lines = []
    if failed:
        lines.append(_verdict("bad", "Failed: ", failed))
    if missing:
        lines.append(_verdict("warn", "Not finished (gradmap run computes what is missing): ", missing))
    if total and done == total:
        lines.append(element("div", element("p", element("strong", "Every map is done.")), class_="verdict"))
    doubts = [_doubt(entry, UNTRUSTED) for entry in results if entry.count(*UNTRUSTED)]
    if doubts:
        head = element("p", element("strong", "Not to be trusted:"))
        lines.append(element("div", head, *doubts, class_="verdict warn"))
    notices = [_doubt(entry, (NOTICE,)) for entry in results if entry.count(NOTICE)]
    if notices:
        head = element("p", element("strong", "Usable, with a notice:"))
        lines.append(element("div", head, *notices, class_="verdict"))
    if total and not doubts and not notices:
        lines.append(element("div", element("p", "No map carries a health flag."), class_="verdict"))
    return lines


def _doubt(entry: Outcome, codes: Sequence[int]) -> Markup:
    """How many maps have these standings, by standing and flag, and of which checkpoints."""
    chosen = np.isin(entry.standing.values, codes)
    by_degree = ", ".join(f"{STANDINGS[code]}: {entry.count(code)}" for code in reversed(codes) if entry.count(code))
    raised = {flag: int((placed(maps).values & chosen).sum()) for flag, maps in flags(entry.cube, entry.shown).items()}
    reasons = ", ".join(f"{in_words(flag)}: {count}" for flag, count in raised.items() if count)
    names = entry.checkpoints_with(*codes)
    return element(
        "p",
        f"{entry.cohort}, {entry.name}: {entry.count(*codes)} of {entry.size} maps ({by_degree}; by flag {reasons}) in"
        f" {counted(len(names), 'checkpoint')}: {listed(names, MOST_NAMES)}.",
    )


def _verdict(kind: str, start: str, names: Mapping[str, list[str]]) -> Markup:
    text = "; ".join(
        f"{cohort}: {counted(len(checkpoints), 'checkpoint')} ({listed(checkpoints, MOST_NAMES)})"
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


def _flag_meanings(raised: Mapping[Flag, xr.DataArray]) -> Markup:
    """What each flag that occurs means, from when on it is raised, and what to do; as far as the cube says so."""
    told = [flag for flag in raised if flag.meaning]
    rows = [[in_words(flag), flag.degree, flag.meaning, flag.threshold, flag.remedy] for flag in told]
    return table(["flag", "degree", "what it means", "raised", "what to do"], rows) if rows else Markup("")


def _flag_counts(raised: Mapping[Flag, xr.DataArray]) -> Markup:
    some = next(iter(raised.values()))
    per_checkpoint = [maps.values.reshape(maps.sizes["checkpoint"], -1).sum(axis=1) for maps in raised.values()]
    totals = np.sum(per_checkpoint, axis=0)
    order = [int(at) for at in np.argsort(-totals, kind="stable") if totals[at]]
    rows = [
        [str(some["checkpoint"].values[at]), *(int(counts[at]) for counts in per_checkpoint)]
        for at in order[:MOST_HEALTH_ROWS]
    ]
    if len(order) > MOST_HEALTH_ROWS:
        rest = order[MOST_HEALTH_ROWS:]
        rows.append([f"{len(rest)} more checkpoints", *(int(counts[rest].sum()) for counts in per_checkpoint)])
    rows.append(["all", *(int(counts.sum()) for counts in per_checkpoint)])
    return table(["maps with this flag, by checkpoint", *map(in_words, raised)], rows, total=True)


def _flagged_table(entry: Outcome, raised: Mapping[Flag, xr.DataArray]) -> Markup:
    """One row per checkpoint, sound and set of flags, with the neurons that carry it."""
    together = np.any([maps.values for maps in raised.values()], axis=0)
    found: dict[tuple[int, tuple[int, ...], tuple[Flag, ...]], list[str]] = defaultdict(list)
    labels = [str(label) for label in entry.standing["neuron"].values]
    for c, n, *sound in np.argwhere(together).tolist():
        carried = tuple(flag for flag, maps in raised.items() if maps.values[(c, n, *sound)])
        found[c, tuple(sound), carried].append(labels[n])
    total = entry.standing.sizes["neuron"]
    axes = [entry.standing[dim].values for dim in entry.standing.dims[2:]]
    rows = [
        [
            str(entry.standing["checkpoint"].values[c]),
            *(str(names[at]) for names, at in zip(axes, sound, strict=True)),
            ", ".join(map(in_words, carried)),
            f"all {total}" if len(names) == total > 1 else listed(names, MOST_NAMES),
        ]
        for (c, sound, carried), names in found.items()
    ]
    shown = table(["checkpoint", *(["sound"] * len(axes)), "flagged because", "neurons"], rows[:MOST_UNTRUSTED_ROWS])
    left_out = len(rows) - MOST_UNTRUSTED_ROWS
    note = f"{left_out} more rows like these; every such map is marked in {health_name(entry.name)}."
    return joined([shown, element("p", note, class_="note")] if left_out > 0 else [shown])


def _kind(entry: Outcome) -> str:
    attributes = entry.gradmap.attrs
    words = [
        str(attributes.get("kind", "")),
        f"objective {attributes['objective']}" if "objective" in attributes else "",
    ]
    words.append(f"around {attributes['baseline']}" if "baseline" in attributes else "")
    return ", ".join(word for word in words if word)


def _percent(count: int, total: int) -> str:
    """Share in percent that reads 100 only where nothing is missing, and 0 only where there is nothing."""
    share = 100 * count / total if total else 0.0
    if 0 < share < 100:
        share = min(max(share, 0.1), 99.9)
    return f"{share:.1f}".removesuffix(".0")


def _shortened(message: str, longest: int = 600) -> str:
    message = homeless(message)
    return message if len(message) <= longest else f"{message[:longest]}…"

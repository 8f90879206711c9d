"""One HTML page that says what was run, what failed, which maps not to trust, and what the population looks like."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

import xarray as xr

from pipeline.pictures.contents import with_contents
from pipeline.pictures.kinds import section_of
from pipeline.pictures.page import Markup, document, element
from pipeline.pictures.sections.methods import methods_section
from pipeline.pictures.sections.outcome import (
    Outcome,
    failure_section,
    glance,
    health_section,
    outcomes,
    standing_section,
)
from pipeline.pictures.sections.overview import FEW, overview_section
from pipeline.pictures.sections.setup import setup_section


def write_report(
    cohorts: Mapping[str, xr.Dataset],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    progress: Callable[[str, float], None] = lambda words, share: None,
) -> Path:
    """The path of one self-contained HTML page about the cubes of a store.

    In the order of the page: the verdict and counts; what failed, by checkpoint and cause; health; some of the maps;
    a browser of every neuron and checkpoint; the population; agreement between checkpoints; methods; what was run. The
    page loads nothing and runs one script of its own, so it can be mailed and printed. It shows and measures a bounded
    number of maps, says which, and reads no others. Many cohorts are folded below an overview of them, without the
    pictures of each. Of absolute paths only the last part is shown.

    Parameters
    ----------
    cohorts
        Opened cubes by cohort, for example ``{"speech": open_cube(store, "speech")}``.
    path
        Where to write. A page that is there is replaced, a folder that is missing is made.
    title
        Heading of the page; the names of the cohorts by default.
    progress
        Called with what is being shown, and which share of the maps has been, before each map.

    Raises
    ------
    ValueError
        If there is no cohort.

    Examples
    --------
    >>> from pipeline import open_cubes, write_report
    >>> write_report(open_cubes("cube.zarr"), "page.html").name
    'page.html'
    """
    if not cohorts:
        raise ValueError("there is no cohort, so the report would be empty; pass the cubes of a store by their names")
    results = outcomes(cohorts)
    many = len(cohorts) > FEW
    heading = title or f"Gradmaps: {f'{len(cohorts)} cohorts' if many else ', '.join(map(str, cohorts))}"
    places = {str(cohort): f"#cohort{at}" for at, cohort in enumerate(cohorts)}
    body = [
        element("h1", heading),
        element("p", f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.", class_="note"),
        element("h2", "At a glance", id="glance"),
        glance(cohorts, results),
        element("h2", "What failed", id="failed"),
        failure_section(cohorts, results),
    ]
    if many:
        body += [element("h2", "Cohorts", id="cohorts"), overview_section(results, places)]
    before = 0
    for cohort in map(str, cohorts):
        place = places[cohort].removeprefix("#")
        own = [replace(entry, brief=many) for entry in results if entry.cohort == cohort]
        parts = _cohort(own, progress, (before, len(results)))
        before += len(own)
        if many:
            body.append(_folded(f"Cohort {cohort}", parts, place))
        else:
            body += [element("h2", f"Cohort {cohort}", id=place), *parts]
    body += [element("h2", "Methods", id="methods"), methods_section(cohorts, results)]
    body += [element("h2", "What was run", id="run"), setup_section(cohorts)]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(document(heading, with_contents(body)))
    return target


def _folded(title: str, parts: list[Markup], place: str) -> Markup:
    # The place is inside, since a browser that is sent to it opens what it lies in.
    return element("details", element("summary", title), element("div", *parts, id=place))


def _cohort(results: list[Outcome], progress: Callable[[str, float], None], counted: tuple[int, int]) -> list[Markup]:
    """What is shown of a cohort; ``counted`` are the maps before its own, and those of all cohorts."""
    before, total = counted
    if not results:
        return [element("p", "This cube holds no map.")]
    sections = []
    for at, entry in enumerate(results):
        progress(f"page: {entry.cohort} {entry.name}", (before + at) / total)
        sections.append(section_of(entry))
    done = [] if results[0].brief else [element("h3", "What is done"), standing_section(results)]
    return [*done, element("h3", "Health: which maps not to trust"), health_section(results), *sections]

"""The kinds of map, one file each: what the page shows. See `pipeline.plan.kinds` for how a kind is added."""

from collections.abc import Callable

from pipeline.pictures.page import Markup, element
from pipeline.pictures.sections.outcome import Outcome
from pipeline.registry import Registry

#: What the page shows of each kind of map, by the word in the attribute ``kind``.
SECTIONS: Registry[Callable[[Outcome], Markup]] = Registry("pipeline.pictures.kinds", "section of the kind of map")


def section_of(entry: Outcome) -> Markup:
    """What the page shows of a map; one sentence for a kind that is not known here."""
    if entry.kind in SECTIONS:
        return SECTIONS[entry.kind](entry)
    return element("p", f"{entry.name}: maps of the kind {entry.kind!r}, of which this page knows no picture.")

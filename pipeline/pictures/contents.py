"""The contents at the side of a page, made from its headings."""

import re
from collections.abc import Sequence

from pipeline.pictures.page import Markup, element, joined

#: With more headings than these, only those of the first level are listed.
MOST_LISTED = 60

_HEADING = re.compile(r"<h([23])(?: id=\"([^\"]*)\")?>(.*?)</h\1>", re.DOTALL)


def with_contents(parts: Sequence[object]) -> Markup:
    """The body of a page with an anchor on every heading of the second and third level, and links to them beside it."""
    found: list[tuple[str, str, str]] = []

    def anchored(heading: re.Match[str]) -> str:
        level, given, words = heading.groups()
        anchor = given or f"part{len(found)}"
        found.append((level, anchor, words))
        return f'<h{level} id="{anchor}">{words}</h{level}>'

    body = Markup(_HEADING.sub(anchored, joined(parts)))
    levels = "23" if len(found) <= MOST_LISTED else "2"
    # the words of a heading are escaped already
    links = [
        element("a", Markup(words), href=f"#{anchor}", class_=f"level{level}")
        for level, anchor, words in found
        if level in levels
    ]
    return joined([element("nav", *links, aria_label="contents"), element("main", body)])

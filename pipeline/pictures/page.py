"""One HTML page in one file: elements that escape what they are given, tables, pictures as data."""

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.text import harmless

#: Resolution of the page's pictures.
DOTS_PER_INCH = 144
#: Size at which they stand on the page.
CSS_PIXELS_PER_INCH = 88
#: Characters of a word that is broken over lines.
LONG_WORD = 32

#: Bytes of one CSV file inside the page at most.
LARGEST_NUMBERS = 200_000

#: The one script of a page: it draws maps and sorts tables.
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")

#: What a browser lets the page do: show and play what lies in it, and run a script with exactly these bytes.
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none';"
    f" script-src 'sha256-{base64.b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"
)

#: How a page looks.
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class Markup(str):
    """Text that is HTML already; any other text is escaped before it enters the page."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element with children in order; texts are escaped. ``class_`` stands for the attribute ``class``."""
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{words}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other; whatever is no Markup is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escaped(part) for part in parts))


def escaped(value: object) -> str:
    """A text in which no character opens a tag, closes an attribute, or steers what stands around it."""
    lines = str(value).replace("\t", "    ").split("\n")
    return html.escape("\n".join(map(harmless, lines)), quote=True)


def cell(value: object, kind: str = "") -> Markup:
    """A cell of a table; numbers are set to the right. ``kind`` is ``bad`` or ``warn`` for coloured words."""
    number = isinstance(value, (int, float)) or bool(re.fullmatch(r"[-−]?\d[\d.,/ ]*( ?%)?", str(value)))
    long = any(len(word) > LONG_WORD for word in str(value).split())
    classes = " ".join(word for word in ("number" if number else "", "long" if long else "", kind) if word)
    return element("td", value, class_=classes or None)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, total: bool = False) -> Markup:
    """A table; an entry of a row is a text, a number, or a cell made with `cell`.

    The page's script sorts tables of more than two rows by a click on a heading, but for one with a row ``total``.
    """
    cells = [
        [entry if isinstance(entry, Markup) and entry.startswith("<td") else cell(entry) for entry in row]
        for row in rows
    ]
    names = []
    for at, name in enumerate(header):
        right = bool(cells) and all(row[at].startswith('<td class="number') for row in cells)
        names.append(element("th", name, scope="col", class_="number" if right else None))
    body = element("tbody", *(element("tr", *row) for row in cells))
    kind = "sortable" if len(cells) > 2 and not total else None
    return element("div", element("table", element("thead", element("tr", *names)), body, class_=kind), class_="wide")


def picture(drawn: Figure | Axes, alt: str, caption: object = "") -> Markup:
    """A figure as an image inside the page, with a caption; ``alt`` is what a screen reader says."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes were taken out of their figure, so there is nothing to show; draw them again")
    engine = figure.get_layout_engine()
    if engine is not None:
        # saving a figure that still has its layout to find draws all of it once more
        engine.execute(figure)
        figure.set_layout_engine("none")
    data = io.BytesIO()
    figure.set_dpi(DOTS_PER_INCH)
    # not through savefig, which goes through the whole figure once more before it draws it
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
    width = round(figure.get_size_inches()[0] * CSS_PIXELS_PER_INCH)
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    image = Markup(f'<img src="{source}" width="{width}" alt="{escaped(alt)}">')
    return element("figure", image, element("figcaption", caption) if caption else Markup(""))


#: An absolute path of at least two parts, on either kind of machine; an address such as s3://bucket/key is none.
_ABSOLUTE = re.compile(r"(?<![\w.:/~\\])(?:/|[A-Za-z]:[/\\])(?:[^\s/\\\"'<>:,;()|]+[/\\])+(?=[^\s/\\\"'<>:,;()|])")


def homeless(text: str) -> str:
    """A text in which absolute paths have lost their folders: they tell the reader nothing, and the writer's name.

    Examples
    --------
    >>> homeless("cannot read /data/lab/best.pt of s3://lab/run")
    'cannot read …/best.pt of s3://lab/run'
    """
    return _ABSOLUTE.sub("…/", text)


#: Where the numbers of maps are that the page has no room for.
NUMBERS_ELSEWHERE = "gradmap summarise --table has a row for every map."


def numbers(
    name: str, columns: Mapping[str, Any], largest: int = LARGEST_NUMBERS, elsewhere: str = NUMBERS_ELSEWHERE
) -> Markup:
    """A link to the numbers behind a figure as a CSV file that lies in the page.

    Where it takes more than ``largest`` bytes, a word in its place says where they are: ``elsewhere``.
    """
    text = pd.DataFrame({key: np.asarray(values).ravel() for key, values in columns.items()}).to_csv(
        index=False, float_format="%.5g"
    )
    data = text.encode("utf-8", "replace")
    if len(data) > largest:
        return numbers_left_out(f"{len(data) / 1000:,.0f} kB", elsewhere)
    source = f"data:text/csv;base64,{base64.b64encode(data).decode()}"
    file = re.sub(r"[^\w.-]+", "_", name)
    return element("a", f"Numbers: {file}.csv", href=source, download=f"{file}.csv", class_="numbers")


def numbers_left_out(reason: str, elsewhere: str = NUMBERS_ELSEWHERE) -> Markup:
    """A word in the place of a CSV that is too large for the page."""
    words = f"Numbers (CSV) left out, too large for the page: {reason}. {elsewhere}"
    return element("span", words, class_="numbers")


def plain_data(content: Mapping[str, Any]) -> Markup:
    """What the page's script reads: a block of JSON that no browser runs, with nothing in it that could close it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return element("script", Markup(text.replace("<", "\\u003c")), type="application/json")


def sentence(words: str) -> str:
    """Words with a capital at the start and a full stop at the end."""
    return f"{words[:1].upper()}{words[1:]}."


def bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """A bar of coloured parts, each with its share of the whole from 0 to 1."""
    return element(
        "div",
        *(
            element("span", style=f"width:{100 * share:.2f}%;background:{colour}")
            for colour, share in shares
            if share > 0
        ),
        class_="bar",
    )


def document(title: str, *body: object) -> bytes:
    """The whole page in UTF-8. It loads nothing and runs its own script; its policy forbids both to what it shows."""
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    script = element("script", Markup(SCRIPT))
    page = Markup("<!doctype html>\n") + element("html", head, element("body", *body, script), lang="en") + "\n"
    return page.encode("utf-8", "replace")  # file names need not be valid text

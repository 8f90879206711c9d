"""One HTML page in one file: elements that escape what they are given, tables, pictures as data."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.text import harmless

DOTS_PER_INCH = 144
CSS_PIXELS_PER_INCH = 88
LONG_WORD = 32

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1b1f24; background: #fff; margin: 0 auto;
       max-width: 1120px; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 2px solid #d5dae0; }
h3 { font-size: 1.08rem; margin: 1.6rem 0 .4rem; }
h4 { font-size: .95rem; margin: 1rem 0 .3rem; }
h1, h2, h3, h4, p, .long { overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 80ch; }
p.note { color: #57606a; font-size: .88rem; }
nav a { margin-right: 1.1rem; }
a { color: #0b5394; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .87rem; width: auto; max-width: 100%; }
th, td { padding: .22rem .6rem; border-bottom: 1px solid #e3e7eb; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #b9c0c8; background: #f5f7f9; vertical-align: bottom; }
td.number, th.number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bad { color: #8f1020; font-weight: 600; }
td.warn { color: #8a5500; font-weight: 600; }
.wide { overflow-x: auto; }
.verdict { border-left: 6px solid #3c8dbc; background: #f2f7fb; padding: .5rem 1rem; margin: .6rem 0; max-width: 100%; }
.verdict.bad { border-color: #b2182b; background: #fdf2f2; }
.verdict.warn { border-color: #e69f00; background: #fff8e8; }
.verdict p { margin: .15rem 0; }
.bar { display: flex; width: 13rem; height: .8rem; border: 1px solid #b9c0c8; margin-top: .3rem; }
.bar span { display: block; height: 100%; }
figure { margin: .6rem 0 1.2rem; break-inside: avoid; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #57606a; font-size: .86rem; max-width: 90ch; }
pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .8rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  .bar span, .verdict, thead th { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  .wide { overflow: visible; }
}
"""


class Markup(str):
    """Text that is HTML already; any other text is escaped before it enters the page."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element with children in order; texts are escaped. ``class_`` stands for the attribute ``class``."""
    words = "".join(
        f' {name.rstrip("_")}="{escaped(value)}"' for name, value in attributes.items() if value is not None
    )
    return Markup(f"<{tag}{words}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other; whatever is no Markup is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escaped(part) for part in parts))


def escaped(value: object) -> str:
    """Return a text in which no character opens a tag, closes an attribute, or steers what stands around it."""
    lines = str(value).replace("\t", "    ").split("\n")
    return html.escape("\n".join(map(harmless, lines)), quote=True)


def cell(value: object, kind: str = "") -> Markup:
    """A cell of a table; numbers are set to the right. ``kind`` is ``bad`` or ``warn`` for coloured words."""
    number = isinstance(value, (int, float)) or bool(re.fullmatch(r"[-−]?\d[\d.,/ ]*( ?%)?", str(value)))
    long = any(len(word) > LONG_WORD for word in str(value).split())
    classes = " ".join(word for word in ("number" if number else "", "long" if long else "", kind) if word)
    return element("td", value, class_=classes or None)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table; an entry of a row is a text, a number, or a cell made with `cell`."""
    cells = [
        [entry if isinstance(entry, Markup) and entry.startswith("<td") else cell(entry) for entry in row]
        for row in rows
    ]
    names = []
    for at, name in enumerate(header):
        right = bool(cells) and all(row[at].startswith('<td class="number') for row in cells)
        names.append(element("th", name, scope="col", class_="number" if right else None))
    body = element("tbody", *(element("tr", *row) for row in cells))
    return element("div", element("table", element("thead", element("tr", *names)), body), class_="wide")


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
    """The whole page in UTF-8. It loads nothing, runs nothing, and forbids both to what it shows."""
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    page = Markup("<!doctype html>\n") + element("html", head, element("body", *body), lang="en") + "\n"
    return page.encode("utf-8", "replace")  # file names need not be valid text

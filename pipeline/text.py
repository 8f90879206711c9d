"""Text from outside (file names, labels, exceptions) made fit for a terminal, a table, a page and the record."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

#: Characters that are kept of one message; an exception may carry a whole array in its text.
LONGEST_MESSAGE = 600

#: What stands in the place of a character that steers a terminal or turns the direction of what follows.
PLACEHOLDER = "\ufffd"

#: Categories of Unicode that hold no letter: control, format (direction marks among them), surrogates, separators.
_STEERING = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))


def printable(text: object, longest: int = LONGEST_MESSAGE) -> str:
    """A text in one line of bounded length, without a character that steers a terminal.

    Line ends, tabs and runs of spaces become one space. Where the text is too long its middle is left out, and what
    stands there says how much.

    Examples
    --------
    >>> printable("two\\nlines, \\x1b[31mred")
    'two lines, �[31mred'
    >>> printable("a" * 100, 40)
    'aaaaaaaaaaaaaaa ... 81 left out ... aaaa'
    """
    words = _words(text)
    # Cut before anything else: what is left out may be megabytes.
    edge = 4 * longest
    left_out = max(0, len(words) - 2 * edge)
    if left_out:
        words = words[:edge] + words[-edge:]
    line = harmless(" ".join(words.split()))
    if len(line) <= longest and not left_out:
        return line
    gap = f" ... {left_out + len(line) - longest:,} left out ... "
    gap = f" ... {left_out + len(line) - longest + len(gap):,} left out ... "
    room = max(0, longest - len(gap))
    tail = room // 4
    return line[: room - tail] + gap + line[len(line) - tail :]


def harmless(line: str) -> str:
    """A line as it is, but for the characters that steer a terminal or turn the direction of what follows.

    Examples
    --------
    >>> harmless("a  b\x07")
    'a  b�'
    """
    return line if line.isascii() and line.isprintable() else "".join(map(_shown, line))


def of_error(error: BaseException, longest: int = LONGEST_MESSAGE) -> str:
    """An exception as a line for people: its class, and its message where it has one.

    Examples
    --------
    >>> of_error(ValueError("not\\nso"))
    'ValueError: not so'
    >>> of_error(KeyError("site"))
    "KeyError: 'site'"
    """
    words = _words(error)
    name = type(error).__name__
    return printable(f"{name}: {words}" if words.strip() else name, longest)


def of_exit(request: SystemExit) -> str:
    """The call by which code asked the process to end.

    Examples
    --------
    >>> of_exit(SystemExit(0))
    'sys.exit(0)'
    >>> of_exit(SystemExit("os._exit(0)"))
    'os._exit(0)'
    """
    said = request.code
    return said if isinstance(said, str) and said.startswith("os._exit") else printable(f"sys.exit({said!r})")


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, which takes an s except after 1, or is another word.

    Examples
    --------
    >>> counted(1, "map"), counted(1200, "map")
    ('1 map', '1,200 maps')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Iterable[object], most: int = 6) -> str:
    """Names for a message: the first few, and how many there are beside them.

    Examples
    --------
    >>> listed("abcd", most=2)
    'a, b and 2 more'
    """
    names = list(names)
    shown = ", ".join(printable(name, 80) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def readable_bytes(count: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def readable_seconds(seconds: float) -> str:
    """A duration in the two largest units that say something."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _words(text: object) -> str:
    """What an object says of itself; its own code may fail at that."""
    try:
        return str(text)
    except Exception:
        return f"({type(text).__name__} without a readable text)"


def _shown(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else PLACEHOLDER
    return PLACEHOLDER if unicodedata.category(character) in _STEERING else character


def meant(name: str, known: Iterable[str]) -> str:
    """The question whether a name that is known was meant; nothing where none is close."""
    close = get_close_matches(name, [word for word in known if not word.startswith("_")], n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""

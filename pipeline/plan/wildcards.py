"""Words in braces that a path is matched with: ``sites/{site}/{architecture}-seed{seed}``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from glob import escape

from pipeline.plan.urls import ConfigError
from pipeline.words import RESERVED_NAMES

#: A word in braces.
WORD = re.compile(r"\{([A-Za-z_]\w*)\}")

#: Words of an id that are not matched, but say where a checkpoint lies.
PLACES = ("folder", "parent", "stem")

Value = str | int


def words_in(text: str) -> tuple[str, ...]:
    """The words of a text, each once, in order."""
    return tuple(dict.fromkeys(WORD.findall(text)))


def fill(text: str, values: Mapping[str, object]) -> str:
    """A text with the words that have a value replaced by it; others stay."""
    return WORD.sub(lambda found: str(values.get(found[1], found[0])), text)


def fill_pattern(text: str, values: Mapping[str, str]) -> str:
    """A path with the words that have a value replaced by it, as a pattern matches it and nothing else."""
    return WORD.sub(lambda found: escape(values[found[1]]) if found[1] in values else found[0], text)


def as_glob(pattern: str) -> str:
    """A path with every word as the ``*`` that it matches like."""
    return WORD.sub("*", pattern)


def as_expression(pattern: str) -> re.Pattern[str]:
    """What reads the words of a path off a name that the path matches; a word stands for the same text everywhere."""
    parts, seen = [], set()
    for piece in re.split(r"(\{[A-Za-z_]\w*\}|\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        word = WORD.fullmatch(piece)
        if word is not None:
            parts.append(f"(?P={word[1]})" if word[1] in seen else f"(?P<{word[1]}>[^/]+)")
            seen.add(word[1])
        elif piece == "**/":
            parts.append("(?:.*/)?")
        elif piece in ("**", "*", "?"):
            parts.append({"**": ".*", "*": "[^/]*", "?": "[^/]"}[piece])
        elif piece.startswith("[") and len(piece) > 2:
            inside = re.escape(piece[1:-1].removeprefix("!")).replace("\\-", "-")
            parts.append(f"[^{inside}]" if piece[1] == "!" else f"[{inside}]")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


def typed(texts: Sequence[str]) -> list[Value]:
    """Values of a word: numbers where all are whole numbers that stay different, else texts."""
    if texts and all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
        numbers = [int(text) for text in texts]
        if len(set(numbers)) == len(set(texts)):
            return list(numbers)
    return list(texts)


def refuse_words(words: Iterable[str], where: str) -> None:
    """Refuse words that cannot be labels of a checkpoint.

    Raises `ConfigError` if one is used by the cube itself, or by an id.
    """
    for word in words:
        if word in PLACES:
            raise ConfigError(
                f"{where}: {{{word}}} says where a checkpoint lies and can stand in `id` only; call the word otherwise,"
                ' for example {run}, or write "*"'
            )
        if word in RESERVED_NAMES or word == "class":
            raise ConfigError(
                f"{where}: {{{word}}} would be a label that the cube uses itself; call the word otherwise"
            )

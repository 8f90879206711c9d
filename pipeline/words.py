"""The words that all wings share: states, roles, axes, and what the arrays of a cube are called."""

from collections.abc import Hashable, Iterable, Mapping
from json import loads
from math import nan
from typing import Any, Literal, NamedTuple, Protocol

#: Numbers in `<map>_status`.
PENDING, DONE, FAILED = 0, 1, 2

#: What each number in `<map>_status` means.
STATES: dict[str, int] = {"pending": PENDING, "done": DONE, "failed": FAILED}

#: What an array of a cube is for. A kind of map writes maps (gradients on axes of their own) and measures (numbers that
#: it finds on the way); a status and companions accompany each of its maps; summaries are made of a finished cube.
#: Digests tell `gradmap verify` whether a map is still the one that was recorded.
Role = Literal["map", "measure", "status", "companion", "summary", "probe", "metadata", "coordinate", "digest"]

#: Every role, in the order in which a reader sees the arrays.
ROLES: tuple[Role, ...] = (
    "map",
    "measure",
    "status",
    "companion",
    "summary",
    "probe",
    "metadata",
    "coordinate",
    "digest",
)

#: The response of each checkpoint to a fixed probe.
PROBE = "probe_response"

#: Metadata of the checkpoints, and attribute of a status: the label over which a row, or a map, is that of an ensemble.
ENSEMBLE = "ensemble_over"

#: Axes whose positions are counted one by one: there is one map per position, never a part of one.
COUNTED_AXES = ("checkpoint", "neuron", "stimulus", "channel")

#: Axes that a single map extends over.
EXTENT_AXES = ("frequency", "lag", "waveform_lag")

#: Every axis that several kinds of map share; a kind may bring axes of its own.
AXES = (*COUNTED_AXES, *EXTENT_AXES)

#: Why a checkpoint or a shard failed, as it is counted and stored.
Cause = Literal[
    "load", "contract", "non-finite", "compute", "out of memory", "crash", "hang", "storage", "infrastructure"
]

#: How much a health flag takes from a map, the worst first, and what that means for its numbers.
Degree = Literal["no map", "wrong", "incomplete", "notice"]
#: What each degree of a health flag means, the worst first.
DEGREES: dict[Degree, str] = {
    "no map": "every entry is zero or none is a number, so there is nothing to look at",
    "wrong": "the numbers are not the gradient that was asked for",
    "incomplete": "the numbers are right as far as they go, and part of the map is missing",
    "notice": "the numbers can be used, and something should be known about them",
}

#: What an objective may be called by one word.
ObjectiveName = Literal["last", "peak", "sum", "mean"]

#: What the gradient may be taken around.
Baseline = Literal["null", "silence", "mean", "stimuli"]

#: What a kind of map has to be given.
Hears = Literal["nothing", "spectrograms", "sounds"]

#: Ways to the gradient of a whole population.
Route = Literal["auto", "factored", "batched", "replicated", "loop", "per_neuron", "forward", "resumed"]

#: Ways to the gradients at every frame of a sound.
DynamicRoute = Literal["auto", "slope", "sweep", "windows", "comb", "rows"]


class Companion(NamedTuple):
    """A number that accompanies each map, per neuron (and stimulus): its type, unit, meaning, and its fill."""

    dtype: str
    units: str
    long_name: str
    fill: float | int = nan


#: The bit of `<map>_health` where there is no map to trust: pending, or failed.
NOT_COMPUTED = 2**15

#: The companions of every map by the ending of their names.
COMPANIONS: dict[str, Companion] = {
    "health": Companion("uint16", "", "reasons not to trust the map", NOT_COMPUTED),
    "memory_90": Companion("float32", "ms", "lag up to which 90 % of the energy of the map lies"),
    "memory_99": Companion("float32", "ms", "lag up to which 99 % of the energy of the map lies"),
    "oldest_share": Companion("float32", "1", "share of the energy of the map in the oldest tenth of its window"),
    "future_share": Companion("float32", "1", "share of the energy of the map after lag 0, which the map leaves out"),
    "frame": Companion("int32", "1", "frame of the stimulus at lag 0, counted from 0", -1),
}

#: Endings of what stands beside each map in the cube, so that no map's own name may have one.
RESERVED_ENDINGS = tuple(f"_{ending}" for ending in ("status", "digest", *COMPANIONS, *AXES))

#: Names that no map, column or label may have, since the cube uses them.
RESERVED_NAMES = frozenset((*AXES, PROBE))


class Flag(NamedTuple):
    """One health flag as a cube's attributes tell it: its bit, its degree, and in words what it means and asks for."""

    name: str
    bit: int
    degree: Degree
    meaning: str = ""
    threshold: str = ""
    remedy: str = ""


class Cube(Protocol):
    """What names are read from: an `xarray.Dataset`, or anything alike."""

    @property
    def data_vars(self) -> Mapping[Any, Any]:
        """Variables by name, each with ``attrs``."""

    @property
    def attrs(self) -> Mapping[Any, Any]:
        """Attributes of the whole."""


def variable_name(map_name: str, ending: str = "") -> str:
    """Name of an array of a map: ``strf_status`` for the ending ``status``; the map's own name without one."""
    return f"{map_name}_{ending}" if ending else map_name


def status_name(map_name: str) -> str:
    """Name of the array that says of each entry of a map whether it is pending, done or failed."""
    return variable_name(map_name, "status")


def digest_name(map_name: str) -> str:
    """Name of the array of digests of a map's entries."""
    return variable_name(map_name, "digest")


def health_name(map_name: str) -> str:
    """Name of the array of reasons not to trust an entry of a map."""
    return variable_name(map_name, "health")


def own_axis(map_name: str, axis: str) -> str:
    """Name of an axis of one map whose labels differ from those of the cohort's axis of that kind."""
    return f"{map_name}_{axis}"


def axis_of(dim: Hashable, axes: Iterable[str] = AXES) -> str:
    """The kind of axis that a dimension is: ``speech_stimulus`` is a ``stimulus``; itself where it is none of these."""
    longest_first = sorted(axes, key=len, reverse=True)
    return next((axis for axis in longest_first if dim == axis or str(dim).endswith(f"_{axis}")), str(dim))


def axis_named(axis: str, dims: Iterable[Hashable]) -> str | None:
    """The dimension that is an axis of this kind; None where there is none."""
    return next((str(dim) for dim in dims if axis_of(dim) == axis), None)


def role_of(attributes: Mapping[Any, Any]) -> str:
    """What an array is for, by its attributes; empty where they do not say.

    One that was labelled by hand may say only its ``kind``: that of a map, or ``summary``.
    """
    kind = str(attributes.get("kind", ""))
    return str(attributes.get("role", "summary" if kind == "summary" else "map" if kind else ""))


def map_of(name: Hashable, attributes: Mapping[Any, Any]) -> str:
    """The map that an array belongs to, by its attributes; an array that names none is a map by itself."""
    return str(attributes.get("map", name))


def owner_of(cube: Cube, name: str) -> str:
    """The map that a variable of a cube belongs to; the name itself where the cube has no such variable."""
    return map_of(name, cube.data_vars[name].attrs) if name in cube.data_vars else name


def map_names(cube: Cube) -> tuple[str, ...]:
    """Names of the variables of a cube that hold maps, in the order of its config as far as the cube tells it."""
    owners = {str(name): map_of(name, entry.attrs) for name, entry in cube.data_vars.items() if is_map(entry.attrs)}
    stated = cube.attrs.get("maps", "{}")
    try:
        order = [str(name) for name in (loads(stated) if isinstance(stated, str) else stated)]
    except (TypeError, ValueError):
        order = []
    # A store lists its arrays in any order.
    return tuple(sorted(owners, key=lambda name: order.index(owners[name]) if owners[name] in order else len(order)))


def flags_of(health: Mapping[Any, Any]) -> tuple[Flag, ...]:
    """The flags that the attributes of ``<map>_health`` name; where they do not say how bad one is, it counts as wrong.

    Examples
    --------
    >>> flags_of({"flag_masks": [4], "flag_meanings": "odd", "flag_table": '{"odd": {"degree": "notice"}}'})
    (Flag(name='odd', bit=4, degree='notice', meaning='', threshold='', remedy=''),)
    """
    names = str(health.get("flag_meanings", "")).split()
    given = health.get("flag_masks", ())
    bits = [int(bit) for bit in given] if hasattr(given, "__iter__") else [int(given)]
    try:
        table = loads(str(health.get("flag_table", "{}")))
    except ValueError:
        table = {}
    found = []
    for name, bit in zip(names, bits, strict=False):
        words = table.get(name) if isinstance(table, dict) else None
        words = {key: str(value) for key, value in words.items()} if isinstance(words, dict) else {}
        degree: Degree = next((known for known in DEGREES if known == words.get("degree")), "wrong")
        found.append(Flag(name, bit, degree, *(words.get(key, "") for key in ("meaning", "threshold", "remedy"))))
    return tuple(found)


def is_map(attributes: Mapping[Any, Any]) -> bool:
    """Whether an array holds maps."""
    return role_of(attributes) == "map"

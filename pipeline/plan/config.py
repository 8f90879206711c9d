"""The run as its user wrote it: a TOML file, checked to the last key."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.plan.axes import band_centres_hz
from pipeline.plan.config_blanks import blanks
from pipeline.plan.config_mistakes import explain
from pipeline.plan.kinds import KINDS
from pipeline.plan.kinds.fitted import FittedConfig
from pipeline.plan.map_checks import ChecksConfig
from pipeline.plan.map_config import Frozen, MapConfig
from pipeline.plan.urls import NO_STORES, ConfigError, is_url, refuse_secrets_within, scheme_of
from pipeline.plan.wildcards import as_expression, words_in
from pipeline.words import RESERVED_ENDINGS, RESERVED_NAMES

__all__ = ["ConfigError", "is_url"]

#: What a map may be called.
NAME = r"^[A-Za-z][A-Za-z0-9_]{0,99}$"

#: Name of a cohort, and of one that stands for many by words in braces.
COHORT = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
#: What a cohort may be called, with braces that a path fills in.
COHORT_PATTERN = r"^[A-Za-z0-9{][A-Za-z0-9_{}-]{0,199}$"

#: Largest config and list of frequencies, in bytes.
CONFIG_BYTES = 16 * 2**20

#: Most frames of a window, most bands, and most numbers of one map of one neuron: what is larger is a slip of the hand
#: or fits no memory.
LARGEST_LAGS = 2**16
#: Bands of a spectrogram, at most.
LARGEST_BANDS = 2**16
#: Entries of one map, at most.
LARGEST_MAP = 2**26

#: Longest frame, in ms.
LONGEST_FRAME_MS = 60_000.0

#: Most MiB in one object: codecs count its bytes in 32 bits.
LARGEST_OBJECT_MIB = 2047.0


class FrequencyGrid(Frozen):
    """Evenly spaced bands, ``{min = 80.0, max = 3800.0, count = 32, scale = "mel"}``."""

    min: float = Field(gt=0, le=1e9)
    """Centre of the lowest band, in Hz."""
    max: float = Field(gt=0, le=1e9)
    """Centre of the highest band, in Hz."""
    count: int = Field(gt=0, le=LARGEST_BANDS)
    """Number of bands."""
    scale: Literal["log", "linear", "mel"] = "log"
    """How the centres are spaced."""

    @model_validator(mode="after")
    def _ordered(self) -> "FrequencyGrid":
        if self.count > 1 and self.max <= self.min:
            raise ValueError(f"max ({self.max} Hz) must lie above min ({self.min} Hz)")
        return self


class ModuleSpec(BaseModel):
    """A module that a checkpoint folder does not record: its class, and what the class is built with."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    class_name: str = Field(alias="class", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the class."""
        return dict(self.model_extra or {})


class AdaptConfig(Frozen):
    """How the layout of a model of one's own becomes the contract's: einops patterns, and which output is meant."""

    bands: int | None = Field(default=None, gt=0, le=LARGEST_BANDS)
    """Frequency bands that the model takes, where it does not say so itself."""
    neurons: int | None = Field(default=None, gt=0, le=2**24)
    """Neurons that it answers for, where it does not say so itself."""
    input: str | None = Field(default=None, min_length=1, max_length=200)
    """Pattern from the contract's spectrogram to what the model takes: "b 1 f t -> b t f"."""
    output: str | None = Field(default=None, min_length=1, max_length=200)
    """Pattern from what the model gives to the contract's response: "b t n -> b n 1 t"."""
    select: str | int | None = None
    """Which of several outputs is the response, by name or position."""


class CheckpointsConfig(Frozen):
    """One entry of ``[[cohort.checkpoints]]``: folders or files, and what they do not record."""

    path: str = Field(min_length=1)
    """Folders or files of checkpoints; * matches anything, {word} as well, and becomes a label."""
    id: str | None = Field(default=None, min_length=1)
    """Label of a checkpoint in the cube; {parent}, {folder} and words in braces may stand in it."""
    class_name: str | None = Field(default=None, alias="class", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    """Class of the model, where the folder does not name one of deepSTRF's."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class, or of the factory."""
    modules: dict[str, ModuleSpec] = Field(default_factory=dict)
    """Parts that a checkpoint folder does not record, such as wav2spec, each with its class."""
    factory: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """Function of a checkpoint's path that returns the model: "my_lab.models:build"."""
    state_dict: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the entry that holds the weights, in a nested file."""
    strip_prefix: str | None = Field(default=None, min_length=1, max_length=200)
    """What the names of the weights begin with, and the model's do not."""
    best: str | None = Field(default=None, pattern=r"^-?[^\s-].{0,199}$")
    """Of the checkpoints in one folder only that with the best score of this name; "-val_loss" where less is better."""
    labels: dict[Annotated[str, Field(pattern=NAME)], bool | int | float | str] = Field(default_factory=dict)
    """Labels of all these checkpoints, for what no path says."""
    adapt: AdaptConfig | None = None
    """The layout of a model of one's own."""

    @field_validator("labels")
    @classmethod
    def _labels_are_free(cls, labels: dict[str, Any]) -> dict[str, Any]:
        for name, value in labels.items():
            if name in RESERVED_NAMES or name == "class":
                raise ValueError(f"the label {name!r} is used by the cube itself; call it otherwise")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"the label {name!r} is a number of more than 64 bits; write it as text")
        return labels

    @model_validator(mode="after")
    def _one_recipe(self) -> "CheckpointsConfig":
        if self.factory and (self.class_name or self.modules):
            raise ValueError(
                "factory builds the whole module, so class and modules beside it would be ignored; keep either the"
                " factory or the others"
            )
        return self


class CohortConfig(Frozen):
    """Checkpoints that share neurons, frequency axis, frame width and front-end input: what stacks into one cube."""

    name: str = Field(pattern=COHORT_PATTERN)
    """Name of the cube; {word} makes one cohort of each value that the paths have."""
    frame_ms: float = Field(gt=0, le=LONGEST_FRAME_MS)
    """Width of a frame of the spectrogram, in ms."""
    lags: Annotated[int, Field(gt=0, le=LARGEST_LAGS)] | Literal["auto"]
    """Frames of the window, lag 0 included; "auto" grows it until the maps stop changing."""
    frequencies_hz: tuple[float, ...] | FrequencyGrid | str
    """Centres of the bands in Hz: a list, a file with one number a line, or an even grid."""
    neurons: str | None = None
    """Table with one row per neuron of the models, in their order, and any columns."""
    causal: bool = True
    """False for models that hear the future: their maps are computed, and what lies after lag 0 is recorded."""
    checkpoints: tuple[CheckpointsConfig, ...] = Field(min_length=1)
    """Which checkpoints."""


def _map_config(given: Any) -> Any:
    """The entry of a map as its kind checks it."""
    if isinstance(given, Frozen):
        return given
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        said = f"kind = {kind!r} is not known" if kind is not None else "kind is missing"
        raise ValueError(f"{said}, so nothing says what to compute; give one of {', '.join(map(repr, KINDS))}")
    return KINDS[kind].model_validate(given)


#: The entry of a map, of any kind that there is.
AnyMapConfig = Annotated[SerializeAsAny[MapConfig], BeforeValidator(_map_config)]


class EngineConfig(Frozen):
    """How the maps are computed; none of it changes a number beyond rounding, but ``precision``."""

    precision: Literal["float32", "float64"] = "float32"
    """Numbers that the gradients are computed in; they are stored in float32."""
    memory_mib: int | None = Field(default=None, gt=0, le=2**30)
    """Memory that the passes of one task may take; by default a part of the machine's, or of the GPU's."""
    finite_difference_neurons: int = Field(default=2, ge=0, le=10_000)
    """Neurons of each block whose maps are compared with central differences; 0 for none."""


class StorageConfig(Frozen):
    """How the cube lies in its store."""

    object_mib: float = Field(default=8.0, gt=0, le=LARGEST_OBJECT_MIB)
    """Size of one object of the store, at most, before compression."""
    chunks_per_object: int | None = Field(default=None, ge=1, le=2**16)
    """Chunks in one object, of which a reader takes as many as it needs; by default of at most 64 neurons each."""


class RunConfig(Frozen):
    """Everything that one run was asked for.

    Examples
    --------
    >>> from pipeline import load_config
    >>> config = load_config("run.toml")
    >>> [cohort.name for cohort in config.cohort], list(config.maps)
    (['lab'], ['strf', 'waveform'])
    """

    store: str = Field(min_length=1)
    """Where the cubes are written: a folder beside the config, or a URL."""
    cohort: tuple[CohortConfig, ...] = Field(min_length=1)
    """What stacks into one cube each."""
    maps: dict[Annotated[str, Field(pattern=NAME)], AnyMapConfig] = Field(min_length=1)
    """The maps, by the name of their variable in the cube."""
    fitted: FittedConfig | None = None
    """STRFs fitted to the models' responses, and to recorded ones, beside the maps."""
    checks: ChecksConfig = ChecksConfig()
    """Checks of the maps."""
    engine: EngineConfig = EngineConfig()
    """How the maps are computed."""
    storage: StorageConfig = StorageConfig()
    """How the cube lies in its store."""
    folder: str = Field(default=".", exclude=True)
    text: str = Field(default="", exclude=True, repr=False)

    @field_validator("store")
    @classmethod
    def _store_is_a_place(cls, store: str) -> str:
        if not store.isprintable():
            raise ValueError(f"store = {store!r} holds control characters, which no path should; write it anew")
        if re.match(r"~|\$", store):
            raise ValueError(
                f"store = {store!r} begins with what a shell would replace, and a config does not: a folder of that"
                " name would be made beside it; write the path in full"
            )
        if is_url(store) and (scheme_of(store) in NO_STORES or "::" in store):
            raise ValueError(
                f"store = {store!r} takes no objects one by one from several processes; give a folder, or"
                " s3://bucket/prefix"
            )
        if not is_url(store) and any(len(part.encode()) > 255 for part in store.split("/")):
            raise ValueError(f"store has a name of more than the 255 bytes that a file system takes: {store[:40]}...")
        return store

    @field_validator("maps")
    @classmethod
    def _names_are_free(cls, maps: dict[str, Any]) -> dict[str, Any]:
        for name in maps:
            suffix = next((end for end in RESERVED_ENDINGS if name.endswith(end)), None)
            if name in RESERVED_NAMES or suffix:
                raise ValueError(f"the map name {name!r} is used by the cube itself; choose another")
            _refuse_twins("maps", name, maps)
        return maps

    @model_validator(mode="after")
    def _cohorts_agree(self) -> "RunConfig":
        names = [cohort.name for cohort in self.cohort]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two cohorts are called {name!r}; each is one group of the store, so rename one")
            _refuse_twins("cohorts", name, names)
        asked = {f"maps.{name}": settings.cohorts for name, settings in self.maps.items()}
        asked |= {"checks": self.checks.cohorts, "fitted": self.fitted.cohorts if self.fitted else None}
        for where, cohorts in asked.items():
            for cohort in cohorts or ():
                if cohort not in names and not any(_is_one_of(cohort, name) for name in names):
                    raise ValueError(f"{where}.cohorts names {cohort!r}, but the cohorts are {', '.join(names)}")
        for name in names:
            covered = self.maps_of(name) or any(
                _is_one_of(cohort, name) for entry in self.maps.values() for cohort in entry.cohorts or ()
            )
            if not covered:
                raise ValueError(f"no map covers the cohort {name!r}; add it to a map's cohorts or take it out")
        return self

    def maps_of(self, cohort: str) -> dict[str, MapConfig]:
        """The maps to be computed for a cohort, by name."""
        return {name: settings for name, settings in self.maps.items() if self.covers(settings, cohort)}

    @staticmethod
    def covers(settings: MapConfig, cohort: str) -> bool:
        """Whether a map is to be computed for a cohort."""
        return settings.cohorts is None or any(name == cohort or _is_one_of(cohort, name) for name in settings.cohorts)

    def resolve(self, path: str) -> str:
        """A path of the config as seen from here: URLs stay, the rest is relative to the config's folder."""
        return path if is_url(path) else str(Path(self.folder, path))

    def store_location(self) -> str:
        """Where the cube is written: an absolute folder or a URL."""
        return self.resolve(self.store)


def _refuse_twins(what: str, name: str, others: Iterable[str]) -> None:
    twin = next((other for other in others if other != name and other.casefold() == name.casefold()), None)
    if twin:
        raise ValueError(
            f"the {what} {name!r} and {twin!r} differ in capitals alone, which some file systems do not tell apart;"
            " rename one"
        )


def _is_one_of(name: str, pattern: str) -> bool:
    """Whether a cohort is one of those that a name with words in braces stands for."""
    return bool(words_in(pattern)) and as_expression(pattern).fullmatch(name) is not None


def load_config(path: str | Path) -> RunConfig:
    """The checked configuration of a run.

    Parameters
    ----------
    path
        A TOML file. Paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML, holds an unknown key or a value out of range. The message names the
        key, the value and what to change.

    Examples
    --------
    >>> from pipeline import load_config
    >>> load_config("run.toml").maps["strf"].kind
    'strf'
    """
    path = Path(path)
    try:
        text = _read_text(path)
        raw = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply to be read, which no config needs to be; take the lists in lists out"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {path} cannot be read ({error}); give the path of a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; mend that line") from error
    for key in ("folder", "text"):
        if key in raw:
            raise ConfigError(f"{path}: {key}: unknown key; remove it, as it is found out by itself")
    missing = list(blanks(raw))
    if missing:
        lines = "\n  ".join(f"{key}: {hint}" for key, hint in missing)
        raise ConfigError(f"{path} is not filled in yet; write what only you know:\n  {lines}")
    try:
        refuse_secrets_within(raw)
        return RunConfig(**raw, folder=str(path.resolve().parent), text=text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path} cannot be run:\n  {explain(error, raw, RunConfig)}") from error


def _read_text(path: Path) -> str:
    """The text of a small ordinary file; a pipe would be waited for, and a device never ends."""
    if path.exists() and not path.is_file():
        raise OSError("it is no ordinary file")
    if path.stat().st_size > CONFIG_BYTES:
        raise OSError(f"it has {path.stat().st_size:,} bytes, more than the {CONFIG_BYTES:,} that are read")
    return path.read_text(encoding="utf-8")


def read_frequencies(config: RunConfig, cohort: CohortConfig) -> tuple[float, ...]:
    """Band centres of a cohort in Hz, from the list, the file or the grid that the config gives.

    Raises `ConfigError` if the file cannot be read, or the centres are not positive, finite and strictly increasing or
    decreasing.
    """
    given = cohort.frequencies_hz
    where = f"cohort {cohort.name!r}: frequencies_hz"
    if isinstance(given, FrequencyGrid):
        centres = band_centres_hz(given.min, given.max, given.count, given.scale)
    elif isinstance(given, str):
        try:
            words = _read_text(Path(config.resolve(given))).split()
            centres = tuple(float(word) for word in words)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where} = {given!r} cannot be read ({error}); give a file with one number a line"
            ) from error
    else:
        centres = given
    _refuse_many_bands(cohort, len(centres), where)
    steps = np.diff(centres)
    if not centres or not np.all(np.isfinite(centres)) or min(centres) <= 0:
        raise ConfigError(f"{where} must be positive numbers, one per band, for the maps to be labelled in Hz")
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ConfigError(f"{where} must increase (or decrease) from band to band; a repeated band cannot be selected")
    return centres


def _refuse_many_bands(cohort: CohortConfig, bands: int, where: str) -> None:
    lags = cohort.lags if isinstance(cohort.lags, int) else 1
    if bands > LARGEST_BANDS or bands * lags > LARGEST_MAP:
        raise ConfigError(
            f"{where} has {bands:,} bands, with lags = {cohort.lags} {bands * lags:,} numbers in the map of one neuron,"
            f" where {LARGEST_BANDS:,} bands and {LARGEST_MAP:,} numbers are the most that a machine can be expected to"
            " hold; give fewer bands or lags"
        )


def as_json(value: Any) -> Any:
    """A value of the config as JSON can hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return value

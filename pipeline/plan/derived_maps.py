"""The maps that a config asks for by its tables ``[fitted]`` and ``[checks]``, beside those that it names."""

from collections.abc import Iterator
from typing import Any

from pipeline.plan.config import RunConfig
from pipeline.plan.kinds.filter_test import FilterTestConfig
from pipeline.plan.kinds.fit_agreement import FitAgreementConfig
from pipeline.plan.kinds.infidelity import InfidelityConfig
from pipeline.plan.kinds.randomised import RandomisedConfig
from pipeline.plan.map_checks import Judging
from pipeline.plan.map_config import MapConfig
from pipeline.plan.urls import ConfigError


def with_derived(config: RunConfig) -> RunConfig:
    """The config with a map for each fit and each check that it asks for.

    A check is a map of its own, with a status of its own: it changes nothing in the map that it is a check of, it can
    be asked for later, and it is computed again by itself.

    Raises `ConfigError` if a map has the name of a check, or a check is of a map that cannot be checked.
    """
    derived = dict([*_fits(config), *_checks(config)])
    twin = next((name for name in derived if name in config.maps), None)
    if twin is not None:
        raise ConfigError(
            f"maps.{twin} has the name of what [fitted] or [checks] writes, so one would hide the other; give the map"
            " another name"
        )
    maps = {**config.maps, **derived}
    if maps == config.maps and not any(isinstance(entry, Judging) for entry in maps.values()):
        return config
    settled = {name: _settled(config, name, entry, maps) for name, entry in maps.items()}
    return config.model_copy(update={"maps": settled})


def _settled(config: RunConfig, name: str, entry: MapConfig, maps: dict[str, MapConfig]) -> MapConfig:
    """A check with the settings of the map that it is of, over cohorts that have it; any other map as it is."""
    if not isinstance(entry, Judging):
        return entry
    judged = maps.get(entry.of)
    if judged is None or not judged.judgeable:
        usable = [other for other, settings in maps.items() if settings.judgeable]
        raise ConfigError(
            f'maps.{name}: of = {entry.of!r} is no map of the kind "strf" over the spectrogram with one map per neuron,'
            f" so it cannot be checked; name one of {', '.join(usable) or 'them (there is none yet)'}"
        )
    names = [cohort.name for cohort in config.cohort]
    shared = tuple(one for one in names if config.covers(entry, one) and config.covers(judged, one))
    return entry.model_copy(update={"judged": judged.identity(), "cohorts": shared})


def _fits(config: RunConfig) -> Iterator[tuple[str, MapConfig]]:
    """The fit to the model's own responses, and that to recorded ones."""
    asked = config.fitted
    if asked is None:
        return
    yield "fitted", asked.model_copy(update={"responses": None})
    if asked.responses is not None:
        yield "fitted_recorded", asked


def _checks(config: RunConfig) -> Iterator[tuple[str, MapConfig]]:
    """The checks of every map that can be checked, and its comparison with the fits."""
    checks, fitted = config.checks, config.fitted
    for name, settings in config.maps.items():
        if not settings.judgeable:
            continue
        of: dict[str, Any] = {"of": name, "cohorts": checks.cohorts}
        if checks.filter_test is not None:
            test = FilterTestConfig(kind="filter_test", stimuli=checks.filter_test, **of)
            yield f"{name}_filter", test
        if checks.randomise:
            yield f"{name}_randomised", RandomisedConfig(kind="randomised", seed=checks.seed, **of)
        if checks.infidelity:
            yield f"{name}_infidelity", InfidelityConfig(kind="infidelity", seed=checks.seed, **of)
        if fitted is not None:
            fit: dict[str, Any] = {"of": name, "stimuli": fitted.stimuli, "cohorts": fitted.cohorts}
            yield f"{name}_fitted", FitAgreementConfig(kind="fit_agreement", **fit)
            if fitted.responses is not None:
                yield f"{name}_recorded", FilterTestConfig(kind="filter_test", responses=fitted.responses, **fit)

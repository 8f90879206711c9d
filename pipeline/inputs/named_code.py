"""Classes and functions by the names that a config gives them; the only place that imports deepSTRF."""

import importlib
import importlib.util
import inspect
from functools import lru_cache
from types import ModuleType
from typing import Any

from torch import nn

from pipeline.inputs.deferred_imports import put_off
from pipeline.inputs.lab_code import FOREIGN
from pipeline.inputs.torchaudio_standin import ensure_torchaudio
from pipeline.plan.config import ConfigError
from pipeline.text import meant, printable

#: What deepSTRF imports to draw when it is asked to, and for the matrices of an LMU: longer to load than itself.
HARDLY_CALLED = ("matplotlib", "matplotlib.pyplot", "scipy.signal")


@lru_cache(maxsize=1)
def deepstrf_classes() -> dict[str, type[nn.Module]]:
    """deepSTRF's own model classes, by the name that its config.json records."""
    ensure_torchaudio()
    with put_off(*HARDLY_CALLED):
        import deepSTRF.models.audio as zoo

    found = {name: getattr(zoo, name) for name in zoo.__all__ if name != "AudioEncodingModel"}
    return {name: value for name, value in found.items() if isinstance(value, type) and issubclass(value, nn.Module)}


def is_deepstrf(model_class: type) -> bool:
    """Whether a class saves its constructor arguments as deepSTRF does: all that JSON can hold, defaults included."""
    return any(
        base.__name__ == "NeuralModel" and base.__module__.startswith("deepSTRF.") for base in model_class.__mro__
    )


def not_installed(what: str, error: ImportError) -> ConfigError:
    """The error for something that needs deepSTRF where it, or what it needs itself, cannot be imported."""
    missing = getattr(error, "name", None) or "deepSTRF"
    if missing.split(".")[0] == "deepSTRF":
        return ConfigError(
            f"{what}, but deepSTRF cannot be imported here ({printable(error)}); run"
            " pip install 'gradmap-pipeline[deepstrf]'"
        )
    return ConfigError(
        f"{what}, but deepSTRF needs the package {missing!r}, which is missing here; run pip install {missing}"
    )


def module_class(name: str, where: str) -> type[nn.Module]:
    """The subclass of ``torch.nn.Module`` of that name; ``where`` is the key of the config."""
    found = import_named(name, f"{where} = {name!r}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(
            f"{where} = {name!r} is no subclass of torch.nn.Module, so it cannot be a part of a model; name a class,"
            " or use `factory` for a function"
        )
    return found


def import_named(name: str, where: str) -> Any:
    """What a dotted name of the config stands for."""
    parts = name.split(".")
    if parts[0] not in ("torch", "pipeline") and importlib.util.find_spec("deepSTRF") is not None:
        ensure_torchaudio()  # a lab's module may import deepSTRF's front-ends
    with put_off(*(HARDLY_CALLED if parts[0] == "deepSTRF" else ())):
        module, rest = _longest_module(parts, where)
    found: Any = module
    for attribute in rest:
        if not hasattr(found, attribute):
            raise ConfigError(
                f"{where} cannot be imported: {getattr(found, '__name__', found)} has no {attribute!r};"
                f" {meant(attribute, dir(found)) or 'mend its spelling'}"
            )
        found = getattr(found, attribute)
    return found


def _longest_module(parts: list[str], where: str) -> tuple[ModuleType, list[str]]:
    for count in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:count])
        try:
            return importlib.import_module(module_name), parts[count:]
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                if count > 1:
                    continue  # the name may be of a class inside a module
                missing = error
            elif parts[0] == "deepSTRF":
                raise not_installed(where, error) from error
            else:
                raise ConfigError(
                    f"{where} cannot be imported: {module_name} needs the module {error.name!r}, which is not there;"
                    " install it on every machine of the run"
                ) from error
        except FOREIGN as error:
            raise ConfigError(
                f"{where} cannot be imported: {module_name} fails with {type(error).__name__}: {printable(error)};"
                " mend that module"
            ) from error
    if parts[0] == "deepSTRF":
        raise not_installed(where, missing)
    raise ConfigError(
        f"{where} cannot be imported: there is no module {parts[0]!r}; install it, run from the folder that holds it,"
        " or mend the name's spelling"
    )


def parameters_of(model_class: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters of a constructor that have names, and whether it takes any others."""
    try:
        parameters = inspect.signature(model_class).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {entry.name: entry for entry in parameters if entry.kind not in variable}
    return named, any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in parameters)

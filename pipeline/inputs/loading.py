"""Weights loaded into a module that has a place for each of them, and no others."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.inputs.files import CheckpointError, shorten
from pipeline.inputs.names import parameters_of
from pipeline.inputs.recipes import Recipe, toml_example
from pipeline.inputs.weights import listed
from pipeline.plan.config import ConfigError


@dataclass(frozen=True)
class Differences:
    """Names of weights that the file lacks or has in excess, and a line for each that has another shape."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return bool(self.missing or self.unexpected or self.shapes)


def differences(model: nn.Module, weights: Mapping[str, Tensor]) -> Differences:
    """How the names and shapes of the weights differ from the module's own."""
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    # One tensor under two names (tied weights) is stored once by safetensors.
    present = {id(value) for name, value in own.items() if name in weights}
    shapes = [
        f"{name} is {_shape(weights[name])} in the file and {_shape(value)} in the model"
        for name, value in own.items()
        if name in weights and not isinstance(value, nn.UninitializedParameter) and value.shape != weights[name].shape
    ]
    missing = [name for name, value in own.items() if name not in weights and id(value) not in present]
    return Differences(missing, [name for name in weights if name not in own], shapes)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], recipe: Recipe, path: str) -> None:
    """Load weights whose names and shapes are all the module's own, and refuse any others."""
    refuse_differences(model, weights, recipe, path)
    tied = {name for name in model.state_dict() if name not in weights}
    try:
        problems = model.load_state_dict(dict(weights), strict=not tied)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded into {type(model).__name__} ({shorten(error)}), so there is no model to"
            " differentiate; save it again"
        ) from error
    if set(problems.missing_keys) - tied or problems.unexpected_keys:
        raise CheckpointError(f"{path} loads only in part into {type(model).__name__}; save it again")


def refuse_differences(model: nn.Module, weights: Mapping[str, Tensor], recipe: Recipe, path: str) -> None:
    """Refuse weights that are not the module's own.

    Where the config has a part in what was built, the config is at fault; where the checkpoint's own config.json
    alone decided, its files contradict each other and the checkpoint fails alone.
    """
    found = differences(model, weights)
    if not found.any:
        return
    parts = []
    if found.missing:
        parts.append(f"the file lacks {listed(found.missing)}")
    if found.unexpected:
        parts.append(f"the file has {listed(found.unexpected)} beyond the model's own")
    if found.shapes:
        parts.append(listed(found.shapes, most=3))
    text = (
        f"the weights of {path} do not fit the {type(model).__name__} that was built: {'; '.join(parts)}; loading only"
        " what fits would make another model than the trained one"
    )
    if not recipe.decides:
        raise CheckpointError(
            f"{text}. Its config.json records every argument, so the two files are not of one model; save it again"
        )
    slots = _slots(model, found, recipe)
    if recipe.modules or slots:
        names = slots or sorted(recipe.modules)
        verb = "change" if set(names) & set(recipe.modules) else "add"
        advice = f"{verb} the entry's module {listed(names)}, for example\n{toml_example(names)}"
    else:
        advice = "mend the entry's class and arguments"
    raise ConfigError(f"{recipe.where}: {text}; {advice}")


def _slots(model: nn.Module, found: Differences, recipe: Recipe) -> list[str]:
    """Constructor parameters that probably hold the modules whose weights differ."""
    named, _ = parameters_of(type(model))
    differing = [*found.missing, *found.unexpected, *(line.split(" ", 1)[0] for line in found.shapes)]
    slots = [name for name in named if any(key.split(".")[0] == name for key in differing)]
    if any("activation" in key for key in differing):
        slots += [name for name in named if "activation" in name and name not in slots]
    return slots

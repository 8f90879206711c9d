"""Labelled gradmaps of one model in memory, as a cube holds them on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pipeline.gradients.contract import Contract
from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.plan.axes import Axis, lag_ms
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.run.contract_checks import LONGEST, MOST_OF_NULL, contract_if_told
from pipeline.store.array_specs import SIGN
from pipeline.words import Route

#: Spectrograms to take maps around: one, or several by name.
Around = np.ndarray | Tensor | xr.DataArray | Mapping[str, "np.ndarray | Tensor | xr.DataArray"]

#: Attributes that name neurons of which the contract says something.
NAMED = ("hears_future", "not_checked")


def gradmaps(
    model: nn.Module | Mapping[str, nn.Module],
    lags: int = 40,
    *,
    frequencies_hz: Sequence[float] | np.ndarray,
    frame_ms: float,
    neuron_names: Sequence[str] | None = None,
    around: Around | None = None,
    neurons: Sequence[int] | Sequence[str] | None = None,
    objective: str | Mapping[str, Any] = "last",
    space: str = "spectrogram",
    silence_level: float | None = None,
    route: Route = "auto",
    dtype: torch.dtype | None = None,
    memory_bytes: int | None = None,
    causal: bool = True,
    name: str = "strf",
) -> xr.DataArray:
    """Gradmaps (neuron, frequency, lag) of a model with labels, as every plot, measure and `summarise` takes them.

    An entry is the change in a neuron's objective per unit change of the spectrogram in that band, that many ms before
    the objective's frame; positive means that more energy there raises the response. Around several named spectrograms
    the first axis is ``stimulus``, in the ``prefiltered`` space there is one more, ``channel``. The model is asked
    first whether it does what a map takes for granted: a frame for each of the stimulus, the same response again,
    alone as among others, and no response before the sound.

    Parameters
    ----------
    model
        Maps spectrograms (batch, 1, frequency, time) to responses (batch, neuron, 1, time), causally, in eval mode;
        models of other layouts come through `adapt`. Several of one population by name: ``checkpoint`` is an axis then.
    lags
        Frames kept, lag 0 included.
    frequencies_hz
        Centre of each band, from low to high or from high to low as the model takes them.
    frame_ms
        Width of a frame.
    neuron_names
        A name for each output of the model; ``neuron0000`` and on by default.
    around
        One spectrogram (frequency, time), or several by name, in the units that the model was trained on. None: the
        null spectrogram, or silence where ``silence_level`` is given.
    neurons
        Which neurons, by name or by position; all by default.
    objective
        "last", "peak", "sum", "mean", ``{"frame": 120}`` or ``{"mean_over": [50, 80]}``.
    space
        "spectrogram", or "prefiltered" for a map per channel after the prefilter.
    silence_level
        What silence is in the model's units; null is 0.
    route
        The way to the gradient; it changes no number beyond rounding.
    dtype
        torch.float64 to compute in double precision on a copy of the model.
    memory_bytes
        What temporary tensors may take; a share of the device's memory by default.
    causal
        False lets a model pass that responds to what comes later; the attribute ``hears_future`` names its neurons,
        and their maps hold the past alone.
    name
        The name of the array.

    Raises
    ------
    ValueError
        If labels and model do not fit each other, or the model does not keep the contract
        (:class:`~pipeline.gradients.contract.ContractError`). Neurons of which it could not be told, as they answered
        to nothing, are named by the attribute ``not_checked``.

    Examples
    --------
    >>> from pipeline import adapt
    >>> gru = torch.nn.GRU(input_size=4, hidden_size=3, batch_first=True).eval()
    >>> model = adapt(gru, bands=4, input="b 1 f t -> b t f", output="b t n -> b n 1 t", select=0)
    >>> maps = gradmaps(model, 10, frequencies_hz=[250, 500, 1000, 2000], frame_ms=5.0)
    >>> maps.dims, float(maps.lag[-1])
    (('neuron', 'frequency', 'lag'), 45.0)
    """
    if isinstance(model, Mapping):
        words = {key: value for key, value in locals().items() if key not in ("model", "lags")}
        return _stacked({label: gradmaps(entry, lags, **words) for label, entry in model.items()})
    bands = [float(value) for value in frequencies_hz]
    stimuli, names = _stimuli(around, bands)
    settings = _settings(objective, space, silence_level, around)
    _refuse_other_bands(bands, stimuli, model)
    level = silence_level or 0.0
    if stimuli is None and not isinstance(getattr(model, "F", None), int):
        stimuli = torch.full((1, len(bands), lags), level)
    null = torch.full((len(bands), max(1, min(lags, MOST_OF_NULL))), level)
    heard = null if stimuli is None else stimuli[0, :, :LONGEST]
    contract = contract_if_told(model, heard, level=level, causal=causal)
    labels = _labels(model, neuron_names, contract)
    rows = _rows(labels, neurons)
    found = compute_strf_gradmaps(
        model,
        stimuli,
        lags,
        neurons=rows,
        objective=settings.engine_objective(),
        route=route,
        space=space,
        level=level,
        dtype=dtype,
        memory_bytes=memory_bytes,
    )
    values = found.values.detach().cpu().numpy()
    along = (Axis("neuron", tuple(labels[row] for row in rows)), Axis("frequency", tuple(bands)))
    axes = _axes(values, names, *along, Axis("lag", tuple(lag_ms(lags, frame_ms).tolist())))
    maps = _labelled(values if names else values[0], axes, settings, name, found.route)
    return maps.assign_attrs(_told(contract, labels, rows))


def _axes(values: np.ndarray, names: tuple[str, ...], neuron: Axis, frequency: Axis, lag: Axis) -> tuple[Axis, ...]:
    stimulus = (Axis("stimulus", names),) if names else ()
    channels = (Axis("channel", tuple(range(values.shape[2]))),) if values.ndim == 5 else ()
    return (*stimulus, neuron, *channels, frequency, lag)


def _told(contract: Contract | None, labels: Sequence[str], rows: Sequence[int]) -> dict[str, list[str]]:
    """Names of the neurons that hear the future, and of those of which nothing could be told."""
    if contract is None:
        return {NAMED[1]: [labels[row] for row in rows]}
    found = zip(NAMED, (contract.hears_future, contract.unchecked), strict=True)
    named = {word: [labels[row] for row in rows if bool(those[row])] for word, those in found}
    return {word: those for word, those in named.items() if those}


def _stacked(maps: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Maps of several models along ``checkpoint``, with what they have in common as attributes."""
    if not maps:
        raise ValueError("there is no model among those given, so there is nothing to map; give one or more by name")
    stacked = xr.concat(list(maps.values()), "checkpoint", join="exact", combine_attrs="drop_conflicts")
    stacked = stacked.assign_coords(checkpoint=np.array([str(label) for label in maps], dtype=object))
    stacked.checkpoint.attrs.update(Axis("checkpoint", tuple(maps)).attributes())
    for word in NAMED:
        named = {neuron: None for entry in maps.values() for neuron in entry.attrs.get(word, ())}
        if named:
            stacked.attrs[word] = list(named)
    return stacked


def _labelled(values: np.ndarray, axes: Sequence[Axis], settings: StrfMapConfig, name: str, route: str) -> xr.DataArray:
    (variable,) = settings.variables({axis.name: axis for axis in axes})
    words = {
        "role": "map",
        "map": name,
        "long_name": variable.long_name,
        "units": variable.units,
        "kind": settings.kind,
        **settings.facts(),
        "sign": SIGN,
        "route": route,
    }
    coords = {
        axis.name: (axis.name, np.array(axis.values, dtype=object if isinstance(axis.values[0], str) else None))
        for axis in axes
    }
    maps = xr.DataArray(values, coords, [axis.name for axis in axes], name, words)
    for axis in axes:
        maps[axis.name].attrs.update(axis.attributes())
    return maps


def _settings(objective: Any, space: str, silence_level: float | None, around: Around | None) -> StrfMapConfig:
    baseline = "stimuli" if around is not None else "null" if silence_level is None else "silence"
    words = {"kind": "strf", "objective": objective, "space": space, "baseline": baseline}
    words |= {"stimuli": "in memory"} if around is not None else {}
    words |= {"silence_level": silence_level} if silence_level is not None else {}
    return StrfMapConfig.model_validate(words)


def _stimuli(around: Around | None, bands: Sequence[float]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Spectrograms (stimulus, frequency, time) and their names, which a single one has not."""
    if around is None:
        return None, ()
    named = around if isinstance(around, Mapping) else {"": around}
    tensors = {str(name): _spectrogram(value, bands) for name, value in named.items()}
    shapes = {tuple(value.shape) for value in tensors.values()}
    if len(shapes) != 1 or any(len(shape) != 2 for shape in shapes):
        told = ", ".join(f"{name or 'around'} {tuple(value.shape)}" for name, value in tensors.items())
        raise ValueError(
            f"the spectrograms to take maps around have the shapes {told or 'of none'}, but each must be (frequency,"
            " time) and all of one length; cut them, or call gradmaps once for each"
        )
    return torch.stack(list(tensors.values())), tuple(tensors) if isinstance(around, Mapping) else ()


def _spectrogram(value: Any, bands: Sequence[float]) -> Tensor:
    """One spectrogram (frequency, time); labelled axes are taken by their names, and their bands compared."""
    if isinstance(value, xr.DataArray):
        if "frequency" in value.dims:
            value = value.transpose("frequency", ...)
            labels = value["frequency"].values if "frequency" in value.coords else np.asarray(bands)
            if labels.shape == np.shape(bands) and not np.allclose(labels, bands, rtol=1e-3):
                raise ValueError(
                    f"the spectrogram's bands go from {labels[0]:g} to {labels[-1]:g} Hz and frequencies_hz from"
                    f" {bands[0]:g} to {bands[-1]:g}, so its bands would reach the model in another order or at other"
                    " frequencies; give it the bands of frequencies_hz, in their order"
                )
        value = value.values
    return torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value, dtype=torch.float32)


def _labels(model: nn.Module, names: Sequence[str] | None, contract: Contract | None) -> tuple[str, ...]:
    count = getattr(model, "O", None) if contract is None else len(contract.unchecked)
    if names is None:
        if not isinstance(count, int):
            raise ValueError(
                f"{type(model).__name__} does not say how many neurons it has (attribute O), so its maps cannot be"
                " labelled; give neuron_names, or wrap it with adapt(model, neurons=...)"
            )
        return tuple(f"neuron{index:04d}" for index in range(count))
    labels = tuple(str(name) for name in names)
    if len(set(labels)) != len(labels) or isinstance(names, str):
        raise ValueError(
            f"neuron_names has {len(labels)} names, not all different; give every neuron a name of its own"
        )
    if isinstance(count, int) and len(labels) != count:
        raise ValueError(
            f"neuron_names has {len(labels)} names, but {type(model).__name__} has {count} neurons, so maps would get"
            " the wrong labels; give one name for each output, in their order"
        )
    return labels


def _rows(labels: tuple[str, ...], neurons: Sequence[int] | Sequence[str] | None) -> list[int]:
    if neurons is None:
        return list(range(len(labels)))
    if isinstance(neurons, str):
        neurons = [neurons]
    position = {label: index for index, label in enumerate(labels)}
    rows = []
    for asked in neurons:
        if isinstance(asked, str) and asked not in position:
            raise ValueError(
                f"there is no neuron {asked!r} among {', '.join(labels[:5])}, ...; give one of their names"
            )
        rows.append(position[asked] if isinstance(asked, str) else range(len(labels))[asked])
    return rows


def _refuse_other_bands(bands: Sequence[float], stimuli: Tensor | None, model: nn.Module) -> None:
    counts = {"the model": getattr(model, "F", None), "around": None if stimuli is None else stimuli.shape[1]}
    for owner, count in counts.items():
        if isinstance(count, int) and count != len(bands):
            raise ValueError(
                f"frequencies_hz has {len(bands)} bands, but {owner} has {count}, so the maps could not be labelled in"
                " Hz; give the centre of every band"
            )

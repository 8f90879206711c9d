"""The contract that a model of auditory neurons keeps, as a class to derive one's own models from."""

import operator
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pipeline.gradients.gradmaps import compute_waveform_gradmaps, strf_gradmaps

#: The slots of a model, in the order in which a sound passes them.
SLOTS = ("wav2spec", "prefiltering", "core", "readout")


class AudioEncodingModel(nn.Module):
    """A model that maps sounds to the responses of a population of neurons, through four slots.

    ``forward`` sends a spectrogram (batch, 1, frequency, time), or with a front-end a waveform (batch, 1, sample),
    through ``wav2spec``, ``prefiltering``, ``core`` and ``readout`` to responses (batch, neuron, 1, time). Each slot
    is an identity until a subclass sets it, except ``readout``, which every subclass must set; a subclass whose
    computation does not fit the four slots overrides ``forward``. In eval mode a response must not depend on later
    frames. The constructor's arguments, the attributes ``O`` (neurons), ``F`` (bands), ``T`` (frames) and ``C_in``
    (channels after the prefilter) and the two gradmap methods have the names that deepSTRF 0.1.0 gave them.

    Parameters
    ----------
    n_frequency_bands
        Bands of the spectrogram that the model hears.
    temporal_window_size
        Frames that ``STRF_gradmap`` looks back by default.
    out_neurons
        Neurons whose responses the model gives.
    prefiltering
        Module from (batch, 1, frequency, time) to (batch, channel, frequency, time). Its ``out_channels`` is the number
        of channels, 1 where it has none.
    wav2spec
        Front-end from (batch, 1, sample) to (batch, 1, frequency, time). Its ``out_channels`` is the number of bands.

    Raises
    ------
    TypeError
        If a size is not an integer or a slot is not a module.
    ValueError
        If a size is not positive, or the front-end gives another number of bands than the model hears.

    Examples
    --------
    >>> import torch
    >>> from pipeline import AudioEncodingModel
    >>> class LastFrame(torch.nn.Module):
    ...     def __init__(self, bands, neurons):
    ...         super().__init__()
    ...         self.weights = torch.nn.Linear(bands, neurons)
    ...     def forward(self, x):
    ...         return self.weights(x.squeeze(1).mT).mT.unsqueeze(2)
    ...
    >>> model = AudioEncodingModel(n_frequency_bands=18, temporal_window_size=20, out_neurons=3)
    >>> model.readout = LastFrame(18, 3)
    >>> model.validate()
    >>> model.eval().STRF_gradmap().shape
    torch.Size([3, 1, 18, 20])
    """

    O: int  # noqa: E741
    F: int
    T: int
    C_in: int
    wav2spec: nn.Module
    prefiltering: nn.Module
    core: nn.Module
    readout: nn.Module

    def __init__(
        self,
        n_frequency_bands: int,
        temporal_window_size: int,
        out_neurons: int = 1,
        prefiltering: nn.Module | None = None,
        wav2spec: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.F = _size("n_frequency_bands", n_frequency_bands)
        self.T = _size("temporal_window_size", temporal_window_size)
        self.O = _size("out_neurons", out_neurons)
        self.wav2spec = nn.Identity() if wav2spec is None else wav2spec
        self.prefiltering = nn.Identity() if prefiltering is None else prefiltering
        self.core = nn.Identity()
        self.C_in = _size("prefiltering.out_channels", _channels(self.prefiltering))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SLOTS:
            _check_slot(self, name, value)
        super().__setattr__(name, value)

    def forward(self, stimulus: Float[Tensor, "batch 1 ..."]) -> Float[Tensor, "batch neuron 1 time"]:
        """Responses (batch, neuron, 1, time) to spectrograms, or to waveforms where there is a front-end."""
        _check_readout(self)
        return self.readout(self.core(self.prefiltering(self.wav2spec(stimulus))))

    def validate(self) -> None:
        """Check that the attributes and slots agree with each other, as they stand after a subclass has set them.

        Raises
        ------
        TypeError
            If ``O``, ``F``, ``T`` or ``C_in`` is not an integer, or a slot is not a module.
        ValueError
            If one of them is not positive, ``readout`` is not set, the front-end gives another number of bands than
            ``F``, or the prefilter another number of channels than ``C_in``.
        """
        for name in ("O", "F", "T", "C_in"):
            _size(name, getattr(self, name, None))
        _check_readout(self)
        for name in SLOTS:
            _check_slot(self, name, getattr(self, name, None))
        channels = getattr(self.prefiltering, "out_channels", None)
        if channels is not None and channels != self.C_in:
            raise ValueError(
                f"{type(self).__name__}.C_in is {self.C_in} but prefiltering.out_channels is {channels}, so the core"
                " and the readout were sized for another prefilter; give the prefilter to the constructor"
            )

    def STRF_gradmap(self, T: int | None = None) -> Float[Tensor, "neuron 1 frequency time"]:  # noqa: N802
        """Gradient of every neuron's last response with respect to a null spectrogram.

        Entry ``[n, 0, f, t]`` is the change in the last response of neuron ``n`` per unit change of band ``f`` in
        frame ``t``; the last frame is the response's own. Positive means that more energy there raises the response,
        which is the negative of what ``AudioEncodingModel.STRF_gradmap`` of deepSTRF 0.1.0 returns. A front-end is left
        out.

        Parameters
        ----------
        T
            Frames of the null spectrogram, ``self.T`` by default.

        Raises
        ------
        ValueError
            If the model is in training mode, or ``T`` is not positive.
        """
        self.validate()
        gradmaps = strf_gradmaps(self, lags=self.T if T is None else _size("T", T))
        return gradmaps.flip(-1).unsqueeze(1)

    def waveform_gradmap(
        self, stimulus: ArrayLike | Tensor, neuron: int | None = None, reduce: str = "last"
    ) -> Float[Tensor, " sample"]:
        """Gradient of one neuron's response with respect to every sample of a sound, first sample first.

        Positive means that a higher sample raises the response.

        Parameters
        ----------
        stimulus
            Waveform (sample,), (1, sample) or (1, 1, sample), at the front-end's rate.
        neuron
            Index of the neuron; ``None`` gives the gradient of the sum over all neurons.
        reduce
            What is differentiated: the response at the ``"last"`` frame, at the neuron's own ``"peak"``, or its
            ``"sum"`` over time.

        Raises
        ------
        ValueError
            If the model has no front-end or is in training mode, if ``stimulus`` is not one waveform, or if ``neuron``
            or ``reduce`` names nothing.
        """
        self.validate()
        if isinstance(self.wav2spec, nn.Identity):
            raise ValueError(
                f"{type(self).__name__} has no front-end (wav2spec is an identity), so it hears no waveform; give"
                " wav2spec to the constructor, or use STRF_gradmap"
            )
        if reduce not in ("last", "peak", "sum"):
            raise ValueError(
                f"reduce is {reduce!r}, which names no way to one number per neuron; give 'last', 'peak' or 'sum'"
            )
        return _waveform_gradmap(self, _one_waveform(stimulus), _neuron(neuron, self.O), reduce)


def _waveform_gradmap(model: AudioEncodingModel, waveform: Tensor, neuron: int | None, reduce: str) -> Tensor:
    found = compute_waveform_gradmaps(
        model, waveform.unsqueeze(0), None, neurons="sum" if neuron is None else neuron, objective=reduce
    )
    gradmap = found.values[0, 0].flip(-1)
    if reduce != "peak":
        return gradmap
    # Lag 0 is the last sample of the peak's frame; what follows it does not matter to the response.
    behind = (found.n_frames - 1 - int(found.frames)) * (len(waveform) // found.n_frames)
    return nn.functional.pad(gradmap[behind:], (0, behind))


def _one_waveform(stimulus: ArrayLike | Tensor) -> Float[Tensor, " sample"]:
    waveform = torch.as_tensor(stimulus)
    if not 1 <= waveform.ndim <= 3 or waveform.shape[-1] == 0 or waveform.shape[-1] != waveform.numel():
        raise ValueError(
            f"stimulus has shape {tuple(waveform.shape)}, which is not one waveform; give (sample,), (1, sample) or"
            " (1, 1, sample)"
        )
    waveform = waveform.reshape(-1)
    return waveform if waveform.is_floating_point() else waveform.to(torch.get_default_dtype())


def _neuron(neuron: int | None, n_neurons: int) -> int | None:
    if neuron is None:
        return None
    if isinstance(neuron, bool):
        raise ValueError(f"neuron is {neuron}, which is no index; give a whole number, or None for the sum over all")
    index = operator.index(neuron)
    if not -n_neurons <= index < n_neurons:
        raise ValueError(
            f"neuron is {index} in a model of {n_neurons} neurons, which counts from 0 to {n_neurons - 1}; give one of"
            " these, or None for the sum over all"
        )
    return index % n_neurons


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), which counts nothing; give a positive integer")
    size = operator.index(value)
    if size < 1:
        raise ValueError(f"{name} is {size}, so the model would have nothing to work on; give a positive integer")
    return size


def _channels(prefiltering: nn.Module) -> Any:
    return getattr(prefiltering, "out_channels", 1)


def _check_slot(model: AudioEncodingModel, name: str, value: Any) -> None:
    if not isinstance(value, nn.Module):
        raise TypeError(
            f"{type(model).__name__}.{name} is given {value!r} ({type(value).__name__}), whose weights torch would not"
            " follow; give a torch.nn.Module, wrapping a function in one"
        )
    if name != "wav2spec" or isinstance(value, nn.Identity):
        return
    bands = getattr(value, "out_channels", None)
    if bands != model.F:
        raise ValueError(
            f"wav2spec.out_channels is {bands} and n_frequency_bands is {model.F}, so the rest of the model would not"
            f" fit the front-end's spectrogram; make {type(value).__name__} give {model.F} bands and say so in its"
            " out_channels, or change n_frequency_bands"
        )


def _check_readout(model: AudioEncodingModel) -> None:
    if "readout" not in model._modules:
        raise ValueError(
            f"{type(model).__name__}.readout is not set, so nothing gives responses of {model.O} neurons; set it to a"
            " module in the subclass's __init__"
        )

"""How many lags the gradmaps of a model need, found by making the window longer until they stop changing."""

import contextlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.arguments import bands_of
from pipeline.gradients.gradmaps import strf_gradmaps
from pipeline.gradients.health.energy import memory_length, oldest_share
from pipeline.gradients.naming import name_of
from pipeline.gradients.question import Neurons
from pipeline.gradients.torch_state.arithmetic import undisturbed
from pipeline.gradients.torch_state.copies import home_of, twin_of

#: Of the response: how far it may still move late in a constant stimulus.
DRIFT = 1e-4

# What torch and careful models raise for an input of a length that they were not built for.
_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError)


@dataclass(frozen=True)
class Window:
    """The window found, and what it tells about the memory of the neurons looked at.

    ``converged`` says that a longer window neither changes the maps nor holds more; ``reason`` says in words why the
    search ended. ``window_dependent`` says that the maps go on changing with the window without losing energy to its
    end, as they do where a model knows absolute positions. Memory is counted in lags, see ``memory_length``, on the
    longest maps that were computed.
    """

    lags: int
    converged: bool
    reason: str
    window_dependent: bool
    memory_lags_90: Int[Tensor, " neuron"]
    memory_lags_99: Int[Tensor, " neuron"]
    oldest_share: Float[Tensor, " neuron"]


def find_window(
    model: nn.Module,
    *,
    tolerance: float = 1e-3,
    start: int = 16,
    maximum: int = 512,
    level: float = 0.0,
    neurons: Neurons = None,
    seed: int = 0,
) -> Window:
    """The shortest window whose maps no longer one changes, in frames.

    The maps of the longest window that the model takes, up to ``maximum``, say how far back any neuron hears, also
    after a gap. The window is doubled until its maps hold all but ``tolerance`` of that energy and differ from those of
    the next and of the longest window by less than ``tolerance`` (relative norm, every neuron); then it is shortened
    to what that energy needs, if its maps are still the same. Maps are taken around a constant spectrogram, or, where
    these are all zero behind a rectifying prefilter, around noise.

    Parameters
    ----------
    tolerance
        What counts as no change.
    start, maximum
        The first window tried and the longest.
    level
        The level of the constant spectrogram.
    neurons
        Neurons to look at; all by default, since one slow neuron needs the window as much as many.
    seed
        Of the noise.

    Raises
    ------
    ValueError
        If ``tolerance``, ``start`` or ``maximum`` leaves nothing to find, or the model takes no window at all.

    Examples
    --------
    >>> import torch
    >>> from pipeline import adapt, find_window
    >>> class Leaky(torch.nn.Module):
    ...     def forward(self, x):  # each frame holds half of the one before
    ...         decay = 0.5 ** torch.arange(x.shape[-1]).flip(0)
    ...         return torch.nn.functional.conv1d(
    ...             torch.nn.functional.pad(x.mean(dim=2), (x.shape[-1] - 1, 0)), decay[None, None].to(x)
    ...         )
    ...
    >>> model = adapt(Leaky().eval(), bands=4, neurons=1, input="b c f t -> b c f t", output="b n t -> b n 1 t")
    >>> find_window(model).lags
    5
    """
    _check(tolerance, start, maximum)
    around = _Baseline(model, maximum, level, neurons, seed)
    lags, maps = _first(model, around, min(start, maximum))
    longest = around.longest(lags)
    whole = around.maps(longest)
    if not whole.any():
        around = around.noise()
        maps, whole = around.maps(lags), around.maps(longest)
    if not whole.any():
        return _found(model, lags, whole, False, "every map is zero, around a constant level as around noise")
    if not bool(whole.isfinite().all()):
        return _found(model, lags, whole, False, f"the maps of {longest} frames are not finite")
    before, stuck = float("inf"), False
    while lags < longest:
        longer = min(2 * lags, longest)
        longer_maps = whole if longer == longest else around.maps(longer)
        change, beyond = _difference(maps, longer_maps), _beyond(longer_maps, lags)
        complete = change < tolerance and beyond < tolerance
        if complete and _beyond(whole, lags) < tolerance and _difference(maps, whole) < tolerance:
            return _shortened(model, around, lags, whole, tolerance)
        stuck = change > max(tolerance, 0.5 * before)
        if stuck and (beyond < tolerance or (_own_window(model) > 1 and around.drifts())):
            return _window_dependent(model, lags, longer_maps, change)
        lags, maps, before = longer, longer_maps, change
    if longest < maximum:
        # There is no more that the model could hear.
        return _shortened(model, around, longest, whole, tolerance)
    reason = f"the memory is longer than the longest window of {maximum} frames, or than half of it"
    return _found(model, lags, maps, False, reason, window_dependent=stuck and around.drifts())


def _window_dependent(model: nn.Module, lags: int, maps: Tensor, change: float) -> Window:
    """The model's own window, or the one that held the energy, where no window is right."""
    own = _own_window(model)
    reason = (
        f"doubling the window changes the maps by {change:.2g} again and again although it adds no memory, as with"
        " absolute positions or a state that does not settle"
    )
    return _found(model, own if own > 1 else lags, maps, False, reason, window_dependent=True)


def _own_window(model: nn.Module) -> int:
    own = getattr(model, "T", None)
    return own if isinstance(own, int) and own > 0 else 0


def _check(tolerance: float, start: int, maximum: int) -> None:
    if not 0.0 < tolerance < 1.0:
        raise ValueError(
            f"tolerance is {tolerance}, so any window would do or none; give a relative change between 0 and 1"
        )
    if not 1 <= start <= maximum:
        raise ValueError(
            f"start is {start} and maximum {maximum}, which leaves no window to try; give 1 <= start <= maximum"
        )


@dataclass(frozen=True)
class _Baseline:
    """What the maps are taken around: the newest frames of one long stimulus, constant or noise."""

    model: nn.Module
    maximum: int
    level: float
    neurons: Neurons
    seed: int
    noisy: bool = False

    def noise(self) -> "_Baseline":
        return replace(self, noisy=True)

    def maps(self, lags: int) -> Float[Tensor, "neuron frequency lag"]:
        around: float | Tensor = self.level
        if self.noisy:
            generator = torch.Generator().manual_seed(self.seed)
            # Newest frame first, so that a longer window adds older frames to the same sound.
            heard = torch.randn(self.maximum, bands_of(self.model), generator=generator)
            around = self.level + heard[:lags].flip(0).T
        return strf_gradmaps(self.model, lags, neurons=self.neurons, around=around)

    def longest(self, taken: int) -> int:
        """The longest stimulus up to ``maximum`` that the model takes, which takes ``taken`` frames."""
        low, high = taken, self.maximum + 1
        # Most models take the longest at once.
        middle = self.maximum
        while high - low > 1:
            low, high = (middle, high) if self._takes(middle) else (low, middle)
            middle = (low + high) // 2
        return low

    def _takes(self, frames: int) -> bool:
        response = self._response(frames)
        return response is not None and response.shape[-1] == frames

    def drifts(self) -> bool:
        """Whether the response to a constant stimulus still moves, late in it, as much as it did early on."""
        answer = self._response(self.maximum)
        if answer is None:
            return False
        response = answer[0, :, 0]
        quarter = max(1, self.maximum // 4)
        early, late = _range(response[:, quarter : 2 * quarter]), _range(response[:, -quarter:])
        return bool(late > DRIFT * response.abs().amax() and late > 0.5 * early)

    def _response(self, frames: int) -> Tensor | None:
        """The answer to so many frames of the constant level; None where the model does not take them."""
        device, dtype = home_of(self.model)
        listener = twin_of(self.model, {"wav2spec": nn.Identity()})
        heard = torch.full((1, 1, bands_of(self.model), frames), self.level, device=device, dtype=dtype)
        with undisturbed(listener, dtype), torch.no_grad():
            try:
                answer: Tensor = listener(heard)
            except _REFUSALS:
                return None
        return answer


def _range(response: Float[Tensor, "neuron time"]) -> Float[Tensor, ""]:
    return (response.amax(dim=-1) - response.amin(dim=-1)).amax() if response.numel() else response.new_zeros(())


def _first(model: nn.Module, around: _Baseline, start: int) -> tuple[int, Tensor]:
    """The first window that the model takes: the one asked for, or else its own."""
    try:
        return start, around.maps(start)
    except _REFUSALS as error:
        own = _own_window(model)
        if own == start or not 1 <= own <= around.maximum or model.training:
            raise
        try:
            return own, around.maps(own)
        except _REFUSALS:
            raise error from None


def _difference(maps: Tensor, longer: Tensor) -> float:
    """Largest relative change of a neuron's map between two windows, over the lags of the shorter."""
    shared = longer[..., : maps.shape[-1]].flatten(1).double()
    change = (shared - maps.flatten(1).double()).norm(dim=1)
    size = torch.maximum(shared.norm(dim=1), maps.flatten(1).double().norm(dim=1))
    return float((change / size.clamp(min=torch.finfo(torch.float32).tiny)).amax())


def _beyond(maps: Tensor, lags: int) -> float:
    """Largest share of a neuron's energy at or beyond a lag."""
    energy = maps.double().square().sum(dim=1)
    total = energy.sum(dim=-1)
    return float((energy[:, lags:].sum(dim=-1) / total.where(total > 0, 1.0)).amax())


def _shortened(model: nn.Module, around: _Baseline, lags: int, maps: Tensor, tolerance: float) -> Window:
    """The window cut to the lags that hold the energy, unless that changes the maps."""
    most = maps.shape[-1]
    reason = (
        f"a window of {most} frames changes nothing" if most == around.maximum else f"it takes {most} frames at most"
    )
    needed = max(1, int(memory_length(maps[None], 1.0 - tolerance).amax()))
    if needed < lags:
        with contextlib.suppress(*_REFUSALS):
            lags = needed if _difference(around.maps(needed), maps) < tolerance else lags
    return _found(model, lags, maps, True, reason)


def _found(
    model: nn.Module, lags: int, maps: Tensor, converged: bool, reason: str, window_dependent: bool = False
) -> Window:
    some = maps[None]
    return Window(
        lags,
        converged,
        f"{name_of(model)}: {reason}",
        window_dependent,
        memory_length(some, 0.9)[0],
        memory_length(some, 0.99)[0],
        oldest_share(some)[0],
    )

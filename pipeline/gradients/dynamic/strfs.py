"""Dynamic STRFs: the gradmap of every neuron at every frame of a sound, block of frames after block of frames."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from pipeline.gradients.arguments import (
    check_common,
    check_count,
    check_eval,
    checked_dtype,
    chosen_rows,
    has_front_end,
    spectrograms,
)
from pipeline.gradients.dynamic.frame_by_frame import Rowwise
from pipeline.gradients.dynamic.graph import NoWayError
from pipeline.gradients.dynamic.moments import Moments
from pipeline.gradients.dynamic.one_pass import Along, along_the_sound, usual_first_block
from pipeline.gradients.dynamic.sound_question import Asked
from pipeline.gradients.objectives import check_objective
from pipeline.gradients.question import Neurons
from pipeline.gradients.routes.cheapest import limits_of
from pipeline.gradients.torch_state.arithmetic import quiet
from pipeline.gradients.torch_state.copies import Inventory, converted, twin_of
from pipeline.gradients.torch_state.memory import budget, check_memory, is_out_of_memory

#: Ways along a sound; ``rows`` alone takes time that grows with the square of the sound's length.
ROUTES = ("slope", "sweep", "windows", "comb", "rows")

#: Frames at which maps are compared with a plain backward pass.
CHECKED_FRAMES = 2

#: A route that differs by more from plain autograd is wrong for this model, not merely rounded.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


Block = TypeVar("Block")


@dataclass(frozen=True)
class Record:
    """How dynamic STRFs were computed."""

    #: "slope" where every map is one kernel times a slope, "sweep" where a recurrence is followed frame by frame,
    #: "windows" where tangents of each frame are pushed through other parts that mix frames, "comb" where every frame
    #: hears a few frames only, "rows" where each frame took a backward pass of its own, which takes time that grows
    #: with the square of the sound's length; "sweep+rows" where the first was left after a check.
    route: str
    #: The rules taken on the way from the sound to the responses.
    parts: tuple[str, ...] = ()
    #: Largest difference of a mixture of the neurons' maps from plain autograd at the checked frames, relative to its
    #: largest entry; nan before any frame was checked.
    disagreement: float = math.nan
    #: The frames at which that was measured.
    checked: tuple[int, ...] = ()


class DynamicStrfs(Iterator[tuple[tuple[int, ...], Float[Tensor, "neuron frame frequency lag"]]]):
    """Blocks of dynamic STRFs in the order of their frames, and the record of how they were computed.

    Each block is the frames that it holds and their maps (neuron, frame, frequency, lag). The model's state, torch's
    switches and the random state are the caller's own between two blocks; its weights are to stay as they are until the
    last one.
    """

    def __init__(self, asked: Asked, expected: dict[int, Float[Tensor, "frequency lag"]], route: str) -> None:
        self._route, self._expected = route, expected
        with asked.quiet():
            self._source: Along | Rowwise = _chosen(asked, route)
            self._asked = asked.without_calls()
            first = self._source.first_block
            if expected.keys().isdisjoint(asked.frames[:first]):
                self._expected = {**expected, **self._asked.anew().expected(1, first)}
        # At a frame whose maps all but vanish, only rounding is left to compare.
        self._size = max(float(expected.abs().amax()) for expected in self._expected.values())
        self._record = Record(self._source.route, self._source.parts)
        self._done = 0

    @property
    def record(self) -> Record:
        """How the blocks so far were computed."""
        return self._record

    @property
    def responses(self) -> Float[Tensor, "neuron frame"]:
        """The model's response of the neurons asked for, or their sum, at every frame asked for."""
        heard = self._asked.response[:, list(self._asked.frames)]
        return heard.sum(dim=0, keepdim=True) if self._asked.neurons is None else heard[self._asked.neurons]

    def __iter__(self) -> "DynamicStrfs":
        return self

    def __next__(self) -> tuple[tuple[int, ...], Float[Tensor, "neuron frame frequency lag"]]:
        asked = self._asked
        if self._done == len(asked.frames):
            raise StopIteration
        with asked.quiet():
            frames, maps = self._held_if_need_be(lambda source: source.block(self._done))
            if self._differs(frames, maps) and self._route == "auto" and isinstance(self._source, Along):
                self._leave()
                frames, maps = self._source.block(self._done)
        self._done += len(frames)
        return frames, maps.permute(1, 0, 3, 2)

    def mean_and_sd(self) -> tuple[Float64[Tensor, "neuron frequency lag"], Float64[Tensor, "neuron frequency lag"]]:
        """Mean and standard deviation (n - 1) of the maps over all frames that are left, which are gone through.

        The maps are made for some neurons of one frame at a time and never held. The deviation of one frame is nan.

        Raises
        ------
        ValueError
            If no frame is left.

        Examples
        --------
        >>> import torch
        >>> from torch import nn
        >>> from pipeline.gradients.dynamic.strfs import dynamic_strfs
        >>> class Square(nn.Module):
        ...     def forward(self, x):
        ...         return x.square().sum(dim=2, keepdim=True)
        >>> mean, sd = dynamic_strfs(Square().eval(), torch.tensor([[1.0, 2.0, 3.0]]), lags=1).mean_and_sd()
        >>> mean.item(), sd.item()
        (4.0, 2.0)
        """
        asked, start = self._asked, self._done
        if start == len(asked.frames):
            raise ValueError(
                f"none of the {start} frames that were asked for is left, so there is no mean of their maps; take it"
                " before the blocks, or ask for the maps anew"
            )
        with asked.quiet():
            moments = Moments(self._held_if_need_be(lambda source: source.block(start, 1))[1][0])
            while self._done < len(asked.frames):
                frames = self._held_if_need_be(partial(_add_to, moments=moments, done=self._done))
                wrong = [frame for frame in set(self._expected) & set(frames) if self._differs_at(frame)]
                self._done += len(frames)
                if wrong and self._route == "auto" and isinstance(self._source, Along):
                    self._done = start
                    self._leave()
                    moments = Moments(self._source.block(start, 1)[1][0])
        return moments.mean_and_sd()

    def _differs_at(self, frame: int) -> bool:
        return self._differs(*self._source.block(self._asked.frames.index(frame), 1))

    def _differs(self, frames: tuple[int, ...], maps: Tensor) -> bool:
        """Whether maps at a checked frame of this block differ from plain autograd by more than rounding."""
        differs = False
        for frame in set(self._expected) & set(frames):
            expected = self._expected[frame]
            got = torch.tensordot(self._asked.shares, maps[frames.index(frame)], dims=1)
            difference = _relative(got.transpose(0, 1), expected, self._size)
            before = self._record.disagreement
            worst = difference if math.isnan(before) else max(before, difference)
            checked = tuple(sorted({*self._record.checked, frame}))
            self._record = replace(self._record, disagreement=worst, checked=checked)
            differs |= not difference <= TOLERANCE[maps.dtype]
        return differs

    def _held_if_need_be(self, block: Callable[[Along | Rowwise], Block]) -> Block:
        """A block; where excerpts of the sound turn out not to do, by slopes that are held for the whole of it."""
        try:
            return block(self._source)
        except NoWayError:
            limits_of(self._asked.model).add("excerpts")
            self._go_on(_chosen(self._asked.anew().without_graph(), self._route))
            return block(self._source)

    def _leave(self) -> None:
        """Go on with one backward pass per frame and neuron."""
        limits_of(self._asked.model).add("along")
        disagreement = self._record.disagreement if self._done else math.nan
        self._go_on(Rowwise(self._asked))
        self._record = Record(self._record.route, self._record.parts, disagreement)

    def _go_on(self, source: Along | Rowwise) -> None:
        """Take what is left from this source."""
        left, self._source = self._source.route, source
        route = f"{left}+{source.route}" if self._done and source.route != left else source.route
        self._record = replace(self._record, route=route, parts=source.parts)


def _add_to(source: Along | Rowwise, *, moments: Moments, done: int) -> tuple[int, ...]:
    """The frames of the next block, whose maps ``moments`` has taken in."""
    if isinstance(source, Along):
        return source.add_to(moments, done)
    frames, maps = source.block(done)
    moments.add_maps(maps)
    return frames


def _chosen(asked: Asked, route: str) -> Along | Rowwise:
    """The way along the sound asked for, or the first that the model allows."""
    if route == "rows" or (route == "auto" and "along" in limits_of(asked.model)):
        return Rowwise(asked)
    if route != "auto":
        return along_the_sound(asked, route)
    try:
        return along_the_sound(asked, route)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        if not isinstance(error, NoWayError) or asked.n_frames >= SHORT:
            limits_of(asked.model).add("along")
        return Rowwise(asked)


#: A way that was not found along a sound this short may yet be found along a longer one.
SHORT = 200


def _relative(got: Tensor, expected: Tensor, size: float) -> float:
    difference = float((got - expected).abs().amax())
    if not math.isfinite(difference):
        return math.inf
    return difference / size if size > 0 else (math.inf if difference > 0 else 0.0)


def dynamic_strfs(
    model: nn.Module,
    stimulus: Float[Tensor, "frequency time"],
    lags: int,
    *,
    neurons: Neurons = None,
    every: int = 1,
    skip: int = 0,
    frames: Iterable[int] | None = None,
    dtype: torch.dtype | None = None,
    route: str = "auto",
    memory_bytes: int | None = None,
) -> DynamicStrfs:
    """Gradients of the response at every frame of a sound, with the sound's whole past as context.

    Iterates over blocks ``(frames, maps)``: ``maps[n, i, f, k]`` is the change in the response of ``neurons[n]`` at
    ``frames[i]`` per unit change of the spectrogram in band ``f``, ``k`` frames before. Positive means that more
    energy there raises the response; entries before the sound begins are 0. A front-end is left out. The sound is gone
    through once, whatever its length, wherever the model's parts allow it; memory is that of a forward pass and of one
    block.

    Parameters
    ----------
    model
        Maps spectrograms (batch, 1, frequency, time) to responses (batch, neuron, 1, time), causally; in eval mode.
        Whether it does is not asked here; :func:`~pipeline.gradients.contract.check_contract` asks.
    stimulus
        One spectrogram, in the units that the model was trained on.
    lags
        Frames kept before each frame, lag 0 included.
    neurons
        Indices of neurons, one index, None for all, or "sum" for the sum over all of them as one map.
    every
        Frames from one map to the next.
    skip
        Frames left out at the start. With ``skip=lags - 1`` no map reaches before the sound.
    frames
        The frames wanted, in place of ``every`` and ``skip``; they come in ascending order.
    dtype
        torch.float64 to compute in double precision on a copy of the model. None: the model's own precision.
    route
        "auto", or one of "slope", "sweep", "windows", "comb", "rows" (see :class:`Record`). A route asked for by name
        raises where the model does not allow it.
    memory_bytes
        What temporary tensors may take. None: a share of the device's memory.

    Returns
    -------
    An iterator with the attribute ``record``, a :class:`Record`.

    Raises
    ------
    ValueError
        As :func:`~pipeline.gradients.gradmaps.strf_gradmaps` does, and if no frame is wanted.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from pipeline.gradients.dynamic.strfs import dynamic_strfs
    >>> class Sum(nn.Module):
    ...     def forward(self, x):
    ...         return x.sum(dim=2, keepdim=True)
    >>> [(frames, maps.shape) for frames, maps in dynamic_strfs(Sum().eval(), torch.ones(3, 12), lags=2)]
    [((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), torch.Size([1, 12, 3, 2]))]
    """
    check_count(lags, "lags", "frames")
    check_count(every, "every", "frames")
    check_memory(memory_bytes)
    _check_route(route)
    check_common(model, "last", "auto")
    stimulus = torch.as_tensor(stimulus)
    if stimulus.dim() != 2:
        raise ValueError(
            f"the stimulus has shape {tuple(stimulus.shape)}, which is not one spectrogram, so its frames are unknown;"
            " give (frequency, time), one sound at a time"
        )
    inventory = Inventory.of(model)
    dtype, device = checked_dtype(dtype, inventory), inventory.device
    given = spectrograms(model, stimulus.unsqueeze(0), lags, 0.0).to(device=device, dtype=dtype)
    wanted = _wanted(given.shape[-1], every, skip, frames)
    with quiet(inventory, dtype):
        source = converted(model, inventory, dtype)
        twin = twin_of(source, {"wav2spec": nn.Identity()} if has_front_end(source) else {})
        check_eval(twin, model)
        asked = Asked.of(model, twin, inventory, given, lags, wanted, budget(device, memory_bytes))
        asked = replace(asked, neurons=chosen_rows(neurons, asked.n_neurons, device))
        expected = asked.expected(CHECKED_FRAMES, usual_first_block(asked))
        # The graph of this forward pass is not needed beside that of the model cut open.
        asked = asked.without_graph()
    return DynamicStrfs(asked, expected, route)


def _wanted(n_frames: int, every: int, skip: int, frames: Iterable[int] | None) -> tuple[int, ...]:
    if frames is not None:
        wanted = sorted({int(frame) for frame in frames})
        for frame in wanted:
            check_objective({"frame": frame}, n_frames)
    else:
        if not isinstance(skip, int) or isinstance(skip, bool) or skip < 0:
            raise ValueError(f"skip = {skip!r} is no number of frames to leave out; give a whole number from 0")
        wanted = list(range(skip, n_frames, every))
    if not wanted:
        raise ValueError(
            f"no frame is left of a sound of {n_frames} frames with skip = {skip}, so there is no map to compute; skip"
            " fewer frames, or give a longer sound"
        )
    return tuple(wanted)


def _check_route(route: str) -> None:
    if route not in ("auto", *ROUTES):
        raise ValueError(
            f"route {route!r} is not known, so there is no way to the gradient; give one of auto, {', '.join(ROUTES)}"
        )

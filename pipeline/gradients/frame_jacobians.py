"""Gradmaps at many frames along a sound, one frame at a time: the block that dynamic STRFs are built from."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import (
    Neurons,
    check_common,
    check_count,
    check_eval,
    checked_dtype,
    chosen_rows,
    has_front_end,
    spectrograms,
)
from pipeline.gradients.objectives import check_objective, weigh
from pipeline.gradients.routes.choice import limits_of, take
from pipeline.gradients.routes.memory import budget
from pipeline.gradients.routes.problem import Rows, check_frames, pose
from pipeline.gradients.routes.scope import Inventory, converted, quiet, twin_of


def frame_gradmaps(
    model: nn.Module,
    stimulus: Float[Tensor, "frequency time"],
    frames: Iterable[int],
    lags: int,
    *,
    neurons: Neurons = None,
    route: str = "auto",
    dtype: torch.dtype | None = None,
    memory_bytes: int | None = None,
) -> Iterator[tuple[int, Float[Tensor, "neuron frequency lag"]]]:
    """Gradmaps of the response at each of these frames of one spectrogram, with a single forward pass for all.

    Yields one frame after another, so that summaries can be taken without holding neuron x frame x frequency x lag.
    Entries are as in :func:`~pipeline.gradients.gradmaps.strf_gradmaps` with the objective ``{"frame": k}``.

    Raises
    ------
    ValueError
        As :func:`~pipeline.gradients.gradmaps.strf_gradmaps` does.
    """
    check_count(lags, "lags", "frames")
    check_common(model, "last", route)
    inventory = Inventory.of(model)
    dtype, device = checked_dtype(dtype, inventory), inventory.device
    given = spectrograms(model, torch.as_tensor(stimulus).unsqueeze(0), lags, 0.0).to(device=device, dtype=dtype)
    wanted = list(frames)
    for frame in wanted:
        check_objective({"frame": frame}, given.shape[-1])
    with quiet(inventory, dtype):
        source = converted(model, inventory, dtype)
        twin = twin_of(source, {"wav2spec": nn.Identity()} if has_front_end(source) else {})
        check_eval(twin, model)
        leaf = given.detach().clone().unsqueeze(1)
        problem = pose(twin, leaf, budget(device, memory_bytes), limits_of(model))
        check_frames(problem.response.shape[-1], leaf.shape[-1], 1, model)
        chosen = chosen_rows(neurons, problem.response.shape[1], device)
    for number, frame in enumerate(wanted):
        # Entered anew for each frame: what the caller does between two frames is none of this function's business.
        with quiet(inventory, dtype):
            weighing = weigh({"frame": frame}, problem.response)
            ends = weighing.frames if chosen is None else weighing.frames[:, chosen]
            ends = ends[:, :1] if chosen is None else ends
            rows = Rows(weighing.weights, chosen, ends, lags, check=number == 0)
            taken = take(model, problem, rows, route)
        yield frame, taken.values[0].squeeze(1)

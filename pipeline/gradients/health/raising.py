"""A flag raised where something holds."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.gradients.health.flags import FLAGS


def raised(name: str, where: Bool[Tensor, "stimulus neuron"]) -> Int[Tensor, "stimulus neuron"]:
    """The mask of one flag where it holds, 0 elsewhere."""
    return where.to(torch.int32) * FLAGS[name]

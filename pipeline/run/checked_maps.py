"""The map that a check is of, computed again for the check, so that the cube's own is neither read nor written."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.gradients.gradmaps import Gradmaps, gradmaps_around_spectrograms
from pipeline.gradients.health.raising import raised
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.plan.map_checks import Judging
from pipeline.run.contract_checks import contract_flags
from pipeline.run.engine_maps import question_of
from pipeline.run.job import Job
from pipeline.run.kinds.strf import around


@dataclass(frozen=True)
class Judged:
    """The job of the map that a check is of, for the neurons of the check's shard and around all of its stimuli."""

    job: Job
    settings: StrfMapConfig

    @property
    def level(self) -> float:
        """The level of the null or silent spectrogram."""
        return self.settings.silence_level or 0.0

    def around_each(self, model: nn.Module) -> Iterator[tuple[Tensor | None, Gradmaps]]:
        """Stimuli of one length, None for the null or silent spectrogram, and the maps of a model around them."""
        question = question_of(self.job, self.settings, route=self.settings.route, level=self.level)
        for stimuli in around(self.job, self.settings):
            yield stimuli, gradmaps_around_spectrograms(model, stimuli, question)

    def maps(self, model: nn.Module) -> Tensor:
        """Maps (neuron, frequency, lag) of a model; around several sounds, their mean."""
        return torch.cat([maps.values for _, maps in self.around_each(model)]).mean(dim=0)


def judged(job: Job) -> Judged:
    """What the check that a job computes is of."""
    settings = job.map.settings
    assert isinstance(settings, Judging)
    entry = job.cohort.map_plan(settings.of)
    asked = cast(StrfMapConfig, entry.settings)  # a plan has checks of judgeable maps alone
    found = Judged(replace(job, map=entry, shard=replace(job.shard, map=entry.name, stimuli=None)), asked)
    contract_flags(found.job)
    return found


def health_of_check(maps: Tensor) -> np.ndarray:
    """Health flags of a check, for each neuron: there is nothing to check where the map is all zero."""
    flags = raised("all_zero_map", (maps == 0).all(dim=-1).all(dim=-1)[None])[0]
    return flags.cpu().numpy().astype(np.uint16)

"""What a gradient alone does not tell: attribution along a path, the best sound, and whether a map can be believed."""

from pipeline.gradients.attribution.integrated import Integrated, integrated_gradients
from pipeline.gradients.attribution.perturbed import infidelity, randomised_maps
from pipeline.gradients.attribution.smoothed import smoothed_gradients
from pipeline.gradients.attribution.synthesis import Synthesised, synthesise

__all__ = [
    "Integrated",
    "Synthesised",
    "infidelity",
    "integrated_gradients",
    "randomised_maps",
    "smoothed_gradients",
    "synthesise",
]

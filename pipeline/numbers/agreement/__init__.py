"""Agreement of maps between checkpoints, and the geometry of a population."""

from pipeline.numbers.agreement.consensus import linear_contrast, mean_map, sign_consistency, variance_components
from pipeline.numbers.agreement.geometry import (
    cluster_by_shape,
    participation_ratio,
    population_geometry,
    population_sparseness,
    trend,
)
from pipeline.numbers.agreement.reliability import noise_ceiling, reliability, similarity, spearman_brown

__all__ = [
    "cluster_by_shape",
    "linear_contrast",
    "mean_map",
    "noise_ceiling",
    "participation_ratio",
    "population_geometry",
    "population_sparseness",
    "reliability",
    "sign_consistency",
    "similarity",
    "spearman_brown",
    "trend",
    "variance_components",
]

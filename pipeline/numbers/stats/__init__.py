"""Tests of population numbers that respect which neurons were recorded together."""

from pipeline.numbers.stats.families import benjamini_hochberg
from pipeline.numbers.stats.intervals import Interval, bootstrap
from pipeline.numbers.stats.mixed import MixedModel, mixed_model
from pipeline.numbers.stats.sites import TestResult, permutation, signed_rank, site_means, wilcoxon

__all__ = [
    "Interval",
    "MixedModel",
    "TestResult",
    "benjamini_hochberg",
    "bootstrap",
    "mixed_model",
    "permutation",
    "signed_rank",
    "site_means",
    "wilcoxon",
]

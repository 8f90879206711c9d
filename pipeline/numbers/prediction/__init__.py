"""How well a map predicts a response, and the map that would predict it best."""

from pipeline.numbers.prediction.filtering import ceiling, filter_r, stimulus_weighted_r
from pipeline.numbers.prediction.ridge import FittedStrf, RidgeBasis, fit_strf, ridge_basis
from pipeline.numbers.prediction.spectrograms import HeardFrames, windows_of

__all__ = [
    "FittedStrf",
    "HeardFrames",
    "RidgeBasis",
    "ceiling",
    "filter_r",
    "fit_strf",
    "ridge_basis",
    "stimulus_weighted_r",
    "windows_of",
]

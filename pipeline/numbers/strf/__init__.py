"""Numbers of spectro-temporal maps."""

from pipeline.numbers.strf.all_measures import strf_measure, strf_summaries
from pipeline.numbers.strf.block import StrfSettings

__all__ = ["StrfSettings", "strf_measure", "strf_summaries"]

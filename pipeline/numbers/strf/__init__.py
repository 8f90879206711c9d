"""Numbers of spectro-temporal maps."""

from pipeline.numbers.strf.block import StrfSettings
from pipeline.numbers.strf.summaries import strf_measure, strf_summaries

__all__ = ["StrfSettings", "strf_measure", "strf_summaries"]

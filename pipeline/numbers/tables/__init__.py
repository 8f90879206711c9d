"""Summaries of whole cubes, and tidy tables of them."""

from pipeline.numbers.tables.cubes import ROW_DIMS, maps_per_neuron, plain_axes, summarise
from pipeline.numbers.tables.rules import Rules
from pipeline.numbers.tables.table_files import check_table_path, columns_of, write_table
from pipeline.numbers.tables.tidy import population_table, summary_table

__all__ = [
    "ROW_DIMS",
    "Rules",
    "check_table_path",
    "columns_of",
    "maps_per_neuron",
    "plain_axes",
    "population_table",
    "summarise",
    "summary_table",
    "write_table",
]

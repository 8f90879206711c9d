"""What the page shows of a map over (frequency, lag) or over the samples of a sound, whatever its kind."""

from collections.abc import Callable

from pipeline.pictures.choosing import Choice, choose_drawn, choose_measured
from pipeline.pictures.page import Markup, joined
from pipeline.pictures.sections.between_checkpoints import agreement_section
from pipeline.pictures.sections.browser import browser_section
from pipeline.pictures.sections.gallery import gallery_section
from pipeline.pictures.sections.measured import Told, measures_of, over_seeds
from pipeline.pictures.sections.neurons import frequency_order, neuron_table
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.population import population_section


def standard_section(
    entry: Outcome, told: Told, words: str, alone: Callable[[Outcome, Choice], Markup] | None = None
) -> Markup:
    """Grid of some maps, a browser of all, the population, agreement between checkpoints, and a row per neuron.

    Of one of many cohorts, the browser and the rows alone.

    Parameters
    ----------
    told
        The measures that are told.
    words
        How a map is read, for the caption of the grid.
    alone
        Draws one map by itself.
    """
    found = measures_of(entry, choose_measured(entry.best, entry.cube, entry.sounds), told)
    agreement = over_seeds(found) if found is not None else None
    if entry.brief:
        return joined([browser_section(entry, found, agreement), neuron_table(entry, found, agreement)])
    drawn = choose_drawn(entry.best, entry.cube, frequency_order(entry, found))
    parts = [gallery_section(entry, drawn, words, alone), browser_section(entry, found, agreement)]
    if found is not None:
        parts += [population_section(entry, found), agreement_section(entry, found, agreement)]
    return joined([*parts, neuron_table(entry, found, agreement)])

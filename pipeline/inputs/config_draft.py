"""A config for what lies in a folder, with comments, and marks where only its user knows what to write."""

import os
from collections.abc import Iterator

from pipeline.inputs.folder_survey import EntryGroup, Survey
from pipeline.plan.config_blanks import blank
from pipeline.plan.wildcards import words_in
from pipeline.text import counted


def draft_config(found: Survey) -> str:
    """TOML text of a run over everything that a survey found."""
    return "\n".join([*_head(), *_cohort(found), *_entries(found), *_maps(found)]) + "\n"


def _head() -> Iterator[str]:
    yield "# A run of gradmap. `gradmap plan run.toml` says what is still to be filled in, then what would be computed."
    yield ""
    yield 'store = "gradmaps.zarr"          # a folder, or a URL such as s3://bucket/gradmaps.zarr'
    yield ""


def _cohort(found: Survey) -> Iterator[str]:
    yield "[[cohort]]                        # checkpoints that share their neurons, bands and frame width"
    if found.site:
        yield f'name = "{{{found.site}}}"                # one cohort for each {found.site}'
    else:
        yield 'name = "all"'
    hint = "width of one frame of the spectrogram in ms, as a number"
    yield f"frame_ms = {found.frame_ms}" if found.frame_ms else f'frame_ms = "{blank(hint)}"'
    yield 'lags = "auto"                     # or a number of frames; auto finds how far back the models listen'
    if found.frequencies:
        yield f'frequencies_hz = "{found.frequencies}"'
    else:
        bands = f"the {found.bands} bands" if found.bands else "the bands"
        hint = f"centres of {bands} in Hz: a list, a file, or {{min=, max=, count=, scale=}} in place of this text"
        yield f'frequencies_hz = "{blank(hint)}"'
    if found.neurons:
        yield f'neurons = "{found.neurons}"       # its column `neuron` labels the outputs, the others describe them'
    yield ""


def _entries(found: Survey) -> Iterator[str]:
    for group in found.groups:
        words = f"; labelled by {', '.join(group.words)}" if group.words else ""
        yield "[[cohort.checkpoints]]"
        yield f'path = "{group.pattern}"   # {counted(group.count, "checkpoint")}{words}'
        yield from _identity(group, found)
        if group.class_name is None:
            hint = "the class of these weights, as my_lab.models.Net; or take this line out and give a factory"
            yield f'class = "{blank(hint)}"'
            yield '# factory = "my_lab.models:build"   # a function of the checkpoint\'s path that returns the model'
            yield "# arguments = {}                    # what the class or the factory is called with"
            yield "# [cohort.checkpoints.adapt]         # where the model has another layout: docs/models.md"
            yield f"# bands = {found.bands or '...'}"
            yield '# input = "b 1 f t -> b t f"'
            yield '# output = "b t n -> b n 1 t"'
        for module in group.modules:
            yield f"[cohort.checkpoints.modules.{module}]   # which {group.class_name} does not record"
            yield f'class = "{blank(f"the class that it was trained with as {module}, torch.nn.Identity for none")}"'
        yield ""


def _identity(group: EntryGroup, found: Survey) -> Iterator[str]:
    """An id where the folder's name alone would not tell the checkpoints apart."""
    name = group.pattern.rpartition("/")[2]
    of_checkpoint = [word for word in group.words if word != found.site]
    told_by_name = set(of_checkpoint) <= set(words_in(name)) and "." not in name
    shared = [other.pattern.rpartition("/")[2] for other in found.groups].count(name) > 1
    if not shared and (told_by_name or not of_checkpoint):
        return
    # Of several entries in one cohort each may count its seeds from 0: what they have written before tells them apart.
    parts = [part for part in group.pattern.split("/") if part != f"{{{found.site}}}"]
    literal = "-".join(parts[-2:]).removesuffix(os.path.splitext(name)[1])
    apart = len(found.groups) > 1 and "[" not in literal and set(words_in(literal)) == set(of_checkpoint)
    label = literal if apart else "-".join(f"{{{word}}}" for word in of_checkpoint)
    if label:
        yield f'id = "{label}"'


def _maps(found: Survey) -> Iterator[str]:
    yield "[maps.strf]                       # around the null spectrogram; the table's name is the variable's"
    yield 'kind = "strf"'
    for path in found.spectrograms[:1]:
        yield ""
        yield "[maps.strf_sounds]                # around the sounds themselves"
        yield 'kind = "strf"'
        yield 'baseline = "stimuli"'
        yield f'stimuli = "{path}"'
    if found.sounds:
        yield ""
        yield "# [maps.waveform]                 # for models with a front-end: back to the audio samples"
        yield '# kind = "waveform"'
        yield f'# stimuli = "{found.sounds}"'
        yield "# window_ms = 200.0"

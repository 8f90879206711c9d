"""Numbers of dynamic STRFs: how a neuron's map changes along a sound."""

from pipeline.numbers.dynamic.alignment import shape_change
from pipeline.numbers.dynamic.components import Components, components
from pipeline.numbers.dynamic.floor import noise_floor
from pipeline.numbers.dynamic.gain import gain, gain_change, local_linearity
from pipeline.numbers.dynamic.hold_duration import temporal_hold
from pipeline.numbers.dynamic.shared_components import PopulationComponents, population_components
from pipeline.numbers.dynamic.spectrum import complexity
from pipeline.numbers.sound_windows import stimulus_windows

__all__ = [
    "Components",
    "PopulationComponents",
    "complexity",
    "components",
    "gain",
    "gain_change",
    "local_linearity",
    "noise_floor",
    "population_components",
    "shape_change",
    "stimulus_windows",
    "temporal_hold",
]

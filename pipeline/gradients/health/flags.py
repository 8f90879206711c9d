"""The reasons not to trust a map: each with its bit, what it means, when it is raised and what helps."""

from dataclasses import dataclass

from pipeline.words import Degree

#: Share of a map's energy in the oldest tenth of its window, or beyond it, that counts as truncated.
TRUNCATED_SHARE = 0.01
#: Share of the stimulus inside the window that may be clamped or silent.
CLAMPED_SHARE = 0.05
#: Windows that a sound must have, for as many frames with a whole window behind them as without.
SHORTEST_SOUND = 2
#: Relative difference of two routes; float32 gives 1e-7 to 2e-5.
ROUTES_TOLERANCE = 1e-4
#: Relative error of a map against central differences in float64.
FINITE_DIFFERENCE_TOLERANCE = 2e-3
#: The same in the model's own precision, where rounding is larger.
OWN_PRECISION_TOLERANCE = 0.05
#: Relative change of a map when its window is doubled once more.
WINDOW_TOLERANCE = 0.01
#: Share of a map's energy that may lie after lag 0.
FUTURE_SHARE = 1e-6


@dataclass(frozen=True)
class FlagRule:
    """One reason not to trust a map."""

    #: As it stands in the ``flag_meanings`` of ``<map>_health``.
    name: str
    #: As it stands in the ``flag_masks``; never changed, and never given to another flag.
    bit: int
    #: What is the matter with a map that carries it.
    meaning: str
    #: From where on it is raised.
    threshold: str
    #: What to do about it.
    remedy: str
    #: How, and for which maps at once.
    decided: str
    #: How much it takes from the map: "no map", "wrong", "incomplete" or "notice".
    degree: Degree


#: Every flag that a map may carry, in the order of its bits.
TABLE = (
    FlagRule(
        "all_zero_map",
        1,
        "every entry of the map is zero",
        "exactly zero",
        "take the gradient around sounds: at the null stimulus a rectifier may have no slope; or the neuron is dead",
        "each map by its own entries",
        "no map",
    ),
    FlagRule(
        "truncated_window",
        2,
        "the window cuts the map off: more of it lies at older lags than are kept",
        f"over {TRUNCATED_SHARE:.0%} of the energy of a map over four times the window, or over all of the sound",
        'more lags, or lags = "auto"',
        "each map by itself in that longer window, where noise before the window moves its response or a mixture of"
        " maps has a gradient there; by the share in its oldest tenth where the model takes no longer stimulus",
        "incomplete",
    ),
    FlagRule(
        "window_before_stimulus",
        4,
        "the window reaches back to before the stimulus began, where entries are 0",
        "any lag before the first frame",
        "objectives at later frames, or fewer lags",
        "each map by its frame",
        "notice",
    ),
    FlagRule(
        "clamped_or_silent_stimulus",
        8,
        "part of what the window looks at is silent or at the floor of a logarithm, where no gradient passes",
        f"over {CLAMPED_SHARE:.0%} of the window",
        "another frame, or a sound without gaps",
        "each map by the stimulus inside its window",
        "incomplete",
    ),
    FlagRule(
        "near_eps_normalisation",
        16,
        "a normalisation divides by almost nothing, so the size of the map tells about its eps",
        "a variance under 10 eps",
        "take the gradient around sounds, or compare maps by shape only",
        "all maps of one stimulus, by one forward pass",
        "notice",
    ),
    FlagRule(
        "routes_disagree",
        32,
        "the route differs from plain autograd",
        f"by more than {ROUTES_TOLERANCE:g} of the largest entry",
        'route = "loop"',
        "all maps computed together, by a mixture of all of them",
        "wrong",
    ),
    FlagRule(
        "finite_difference_off",
        64,
        "the response does not change as the map says",
        f"by more than {FINITE_DIFFERENCE_TOLERANCE:g} in float64, or {OWN_PRECISION_TOLERANCE:g} in float32 where"
        " the model does not compute in float64",
        "look for a custom backward pass, a detached part, or a kink exactly at this stimulus",
        "all maps of a block, by central differences of a few drawn from it: what is wrong in one is wrong in its like;"
        " and those of each further neuron, by one direction that they share",
        "wrong",
    ),
    FlagRule(
        "window_dependent_model",
        128,
        "the map changes with the length of the stimulus though nothing is cut off, as with absolute positions",
        f"by more than {WINDOW_TOLERANCE:.0%} each time the window is doubled",
        "the window that the model was trained on",
        "all maps of a block, by a few drawn from it: positions are the model's, not a neuron's",
        "notice",
    ),
    FlagRule(
        "hears_the_future",
        256,
        "the response depends on what comes after its frame, which a map of past lags leaves out",
        f"over {FUTURE_SHARE:g} of the energy after lag 0, or a response that moves before the stimulus does",
        "look at <map>_future_share; pad convolutions on the left only, and give up bidirectional layers",
        "each map by its own energy after lag 0, in cohorts with causal = false; other cohorts refuse such models",
        "incomplete",
    ),
    FlagRule(
        "not_checked",
        512,
        "something that is checked of every map could not be checked of this one",
        "any check that could not be made",
        "compare with another model of the kind that can be checked, or with float64",
        "all maps of a block, or those of the neurons concerned",
        "notice",
    ),
    FlagRule(
        "incomplete_path",
        1024,
        "the contributions do not add up to the difference of the responses",
        "a gap above the completeness that the config asks for, with as many nodes as are allowed",
        "more nodes (most_nodes); a model with kinks needs many, and its gap stands in <map>_completeness",
        "each integrated map by its own sum",
        "notice",
    ),
    FlagRule(
        "short_sound",
        2048,
        "a sound is so short that few of its frames have a whole window behind them, or none",
        f"under {SHORTEST_SOUND} times the window",
        "longer sounds, fewer lags, or leave this sound out",
        "all dynamic maps of a run together, by its shortest sound",
        "notice",
    ),
)

#: Bit of each flag, by name.
FLAGS = {flag.name: flag.bit for flag in TABLE}

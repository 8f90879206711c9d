"""The names of a cube's arrays and axes, and how they are read back."""

import pytest
import xarray as xr

from pipeline import words


@pytest.mark.parametrize(
    ("dim", "axis"),
    [
        ("lag", "lag"),
        ("waveform_lag", "waveform_lag"),
        ("speech_waveform_lag", "waveform_lag"),
        ("speech_stimulus", "stimulus"),
        ("kept", "kept"),
    ],
)
def test_an_axis_of_one_map_is_still_that_kind_of_axis(dim, axis):
    assert words.axis_of(dim) == axis


@pytest.mark.parametrize("axis", words.AXES)
@pytest.mark.parametrize("map_name", ["strf", "a_b"])
def test_the_name_of_an_own_axis_is_read_back(map_name, axis):
    assert words.axis_of(words.own_axis(map_name, axis)) == axis
    assert words.axis_named(axis, ("checkpoint", words.own_axis(map_name, axis))) in (
        words.own_axis(map_name, axis),
        axis,
    )


def test_maps_come_in_the_order_of_the_config_and_bring_all_their_variables():
    cube = xr.Dataset(
        {
            "a_sd": ("neuron", [0.0], {"role": "map", "map": "a"}),
            "b": ("neuron", [0.0], {"role": "map", "map": "b"}),
            "a_mean": ("neuron", [0.0], {"role": "map", "map": "a"}),
            "a_gain": ("neuron", [0.0], {"role": "measure", "map": "a"}),
            "by_hand": ("neuron", [0.0], {"kind": "strf"}),
            "b_norm": ("neuron", [0.0], {"kind": "summary"}),
            "depth": ("neuron", [0.0]),
        },
        attrs={"maps": '{"b": {}, "a": {}}'},
    )
    assert words.map_names(cube) == ("b", "a_sd", "a_mean", "by_hand")


def test_a_name_that_the_cube_uses_is_reserved():
    assert set(words.AXES) < words.RESERVED_NAMES
    assert all(
        words.variable_name("strf", ending.removeprefix("_")).endswith(ending) for ending in words.RESERVED_ENDINGS
    )

"""The table of neurons."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.neuron_table import read_neuron_table
from pipeline.plan.config import ConfigError


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8") -> str:
        path = tmp_path / "neurons.csv"
        path.write_bytes(text.encode(encoding))
        return str(path)

    return write


def test_columns_get_the_type_that_all_their_cells_have(table):
    names, columns = read_neuron_table(
        table("area,neuron,depth_um,x,code,gap\ncore, a ,100,0.5,007,\nbelt,b,-20,1e-3,12,3\n")
    )
    assert names == ("a", "b")
    assert list(columns) == ["area", "depth_um", "x", "code", "gap"]
    assert columns["area"] == ("core", "belt")
    assert columns["depth_um"] == (100, -20)
    assert columns["x"] == (0.5, 0.001)
    assert columns["code"] == ("007", "12")
    assert math.isnan(columns["gap"][0])
    assert columns["gap"][1] == 3.0


def test_ids_of_more_digits_than_a_number_keeps_are_text(table):
    ids = ("9223372036854775809", "12")
    _, columns = read_neuron_table(table(f"neuron,id,known\na,{ids[0]},{2**60 + 1}\nb,{ids[1]},\n"))
    assert columns == {"id": ids, "known": (str(2**60 + 1), "")}


def test_a_column_without_a_number_is_text(table):
    _, columns = read_neuron_table(table("neuron,empty,na\na,,NaN\nb,,x\n"))
    assert columns == {"empty": ("", ""), "na": ("NaN", "x")}


def test_spreadsheets_tables_are_read(table):
    assert read_neuron_table(table('neuron,site\r\n"a,1",x\r\n\r\nb,y\r\n', "utf-8-sig"))[0] == ("a,1", "b")


def test_names_that_look_like_numbers_stay_names(table):
    assert read_neuron_table(table("neuron\n1\n02\n"))[0] == ("1", "02")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("neuron,area\n", "has a header but no neuron"),
        ("unit,area\na,b\n", "none called `neuron`"),
        ("neuron;area\na;b\n", "separate the columns by commas, not ';'"),
        ("neuron,a,a\nx,1,2\n", "two columns called 'a'"),
        ("neuron,\nx,1\n", "a column called ''"),
        ("neuron,../x\nx,1\n", "cannot be a coordinate"),
        ("neuron,_x\nx,1\n", "cannot be a coordinate"),
        ("neuron,lag\nx,1\n", "a column called 'lag', which the cube uses itself"),
        ("neuron,area\nx,1,2\n", "line 2 of the neuron table .* has 3 cells, but the header has 2"),
        ("neuron,area\nx\n", "line 2 of the neuron table .* has 1 cells"),
        ("neuron,area\nx,1\n,2\n", "line 3 of the neuron table .* has no printable name"),
        ("neuron\nx\x07\n", "has no printable name"),
        ("neuron\na\nb\na\n", "has 'a' in lines 2 and 4"),
        ('neuron\n"a\n', "cannot be read"),
    ],
)
def test_a_table_that_cannot_label_neurons_is_refused(table, text, reason):
    with pytest.raises(ConfigError, match=reason):
        read_neuron_table(table(text))


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "n.csv").write_bytes(b"neuron\n\xff\xfe\n")
    for name in ("n.csv", "nowhere.csv", "."):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_neuron_table(str(tmp_path / name))


@given(numbers=st.lists(st.integers(-(10**17), 10**17), min_size=1, max_size=5))
def test_whole_numbers_survive(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("t") / "n.csv"
    path.write_text("neuron,k\n" + "".join(f"n{index},{number}\n" for index, number in enumerate(numbers)))
    assert read_neuron_table(str(path))[1]["k"] == tuple(numbers)


@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_numbers_survive(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("t") / "n.csv"
    path.write_text("neuron,x\n" + "".join(f"n{index},{number!r}\n" for index, number in enumerate(numbers)))
    assert read_neuron_table(str(path))[1]["x"] == tuple(numbers)


def test_the_speech_table_is_read(speech):
    names, columns = read_neuron_table(f"{speech}/neurons.csv")
    assert names == tuple(f"ch{index}" for index in range(10))
    assert columns["depth_um"][:3] == (100, 140, 180)
    assert set(columns) == {"area", "site", "depth_um"}

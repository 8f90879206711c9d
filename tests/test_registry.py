"""Entries are found by name, and the files of other entries are not loaded for them."""

import sys
from itertools import count

import pytest

ENTRY = "from {package} import FOUND\n@FOUND.register({name!r})\ndef entry():\n    return {value!r}\n"
packages = (f"entries_of_test_{number}" for number in count())


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """A registry over a folder of three files, two of which name their entry otherwise than the file, or not at all."""
    package = next(packages)
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"from pipeline.registry import Registry\nFOUND = Registry({package!r}, 'thing')\n"
    )
    (folder / "one.py").write_text(ENTRY.format(package=package, name="one", value=1))
    (folder / "two.py").write_text(ENTRY.format(package=package, name="second", value=2))
    (folder / "three.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield sys.modules.get(package) or __import__(package)
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def loaded(package):
    return {name.rpartition(".")[2] for name in sys.modules if name.startswith(f"{package.__name__}.")}


def test_an_entry_is_found_in_the_file_of_its_name_alone(entries):
    assert entries.FOUND["one"]() == 1
    assert loaded(entries) == {"one"}


def test_an_entry_is_found_in_a_file_of_another_name(entries):
    assert entries.FOUND["second"]() == 2
    assert "three" not in entries.FOUND
    assert list(entries.FOUND) == ["one", "second"]
    assert loaded(entries) == {"one", "two", "three"}


def test_a_file_that_cannot_be_loaded_says_so_each_time(entries, tmp_path):
    (tmp_path / entries.__name__ / "one.py").write_text("raise RuntimeError('broken')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            entries.FOUND["one"]


def test_two_entries_of_one_name_are_refused(entries):
    entries.FOUND.register("one")(lambda: 11)
    with pytest.raises(ValueError, match="rename one"):
        entries.FOUND["one"]


def test_an_entry_that_is_not_there_is_named_with_those_that_are(entries):
    with pytest.raises(KeyError, match="there is no thing 'no_such'; known are one, second"):
        entries.FOUND["no_such"]

"""The Examples of the documentation run, and every public name has some."""

import doctest
import importlib
import inspect

import matplotlib
import pytest

from tests.example_lab import write_example_lab

#: Packages whose `__all__` is public: the library's own, and those that statistics and plots add.
PUBLIC = ("pipeline", "pipeline.numbers.agreement", "pipeline.numbers.stats", "pipeline.pictures.plots")

NAMES = [(package, name) for package in PUBLIC for name in importlib.import_module(package).__all__]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the examples run: beside a config and a computed cube."""
    return write_example_lab(tmp_path_factory.mktemp("examples"))


def is_result(documented):
    """Whether a class is what public functions give back, which nobody makes by hand."""
    return isinstance(documented, type) and documented.__module__.startswith("pipeline.numbers.stats")


@pytest.mark.parametrize(("package", "name"), NAMES, ids=lambda part: part)
def test_the_examples_of_a_public_name_run(package, name, folder, monkeypatch):
    documented = getattr(importlib.import_module(package), name)
    around = vars(importlib.import_module(documented.__module__)).copy()
    text = inspect.getdoc(documented) or ""  # Python 3.13 takes the indentation away by itself
    parsed = doctest.DocTestParser().get_doctest(text, around, name, None, None)
    assert is_result(documented) or "\nExamples\n--------\n" in text
    assert is_result(documented) or parsed.examples
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    matplotlib.use("Agg")
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(parsed, out=told.append)
    assert not result.failed, "".join(told)
    assert not any(doctest.SKIP in example.options for example in parsed.examples)

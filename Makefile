# `make demo` and `make test` each go from a bare clone to their result. pip's own environment is honoured: for instance
# PIP_CONSTRAINT=FILE with the line `torch==X` picks the build of torch.

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench chaos clean

demo: $(VENV)/.demo
	$(BIN)/gradmap demo demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench_pipeline.py
	$(BIN)/python tests/benchmarks/bench_engine.py --json benchmarks.json
	$(BIN)/python tests/benchmarks/bench_dynamic.py --json benchmarks_dynamic.json

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos --rounds 3

$(BIN)/python:
	python3 -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,deepstrf,notebooks,s3]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo benchmarks.json benchmarks_dynamic.json

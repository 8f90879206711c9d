# `make demo` and `make test` each go from a bare clone to their result. pip's own environment and files are honoured.
# `make test PYTHON=python3.13` takes another interpreter, `make test WORKERS=8` more processes.

PYTHON := python3
WORKERS := 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint lowest bench reference gallery calibrate chaos clean

demo: $(VENV)/.demo
	$(BIN)/gradmap demo demo

# One thread each: two processes with threads for every core would wait for each other.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The quick tests under the lowest versions that pyproject.toml allows, in an environment of their own.
LOWEST := tests/plan tests/numbers tests/pictures tests/store tests/inputs tests/gradients

lowest: $(VENV)-lowest/.lowest
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n $(WORKERS) --dist loadscope $(LOWEST)

# Every table is printed, also after one with a goal that was missed.
bench: $(VENV)/.test
	-$(BIN)/python tests/benchmarks/bench_pipeline.py
	-$(BIN)/python tests/benchmarks/bench_engine.py --json benchmarks.json
	-$(BIN)/python tests/benchmarks/bench_dynamic.py --json benchmarks_dynamic.json
	-$(BIN)/python tests/benchmarks/bench_runs.py --json benchmarks_runs.json
	-$(BIN)/python tests/benchmarks/bench_worth.py --json benchmarks_worth.json

# The pages of docs/ that say what the code says.
reference: $(VENV)/.test
	$(BIN)/python -m tasks.reference

# docs/gallery.md with its pictures, from the notebook and the cubes of `make demo`.
gallery: $(VENV)/.test
	$(BIN)/python docs/make_gallery.py demo/gradmaps.zarr

calibrate: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.calibration.rates --trials 400

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos --rounds 3

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,deepstrf,notebooks,browse,s3]'
	touch $@ $(VENV)/.demo

# pip takes the newest versions; only uv resolves to the lowest.
$(VENV)-lowest/.lowest: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct \
		--editable '.[test,deepstrf,s3]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest demo benchmarks.json benchmarks_dynamic.json benchmarks_runs.json benchmarks_worth.json

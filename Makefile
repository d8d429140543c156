.PHONY: demo test check venv clean
PYTHON ?= python3
BIN = .venv/bin

demo: venv  ## simulate, ingest, pretrain, tune, embed, probe: one table and runs/demo/report.html
	$(BIN)/qanchor demo

test: venv  ## the whole test suite
	$(BIN)/python -m pytest

check: venv  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

venv: .venv/.made
.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs

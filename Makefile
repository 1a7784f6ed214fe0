# Each target makes the environment when it is missing or out of date: there is no other set-up.
#   make demo                     a long video from the embedded model, into out/demo/
#   make test                     the test suite
#   make check                    formatting, lint, types, tests
#   make tiny PREPARED=out/film   the embedded model, from scenes and a film that longvie prepare has prepared
#   make PYTHON=python3.12 VENV=~/venvs/longvie test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all check format tiny depth benchmark

demo: $(READY)
	$(BIN)/longvie demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -m "not slow"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tiny: $(READY)
	$(BIN)/python -m longvie.training.tiny --out out/tiny $(if $(PREPARED),--prepared $(PREPARED))

depth: $(READY)
	$(BIN)/python -m longvie.training.depth --out out/depth

benchmark: $(READY)
	$(BIN)/python benchmarks/generate.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "longvie needs Python 3.11 or newer; give one with PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train,eval,s3]'
	touch $(READY)

# Each target makes the environment when it is missing or out of date: there is no other set-up.
#   make demo                     a long video from the embedded model, into out/demo/
#   make test                     the test suite
#   make check                    formatting, lint, types, tests
#   make tiny FILM=bunny.mp4      the embedded model, from synthetic scenes and Big Buck Bunny (hours; goes on where it was)
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

TINY := out/tiny
ENCODE := --model $(TINY)/start --history-frames 8 --degraded-variants 0 --segments-per-shard 6
TINY_DATA := --data $(TINY)/encoded-scenes --share 0.75 --data $(TINY)/encoded-film --share 0.25
TRAIN := $(BIN)/longvie train --recipe tiny --workers 2 $(TINY_DATA)
REFINE := $(BIN)/python -m pipelines.training.refine --data $(TINY)/encoded-scenes --prepared $(TINY)/scenes \
	--data $(TINY)/encoded-film --prepared $(TINY)/film

tiny: $(READY)
	$(BIN)/python -m longvie.training.tiny --out $(TINY)/start
	$(BIN)/longvie scenes --split train --count 2048 --out $(TINY)/scenes
	$(BIN)/longvie encode $(TINY)/scenes $(ENCODE) --out $(TINY)/encoded-scenes
	$(BIN)/python -m longvie.training.film $(FILM) --out $(TINY)/film-parts
	$(BIN)/longvie prepare $(TINY)/film-parts --model tiny --out $(TINY)/film
	$(BIN)/longvie encode $(TINY)/film $(ENCODE) --out $(TINY)/encoded-film
	$(TRAIN) --model $(TINY)/start --steps history=0 --out $(TINY)/run-1
	$(REFINE) --model $(TINY)/run-1/model --out $(TINY)/refined
	$(TRAIN) --model $(TINY)/refined --steps control=0 --steps degradation=0 --seed 1 --out $(TINY)/run-2

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

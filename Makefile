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
TRAIN = $(BIN)/longvie train --recipe tiny --workers 2 --data $(TINY)/encoded-scenes-$(1) --share 0.75 \
	--data $(TINY)/encoded-film --share 0.25

tiny: $(READY)
	$(BIN)/python -m longvie.training.tiny --out $(TINY)/start
	$(BIN)/longvie scenes --split train --count 2048 --out $(TINY)/scenes-1
	$(BIN)/longvie scenes --split train --start 2048 --count 1024 --out $(TINY)/scenes-2
	$(BIN)/longvie scenes --split train --start 3072 --count 1536 --out $(TINY)/scenes-3
	$(BIN)/python -m longvie.training.film $(FILM) --out $(TINY)/film-parts
	$(BIN)/longvie prepare $(TINY)/film-parts --model tiny --out $(TINY)/film
	for data in scenes-1 scenes-2 scenes-3 film; do \
		$(BIN)/longvie encode $(TINY)/$$data $(ENCODE) --out $(TINY)/encoded-$$data || exit; done
	$(call TRAIN,1) --model $(TINY)/start --steps control=800 --steps degradation=3150 --steps history=0 \
		--out $(TINY)/run-1
	$(call TRAIN,2) --model $(TINY)/run-1/model --steps control=0 --steps degradation=7800 --steps history=0 \
		--seed 2 --out $(TINY)/run-2
	$(BIN)/python -m pipelines.training.refine --data $(TINY)/encoded-scenes-2 --prepared $(TINY)/scenes-2 \
		--data $(TINY)/encoded-film --prepared $(TINY)/film --model $(TINY)/run-2/model --out $(TINY)/refined
	$(call TRAIN,3) --model $(TINY)/refined --steps control=0 --steps degradation=0 --steps history=7000 \
		--seed 1 --out $(TINY)/run-3

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

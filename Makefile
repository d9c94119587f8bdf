# Every target sets up what it needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
IMAGE ?=
QUESTION ?= Describe the image.
UV := $(shell command -v uv 2>/dev/null)
# Where pip is told to look for wheels, uv is told the same.
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types imports constraints train-nano clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.done ## create .venv with the package and the development tools

$(VENV)/.done: pyproject.toml constraints.txt
ifeq ($(UV),)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
else
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
endif
	@touch $@

demo: $(VENV)/.done ## answer a question about a picture: demo/answer.json, demo/answer.png (IMAGE=, QUESTION=)
	@mkdir -p demo
	@test -n "$(IMAGE)" || $(BIN)/python examples/draw_scene.py demo/scene.png
	$(BIN)/llava-grounding chat "$(or $(IMAGE),demo/scene.png)" "$(QUESTION)" --out demo

test: $(VENV)/.done ## run the tests
	$(BIN)/python -m pytest

check: lint types imports test ## everything CI runs

lint: $(VENV)/.done ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.done ## static types
	$(BIN)/mypy

imports: $(VENV)/.done ## import directions between rooms
	$(BIN)/lint-imports

constraints: ## write constraints.txt anew from the newest versions that pyproject.toml allows
	$(UV) pip compile pyproject.toml --all-extras --constraints constraints.in --python-version 3.11 --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --quiet | sed 's/+cpu//' > constraints.txt

train-nano: $(VENV)/.done ## train the embedded model from nothing (DATA=photo pack, optional)
	$(BIN)/llava-grounding train configs/nano_pretrain.yaml $(if $(DATA),--data "$(DATA)",photo_share=0)
	$(BIN)/llava-grounding train configs/nano_chat.yaml $(if $(DATA),--data "$(DATA)",photo_share=0)

clean: ## remove the environment and what demo and tests leave behind
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

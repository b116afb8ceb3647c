# make demo | test | test-slow | lint | docs | bench | clean    Each is one command, safe to repeat, quick the second time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
GOLDEN := $(if $(wildcard ../shared/golden),$(abspath ../shared/golden),)

.PHONY: demo test test-slow lint docs bench clean

demo: $(VENV)/.installed ## photographs, speech and a mesh to tokens and back, and pictures drawn, into demo/
	$(BIN)/python scripts/demo.py --output demo
	$(BIN)/python scripts/demo_speech.py --output demo
	$(BIN)/python scripts/demo_shapes.py --output demo
	$(BIN)/zoo generate gpt_tiny_photos -n 20 --guidance 2 --seed 0 -o demo/generated.png

test: $(VENV)/.dev ## everything but the tests marked slow; the full golden set too where it lies beside the checkout
	$(if $(GOLDEN),ZOO_GOLDEN=$(GOLDEN)) $(BIN)/python -m pytest -n 2 -q

test-slow: $(VENV)/.dev ## only the tests marked slow
	$(if $(GOLDEN),ZOO_GOLDEN=$(GOLDEN)) $(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev ## build the pages into site/
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev ## encode and decode rates of image tokenizers of one dimension
	$(BIN)/python benchmarks/image1d.py

clean:
	rm -rf $(VENV) demo site

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[audio,mesh]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@

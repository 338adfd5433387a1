# Python 3.11 or newer and make are all that these targets need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format clean

demo: $(INSTALLED)  ## Train, calibrate, test and classify on generated clips.
	$(BIN)/dynvid fit --config quickstart.yaml
	$(BIN)/dynvid test --config quickstart.yaml --ckpt_path best
	$(BIN)/dynvid classify best --config quickstart.yaml data/synthetic/test/left/left_0000.mp4

test: $(INSTALLED)  ## Run the tests and the docstrings' examples.
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## Lint, formatting and static types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(INSTALLED): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist data logs

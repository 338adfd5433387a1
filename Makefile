# Python 3.11 or newer and make are all that these targets need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Loader processes and computing threads share the cores: threads that wait must not spin.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check test-minimum format clean

demo: $(INSTALLED)
	$(BIN)/dynvid fit --config quickstart.yaml
	$(BIN)/dynvid test --config quickstart.yaml --ckpt_path best
	$(BIN)/dynvid classify $$(ls -t logs/quickstart/lightning_logs/*/checkpoints/best*.ckpt | head -n 1) \
		data/synthetic/test/left/left_0000.mp4
	@echo "picture: $$(ls -t logs/quickstart/lightning_logs/*/flops_accuracy.png | head -n 1)"

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test-minimum: # with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/pip install --quiet uv
	.venv-minimum/bin/uv pip install --quiet --compile-bytecode --python .venv-minimum \
		--resolution lowest-direct --editable '.[test]'
	.venv-minimum/bin/python -m pytest

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(INSTALLED): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-minimum build dist

# Python 3.11 or newer and make are all that these targets need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Loader processes and computing threads share the cores: threads that wait must not spin.
export OMP_WAIT_POLICY ?= PASSIVE
# Test files run side by side, so each has one thread; a file's tests stay together, for they share what they trained.
TESTS := -m pytest -n auto --dist loadfile

build-docs := sphinx-build -W --keep-going -n docs build/docs

.PHONY: demo test test-slow check docs test-minimum test-newest test-extras release format clean

define run-demo # with a dynvid, in a folder
cd $(2) && $(1) fit --config quickstart.yaml
cd $(2) && $(1) classify $$(ls -t $(2)/logs/quickstart/lightning_logs/*/checkpoints/best*.ckpt | head -n 1) \
	data/synthetic/test/left/left_0000.mp4
cd $(2) && $(1) test --config quickstart.yaml --ckpt_path best
endef

demo: $(INSTALLED)
	$(call run-demo,$(abspath $(BIN))/dynvid,$(CURDIR))

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python $(TESTS)

test-slow: $(INSTALLED) # those that start several processes, or take long
	OMP_NUM_THREADS=1 $(BIN)/python $(TESTS) -m slow

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED) # the site, in build/docs
	$(BIN)/$(build-docs)

test-minimum: # with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/pip install --quiet uv
	.venv-minimum/bin/uv pip install --quiet --compile-bytecode --python .venv-minimum \
		--resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-minimum/bin/python $(TESTS)

test-newest: # with pre-releases of everything
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet uv
	.venv-newest/bin/uv pip install --quiet --compile-bytecode --python .venv-newest \
		--upgrade --prerelease allow --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(TESTS)

# What each extra alone is for; base is none.
EXTRAS ?= base test lint browser loggers litdata onnx openvino ray serve demo docs dev
use-base := python -c "import dynvid, pkgutil; [__import__(m.name) for m in pkgutil.walk_packages(dynvid.__path__, 'dynvid.')]"
use-test := python -m pytest tests/test_routes.py tests/test_cli.py tests/test_recorded.py
use-lint := ruff check && .venv-extra/bin/mypy
use-browser := python -m pytest -m browser tests/browser
use-loggers := python -m pytest tests/loggers
use-litdata := python -m pytest -m extra tests/extras/test_litdata.py
use-onnx := python -m pytest -m extra tests/extras/test_onnx.py
use-openvino := python -m pytest -m extra tests/extras/test_openvino.py
use-ray := python -m pytest -m extra tests/extras/test_ray.py
use-serve := python -m pytest -m extra tests/extras/test_serve.py
use-demo := python -m pytest -m extra tests/extras/test_demo.py
use-docs := python -m pytest -m extra tests/extras/test_docs.py
use-dev := python -m pytest --version
# What their tests need beside them.
with-onnx := pytest
with-openvino := pytest
with-ray := pytest
with-serve := pytest
with-demo := pytest playwright
with-docs := pytest playwright

test-extras: $(addprefix test-extra-,$(EXTRAS)) # each in an environment of its own, from a wheel

test-extra-%:
	$(PYTHON) -m venv --clear .venv-extra
	.venv-extra/bin/pip install --quiet uv
	.venv-extra/bin/uv pip install --quiet --python .venv-extra '.$(if $(filter base,$*),,[$*])' $(with-$*)
	.venv-extra/bin/dynvid --help
	.venv-extra/bin/$(use-$*)

release: # what is published, built and tried where nothing else is; CONTRIBUTING says what comes before and after
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/pip install --quiet uv twine
	.venv-release/bin/uv build --quiet
	.venv-release/bin/twine check --strict dist/*
	.venv-release/bin/uv venv --quiet --clear dist/venv
	.venv-release/bin/uv pip install --quiet --python dist/venv dist/*.whl
	mkdir dist/demo
	$(call run-demo,$(CURDIR)/dist/venv/bin/dynvid,$(CURDIR)/dist/demo)

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(INSTALLED): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-minimum .venv-newest .venv-extra .venv-release build dist

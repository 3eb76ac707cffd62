# What people and CI run; needs Python 3.11, 3.12 or 3.13 (with its venv module) and make.
#
#   make demo           train, evaluate and export a small network from nothing; name two photographs
#   make test           style, imports, types, the tests with coverage, the backend tests on jax
#   make test-all       make test, then the slow tests and the backend tests on torch
#   make lint | format  check style and imports | put style right
#   make docs           build the site into site/, and check links and spelling
#   make notebooks      execute the notebooks of examples/notebooks/, and keep their outputs
#   make clean          remove the environments and what was built; runs/ stays
#
# Another interpreter: make test PYTHON=python3.12. One process: make test WORKERS=. The torch wheel
# of PyPI brings CUDA, which the tests do not use; 2 GB less:
#   make test-all TORCH_PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH_PIP_ARGS ?=
WORKERS ?= -n 2 --dist worksteal

DEMO_VENV := .venv-demo
DEMO_RUN := runs/demo
TEST_VENV := .venv-test
DOCS_VENV := .venv-docs
BIN := $(TEST_VENV)/bin
PYTEST = $(BIN)/python -m pytest $(WORKERS)
COVERAGE = $(BIN)/python -m slipcover --source keras_effnetv2 --branch --skip-covered
COVERED = $(COVERAGE) --json --out
# Importing all files would take each process up to five seconds more.
OF_BACKENDS = $$(grep -l mark.backend tests/test_*.py)
SLOW_ONES = $$(grep -l mark.slow tests/test_*.py)
TEST_READY := $(TEST_VENV)/ready
TORCH_READY := $(TEST_VENV)/ready-torch
DOCS_READY := $(DOCS_VENV)/ready

.PHONY: demo test test-rest test-all lint types compiled format docs notebooks clean

# A new environment each time, with pretrained weights and with a built package (not an editable
# one): it shows that what is packaged is complete. An old build/ would be packaged along.
demo:
	rm -rf build
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --no-compile ".[lite]"
	PATH="$(CURDIR)/$(DEMO_VENV)/bin:$$PATH" bash examples/demo.sh $(DEMO_RUN)

# While mypy has one core, what the tests import is compiled on the other, once. In two parts, because
# a process that has traced hundreds of networks holds 5 GB and slows down.
test: $(TEST_READY)
	$(MAKE) --jobs 2 types compiled lint
	$(COVERED) .coverage-1 -m pytest $(WORKERS) -m "not slow" tests/test_[a-l]*.py
	$(COVERED) .coverage-2 -m pytest $(WORKERS) -m "not slow" tests/test_[m-z]*.py
	$(COVERAGE) --merge .coverage-1 .coverage-2 --out .coverage
	KERAS_BACKEND=jax $(PYTEST) -m "backend and not slow" $(OF_BACKENDS)

# What `make test` leaves out.
test-rest: $(TORCH_READY)
	$(PYTEST) -m slow $(SLOW_ONES)
	KERAS_BACKEND=torch $(PYTEST) -m backend $(OF_BACKENDS)

test-all: test test-rest

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(TEST_READY)
	$(BIN)/mypy

compiled: $(TEST_READY)
	-$(COVERAGE) -m pytest --collect-only >/dev/null

format: $(TEST_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_READY)
	$(DOCS_VENV)/bin/codespell README.md CONTRIBUTING.md CHANGELOG.md docs keras_effnetv2
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build

notebooks: $(TEST_READY)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[notebooks]"
	$(BIN)/python docs/run_notebooks.py

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) $(DOCS_VENV) build dist site *.egg-info .coverage*
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find keras_effnetv2 tests examples -name __pycache__ -prune -exec rm -rf {} +

# Not compiled here, nor for the demo: most modules are never imported, and the others are compiled
# then, once; where the shell forbids to write that down, each process would compile them anew.
unexport PYTHONDONTWRITEBYTECODE
$(TEST_READY): pyproject.toml
	$(PYTHON) -m venv --clear $(TEST_VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[test]"
	touch $@

# jax and torch share one environment: each process starts one of them, named by KERAS_BACKEND.
$(TORCH_READY): $(TEST_READY)
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH_PIP_ARGS) torch==2.13.0
	touch $@

# Without the package itself, which would bring TensorFlow: the reference is read from the source.
$(DOCS_READY): pyproject.toml
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*extras["project"]["optional-dependencies"]["docs"], sep="\n")' >$(DOCS_VENV)/packages
	$(DOCS_VENV)/bin/python -m pip install --quiet --no-compile --requirement $(DOCS_VENV)/packages
	touch $@

# Two commands do everything on a fresh machine: `make quickstart` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv/bin
PY := $(VENV)/python
# One OpenMP thread for each process: two of them on two busy cores collapse.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup quickstart test check format images results soak soak-sandbox soak-rest lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv with the locked packages (CPU or GPU build, by what the machine has)
	@deploy/setup.sh

quickstart: LANGUAGES = python
quickstart: setup images ## sets up and trains a small model on what its programs do (minutes)
	@$(VENV)/crucible run recipes/quickstart.yaml

test: setup images ## the tests of the CI tier
	@$(PY) -m pytest -n 3 -m "not soak and not gpu" $(ARGS)

soak: soak-sandbox soak-rest ## the long tests (hours)

soak-sandbox: LANGUAGES = python java cpp javascript typescript php csharp bash
soak-sandbox: setup images # all attacks and languages on all backends, at four times the machine's work
	@$(PY) -m pytest -n 4 -m "(soak or overload) and not gpu" tests/sandbox $(ARGS)

soak-rest: setup images
	@$(PY) -m pytest -m "soak and not gpu" --ignore=tests/sandbox $(ARGS)

check: setup ## format, lint, types, import contracts
	@$(VENV)/ruff format --check .
	@$(VENV)/ruff check .
	@$(VENV)/pyright --project pyproject.toml
	@$(VENV)/lint-imports

format: setup ## formats and mends what can be mended
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

images: setup ## builds what programs run in, where missing or stale (LANGUAGES="python java cpp ..")
	@$(PY) -m sandbox.images $(LANGUAGES)

results: setup images ## the experiments behind docs/results.md (long, resumable)
	@$(PY) -m benchmarks.results

lock: setup ## writes the locked requirements anew
	@requirements/lock.sh

clean: ## removes what was built here; runs/ stays
	@rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

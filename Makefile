# All commands for users and contributors; `make help` lists them. Each target builds what it needs.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
# The lock of the installed environment, with which a new lock is compared, however often it is resolved.
INSTALLED := $(VENV)/requirements.txt
PIPELINE ?= ctr
NIGHTS ?= 2
PORT ?= 8080
COMPOSE ?= docker compose
# Files of tests that run side by side. More of them make tests of whole Airflows miss their time limits.
WORKERS ?= 2
# Folders of unit tests that import no TensorFlow and start no service.
QUICK := $(addprefix tests/unit/,bidding config core cost data evaluation profile sampling)
# Of these, what starts a database, an emulator, or Beam's and Dask's workers.
SERVICES := $(addprefix tests/unit/,cost/test_ledger_postgres.py data/test_bigquery.py \
	data/test_buckets.py sampling/test_units.py)
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
SCREEN := awk 'BEGIN {FS = ":.*\#\# "} /^[a-z-]+:.*\#\# / {printf "  %-12s %s\n", $$1, $$2}'

# Libraries are compiled once, and not by every process.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: release-fixture quick-static quick-tests lint types layers help install run ui up down compose-test test quick fault-matrix check docs docs-check notebooks format lock audit pin-images sbom schema charts screenshots clean

help: ## Show this list
	@$(SCREEN) $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Install the locked environment

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found → install Python 3.11, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv==$(UV_VERSION); }
	@echo "Installing the locked environment into $(VENV)"
	@$(BIN)/uv pip install --quiet --no-deps --require-hashes --python $(BIN)/python -r requirements.txt -r requirements-dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@cp requirements.txt $(INSTALLED)
	@touch $@

run: install ## Run nights of a pipeline on embedded Airflow (PIPELINE=ctr NIGHTS=2)
	@PYTHONPATH=plugins $(BIN)/python -m nightbid_airflow.embedded run --pipeline "$(PIPELINE)" --nights "$(NIGHTS)"

ui: install ## Start embedded Airflow and print its address (PORT=8080)
	@PYTHONPATH=plugins $(BIN)/python -m nightbid_airflow.embedded ui --port "$(PORT)"

up: ## Start the Compose stack; the first start generates secrets in .env (EMULATED=1: workspace in a bucket)
	@bash compose/env.sh
	$(if $(EMULATED),NIGHTBID_SETTINGS=/app/compose/emulated.yaml NIGHTBID_WORKSPACE=) $(COMPOSE) $(if $(EMULATED),--profile emulated) up --detach --build
	@echo "Airflow: http://localhost:8080 (admin, ADMIN_PASSWORD in .env)"
	@echo "MLflow:  http://localhost:5000    scorer: http://localhost:8090/health"

down: ## Stop the Compose stack; keep its volumes
	$(COMPOSE) --profile emulated down

compose-test: install ## Start the Compose stack, run a night over REST, stop the stack
	$(BIN)/python tests/compose/check.py

test: install ## Run every check and every test, as CI does (WORKERS=1: one file at a time)
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder)

quick: install ## Run lint, type checks and the unit tests that need no TensorFlow, training or services
	@$(MAKE) --no-print-directory -j 2 quick-static quick-tests

quick-static:
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary

quick-tests:
	@PRELOADED_LIGHT=1 $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not slow" \
		$(addprefix --ignore=,$(SERVICES)) $(QUICK)

fault-matrix: install ## Test every fault of the emulated cloud at every stage
	$(BIN)/python -m pytest tests/cloud tests/dags/test_in_the_cloud.py tests/dags/test_restart.py \
		-m "matrix or not matrix"

check: install ## Check lint, types, import layers and links in the docs
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types lint docs-check layers

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

layers:
	PYTHONPATH=include:plugins $(BIN)/lint-imports

docs: install ## Serve the documentation with search at http://127.0.0.1:8000
	$(MKDOCS) serve

docs-check: install ## Build the documentation; a broken link is an error
	$(MKDOCS) build --quiet --strict

format: install ## Format the code and fix lint errors
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: install ## Generate docs/yaml.md and docs/pipeline.schema.json from the typed models
	$(BIN)/nightbid schema docs

charts: ## Build the pages' chart library from vendor/plot (needs Node; UPGRADE=1: newest versions)
	cd vendor/plot && $(if $(UPGRADE),npm install --no-audit --no-fund --ignore-scripts @observablehq/plot@latest esbuild@latest,npm ci --no-audit --no-fund --ignore-scripts) && node build.mjs

screenshots: install ## Take the pictures of docs/images from the Airflow of `make ui` (PORT=8080 PIPELINE=ctr)
	PYTHONPATH=plugins $(BIN)/python tools/screenshots.py --port "$(PORT)" --pipeline "$(PIPELINE)"

notebooks: install ## Execute the documentation's notebooks in place, on the nights of `make run`
	NIGHTBID_WORKSPACE=$(CURDIR)/.nightbid/workspace NIGHTBID_TRACKING= $(BIN)/jupyter execute --inplace docs/notebooks/*.ipynb

# Without a grammar that the SBOM's tool brings for one format of addresses: every process that imports
# jsonschema, as all of Airflow's do, would build its parser, for two seconds.
lock: ## Resolve requirements*.in into the lock files, with hashes (UPGRADE=1: newest versions)
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv==$(UV_VERSION); }
	@test -e $(INSTALLED) || cp requirements.txt $(INSTALLED)
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 $(if $(UPGRADE),--upgrade) requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 $(if $(UPGRADE),--upgrade) \
		--no-emit-package rfc3987-syntax --no-emit-package lark requirements-dev.in -o requirements-dev.txt
	@cmp -s $(INSTALLED) requirements.txt || echo "rehearse the upgrade before you install it:" \
		"$(BIN)/nightbid rehearse --requirements requirements.txt --present $(INSTALLED)"

audit: install ## List known vulnerabilities of the locked packages (exceptions in audit.toml)
	@$(BIN)/python tools/audit.py

pin-images: ## Pin the base images to their current digests in .env
	@$(PYTHON) tools/pin_images.py

sbom: install ## Write the SBOM of the lock file (CycloneDX) to .nightbid/sbom.cdx.json
	@mkdir -p .nightbid
	@PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible \
		--of JSON -o .nightbid/sbom.cdx.json
	@echo .nightbid/sbom.cdx.json

release-fixture: install ## Store a small workspace of this version in tests/releases, for upgrade tests (VERSION=1.2.3)
	@$(BIN)/python tools/release_fixture.py "$(VERSION)"

clean: ## Remove the outputs of runs and tests; keep the environment
	rm -rf .nightbid .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

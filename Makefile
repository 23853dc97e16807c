# Everything a person types. `make help` lists it; each target builds what it needs.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
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

.PHONY: release-fixture quick-static quick-tests help install run ui up down compose-test test quick fault-matrix check docs docs-check notebooks format lock audit pin-images sbom schema charts clean

help: ## This list
	@$(SCREEN) $(MAKEFILE_LIST)

install: $(VENV)/.installed ## The environment, from the lock files

$(VENV)/.installed: requirements.txt requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found → install Python 3.11, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv==$(UV_VERSION); }
	@echo "Installing the locked environment into $(VENV)"
	@$(BIN)/uv pip install --quiet --no-deps --require-hashes --python $(BIN)/python -r requirements.txt -r requirements-dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

run: install ## Nights of a pipeline on embedded Airflow (PIPELINE=ctr NIGHTS=2)
	@PYTHONPATH=plugins $(BIN)/python -m nightbid_airflow.embedded run --pipeline "$(PIPELINE)" --nights "$(NIGHTS)"

ui: install ## The same Airflow, staying up, its address printed (PORT=8080)
	@PYTHONPATH=plugins $(BIN)/python -m nightbid_airflow.embedded ui --port "$(PORT)"

up: ## The Compose stack, secrets made into .env on first use (EMULATED=1: workspace in a bucket)
	@bash compose/env.sh
	$(if $(EMULATED),NIGHTBID_SETTINGS=/app/compose/emulated.yaml NIGHTBID_WORKSPACE=) $(COMPOSE) $(if $(EMULATED),--profile emulated) up --detach --build
	@echo "Airflow: http://localhost:8080 (admin, ADMIN_PASSWORD in .env)"
	@echo "MLflow:  http://localhost:5000    scorer: http://localhost:8090/health"

down: ## End the Compose stack; its volumes stay
	$(COMPOSE) --profile emulated down

compose-test: install ## Start the stack, run a night through it over REST, take it down
	$(BIN)/python tests/compose/check.py

test: install ## Every check and every test, as the CI runs them (WORKERS=1: one file at a time)
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder)

quick: install ## Lint, types and unit tests without TensorFlow, training or services, in parallel
	@$(MAKE) --no-print-directory -j 2 quick-static quick-tests

quick-static:
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary

quick-tests:
	@$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not slow" \
		$(addprefix --ignore=,$(SERVICES)) $(QUICK)

fault-matrix: install ## Every fault of the emulated cloud at every stage, one by one
	$(BIN)/python -m pytest tests/cloud tests/dags/test_in_the_cloud.py tests/dags/test_restart.py \
		-m "matrix or not matrix"

check: install docs-check ## Lint, types, one-way imports, links of the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=include:plugins $(BIN)/lint-imports

docs: install ## The documentation as a site, with search, at http://127.0.0.1:8000
	$(MKDOCS) serve

docs-check: install ## Build the site; a broken link is an error
	$(MKDOCS) build --quiet --strict

format: install ## Rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: install ## Write docs/yaml.md and docs/pipeline.schema.json from the typed models
	$(BIN)/nightbid schema docs

charts: ## Build the pages' chart library from vendor/plot (UPGRADE=1 takes newer versions; needs Node)
	cd vendor/plot && $(if $(UPGRADE),npm install --no-audit --no-fund --ignore-scripts @observablehq/plot@latest esbuild@latest,npm ci --no-audit --no-fund --ignore-scripts) && node build.mjs

notebooks: install ## Execute the notebooks of the documentation in place, on the nights of `make run`
	NIGHTBID_WORKSPACE=$(CURDIR)/.nightbid/workspace NIGHTBID_TRACKING= $(BIN)/jupyter execute --inplace docs/notebooks/*.ipynb

# Without a grammar that the SBOM's tool brings for one format of addresses: every process that imports
# jsonschema, as all of Airflow's do, would build its parser, for two seconds.
lock: ## Resolve requirements*.in into the lock files, with hashes (UPGRADE=1 takes newer versions)
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv==$(UV_VERSION); }
	@mkdir -p .nightbid && cp requirements.txt .nightbid/present.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 $(if $(UPGRADE),--upgrade) requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 $(if $(UPGRADE),--upgrade) \
		--no-emit-package rfc3987-syntax --no-emit-package lark requirements-dev.in -o requirements-dev.txt
	@cmp -s .nightbid/present.txt requirements.txt || echo "rehearse it before you install it:" \
		"$(BIN)/nightbid rehearse --requirements requirements.txt --present .nightbid/present.txt"

audit: install ## Known vulnerabilities of the locked packages (exceptions in audit.toml)
	@$(BIN)/python tools/audit.py

pin-images: ## Name the base images by digest, as their tags are now, in .env
	@$(PYTHON) tools/pin_images.py

sbom: install ## The packages of the lock file as CycloneDX: .nightbid/sbom.cdx.json
	@mkdir -p .nightbid
	@PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible \
		--of JSON -o .nightbid/sbom.cdx.json
	@echo .nightbid/sbom.cdx.json

release-fixture: install ## Keep a small workspace of this code in tests/releases (VERSION=1.2.3), for tests of upgrades
	@$(BIN)/python tools/release_fixture.py "$(VERSION)"

clean: ## Remove what runs and tests made; the environment stays
	rm -rf .nightbid .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

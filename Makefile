# Everything that one does in this repository. `make` alone lists it.

PYTHON ?= python3
# Of make demo and make serve: BROKER=local|redis|rabbitmq|nats|kafka, DB=sqlite|postgres
BROKER ?= local
DB ?= sqlite
# More words for pytest, nox and the benchmarks: make test ARGS="-k redis -x"
ARGS ?=
# Processes that share the tests, which wait most of their time; 0 runs them in pytest's own, as --pdb
# and -s need it.
WORKERS ?= 4

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SERVICES := $(PY) tools/services.py
LATEST := .venv-latest/bin/python
PYTEST := $(SERVICES) run -- $(PY) -m pytest --numprocesses $(WORKERS)

# The demo needs the package, its broker's extra and a driver: a small environment for each choice.
DEMO_PACKAGE := .$(if $(filter-out local,$(BROKER)),[$(BROKER)])
DEMO_DRIVER := $(if $(filter postgres,$(DB)),'psycopg[binary]>=3.2')
DEMO_VENV := .venv-demo-$(BROKER)-$(DB)
DEMO_READY := $(DEMO_VENV)/.ready
DEMO_PYTHON := $(DEMO_VENV)/bin/python
# The real servers that the choice needs: "redis", "postgres", "redis,postgres" or none.
comma := ,
empty :=
space := $(empty) $(empty)
DEMO_SERVERS := $(subst $(space),$(comma),$(filter-out local sqlite,$(BROKER) $(DB)))
DEMO_WITH := $(if $(DEMO_SERVERS),$(DEMO_PYTHON) tools/services.py run --only $(DEMO_SERVERS) --)
DEMO := $(DEMO_WITH) $(DEMO_PYTHON) example/demo.py --broker $(BROKER) --db $(DB)

.DEFAULT_GOAL := help
.PHONY: help venv services services-stop test test-matrix test-chaos test-latest lint format docs docs-versions \
	demo serve bench clean

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'

venv: $(READY) ## Make the development environment in .venv

$(READY): pyproject.toml tools/services.py
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[all]' --group dev
	if $(SERVICES) headers; then $(PY) -m pip install --quiet --group mariadb; fi
	touch $@

services: ## Start the servers that are missing, for make test, and leave them running
	@$(PYTHON) tools/services.py start $(ARGS)

services-stop: ## End the servers that make services has started
	@$(PYTHON) tools/services.py stop

test: $(READY) ## Run the suite on real databases and brokers, but for test-chaos
	@$(PYTEST) -m 'not chaos' $(ARGS)

test-matrix: $(READY) ## Run it on every supported pair of Python and Django
	@$(SERVICES) run -- $(PY) -m nox $(ARGS)

test-chaos: $(READY) ## Run the tests that kill, stall and cut off
	@$(PYTEST) --numprocesses 2 -m chaos $(ARGS)

test-latest: ## Run the backends' tests with the newest release of every client, in .venv-latest
	$(PYTHON) -m venv .venv-latest
	$(LATEST) -m pip install --quiet --upgrade pip
	$(LATEST) -m pip install --quiet --editable '.[all]' --group test
	$(LATEST) tools/clients.py | xargs $(LATEST) -m pip install --quiet --upgrade
	$(LATEST) tools/clients.py --versions
	@$(LATEST) tools/services.py run -- $(LATEST) -m pytest --numprocesses $(WORKERS) tests/backends $(ARGS)

lint: $(READY) ## Check style, types, the import layers and the language
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) tools/language.py

format: $(READY) ## Put the code in the project's style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(READY) ## Build the documentation, warnings being errors
	$(PY) -m sphinx -W --keep-going -n -b html docs docs/_build/html

docs-versions: $(READY) ## Build the documentation of each release and of the working tree as one site
	$(PY) tools/docs_versions.py $(ARGS)

demo: $(DEMO_READY) ## Run the shop, kill its relay, count what arrived (BROKER=redis: two services)
	@$(DEMO) $(ARGS)

serve: $(DEMO_READY) ## Leave the shop, its admin and a relay running (BROKER=redis: and billing)
	@$(DEMO) --serve $(ARGS)

$(DEMO_READY): pyproject.toml
	@echo "Making $(DEMO_VENV) with the package and what it needs"
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '$(DEMO_PACKAGE)' $(DEMO_DRIVER)
	@touch $@

bench: $(READY) ## Measure publishing and delivery, and write the table of the docs
	@$(SERVICES) run -- $(PY) -m benchmarks --write docs/explanation/benchmarks.md $(ARGS)

clean: services-stop ## Remove what these targets made
	rm -rf .venv .venv-latest .venv-demo-* .cache .nox .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache build dist docs/_build

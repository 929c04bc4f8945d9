# Needs Python 3.11 or newer with venv, make and git; the rest it installs into .venv, checked by hash.

PYTHON ?= python3
UV := uv==0.13.9
BIN := .venv/bin
TYPED := $(wildcard src apps tests/support tests/support_tests tests/typing)

.DEFAULT_GOAL := help
.PHONY: help up demo check test bench e2e mutants format lock clean python environment

help: ## List these targets
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

up: environment ## Run the whole system here until Ctrl-C: Redis, auth, three replicas of profile, a gateway
	@$(BIN)/python -m apps.laptop up $(ARGS)

demo: environment ## Tell the story of the breaker in that system, and check each claim in it
	@$(BIN)/python -m apps.laptop demo

check: environment ## Check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-logo

test: environment ## Run every test, and demand full coverage; a part of them with ARGS="tests/breaker -k probe"
	@$(BIN)/python -m tests.support.binary
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --fail-under=100
endif

bench: environment ## Measure speed and scale beside other breakers; fails when a bound does not hold
	@cmp -s requirements/bench.txt .venv/bench.txt || { \
	  echo "==> installing requirements/bench.txt" && \
	  $(BIN)/pip install --quiet --require-hashes -r requirements/bench.txt && \
	  cp requirements/bench.txt .venv/bench.txt; }
	$(BIN)/python -m tests.bench $(ARGS)

e2e: environment ## Try the chart on a real cluster: the current context, if it is kind-*, or CONTEXT=…
	@CONTEXT="$(CONTEXT)" $(BIN)/python -m pytest --confcutdir tests/e2e $(or $(ARGS),tests/e2e)

mutants: environment ## Plant faults one by one and see a test go red for each
	$(BIN)/python -m tests.mutants $(ARGS)

format: environment ## Format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: python ## Renew requirements/*.txt; with UPGRADE=--upgrade also to newer versions
	@[ -x .venv-lock/bin/uv ] || { $(FIND_PYTHON) && "$$python" -m venv .venv-lock; }
	@.venv-lock/bin/pip install --quiet "$(UV)"
	$(COMPILE) --all-extras --group check --group test --group apps pyproject.toml --output-file requirements/dev.txt
	$(COMPILE) $(EXTRAS) --group apps --constraints requirements/dev.txt pyproject.toml --output-file requirements/apps.txt
	$(COMPILE) --group bench --constraints requirements/dev.txt --output-file requirements/bench.txt

EXTRAS := --extra redis --extra httpx --extra starlette --extra opentelemetry
COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command "make lock" $(UPGRADE)

clean: ## Remove the environment and everything that was built
	rm -rf .venv .venv-lock .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find apps src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $python to the first of these that is new enough.
FIND_PYTHON = for python in "$(PYTHON)" python3.13 python3.12 python3.11 ""; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; [ -n "$$python" ]

python:
	@$(FIND_PYTHON) || { \
	  echo "Python 3.11 or newer is missing: install the package python3.11, or say PYTHON=/path/to/it" >&2; exit 1; }
	@$(FIND_PYTHON); "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install the package python3-venv" >&2; exit 1; }

# Made anew when the lock changed, or when the Python it was made with is gone; the project itself is
# installed again when pyproject.toml changed.
environment: python
	@cmp -s requirements/dev.txt .venv/dev.txt && $(BIN)/python -c '' 2>/dev/null || { \
	  $(FIND_PYTHON) && \
	  echo "==> making .venv with $$("$$python" --version)" && \
	  rm -rf .venv && "$$python" -m venv .venv && \
	  echo "==> installing the $$(grep -c '^[a-z].*==' requirements/dev.txt) packages of requirements/dev.txt" \
	    "(200 MB, a minute or two)" && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt && \
	  cp requirements/dev.txt .venv/dev.txt; }
	@cmp -s pyproject.toml .venv/pyproject.toml || { \
	  echo "==> installing commontrip from src" && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable . && \
	  cp pyproject.toml .venv/pyproject.toml; }

# Two commands from a bare clone: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/.browser
PRISMA := tests/platforms/prisma/node_modules/.installed

#: brings copies back, every tool and every store, clusters: half an hour and more
LONG := $(patsubst %,tests/crash/test_%.py,bringing_back in_place kubernetes) \
  $(patsubst %,tests/scenario/test_%.py,escrow escrow_provider in_place in_place_rights kubernetes pitr provider restore strangers tables tools) \
  $(patsubst %,tests/contract/test_%.py,every_tool foreign merge_tables point_in_time replacing scratch_lodging store swap)

#: kills the bot in every step, tries everything on copies, runs every command of the documentation
SLOW := $(filter-out $(LONG),$(wildcard tests/crash/test_*.py)) tests/acceptance/test_docs.py tests/acceptance/test_demo.py \
  $(patsubst %,tests/scenario/test_%.py,rehearsal round_trip) \
  $(patsubst %,tests/contract/test_%.py,archive clone difference door loss_property put_back round_trip scratch tool_on_a_copy)

#: what depends on the server's version, against each of the older ones that are here; Debian has postgresql-15
MAJORS ?= 15
VERSIONED := $(patsubst %,tests/contract/test_%.py,door clone archive put_back round_trip bounds sampling)

.PHONY: demo test test-slow test-long test-large test-versions test-platforms test-histories test-browser screenshots bench lint lock clean

demo: $(STAMP)  ## watch a whole rollback on a throwaway shop
	$(BIN)/backout demo

test: $(STAMP)  ## everything that needs no root, Docker or Slack
	$(BIN)/pytest -n 2 $(addprefix --ignore=,$(SLOW) $(LONG))

test-slow: $(STAMP)  ## what takes long: see SLOW
	$(BIN)/pytest -n 2 $(SLOW)

test-long: $(STAMP)  ## what takes longest: see LONG
	$(BIN)/pytest -n 2 $(wildcard $(LONG))

test-large: $(STAMP)  ## locks that do not suffice; whole rollbacks of databases of 5,000 and 50,000 tables
	$(BIN)/pytest -s tests/large

test-versions: $(STAMP)  ## the suites that depend on the server's version, on older ones
	for major in $(MAJORS); do $(BIN)/pytest -n 2 --postgres $$major $(VERSIONED) || exit 1; done

test-histories: $(STAMP)  ## migrations of published packages, pinned by hash, on copies and for real; needs the package index
	$(BIN)/pytest -rs tests/histories

$(PRISMA): tests/platforms/prisma/package-lock.json
	command -v npm > /dev/null || { echo "NOT RUN: there is no npm, which installs Prisma (it wants Node 20 or newer)." >&2; exit 3; }
	cd tests/platforms/prisma && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

test-platforms: $(STAMP) $(PRISMA)  ## what comes by apt and npm: container engines, pgBackRest, kubectl, TimescaleDB, pgvector, Prisma; needs root
	tests/platforms/extensions > /dev/null || true  # why not is said again by the tests that are not run without it
	tests/platforms/containers $(BIN)/pytest -n 2 --dist loadfile -rs --durations 12 tests/platforms

bench: $(STAMP)  ## ratios against the same by hand: five clean rounds, medians; wants a quiet machine
	$(BIN)/python -m benchmarks

test-browser: $(BROWSER)  ## the demo's page in Debian's Chromium, and the bot in a Slack written by others
	tests/browser/alone $(BIN)/pytest -rs tests/browser

screenshots: $(BROWSER)  ## draws docs/images anew, from the demo's page
	tests/browser/alone $(BIN)/python -m tests.browser.screenshots

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

$(STAMP): requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(BROWSER): requirements-browser.lock $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.lock
	touch $@

lock:  ## needs uv; writes the lock files with hashes, for every supported Python
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -o requirements.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --group dev -o requirements-dev.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -c requirements-dev.lock --group browser -o requirements-browser.lock
	for name in mlflow optuna prefect; do uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -o tests/histories/$$name.lock tests/histories/$$name.in; done

clean:
	rm -rf $(VENV) .venv-histories tests/browser/node_modules tests/platforms/prisma/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

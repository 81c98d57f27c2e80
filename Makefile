# Two commands from a bare clone: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/.browser

#: kills the bot in every step, tries everything on copies, runs every command of the documentation
SLOW := tests/crash tests/acceptance/test_docs.py tests/acceptance/test_demo.py tests/contract/test_archive.py tests/scenario/test_rehearsal.py tests/scenario/test_round_trip.py \
  tests/contract/test_door.py tests/contract/test_clone.py tests/contract/test_scratch.py tests/contract/test_put_back.py \
  tests/contract/test_round_trip.py tests/contract/test_loss_property.py tests/contract/test_tool_on_a_copy.py tests/contract/test_difference.py

.PHONY: demo test test-slow test-histories test-browser screenshots bench lint lock clean

demo: $(STAMP)  ## watch a whole rollback on a throwaway shop
	$(BIN)/backout demo

test: $(STAMP)  ## everything that needs no root, Docker or Slack
	$(BIN)/pytest -n 2 $(addprefix --ignore=,$(SLOW))

test-slow: $(STAMP)  ## what takes long: see SLOW
	$(BIN)/pytest -n 2 $(SLOW)

test-histories: $(STAMP)  ## migrations of published packages, pinned by hash, on copies and for real; needs the package index
	$(BIN)/pytest -rs tests/histories

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
	rm -rf $(VENV) .venv-histories tests/browser/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# `make` sets everything up and decides on docs_qa with the smoke profile; `make test` checks the package.
# It needs Python 3.11 or later with its venv module, and a package index for pip.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := run
.PHONY: run install test slow check lab clean

run: install
	$(BIN)/workbench run retrieval --profile smoke

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing the tested versions into .venv: about 1.6 GB, a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'from workbench.config import load_settings; from workbench.inference.weights import fetch; \
	  fetch("minilm-tokenizer", load_settings().cache / "weights")'
	@touch $@

# Threads of OpenBLAS wait for each other without rest: with two processes on two cores one each is enough.
test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2

# A test that hangs or a process that dies ends the run: where tests go in groups, pytest-xdist 3.8 waits for ever for
# a process that it put in another's place. No doctest is slow, so that the package need not be read for them.
slow: install
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest tests -n 2 --dist loadgroup -m slow --timeout 1200 --timeout-method thread --max-worker-restart 0

check: install
	$(BIN)/workbench check

# JupyterLab asks whether to fetch its news unless the plugin that asks is off; as root it starts only when told to.
# It serves the whole project, or a notebook's link to its report would lead out of what is served.
lab: install
	@$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.news_url= \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --preferred-dir=notebooks

clean:
	rm -rf .venv data/.cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

# Two commands do everything on a fresh machine with Python >= 3.11: `make chaos` and `make test`.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup test chaos test-clients clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "refbroker needs Python >= 3.11, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

test: setup
	$(VENV)/bin/pytest -n 2 tests

clean:
	rm -rf build .pytest_cache .hypothesis

# Two commands do everything on a fresh machine with Python >= 3.11: `make chaos` and `make test`.
#
#   make chaos [SEED=n] [MINUTES=n] [DEPTH=n] [WORKERS=n|dask://host:port]   kill, cut the power, and judge what is lost
#   make test                                               all tests that need Python only
#   make test-clients                                       Java, librdkafka, kcat, franz-go, kafkajs: what is installed
#   make mutants [ARGS="--sample 10"]                       broken variants of the broker, each of which must be found
#   make bench [ARGS="--against kafka --readme"]            throughput and latency, beside Apache Kafka's, into README

# A Python that was built without profile-guided optimisation, as pyenv's are unless asked, costs the broker a tenth of its
# throughput: where `python3` does not say that it was built with it, and the system's own will do, that one is taken.
PYTHON ?= $(shell if ! python3 -c 'import sys, sysconfig; sys.exit("--enable-optimizations" not in str(sysconfig.get_config_var("CONFIG_ARGS")))' \
	&& /usr/bin/python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo /usr/bin/python3; else echo python3; fi)
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup test chaos test-clients mutants bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "refbroker needs Python >= 3.11, this is " + sys.version.split()[0] + ": say make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	@$(VENV)/bin/python -m compileall -q refbroker chaos  # a start takes half the time, where Python is told to write no bytecode too
	@touch $@

test: setup
	$(VENV)/bin/pytest -n 2 -m 'not clients' tests

chaos: setup
	$(VENV)/bin/refbroker-chaos run $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(DEPTH),--depth $(DEPTH)) $(if $(WORKERS),--workers $(WORKERS))

test-clients: setup
	$(VENV)/bin/pytest -m clients -rs tests/clients tests/interop tests/chaos/test_clients_under_load.py

mutants: setup
	$(VENV)/bin/refbroker-chaos mutants $(ARGS)

bench: setup
	$(VENV)/bin/refbroker bench $(ARGS)

clean:
	rm -rf build .pytest_cache .hypothesis
